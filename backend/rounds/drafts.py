"""Make drafts: the model's mask of a scan, as regions that a person corrects."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from backend.imaging import decoder_process
from backend.label_studio import labels
from backend.rounds.learner import Learner, learner_for
from backend.rounds.prelabels import KEPT_MODELS, drawing
from backend.rounds.services import build
from backend.settings import Settings
from backend.storage.store import Store
from model import inference, masks, training
from model.ensemble import Ensemble


def regions(
    probabilities: npt.NDArray[np.float32], size: tuple[int, int], config: labels.LabelConfig
) -> list[dict[str, Any]]:
    """Return regions at the image's own size, without specks and pinholes.

    A polygon stays within one pixel of the working size, the resolution that the model sees.

    Args:
        probabilities: Of each class at working size, shape (c, h, w).
        size: Height and width of the original image.
        config: The labelling interface; its labels are the classes, in order.
    """
    height, width = size
    pixel = max(height / probabilities.shape[1], width / probabilities.shape[2], 1.0)
    drafted = []
    planes = drawn(probabilities, size)
    for label, (plane, score) in zip(config.labels, planes, strict=True):
        drafted += labels.regions_of(label, plane, config, score=score, tolerance=pixel)
    return drafted


def drawn(
    probabilities: npt.NDArray[np.float32], size: tuple[int, int]
) -> Iterator[tuple[npt.NDArray[np.bool_], float]]:
    """Yield the mask of each class and its mean probability, 0 for an empty mask.

    Arguments as in `regions`. One class at a time: at the original's size the masks of all classes
    may not fit into memory.
    """
    height, width = size
    for plane in probabilities:
        [small] = masks.tidied(plane[None])
        full = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))
        mask = full > 0.5
        yield mask, float(full[mask].mean()) if mask.any() else 0.0


class LiveDrafts:
    """Drafts on demand, for scans beyond the published horizon.

    One draft at a time, on one thread: the same cores answer webhooks meanwhile.
    """

    def __init__(
        self, settings: Settings, store: Store, *, decode_seconds: float = decoder_process.SECONDS
    ) -> None:
        torch.set_num_threads(1)
        decoders = decoder_process.Decoders(seconds=decode_seconds)
        self._services = replace(build(settings, store), decoders=decoders)
        self._models: OrderedDict[tuple[int, str], training.Fitted | Ensemble] = OrderedDict()

    def regions(self, project_id: int, task_id: int) -> list[dict[str, Any]]:
        """Return the live model's draft for a stored task, [] while no drafts are shown.

        Raises:
            FirstlightError: When the scan cannot be read.
        """
        live = self._live(project_id)
        tasks = self._services.store.scans.some(project_id, [task_id])
        if live is None or not tasks:
            return []
        learner, model = live
        scan = learner.scans.get(task_id, tasks[0].url)
        [probabilities] = inference.predict(model, [scan.image])
        return regions(probabilities, scan.size, learner.config)

    def warm(self, project_id: int) -> None:
        """Make the first draft of a project's live model as quick as the next ones."""
        live = self._live(project_id)
        if live is not None:
            _, model = live
            side = model.config.image_size
            list(inference.predict(model, [np.zeros((side, side), np.float32)]))

    def _live(self, project_id: int) -> tuple[Learner, training.Fitted | Ensemble] | None:
        """Return the live model if it draws drafts and its file is there."""
        project = self._services.store.projects.get(project_id)
        version = drawing(self._services.store, project) if project else None
        if project is None or version is None:
            return None
        learner = learner_for(self._services, project)
        if not learner.knows(version.model_key):
            return None
        return learner, self._model(learner, version.model_key)

    def _model(self, learner: Learner, key: str) -> training.Fitted | Ensemble:
        name = (learner.project_id, key)
        if name not in self._models:
            self._models[name] = learner.load(key)
        self._models.move_to_end(name)
        while len(self._models) > KEPT_MODELS:
            self._models.popitem(last=False)
        return self._models[name]
