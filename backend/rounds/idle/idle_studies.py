"""Studies of a project while nobody waits for a round, and after its refinement.

A study is a durable workflow in the queue of the refreshes, as a refinement is. A study and a round
of one project never run at the same time, and a study ends within two seconds of a refresh request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from dbos import DBOS, DBOSConfiguredInstance

from backend import logs
from backend.errors import FirstlightError
from backend.rounds.context import LoadedEncoders, RoundContext
from backend.rounds.idle import refinement
from backend.rounds.idle.label_review import LabelReview
from backend.rounds.idle.selection_gain import SelectionGain
from backend.rounds.services import Services
from backend.storage.store import Store
from backend.storage.tables import Project
from model.refinement import Stopped

log = logging.getLogger(__name__)

MOST_FAILURES = 2  # of a study under one live queue; the next queue gives it another chance


class Study(Protocol):
    """Work on a project that nobody waits for.

    Attributes:
        name: Of its result, and of the step that the page shows.
    """

    name: str

    def due(self, here: RoundContext) -> bool:
        """Return whether there is anything to study; asked every few seconds, so it is cheap."""
        ...

    def run(self, here: RoundContext, stop: Callable[[], bool]) -> None:
        """Study the project, and store the result.

        Args:
            here: The project.
            stop: Asked every second or more often; if it returns True, the study ends, by
                returning or by `Stopped`, and is due again.
        """
        ...


# A review is due after every queue, so it comes last.
STUDIES: tuple[Study, ...] = (SelectionGain(), LabelReview())


@DBOS.dbos_class()
class IdleStudies(DBOSConfiguredInstance):
    """The workflow of a study and its steps, bound to the services of one worker."""

    def __init__(self, services: Services, encoders: LoadedEncoders) -> None:
        """Bind the studies to a worker's services and encoders."""
        self.store = services.store
        self._services, self._encoders = services, encoders
        super().__init__("idle studies")

    def due(self) -> list[tuple[int, str]]:
        """Return each project that may be studied now, with the first study that is due."""
        if refinement.others_wait(self.store):
            return []
        now = self.store.clock()
        found = []
        for project in self.store.projects.all():
            if refinement.is_idle(project, now) and not refinement.refinable(self.store, project):
                here = RoundContext(self._services, self._encoders, project)
                try:
                    found += [(project.id, study.name) for study in _due(here)][:1]
                except FirstlightError as error:
                    log.warning("project %d is not studied: %s", project.id, error)
        return found

    @DBOS.workflow()
    def study(self, project_id: int, name: str) -> None:
        """Make one study of a project."""
        with logs.context(project=project_id):
            try:
                self.run(project_id, name)
                self.end(project_id, name, "")
            except FirstlightError as error:
                self.end(project_id, name, str(error))
            except Exception:
                log.exception("a study failed unexpectedly")
                self.end(project_id, name, "The study failed unexpectedly.")

    @DBOS.step()
    def run(self, project_id: int, name: str) -> None:
        """Make the study, unless it is not due any more or a refresh waits."""
        here = RoundContext.of(self._services, self._encoders, project_id)
        stop = refinement.StopSignal(self.store, project_id)
        for study in _due(here):
            if study.name == name and not stop():
                self.store.projects.enter(project_id, name)
                try:
                    study.run(here, stop)
                except Stopped:
                    log.info("the study %s makes way for a round", name)

    @DBOS.step()
    def end(self, project_id: int, name: str, error: str) -> None:
        """Clear the page, and count a failure.

        Args:
            project_id: The project.
            name: Of the study.
            error: What ended it, "" for nothing.
        """
        self.store.projects.update(project_id, step="", progress={}, deaths=0)
        if error:
            log.warning("the study %s ended: %s", name, error)
            project = self.store.projects.get(project_id)
            if project is not None:  # it may be forgotten by now
                _count(self.store, project, name, _failures(self.store, project, name) + 1)


def give_up(store: Store, project_id: int, name: str) -> None:
    """Let a study wait for the next live queue."""
    _count(store, store.projects.known(project_id), name, MOST_FAILURES)


def _due(here: RoundContext) -> list[Study]:
    """Return the studies of a project that are due and have not failed too often."""
    if here.options.paused:
        return []
    failed = [_failures(here.store, here.project, study.name) for study in STUDIES]
    tried = [study for study, times in zip(STUDIES, failed, strict=True) if times < MOST_FAILURES]
    return [study for study in tried if study.due(here)]


def _failures(store: Store, project: Project, name: str) -> int:
    """Return how often a study failed under the live queue."""
    row = _failures_of(name)
    if store.studies.digest(project.id, row) != project.live_version:
        return 0
    return int(store.studies.record(project.id, row).get("times", 0))


def _count(store: Store, project: Project, name: str, times: int) -> None:
    store.studies.save(project.id, _failures_of(name), project.live_version, {"times": times})


def _failures_of(name: str) -> str:
    return f"failures of {name}"
