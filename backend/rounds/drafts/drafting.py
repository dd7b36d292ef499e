"""Make drafts: the model's mask of a scan, as regions that a person corrects."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from backend.errors import DraftError
from backend.imaging import decoder_process
from backend.imaging.scan_cache import Scan
from backend.label_studio import labels
from backend.rounds.drafts.click_model import ClickModel
from backend.rounds.drafts.prelabels import KEPT_MODELS, live_with_drafts
from backend.rounds.drafts.recent import kept
from backend.rounds.models.learner import Learner, learner_for
from backend.rounds.services import build
from backend.settings import Settings
from backend.storage.store import Store
from backend.storage.tables import Project, Publication, Task
from model import inference, masks, training
from model.ensemble import Ensemble

KEPT_PAGES = 32  # whose probabilities stay in memory for the next click


def regions(
    pages: Sequence[npt.NDArray[np.float32]], size: tuple[int, int], config: labels.LabelConfig
) -> list[dict[str, Any]]:
    """Return regions of all pages at the image's own size, without specks and pinholes.

    A polygon stays within one pixel of the working size, the resolution that the model sees.

    Args:
        pages: The probabilities of each class on each page at working size, shape (c, h, w).
        size: Height and width of the original image.
        config: The labelling interface; its labels are the classes, in order.
    """
    drafted = []
    for page, probabilities in enumerate(pages):
        for label, plane in zip(config.labels, probabilities, strict=True):
            [small] = masks.tidied(plane[None])
            drafted += regions_of(label, small, size, config, page)
    return drafted


def regions_of(
    label: str,
    plane: npt.NDArray[np.float32],
    size: tuple[int, int],
    config: labels.LabelConfig,
    page: int = 0,
) -> list[dict[str, Any]]:
    """Return the regions of one class on a page, as `regions` does, from its plane (h, w)."""
    height, width = size
    pixel = max(height / plane.shape[0], width / plane.shape[1], 1.0)
    mask, score = _enlarged(plane, size)
    return labels.regions_of(label, mask, config, score=score, tolerance=pixel, page=page)


def drawn(
    probabilities: npt.NDArray[np.float32], size: tuple[int, int]
) -> Iterator[tuple[npt.NDArray[np.bool_], float]]:
    """Yield the mask of each class and its mean probability, 0 for an empty mask.

    Arguments as in `regions`, but of one page. One class at a time: at the original's size the
    masks of all classes may not fit into memory.
    """
    for plane in probabilities:
        [small] = masks.tidied(plane[None])
        yield _enlarged(small, size)


def _enlarged(
    plane: npt.NDArray[np.float32], size: tuple[int, int]
) -> tuple[npt.NDArray[np.bool_], float]:
    """Return the mask of a class at the original's size, and its mean probability there."""
    height, width = size
    full = np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
    mask = full > 0.5
    return mask, float(full[mask].mean()) if mask.any() else 0.0


@dataclass(frozen=True)
class PredictedScan:
    """A scan with the live model's probabilities.

    Attributes:
        scan: The scan at working size.
        pages: The probabilities of each class on each page, shape (c, h, w); None if no draft is
            shown.
        config: The labelling interface.
        labelled: Whether the scan has a usable label; then there are no probabilities.
    """

    scan: Scan
    pages: Sequence[npt.NDArray[np.float32]] | None
    config: labels.LabelConfig
    labelled: bool = False


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
        self._predicted: OrderedDict[tuple[int, int, str, str, str], PredictedScan] = OrderedDict()

    def regions(self, project_id: int, task_id: int) -> list[dict[str, Any]]:
        """Return the live model's draft for a stored task, [] while no drafts are shown.

        A scan with a usable label gets none, as in a queue (see `queue_drafts.QueueHead`).

        Raises:
            FirstlightError: When the scan cannot be read.
        """
        known = self._known(project_id, task_id)
        version = self._live(known[0]) if known else None
        if known is None or version is None or self._is_labelled(project_id, task_id):
            return []
        predicted = self._predicted_by(*known, version.model_key)
        if predicted.pages is None:
            return []
        return regions(predicted.pages, predicted.scan.size, predicted.config)

    def predicted(self, project_id: int, task_id: int) -> PredictedScan:
        """Return a stored task's scan with what the live model sees on it.

        On a scan with a usable label the model sees nothing, as in `regions`.

        Raises:
            FirstlightError: When there is no such scan, or it cannot be read.
        """
        known = self._known(project_id, task_id)
        if known is None:
            raise DraftError(
                f"Task {task_id} is not known yet.", "It is read within a minute; try again then."
            )
        if self._is_labelled(project_id, task_id):
            return replace(self._predicted_by(*known, ""), labelled=True)
        version = self._live(known[0])
        return self._predicted_by(*known, version.model_key if version else "")

    @cached_property
    def click_model(self) -> ClickModel | None:
        """The network of CLICK_MODEL, opened by the first click; None if it is not set.

        Raises:
            ConfigError: As in `ClickModel`.
        """
        folder = self._services.settings.click_model
        return ClickModel(folder) if folder else None

    def warm(self, project_id: int) -> None:
        """Make the first draft of a project's live model as quick as the next ones."""
        project = self._services.store.projects.get(project_id)
        version = self._live(project) if project else None
        if project is not None and version is not None:
            model = self._model(learner_for(self._services, project), version.model_key)
            side = model.config.image_size
            list(inference.predict(model, [np.zeros((side, side), np.float32)]))

    def _known(self, project_id: int, task_id: int) -> tuple[Project, Task] | None:
        project = self._services.store.projects.get(project_id)
        tasks = self._services.store.scans.some(project_id, [task_id])
        return (project, tasks[0]) if project is not None and tasks else None

    def _is_labelled(self, project_id: int, task_id: int) -> bool:
        """Return whether a scan has a usable label, so that the model must not lead a person."""
        return self._services.store.labels.is_usable(project_id, task_id)

    def _predicted_by(self, project: Project, task: Task, key: str) -> PredictedScan:
        """Return a scan with the probabilities of a model, "" for none, from memory if it can."""

        def draw() -> PredictedScan:
            learner = learner_for(self._services, project)
            scan = learner.scans.get(task.id, task.url)
            if not key:
                return PredictedScan(scan, None, learner.config)
            pages = list(inference.predict(self._model(learner, key), scan.pages))
            return PredictedScan(scan, pages, learner.config)

        name = (project.id, task.id, task.url, key, project.label_config)
        return kept(self._predicted, name, KEPT_PAGES, draw, lambda each: len(each.scan.pages))

    def _live(self, project: Project) -> Publication | None:
        """Return the live publication if its model draws drafts and its file is there."""
        version = live_with_drafts(self._services.store, project)
        if version is None:
            return None
        known = learner_for(self._services, project).knows(version.model_key)
        return version if known else None

    def _model(self, learner: Learner, key: str) -> training.Fitted | Ensemble:
        name = (learner.project_id, key)
        return kept(self._models, name, KEPT_MODELS, lambda: learner.load(key))
