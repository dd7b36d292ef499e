"""Many workers, each a process, on one PostgreSQL. The kills are real."""

from __future__ import annotations

import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backend.label_studio import labels
from backend.rounds.embedding import CHUNK
from backend.storage.artifacts import Artifacts
from backend.storage.store import Store
from backend.worker.membership import SILENT_SECONDS
from tests.backend import s3
from tests.backend.crew import Crew, crew
from tests.backend.fake_label_studio import CONFIG
from tests.backend.site import SIZE, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

LONG = 100_000  # steps of a training that only its time box ends
HANDED_ON_SECONDS = 60.0


@pytest.fixture
def workers(postgresql_database: str, tmp_path: Path) -> Iterator[Crew]:
    with crew(postgresql_database, tmp_path) as found:
        yield found


def label(workers: Crew, number: int, count: int) -> None:
    """Submit a mask for the first scans of the queue."""
    mask = np.zeros((1, SIZE, SIZE), bool)
    mask[0, :8] = True
    region = labels.regions(mask, labels.parse(CONFIG), scores=[1.0])
    wait_for(lambda: workers.fake.served(number))  # which is last to hear of a queue
    for task in workers.fake.served(number)[:count]:
        workers.fake.annotate(task, region)
    workers.store.projects.request_refresh(number)


def trains(store: Store, number: int) -> bool:
    project = store.projects.known(number)
    return project.step == "train" and bool(project.progress.get("batch"))


def test_workers_that_start_at_once_on_an_empty_database_all_live(workers: Crew) -> None:
    workers.hire(4)
    assert workers.ended() == []


def test_of_four_workers_one_is_killed_and_every_scan_is_embedded_once(workers: Crew) -> None:
    scans = 12 * CHUNK
    workers.hire(4)
    workers.fuse.set("after embed_chunk", [0])
    number = workers.project(scans)
    workers.until_live(number)
    assert workers.ended() == [-signal.SIGKILL]
    found = workers.store.embeddings.all(number, "pixels")
    assert len(found) == scans
    places = Counter((one.chunk, one.row) for one in found.values())
    assert set(places.values()) == {1}
    files = list((workers.folder / "projects" / str(number) / "embeddings").glob("*.npy"))
    assert sum(len(np.load(file)) for file in files) == scans
    wait_for(lambda: sorted(workers.fake.served(number)) == sorted(found))


def test_a_round_of_a_worker_that_is_gone_for_good_goes_on_elsewhere_within_a_minute(
    workers: Crew,
) -> None:
    workers.hire(2, steps=LONG)
    number = workers.project(6, max_train_seconds=5)
    first = workers.until_live(number)
    workers.fuse.set("in training", [0])
    label(workers, number, 3)
    wait_for(workers.ended)
    killed_at = time.time()
    wait_for(lambda: workers.store.projects.known(number).step_at > killed_at, HANDED_ON_SECONDS)
    assert time.time() - killed_at > SILENT_SECONDS / 2, "it was taken for gone too soon"
    workers.until_live(number, after=first)


@pytest.mark.soak
def test_machines_that_share_a_bucket_share_a_project_and_outlive_each_other(
    workers: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with s3.running(monkeypatch) as bucket:
        monkeypatch.setenv("ARTIFACTS_URL", bucket.url)
        workers.hire(machine=one)
        number = workers.project(2 * CHUNK)
        first = workers.until_live(number)
        label(workers, number, 3)
        second = workers.until_live(number, after=first)
        workers.workers[0].terminate()
        workers.workers[0].wait(10)
        shutil.rmtree(one)
        workers.hire(machine=two)
        label(workers, number, 3)
        third = workers.until_live(number, after=second)
        files = Artifacts(two, bucket.url).of(number)
        embedded = files.paths(files.names("embeddings"))
        assert sum(len(np.load(file)) for file in embedded) == 2 * CHUNK, "none was embedded twice"
        models = [workers.store.publications.get(number, name) for name in (second, third)]
        assert {model.model_key for model in models if model} == {
            name.removeprefix("models/") for name in files.names("models")
        }


def test_two_projects_train_at_the_same_time(workers: Crew) -> None:
    workers.hire(2, steps=LONG)
    numbers = [workers.project(6, max_train_seconds=20) for _ in range(2)]
    for number in numbers:
        workers.until_live(number)
        label(workers, number, 3)
    wait_for(lambda: all(trains(workers.store, number) for number in numbers), 100)


@pytest.mark.soak
def test_a_worker_that_is_stopped_hands_its_round_back_at_once(workers: Crew) -> None:
    workers.hire(1, steps=LONG)
    number = workers.project(6, max_train_seconds=5)
    first = workers.until_live(number)
    label(workers, number, 3)
    wait_for(lambda: trains(workers.store, number), 100)
    stopped_at = time.time()
    workers.workers[0].terminate()
    assert workers.workers[0].wait(10) == 0
    assert workers.store.workers.all() == []
    workers.hire(1, steps=LONG)
    wait_for(lambda: workers.store.projects.known(number).step_at > stopped_at, SILENT_SECONDS / 2)
    workers.until_live(number, after=first)


def test_a_worker_that_was_taken_for_gone_ends(workers: Crew) -> None:
    workers.hire(1)
    [row] = workers.store.workers.all()
    workers.store.workers.dismiss(row.name)
    assert workers.workers[0].wait(30) == 1
