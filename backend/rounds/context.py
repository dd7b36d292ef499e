"""The context of a round's step: made once per step and handed to every function it calls."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from backend.errors import StorageError
from backend.label_studio import labels
from backend.label_studio.publisher import Publisher
from backend.options import ProjectOptions
from backend.rounds import encoding
from backend.rounds.learner import Learner, learner_for
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
    """One project during one step. Each part is read at its first use and then kept."""

    services: Services
    encoders: LoadedEncoders
    project: Project

    @staticmethod
    def of(services: Services, encoders: LoadedEncoders, project_id: int) -> RoundContext:
        """Return the context of a project.

        Raises:
            StorageError: When the database does not know the project.
        """
        project = services.store.projects.get(project_id)
        if project is None:
            raise StorageError(f"Project {project_id} is not in the database.", "Connect it again.")
        return RoundContext(services, encoders, project)

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
        return ledger.read(self.store, self.id)

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
        return Selector(self.store, self.project, self.files, self.encoder)

    @cached_property
    def publications(self) -> ProjectPublications:
        """The queues that were published, and the way back to each."""
        return ProjectPublications(self.store, self.project, self.files)

    @cached_property
    def publisher(self) -> Publisher:
        """Writes a queue to Label Studio."""
        return Publisher(self.services.settings, self.store, self.services.studio, self.id)

    @property
    def live_labels(self) -> list[str]:
        """The labels that the model of the live queue knows."""
        live = self.store.publications.get(self.id, self.project.live_version)
        record = records.read_queue(self.files, live.round) if live else None
        return record.labels if record else []

    def queue(self, number: int) -> list[int]:
        """Return the task ids in the order that a round decided.

        Raises:
            StorageError: When the round's record no longer exists.
        """
        record = records.read_queue(self.files, number)
        if record is None:
            raise StorageError(
                "The record of this round, with its queue, no longer exists.",
                "The round starts again by itself.",
            )
        return record.order
