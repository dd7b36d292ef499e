from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from backend.exchange import importing
from backend.exchange.importing import Outcome, Plan, Target
from backend.exchange.pseudonyms import Pseudonyms
from backend.exchange.serving import LocalFiles, Serving, Uploads
from backend.imaging.manifest import Manifest, default_folder, load
from backend.imaging.sources import Reading, contents
from backend.label_studio.client import LabelStudio
from backend.label_studio.task_import import TaskImport
from backend.settings import Settings
from tests.backend.exchange.filling import FillableLabelStudio
from tests.backend.fake_label_studio import Json

PROJECT = 1


@dataclass
class Site:
    """A Label Studio with one project, and what an import needs."""

    settings: Settings
    studio: FillableLabelStudio
    source: Path

    @property
    def folder(self) -> Path:
        return default_folder(self.settings, PROJECT)

    @property
    def manifest(self) -> Manifest:
        return load(self.folder)

    def tasks(self) -> list[Json]:
        return [task["data"] for task in self.studio.projects[PROJECT].tasks.values()]

    def run(
        self,
        *,
        window: str = "percentile",
        slices: str = "all",
        slab: int = 1,
        keep_names: bool = False,
        reading: Reading | None = None,
        local_files: Path | None = None,
    ) -> Outcome:
        """Import the source into the project, as the command does."""
        client = LabelStudio(self.settings, self.studio.client())
        tasks = TaskImport(client)
        serving: Serving = Uploads(tasks, PROJECT, self.folder.resolve())
        if local_files:
            serving = LocalFiles(tasks, PROJECT, local_files, "/served")
        url = self.settings.label_studio_url
        target = Target(PROJECT, url, self.folder, client, tasks, serving)
        plan = Plan(self.source, window, slices, keep_names, slab)
        sources = contents(self.source, reading or Reading(max_pixels=100_000)).sources
        try:
            return importing.run(target, plan, sources, Pseudonyms.of(self.settings))
        finally:
            client.close()


@pytest.fixture
def site(settings: Settings, tmp_path: Path) -> Site:
    studio = FillableLabelStudio()
    studio.add_project()
    source = tmp_path / "source"
    source.mkdir()
    return Site(settings, studio, source)
