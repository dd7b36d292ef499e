"""What follows from a note that scans were deleted: each part alone, cut off, and done twice."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backend.errors import StorageError
from backend.imaging import scan_cache
from backend.rounds import erasing
from backend.rounds.erasing import MARK, SETTLE_SECONDS, Eraser
from backend.settings import Settings
from backend.storage import artifacts
from backend.storage.artifacts import Artifacts, ProjectFiles, embeddings_name
from backend.storage.erasures import Erasures
from backend.storage.store import Store
from backend.storage.tables import Erasure
from tests.backend.conftest import Clock
from tests.backend.site import wait_for

pytestmark = pytest.mark.databases

CHUNK = "a.npy"


@pytest.fixture
def files(settings: Settings) -> ProjectFiles:
    return Artifacts(settings.data_dir).of(1)


@pytest.fixture
def eraser(settings: Settings, store: Store, clock: Clock) -> Eraser:
    return another(settings, store, clock)


def another(settings: Settings, store: Store, clock: Clock) -> Eraser:
    return Eraser(store, Artifacts(settings.data_dir), settings.data_dir, clock)


def task(number: int, url: str = "a") -> dict[str, object]:
    return {"id": number, "url": url, "group": "", "updated_at": "1", "is_labeled": False}


def embedded(store: Store, files: ProjectFiles, *tasks: int, chunk: str = CHUNK) -> None:
    store.projects.request_refresh(1)
    store.scans.save(1, [task(number) for number in tasks])
    rows = np.array([[number, number + 1] for number in tasks], np.float32)
    files.write_array(embeddings_name(chunk), rows)
    store.embeddings.save(1, "pixels", chunk, list(tasks))


def vectors(files: ProjectFiles, chunk: str = CHUNK) -> list[float]:
    [path] = files.paths([embeddings_name(chunk)])
    return [float(row[0]) for row in np.load(path)]


def kept(folder: Path, task_id: int, url: str = "a") -> Path:
    path = folder / "scans-256" / f"{task_id}-{artifacts.digest(url)[:16]}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


# -- embeddings -----------------------------------------------------------------------------------


def test_the_embedding_of_a_deleted_scan_becomes_zeros_and_the_others_stay_in_place(
    store: Store, files: ProjectFiles, eraser: Eraser
) -> None:
    embedded(store, files, 5, 6, 7)
    store.scans.keep_only(1, [5, 7])
    eraser.turn(leads=True)
    assert vectors(files) == [5, 0, 7]
    assert {one.row for one in store.embeddings.all(1, "pixels").values()} == {0, 2}


def test_a_file_of_embeddings_goes_with_its_last_scan(
    store: Store, files: ProjectFiles, eraser: Eraser
) -> None:
    embedded(store, files, 5, 6)
    embedded(store, files, 7, chunk="b.npy")
    store.scans.keep_only(1, [7])
    eraser.turn(leads=True)
    assert files.names("embeddings") == [embeddings_name("b.npy")]


def test_a_damaged_file_of_embeddings_goes_as_nobody_can_tell_what_is_in_it(
    store: Store, files: ProjectFiles, eraser: Eraser
) -> None:
    embedded(store, files, 5, 6)
    files.write(embeddings_name(CHUNK), lambda file: file.write(b"no array"))
    store.scans.keep_only(1, [6])
    eraser.turn(leads=True)
    assert files.names("embeddings") == []


def test_only_files_of_deleted_scans_are_read(
    store: Store, files: ProjectFiles, eraser: Eraser, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 21):
        embedded(store, files, number, chunk=f"{number}.npy")
    files.write_array(embeddings_name("3.npy"), np.array([[3.0], [4.0]], np.float32))
    store.scans.save(1, [task(21)])
    store.embeddings.save(1, "pixels", "3.npy", [3, 21])
    read: list[str] = []
    reading = ProjectFiles.read

    def noted(self: ProjectFiles, name: str, load: Callable[[Path], object]) -> object:
        read.append(name)
        return reading(self, name, load)

    monkeypatch.setattr(ProjectFiles, "read", noted)
    store.scans.keep_only(1, [number for number in range(1, 22) if number != 3])
    eraser.turn(leads=True)
    assert [name for name in read if name.startswith("embeddings/")] == ["embeddings/3.npy"]
    assert vectors(files, "3.npy") == [0, 4]


def test_a_scan_that_is_deleted_while_it_is_embedded_is_erased_too(
    store: Store, files: ProjectFiles, eraser: Eraser
) -> None:
    store.projects.request_refresh(1)
    store.scans.save(1, [task(6)])
    files.write_array(embeddings_name(CHUNK), np.array([[5.0], [6.0]], np.float32))
    store.embeddings.save(1, "pixels", CHUNK, [5, 6])
    assert set(store.embeddings.all(1, "pixels")) == {6}
    eraser.turn(leads=True)
    assert vectors(files) == [0, 6]


# -- drafts and decoded scans ---------------------------------------------------------------------


def test_drafts_lose_the_deleted_scan_alone(
    store: Store, files: ProjectFiles, eraser: Eraser
) -> None:
    embedded(store, files, 5, 6)
    files.write_json("drafts/0001.json", {"5": ["mask"], "6": ["mask"]})
    files.write_json("drafts/0002.json", {"6": ["mask"]})
    files.write("drafts/0003.json", lambda file: file.write(b'{"5": ["ma'))
    before = (files.folder / "drafts/0002.json").stat().st_ino
    store.scans.keep_only(1, [6])
    eraser.turn(leads=True)
    assert files.read_json("drafts/0001.json") == {"6": ["mask"]}
    assert (files.folder / "drafts/0002.json").stat().st_ino == before, "nothing to write"
    assert files.names("drafts") == ["drafts/0001.json", "drafts/0002.json"]


def test_kept_scans_of_gone_tasks_and_former_addresses_go(tmp_path: Path) -> None:
    gone, former, todays = kept(tmp_path, 5), kept(tmp_path, 6, "a"), kept(tmp_path, 6, "b")
    other, longer = kept(tmp_path, 7), kept(tmp_path, 55)
    half = gone.with_name(f".{gone.name}.01ab.partial")
    half.touch()
    (tmp_path / "scans-256" / "notes").touch()
    scan_cache.erase(tmp_path, {5: None, 6: "b"})
    assert not any(path.exists() for path in (gone, former, half))
    assert all(path.exists() for path in (todays, other, longer))
    assert (tmp_path / "scans-256" / "notes").exists()


def test_what_a_killed_process_left_half_written_goes_once_it_is_old(
    store: Store, files: ProjectFiles, eraser: Eraser, clock: Clock
) -> None:
    embedded(store, files, 5, 6)
    old, young = (files.folder / f".{name}.json.01ab.partial" for name in ("old", "young"))
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 2 * SETTLE_SECONDS,) * 2)
    store.scans.keep_only(1, [6])
    eraser.turn(leads=True)
    assert not old.exists()
    assert young.exists()


# -- the notes ------------------------------------------------------------------------------------


def test_without_deletions_nothing_is_noted(store: Store, files: ProjectFiles) -> None:
    embedded(store, files, 5, 6)
    store.scans.save(1, [task(5), task(6)])
    store.scans.keep_only(1, [5, 6])
    assert store.erasures.after() == []


def test_a_kill_at_any_point_leaves_the_rest_to_the_next_turn(
    store: Store, files: ProjectFiles, settings: Settings, clock: Clock
) -> None:
    """Each part that writes or notes something fails once, at its beginning and at its end."""
    points = [
        (erasing, "_erase_rows"),
        (erasing, "_erase_drafts"),
        (scan_cache, "erase"),
        (Erasures, "note"),
        (Erasures, "purge_log"),
    ]
    for number, (where, name) in enumerate(points * 2):
        embedded(store, files, 5, 6)
        files.write_json("drafts/0001.json", {"5": ["mask"], "6": ["mask"]})
        picture = kept(files.folder, 5)
        store.scans.keep_only(1, [6])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(where, name, killed(getattr(where, name), late=number >= len(points)))
            with pytest.raises(KeyboardInterrupt):
                another(settings, store, clock).turn(leads=True)
        another(settings, store, clock).turn(leads=True)
        assert vectors(files) == [0, 6], name
        assert files.read_json("drafts/0001.json") == {"6": ["mask"]}, name
        assert not picture.exists(), name
        assert store.erasures.to_do() == [], name


def killed(work: object, *, late: bool) -> object:
    """Return what does its work or not, and then ends the process."""

    def cut(*given: object, **named: object) -> None:
        if late:
            work(*given, **named)  # type: ignore[operator]
        raise KeyboardInterrupt

    return cut


def test_a_note_is_followed_here_twice_and_then_never_again(
    store: Store, files: ProjectFiles, eraser: Eraser, clock: Clock, settings: Settings
) -> None:
    embedded(store, files, 5, 6)
    store.scans.keep_only(1, [6])
    eraser.turn(leads=True)
    late = kept(files.folder, 5)
    clock.advance(SETTLE_SECONDS - 1)
    eraser.turn(leads=True)
    assert late.exists(), "not each turn looks through all that is kept"
    clock.advance(1)
    eraser.turn(leads=True)
    assert not late.exists()
    assert (
        artifacts.read_json(settings.data_dir / MARK)["number"] == store.erasures.after()[-1].number
    )
    late = kept(files.folder, 5)
    another(settings, store, clock).turn(leads=True)
    assert late.exists()


def test_a_database_put_back_from_a_backup_has_its_notes_followed(
    store: Store, files: ProjectFiles, clock: Clock, settings: Settings
) -> None:
    mark = {"installation": store.installation.id, "number": 9}
    artifacts.write_json(settings.data_dir / MARK, mark)
    embedded(store, files, 5, 6)
    picture = kept(files.folder, 5)
    store.scans.keep_only(1, [6])
    another(settings, store, clock).turn(leads=True)
    assert not picture.exists()


def test_a_process_that_does_not_lead_waits_for_the_one_that_does(
    store: Store, files: ProjectFiles, eraser: Eraser
) -> None:
    embedded(store, files, 5, 6)
    store.scans.keep_only(1, [6])
    eraser.turn(leads=False)
    assert vectors(files) == [5, 6]
    assert len(store.erasures.to_do()) == 1


def test_the_loop_goes_on_after_files_that_do_not_answer(
    store: Store,
    files: ProjectFiles,
    eraser: Eraser,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = iter([StorageError("The disk is full."), ValueError("a defect")])

    def erase(*given: object) -> None:
        for answer in answers:
            raise answer

    monkeypatch.setattr(erasing, "erase", erase)
    monkeypatch.setattr(erasing, "TURN_SECONDS", 0.01)
    embedded(store, files, 5, 6)
    store.scans.keep_only(1, [6])
    stop = threading.Event()
    loop = threading.Thread(target=erasing.follow, args=(eraser, lambda: True, stop))
    loop.start()
    try:
        wait_for(lambda: not store.erasures.to_do())
    finally:
        stop.set()
        loop.join()
    assert "The disk is full." in caplog.text
    assert "a defect" in caplog.text


def test_notes_of_many_scans_fit_into_the_statements_of_every_database(
    store: Store, files: ProjectFiles, eraser: Eraser
) -> None:
    store.projects.request_refresh(1)
    store.scans.save(1, [task(number) for number in range(1_200)])
    store.scans.keep_only(1, [])
    [note] = store.erasures.after()
    assert isinstance(note, Erasure)
    assert len(note.task_ids) == 1_200
    eraser.turn(leads=True)
    assert store.erasures.to_do() == []
