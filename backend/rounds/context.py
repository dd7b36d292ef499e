"""The context of a round's step, handed to every function it calls.

Every step has a context of its own, with the project's row of that moment. The steps of a workflow
share what takes long to read in a large project: the ledger, and the selector with its map.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from dbos import DBOS

from backend.errors import StorageError
from backend.label_studio import labels
from backend.label_studio.publisher import Publisher
from backend.options import ProjectOptions
from backend.rounds.maps import encoding
from backend.rounds.models.learner import Learner, learner_for
from backend.rounds.publications import ProjectPublications
from backend.rounds.selection import Selector
from backend.rounds.services import Services
from backend.settings import Settings
from backend.storage import ledger, records
from backend.storage.artifacts import ProjectFiles
from backend.storage.ledger import Ledger, stored_options
from backend.storage.store import Store
from backend.storage.tables import Project
from model import encoders, networks
from model.encoders import Encoder


class LoadedEncoders:
    """The encoders of one worker, each loaded when a project first asks for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: dict[tuple[str, tuple[str, ...]], Encoder] = {}

    def of(self, options: ProjectOptions) -> Encoder:
        """Return the encoder that a project's options ask for."""
        name = options.encoder_of(self._settings.encoder)
        # A plugin that failed meanwhile is replaced.
        key = (name, encoders.set_aside(name))
        if key not in self._loaded:
            self._loaded[key] = encoding.load(self._settings, name)
        return self._loaded[key]


@dataclass(frozen=True)
class RoundContext:
    """One project during one step. Each part is read at its first use and then kept.

    Attributes:
        services: Of the worker.
        encoders: Of the worker.
        project: The project's row.
        earlier: The context of an earlier step, whose ledger and selector still hold.
    """

    services: Services
    encoders: LoadedEncoders
    project: Project
    earlier: RoundContext | None = None

    @staticmethod
    def of(
        services: Services,
        encoders: LoadedEncoders,
        project_id: int,
        earlier: RoundContext | None = None,
    ) -> RoundContext:
        """Return the context of a project.

        Raises:
            StorageError: When the database does not know the project.
        """
        project = services.store.projects.get(project_id)
        if project is None:
            raise StorageError(f"Project {project_id} is not in the database.", "Connect it again.")
        return RoundContext(services, encoders, project, earlier)

    @property
    def id(self) -> int:
        """The project's id."""
        return self.project.id

    @property
    def store(self) -> Store:
        """The database."""
        return self.services.store

    @cached_property
    def options(self) -> ProjectOptions:
        """The project's options, as last synced."""
        return stored_options(self.project)

    @cached_property
    def config(self) -> labels.LabelConfig:
        """The project's labelling interface, as last synced."""
        return labels.parse(self.project.label_config)

    @cached_property
    def ledger(self) -> Ledger:
        """The scans and annotations, as last synced."""
        return self.earlier.ledger if self.earlier else ledger.read(self.store, self.id)

    @cached_property
    def files(self) -> ProjectFiles:
        """The artifacts that rounds wrote for the project."""
        return self.services.files(self.id)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder that the project's options ask for."""
        return self.encoders.of(self.options)

    @cached_property
    def learner(self) -> Learner:
        """The project's models."""
        return learner_for(self.services, self.project)

    @property
    def network_warnings(self) -> list[str]:
        """What a person should know of the network that the options ask for."""
        why = networks.why_not(self.options.network, len(self.config.labels))
        return [f"{why}; {self.learner.train_config.network} is trained instead"] if why else []

    @cached_property
    def selector(self) -> Selector:
        """The query strategy: it decides which scans come next."""
        if self.earlier:
            return self.earlier.selector
        return Selector(self.store, self.project, self.files, self.encoder)

    @cached_property
    def publications(self) -> ProjectPublications:
        """The queues that were published, and the way back to each."""
        return ProjectPublications(self.store, self.project, self.files, self.ledger)

    @cached_property
    def publisher(self) -> Publisher:
        """Writes a queue to Label Studio."""
        return Publisher(self.services.settings, self.store, self.services.studio, self.id)

    @property
    def live_labels(self) -> list[str]:
        """The labels that the model of the live queue knows."""
        live = self.store.publications.get(self.id, self.project.live_version)
        known = records.read_labels(self.files, live.round) if live else None
        return known or []

    def live_queue_is_lost(self) -> bool:
        """Return whether the live queue was deleted in Label Studio."""
        live = self.store.publications.get(self.id, self.project.live_version)
        if live is None or not live.published:
            return False
        return self.services.studio.version_count(self.id, live.name) == 0

    def queue(self, number: int) -> list[int]:
        """Return the task ids in the order that a round decided.

        Raises:
            StorageError: When the round's record no longer exists.
        """
        order = records.read_order(self.files, number)
        if order is None:
            raise StorageError(
                "The record of this round, with its queue, no longer exists.",
                "The round starts again by itself.",
            )
        return order


class SharedContexts:
    """Makes the contexts of a worker's steps; those of a workflow in `shared` read once.

    Args:
        services: Of the worker.
        encoders: Of the worker.
    """

    def __init__(self, services: Services, encoders: LoadedEncoders) -> None:
        self._services = services
        self._encoders = encoders
        self._first: dict[str | None, RoundContext | None] = {}  # by workflow

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Let the steps of this workflow share what they read, until the block ends."""
        workflow = DBOS.workflow_id
        self._first[workflow] = None
        try:
            yield
        finally:
            del self._first[workflow]

    def of(self, project_id: int) -> RoundContext:
        """Return the context of a project in this step; see `RoundContext.of`."""
        workflow = DBOS.workflow_id
        earlier = self._first.get(workflow)
        here = RoundContext.of(self._services, self._encoders, project_id, earlier)
        if workflow in self._first and earlier is None:
            self._first[workflow] = here
        return here

    def read_again(self) -> None:
        """Let the next step read anew: scans, annotations or embeddings change now."""
        workflow = DBOS.workflow_id
        if workflow in self._first:
            self._first[workflow] = None
