"""The services that the steps of a round use, built once per process."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import httpx

from backend.imaging.decoder_process import Decoders
from backend.imaging.fetch import ImageSource
from backend.imaging.scan_cache import WORKING_SIZE, Scans
from backend.label_studio.client import LabelStudio
from backend.settings import Settings
from backend.storage.artifacts import Artifacts, ProjectFiles
from backend.storage.store import Store
from backend.storage.tables import Project


@dataclass(frozen=True)
class Services:
    """Settings, store, Label Studio, image source and decoders of one process."""

    settings: Settings
    store: Store
    studio: LabelStudio
    source: ImageSource
    decoders: Decoders = field(default_factory=Decoders)

    @cached_property
    def artifacts(self) -> Artifacts:
        """The artifacts of all projects, in DATA_DIR or at ARTIFACTS_URL."""
        return Artifacts(self.settings.data_dir, self.settings.artifacts_url)

    def files(self, project_id: int) -> ProjectFiles:
        """Return the artifacts of a project."""
        return self.artifacts.of(project_id)

    def folder(self, project_id: int) -> Path:
        """Return the folder in which this machine keeps a project's scans."""
        return self.settings.project_folder(project_id)

    def source_of(self, project: Project) -> ImageSource:
        """Return where the images of a project are fetched."""
        aliases = (project.hostname,) if project.hostname else ()
        return replace(self.source, aliases=aliases)

    def scans(self, project: Project, image_size: int) -> Scans:
        """Return the project's scans at working size, at least `image_size` pixels a side."""
        return Scans(
            self.source_of(project).fetch,
            self.folder(project.id),
            self.decoders,
            longest=max(WORKING_SIZE, image_size),
            max_pixels=self.settings.max_image_pixels,
        )


def build(settings: Settings, store: Store) -> Services:
    """Build the services of one process."""
    studio = LabelStudio(settings)
    source = ImageSource(
        label_studio_url=settings.label_studio_url,
        authorise=studio.authorisation,
        image_hosts=settings.image_hosts,
        max_bytes=settings.max_image_bytes,
        client=httpx.Client(timeout=httpx.Timeout(30.0, connect=5.0), trust_env=False),
    )
    return Services(settings=settings, store=store, studio=studio, source=source)
