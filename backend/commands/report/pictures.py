"""The held-out scans on which the live model fails, as pictures. Loads torch."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from operator import attrgetter

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import binary_erosion

from backend import PROGRAM
from backend.commands.report.content import live_model
from backend.errors import FirstlightError, ImageError, StorageError
from backend.rounds.models.examples import Example, Mask
from backend.rounds.models.learner import Learner, learner_for
from backend.rounds.services import Services
from backend.storage import ledger
from backend.storage.tables import Model, Project
from model import inference, training
from model.ensemble import Ensemble

SHOWN = 4
LONGEST = 320  # pixels of the longer side
TRUTH, DRAWN = (0, 158, 115), (230, 159, 0)  # green and orange of Okabe and Ito

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Failure:
    """A held-out scan with a low Dice: outlines of people's mask in green, the model's in orange.

    Of a slab it shows the page with the most wrong pixels.

    Attributes:
        task: The id in Label Studio.
        dice: Of the model's mask.
        picture: A PNG as a data URI.
    """

    task: int
    dice: float
    picture: str


def failures(services: Services, project: Project) -> tuple[list[Failure], str]:
    """Return the worst held-out scans, lowest Dice first, and why there are none ("" otherwise)."""
    found = live_model(services, project)
    if found is None or not found[1].quality.held_out_dice:
        return [], "no scan is held out from the live model yet."
    learner = learner_for(services, project)
    if not learner.knows(found[1].key):
        return [], "the weights of the live model are gone, or its labels are not those of today."
    try:
        return list(_worst(learner, services, found[1])), ""
    except FirstlightError as error:
        return [], _reason(error, project.id)


def _reason(error: FirstlightError, project_id: int) -> str:
    """Return why there are no pictures, without the error's message: it may name a file."""
    if isinstance(error, ImageError):
        return (
            f"a held-out scan cannot be read. `{PROGRAM} doctor {project_id}` and the page of the "
            "project say why."
        )
    if isinstance(error, StorageError):
        return (
            f"the weights of the live model cannot be read. `{PROGRAM} doctor` checks DATA_DIR and "
            "ARTIFACTS_URL."
        )
    return f"Label Studio did not give a held-out scan. `{PROGRAM} doctor {project_id}` says why."


def _worst(learner: Learner, services: Services, model: Model) -> list[Failure]:
    now, dice = ledger.read(services.store, learner.project_id), model.quality.held_out_dice
    known = [task for task in dice if task in now.usable]
    worst = sorted(known, key=lambda task: (dice[task], task))[:SHOWN]
    network = learner.load(model.key)
    told = []
    for task, pages in groupby(learner.examples(now, worst), attrgetter("task")):
        drawn = [(page, _drawn(network, page)) for page in pages]
        example, mask = max(drawn, key=lambda page: np.count_nonzero(page[0].mask ^ page[1]))
        told.append(Failure(task, dice[task], _png(_outlined(example, mask))))
    return told


def _drawn(network: training.Fitted | Ensemble, example: Example) -> Mask:
    [probabilities] = inference.predict(network, [example.image])
    return probabilities > 0.5


def _outlined(example: Example, drawn: Mask) -> Pixels:
    """Return the scan in RGB with the outlines of both masks of every class."""
    grey = example.image if example.image.ndim == 3 else example.image[..., None].repeat(3, axis=2)
    pixels = np.rint(grey * 255).astype(np.uint8)
    for masks, colour in ((example.mask, TRUTH), (drawn, DRAWN)):
        for mask in masks:
            pixels[mask & ~binary_erosion(mask)] = colour
    return pixels


def _png(pixels: Pixels) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((LONGEST, LONGEST))
    file = BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
