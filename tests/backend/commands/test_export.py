from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from backend.commands.cli import cli
from backend.exchange.export.format_names import FORMATS, TABLE
from backend.exchange.export.formats import REGISTRY
from backend.rounds.services import Services
from tests.backend.conftest import drawn
from tests.backend.fake_label_studio import FakeLabelStudio


@pytest.fixture
def project(
    services: Services, fake: FakeLabelStudio, project_id: int, monkeypatch: pytest.MonkeyPatch
) -> int:
    """A project with one labelled scan; the command uses the services of the test."""
    monkeypatch.setattr("backend.rounds.services.build", lambda settings, store: services)
    monkeypatch.setattr("backend.commands.export.load_settings", lambda: services.settings)
    task = fake.add_task(project_id, np.zeros((16, 16)))
    fake.annotate(task, drawn())
    return project_id


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["export", *map(str, arguments)])


def test_the_command_offers_every_format() -> None:
    assert FORMATS.keys() - {TABLE} == REGISTRY.keys()


def test_it_says_what_it_wrote(project: int, tmp_path: Path) -> None:
    done = run(project, "--to", "coco", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert f"Project {project}: 1 scans as coco in {tmp_path / 'out'}." in done.output
    assert "1 of 1 cases were written, 0 deleted" in done.output
    again = run(project, "--to", "coco", tmp_path / "out")
    assert "0 of 1 cases were written" in again.output


def test_what_is_left_out_is_listed_and_sets_the_exit_code(
    project: int, fake: FakeLabelStudio, tmp_path: Path
) -> None:
    for _ in range(22):
        fake.annotate(fake.add_task(project), [{**drawn()[0], "value": {}}])
    done = run(project, "--to", "png", tmp_path / "out")
    assert done.exit_code == 1
    assert "22 times something was left out:" in done.output
    assert "and 2 more; export.json lists all" in done.output


def test_it_can_end_with_its_parent(
    project: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[bool] = []
    monkeypatch.setattr("backend.commands.export.end_with_parent", lambda: watched.append(True))
    run(project, "--to", "png", tmp_path / "out")
    assert watched == []
    run(project, "--to", "png", tmp_path / "out", "--with-parent")
    assert watched == [True]


def test_a_table_needs_no_choice_of_masks(project: int, tmp_path: Path) -> None:
    done = run(project, "--to", "csv", tmp_path / "out", "--names")
    assert done.exit_code == 0, done.output
    assert "1 annotations in" in done.output
    refused = run(project, "--to", "csv", tmp_path / "out", "--masks", "model")
    assert refused.exit_code == click.UsageError.exit_code
    assert "csv has no masks" in refused.output
