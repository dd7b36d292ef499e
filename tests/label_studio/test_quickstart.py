"""quickstart on a folder of images, with a Label Studio that is already there."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.commands.quickstart.process import Process, free_port
from backend.commands.quickstart.studio import ROOT, LabelStudio
from demo import scans
from demo.annotator import Annotator

pytestmark = [pytest.mark.studio, pytest.mark.slow, pytest.mark.timeout(600)]


def run(folder: Path, state: Path, studio: LabelStudio, log: Path) -> str:
    """Run quickstart until it shows the addresses; return what it said."""
    own = ("quickstart", str(folder), "--label-studio", studio.url, "--token", studio.token)
    options = ("--keep", str(state), "-p", str(free_port()), "--label", "Lung", "--no-browser")
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "ENCODER": "pixels"}
    command: list[str | Path] = [sys.executable, "-m", "backend", *own, *options]
    process = Process(command, log=log, env=env, cwd=ROOT)
    try:
        while "Ctrl-C stops everything." not in (said := log.read_text()):
            process.check("quickstart")
            time.sleep(0.2)  # the test's timeout bounds the wait
    finally:
        process.stop(seconds=20)
    assert studio.token not in said
    return said


def test_a_folder_becomes_an_ordered_queue_and_nothing_is_imported_twice(
    studio: LabelStudio, annotator: Annotator, tmp_path: Path
) -> None:
    folder = tmp_path / "chest"
    scans.phantoms(5, folder)
    Image.fromarray(np.full((64, 64), 30_000, np.uint16)).save(folder / "deep.tiff")
    said = run(folder, tmp_path / "state", studio, tmp_path / "first")
    assert "The queue is ready" in said
    [project] = map(int, re.findall(rf"Label Studio  {studio.url}/projects/(\d+)/data", said))
    assert annotator.project(project)["task_number"] == 6
    assert annotator.project(project)["title"] == "chest (Firstlight)"
    assert annotator.next_task(project) is not None
    assert f"backend doctor {project}" in said

    scans.phantoms(6, folder)
    again = run(folder, tmp_path / "state", studio, tmp_path / "second")
    assert f"Going on with project {project} (chest (Firstlight))." in again
    assert annotator.project(project)["task_number"] == 7
