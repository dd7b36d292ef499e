"""A full, read-only or failing disk: said clearly; the queue stays; what can be is made anew."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from backend.errors import StorageError
from backend.settings import Settings
from backend.storage.store import Store, open_store
from backend.storage.tables import Publication
from backend.web.app import create_app
from model import phantoms
from tests.backend.site import Site

FOLDERS = ("scans-", "embeddings", "maps", "clusters", "models", "rounds", "drafts")


@pytest.fixture
def trained(site: Site) -> Site:
    """With the queue of a trained model live, and news that lead to files of every kind."""
    site.refresh()
    site.label(0, 1)
    site.refresh()
    assert site.versions[-1] == "attention-unet r0002"
    return site


def bring_news(site: Site) -> None:
    """A label, and as many new scans as make the map be fitted anew."""
    site.label(2)
    for phantom in phantoms.generate(3, size=32, seed=9):
        site.tasks.append(site.fake.add_task(site.number, phantom.image))
    site.store.projects.request_refresh(site.number, full=True)


def live(site: Site) -> Publication:
    version = site.store.publications.get(site.number, site.project.live_version)
    assert version is not None
    return version


def files(site: Site, pattern: str) -> list[Path]:
    return sorted(site.services.folder(site.number).glob(pattern))


def break_disk(monkeypatch: pytest.MonkeyPatch, folder: str, number: int) -> list[str]:
    """Let every file of this folder find no place on the disk; return those that tried."""
    tried: list[str] = []
    replace = Path.replace

    def refuse(unfinished: Path, path: Path) -> Path:
        if f"/{folder}" in str(path):
            tried.append(str(path))
            raise OSError(number, os.strerror(number))
        return replace(unfinished, path)

    monkeypatch.setattr(Path, "replace", refuse)
    return tried


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "number"),
    [*((folder, errno.ENOSPC) for folder in FOLDERS), ("models", errno.EROFS)],
)
def test_a_file_that_finds_no_room_is_said_and_the_round_ends_once_there_is(
    trained: Site, monkeypatch: pytest.MonkeyPatch, folder: str, number: int
) -> None:
    queue, before = trained.queue, live(trained).name
    bring_news(trained)
    with monkeypatch.context() as disk:
        tried = break_disk(disk, folder, number)
        project = trained.refresh()
        assert tried, "the test is about a file that a round does not write"
        assert os.strerror(number) in project.problem
        assert "Free disk space or make DATA_DIR writable" in project.fix
        assert live(trained).name == before
        assert trained.queue == [task for task in queue if task != trained.tasks[2]]
        assert files(trained, "**/*.partial") == [], "what fills the disk stays on it"
    project = trained.refresh()
    assert project.problem == ""
    assert live(trained).labels == 3
    assert sorted(trained.queue) == sorted(set(trained.tasks) - set(trained.tasks[:3]))


@pytest.mark.slow
def test_a_full_database_is_said_and_loses_no_label(trained: Site) -> None:
    engine = trained.store.engine

    def fill(connection: sa.Connection) -> None:
        pages = connection.scalar(sa.text("PRAGMA page_count"))
        connection.execute(sa.text(f"PRAGMA max_page_count = {pages}"))

    with engine.connect() as connection:
        connection.execute(sa.text("VACUUM"))
        fill(connection)
    trained.fake.change_data(trained.tasks[5], image="/data/upload/" + "x" * 100_000)
    trained.label(2)
    project = trained.refresh()
    assert "did not answer (it cannot be reached, opened or written)" in project.problem
    assert "free space" in project.fix
    with engine.connect() as connection:
        connection.execute(sa.text("PRAGMA max_page_count = 1000000"))
    assert trained.refresh().problem == ""
    assert live(trained).labels == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rubbish", "one byte", "cut short"])
def test_a_damaged_checkpoint_is_said_and_trained_anew_while_the_queue_stays(
    trained: Site, kind: str
) -> None:
    queue, before = trained.queue, live(trained)
    [path] = files(trained, "models/*")
    content = path.read_bytes()
    altered = content[:-5000] + bytes([content[-5000] ^ 0xFF]) + content[-4999:]
    damaged = {"rubbish": b"no model", "one byte": altered, "cut short": content[:9000]}
    path.write_bytes(damaged[kind])
    trained.store.projects.update(
        trained.number, fingerprint=""
    )  # the round that comes needs the model
    project = trained.refresh()
    assert project.problem == "A trained model cannot be read."
    assert (trained.queue, live(trained).name) == (queue, before.name)
    assert trained.refresh().problem == ""
    assert live(trained).model_key == before.model_key
    assert trained.queue == queue


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gone", "rubbish", "cut short"])
def test_lost_embeddings_are_said_and_made_anew(trained: Site, kind: str) -> None:
    [path] = files(trained, "embeddings/*")
    whole = path.read_bytes()
    if kind == "gone":
        path.unlink()
    else:
        path.write_bytes(b"rubbish" if kind == "rubbish" else whole[: len(whole) // 2])
    bring_news(trained)
    project = trained.refresh()
    assert "file of embeddings is missing or damaged" in project.problem
    assert trained.refresh().problem == ""
    assert len(trained.store.embeddings.all(trained.number, "pixels")) == len(trained.tasks)
    assert path.read_bytes() == whole


def test_all_lost_embeddings_are_made_anew_by_one_round(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.rounds.embedding.CHUNK", 2)
    site.refresh()
    for path in files(site, "embeddings/*"):
        path.unlink()
    site.store.projects.update(site.number, fingerprint="")
    for path in files(site, "maps/*"):
        path.unlink()
    assert "file of embeddings" in site.refresh().problem
    assert site.refresh().problem == ""
    assert len(files(site, "embeddings/*")) == 3


@pytest.mark.slow
def test_damaged_records_of_rounds_and_drafts_stop_neither_rounds_nor_pages(trained: Site) -> None:
    for path in [*files(trained, "rounds/*"), *files(trained, "drafts/*")]:
        path.write_bytes(path.read_bytes()[:20])
    client = create_app(trained.services.settings, trained.store, lambda *_: []).test_client()
    for page in ("", "/rounds.json"):
        assert client.get(f"/projects/{trained.number}{page}").status_code == 200
    assert client.get(f"/projects/{trained.number}?format=json").status_code == 200
    trained.label(2)
    assert trained.refresh().problem == ""
    assert live(trained).labels == 3


# -- databases ------------------------------------------------------------------------------------


def spoil(path: Path, start: int) -> None:
    for beside in path.parent.glob(f"{path.name}-*"):
        beside.unlink()
    content = bytearray(path.read_bytes())
    content[start:] = b"\xa5" * (len(content) - start)
    path.write_bytes(content)


@pytest.mark.parametrize("start", [0, 4096], ids=["all", "pages"])
def test_a_damaged_database_is_said_with_the_way_out_and_health_still_answers(
    store: Store, tmp_path: Path, start: int
) -> None:
    store.projects.request_refresh(1)
    store.close()
    spoil(tmp_path / "firstlight.sqlite", start)
    client = create_app(Settings(data_dir=tmp_path), store, lambda *_: []).test_client()
    answer = client.get("/health")
    assert answer.status_code == 200
    [problem] = answer.get_json()["problems"]
    assert "The database is damaged" in problem
    assert "every label is safe in Label Studio" in problem
    assert client.get("/projects").status_code == 503
    assert (
        client.post("/webhook", json={"action": "TASKS_CREATED", "project": 1}).status_code == 503
    )
    with pytest.raises(StorageError, match="damaged"):
        open_store(Settings(data_dir=tmp_path).database).create()
    store.close()


@pytest.mark.slow
def test_a_database_that_was_moved_away_is_made_anew_from_label_studio(trained: Site) -> None:
    """All that a person did comes back; what only was ours starts over under other names."""
    old = live(trained)
    trained.stop()
    trained.store.close()
    for path in trained.services.settings.data_dir.glob("firstlight.sqlite*"):
        path.unlink()
    trained.store.create()
    trained.store.projects.request_refresh(trained.number)
    trained.start()
    assert trained.refresh().problem == ""
    assert live(trained).labels == old.labels
    assert live(trained).name != old.name
    assert sorted(trained.queue) == sorted(trained.tasks[2:])


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 4096], ids=["all", "pages"])
def test_a_damaged_database_of_jobs_is_set_aside_and_the_work_goes_on(
    trained: Site, caplog: pytest.LogCaptureFixture, start: int
) -> None:
    trained.stop()
    spoil(trained.services.settings.data_dir / "dbos.sqlite", start)
    trained.start()
    assert "dbos.sqlite is damaged: it is renamed" in caplog.text
    trained.label(2)
    assert trained.refresh().problem == ""
    assert live(trained).labels == 3
    aside = trained.services.settings.data_dir / "damaged-dbos.sqlite"
    assert aside.exists()
