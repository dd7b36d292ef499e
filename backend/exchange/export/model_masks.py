"""The live model's masks of scans, as its drafts show them. Loads torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from backend import PROGRAM
from backend.errors import ConfigError
from backend.exchange.export.cases import Scan
from backend.exchange.export.masks import Drawn, Mask
from backend.rounds.drafts.drafting import drawn
from backend.rounds.models.learner import learner_for
from backend.rounds.models.predicting import Predicted
from backend.rounds.services import Services
from backend.storage.tables import Project


class ModelMasks:
    """The masks of some scans, drawn one after the other in the order in which they are taken.

    Args:
        services: Of this process.
        project: The project; its live model draws.
        classes: Of the labelling interface as it is now.

    Raises:
        ConfigError: If no model is live, or it was trained for other classes.
    """

    def __init__(self, services: Services, project: Project, classes: tuple[str, ...]) -> None:
        live = services.store.publications.get(project.id, project.live_version)
        if live is None or not live.model_key:
            raise ConfigError(
                f"Project {project.id} has no live model yet.",
                "Export the submitted annotations, or wait for the first trained model: "
                f"{PROGRAM} versions {project.id} lists them.",
            )
        self._learner = learner_for(services, project)
        if classes != self._learner.config.labels or not self._learner.knows(live.model_key):
            raise ConfigError(
                f"The live model of project {project.id} was trained for other classes, or its "
                "file is gone.",
                "Wait until the next round has trained a model for today's classes.",
            )
        self._key = live.model_key
        self.version = live.name

    @property
    def key(self) -> str:
        """The key of the model, which follows from what it was trained on."""
        return self._key

    def start(self, scans: Iterable[Scan]) -> None:
        """Begin with scans, all that `take` will ask for and in that order."""
        tasks = dict.fromkeys((scan.task, scan.address) for scan in scans)  # once for all pages
        self._ahead = self._learner.predict(self._key, list(tasks))
        self._now: Predicted | None = None
        self._next = next(self._ahead, None)

    def take(self, scan: Scan) -> Drawn | None:
        """Return the masks of the next scan, None if its picture cannot be read."""
        if self._now is None or self._now[0] != scan.task:
            if self._next is None or self._next[0] != scan.task:
                return None
            self._now, self._next = self._next, next(self._ahead, None)
        _, image, pages = self._now
        # As bits: the masks of a whole volume wait in memory until they are written.
        packed = [np.packbits(plane) for plane, _ in drawn(pages[scan.page], image.size)]
        planes = (_unpacked(bits, image.size) for bits in packed)
        return Drawn(scan=scan, size=image.size, origin=self.version, planes=planes)


def _unpacked(bits: npt.NDArray[np.uint8], size: tuple[int, int]) -> Mask:
    height, width = size
    return np.unpackbits(bits, count=height * width).reshape(size).astype(bool)
