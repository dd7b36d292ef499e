"""Answer clicks and boxes: the live model's draft of one class, corrected where a person points."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import DraftError
from backend.label_studio.labels import Prompt, Prompts
from backend.rounds.drafts.click_model import ClickModel
from backend.rounds.drafts.drafting import LiveDrafts, PredictedScan, regions_of
from model import clicks, masks

ADDED = "added-"  # begins the id of a region that clicks add to a label


def regions(
    drafts: LiveDrafts, project_id: int, task_id: int, prompts: Prompts
) -> list[dict[str, Any]]:
    """Return the regions that the prompts ask for, [] if nothing is left of the class.

    Without a model that draws drafts, the picture alone decides; on a scan with a usable label too,
    because the model must not lead a second reading. A first region has the id of the prelabel's,
    so that Label Studio replaces the prelabel when a person accepts the answer. On a labelled scan
    it has another id, so that the label's own region stays. With CLICK_MODEL its network answers.

    Raises:
        FirstlightError: When the scan cannot be read, the class or page does not exist, or
            CLICK_MODEL holds no network.
    """
    predicted = drafts.predicted(project_id, task_id)
    config = predicted.config
    if prompts.label not in config.labels or prompts.page >= len(predicted.scan.pages):
        raise DraftError(
            f"There is no {prompts.label!r} on page {prompts.page} of task {task_id}.",
            "Reload the page in Label Studio: the labelling interface has changed.",
        )
    plane = _refined(predicted, prompts, drafts.click_model)
    found = regions_of(prompts.label, plane, predicted.scan.size, config, prompts.page)
    if predicted.labelled:
        found = [region | {"id": f"{ADDED}{region['id']}"} for region in found]
    return [region | {"item_index": prompts.page} for region in found] if prompts.paged else found


def _refined(
    predicted: PredictedScan, prompts: Prompts, model: ClickModel | None
) -> npt.NDArray[np.float32]:
    """Return the probabilities of the class on the page at working size."""
    plane = None
    if predicted.pages is not None:
        row = predicted.config.labels.index(prompts.label)
        [plane] = masks.tidied(predicted.pages[prompts.page][row : row + 1])
    image = predicted.scan.pages[prompts.page]
    height, width = image.shape[:2]
    given = [_in_pixels(prompt, height, width) for prompt in prompts.given]
    if model is not None:
        return model.answer(predicted.scan, prompts.page, plane, given)
    return clicks.refine(image, plane, given)


def _in_pixels(prompt: Prompt, height: int, width: int) -> clicks.Click | clicks.Box:
    row, column = int(prompt.y * height), int(prompt.x * width)
    if not prompt.is_box:
        return clicks.Click(min(row, height - 1), min(column, width - 1), prompt.positive)
    bottom = math.ceil(min(prompt.y + prompt.height, 1.0) * height)
    right = math.ceil(min(prompt.x + prompt.width, 1.0) * width)
    return clicks.Box(row, column, bottom, right)
