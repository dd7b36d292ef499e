"""Volumes imported into a real Label Studio by the command, as a user runs it."""

from __future__ import annotations

import signal
import time
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import LabelStudio
from backend.imaging.manifest import load
from backend.label_studio import labels
from demo.annotator import Annotator
from tests.label_studio import thorax
from tests.label_studio.commands import command, project_titled, run, tasks_of
from tests.label_studio.conftest import OPTIONS, page_at

pytestmark = [pytest.mark.studio, pytest.mark.slow, pytest.mark.timeout(600)]

VOLUMES, SLICES = 5, 9


def uploads(annotator: Annotator, project: int) -> list[str]:
    found = annotator.call("GET", f"/api/projects/{project}/file-uploads", params={"all": "true"})
    return [Path(row["file"]).name[9:] for row in found]


def test_volumes_become_tasks_with_a_viewer_and_a_queue_by_volume(
    studio: LabelStudio, annotator: Annotator, backend: Backend, tmp_path: Path
) -> None:
    source, data = thorax.save(tmp_path / "source", VOLUMES), tmp_path / "data"
    run(
        studio,
        data,
        "import",
        str(source),
        "--new",
        "Chests",
        "--labels",
        "Lung",
        "--window",
        "lung",
    )
    project = project_titled(annotator, "Chests")
    config = annotator.project(project)["label_config"]
    assert 'valueList="$slices"' in config
    assert labels.parse(config).labels == ("Lung",)
    tasks = tasks_of(annotator, project)
    counts = Counter(task["data"]["volume"] for task in tasks)
    assert list(counts.values()) == [SLICES] * VOLUMES
    check_picture(studio, tasks[3]["data"], data / "imports" / str(project))
    assert "Doe" not in str(tasks)

    said = run(studio, data, "import", str(source), "--project", str(project), "--window", "lung")
    assert f"{VOLUMES} volumes are in project {project}, with 0 new tasks" in said
    assert tasks_of(annotator, project) == tasks
    assert len(uploads(annotator, project)) == VOLUMES * SLICES

    backend.connect(project, {**OPTIONS, "group_by": "volume"})
    backend.wait_for_queue(project, labels=0, seconds=240)
    version = str(page_at(f"{backend.page(project)}?format=json")["live_version"])
    queue = sorted(annotator.predictions(project, version), key=lambda one: float(one["score"]))
    volumes = {task["id"]: task["data"]["volume"] for task in tasks}
    assert len({volumes[one["task"]] for one in queue[:VOLUMES]}) == VOLUMES


def check_picture(studio: LabelStudio, data: dict[str, Any], folder: Path) -> None:
    """What Label Studio serves is the slice that the manifest leads to."""
    answer = httpx.get(
        studio.url + data["image"], headers={"Authorization": f"Token {studio.token}"}
    )
    shown = np.asarray(Image.open(BytesIO(answer.content)))
    volume = load(folder).volume(data["volume"])
    assert volume is not None
    seed = int(Path(volume.source).name.split(".")[0].split()[-1])
    cut = volume.plane.cut(thorax.thorax(seed), data["slice"])
    grey = np.rint((cut.astype(np.float32) + 1350).clip(0, 1500) / 1500 * 255)
    np.testing.assert_array_equal(shown, volume.plane.show(grey))


def test_an_import_that_is_killed_goes_on_without_doubles(
    studio: LabelStudio, annotator: Annotator, tmp_path: Path
) -> None:
    number = 30
    source, data = thorax.save(tmp_path / "source", number, side=24), tmp_path / "data"
    project = annotator.create_project("Killed", ["Lung"])
    asked = (str(source), "--project", str(project))
    process = command(studio, data, "import", *asked)
    while not uploads(annotator, project) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(tasks_of(annotator, project)) < number * SLICES

    run(studio, data, "import", *asked)
    places = Counter(
        (t["data"]["volume"], t["data"]["slice"]) for t in tasks_of(annotator, project)
    )
    assert len(places) == number * SLICES
    assert set(places.values()) == {1}
    names = Counter(uploads(annotator, project))
    assert len(names) == number * SLICES
    assert set(names.values()) == {1}
