from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from backend.errors import StorageError
from backend.storage import artifacts
from backend.storage.artifacts import DAMAGED, Artifacts, ProjectFiles


def test_a_name_follows_from_the_content_alone() -> None:
    assert artifacts.digest({"a": 1, "b": 2}, [3]) == artifacts.digest({"b": 2, "a": 1}, [3])
    assert artifacts.digest("a", "b") != artifacts.digest("ab")
    assert artifacts.digest([1]) != artifacts.digest([2])
    assert len(artifacts.digest()) == 40


def test_the_row_of_a_publication_names_its_drafts() -> None:
    name = artifacts.drafts_name(7)
    assert artifacts.file_of(name) == "0007.json"
    assert artifacts.drafts_named("0007.json") == name == "drafts/0007.json"


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "new" / "queue.json", {"order": [3, 1]})
    assert artifacts.read_json(tmp_path / "new" / "queue.json") == {"order": [3, 1]}
    artifacts.write_array(tmp_path / "map.npy", np.arange(6.0).reshape(3, 2))
    assert np.load(tmp_path / "map.npy").tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_document_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert artifacts.read_json(tmp_path / "queue.json") is None


def test_a_write_cut_short_leaves_the_old_file_whole(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def half(file: IO[bytes]) -> None:
        file.write(b"ha")
        raise Killed

    path = tmp_path / "queue.json"
    artifacts.write_json(path, [1])
    with pytest.raises(Killed):
        artifacts.write(path, half)
    assert artifacts.read_json(path) == [1]


def test_a_full_disk_is_a_storage_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    def full(file: IO[bytes]) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left") as caught:
        artifacts.write(tmp_path / "map.npy", full)
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in str(caught.value)


# -- a bucket and the copies of machines ----------------------------------------------------------

RECORD, WEIGHTS, CHUNK, DRAFTS = "rounds/0001.json", "models/k", "embeddings/c.npy", "drafts/1.json"


class Killed(BaseException):
    """What nobody catches."""


class Machines:
    """Machines that have a bucket in common, and nothing else; what they ask it for is counted."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.url = folder, f"memory://{secrets.token_hex(4)}/prefix"
        self.asked: Counter[str] = Counter()
        self.refused: set[str] = set()
        for name in ("ukey", "cat_file", "put_file", "find", "rm_file"):
            monkeypatch.setattr(MemoryFileSystem, name, self._counted(name))

    def _counted(self, name: str) -> Any:
        real = getattr(MemoryFileSystem, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.asked[name] += 1
            if name in self.refused:
                raise OSError("access key hidden is refused by host.example")
            return real(*args, **kwargs)

        return call

    def on(self, name: str, project: int = 1) -> ProjectFiles:
        return Artifacts(self.folder / name, self.url).of(project)

    def copies(self, name: str) -> set[str]:
        folder = self.on(name).folder
        found = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)) for path in found if path.suffix != ".mark"}


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    yield Machines(tmp_path, monkeypatch)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def text(file: IO[bytes]) -> object:
    return file.write(b"weights")


def test_what_one_machine_writes_another_reads(machines: Machines) -> None:
    first, second = machines.on("one"), machines.on("two")
    first.write_json(RECORD, {"order": [3, 1]})
    first.write_array(CHUNK, np.arange(3.0))
    first.write(WEIGHTS, text)
    assert second.read_json(RECORD) == {"order": [3, 1]}
    assert second.read(CHUNK, np.load).tolist() == [0, 1, 2]
    assert second.read(WEIGHTS, Path.read_bytes) == b"weights"
    assert second.names("models") == [WEIGHTS]
    assert (second.exists(WEIGHTS), second.exists("models/other")) == (True, False)
    assert second.read_json("rounds/0002.json") is None
    assert machines.copies("two") == {RECORD, CHUNK, WEIGHTS}


def test_what_never_changes_is_read_again_without_a_question(machines: Machines) -> None:
    machines.on("one").write(WEIGHTS, text)
    for name in ("one", "two"):
        machines.on(name).read(WEIGHTS, Path.read_bytes)
        machines.asked.clear()
        assert machines.on(name).read(WEIGHTS, Path.read_bytes) == b"weights"
        assert not machines.asked


def test_what_may_change_is_fetched_again_only_when_it_has_changed(machines: Machines) -> None:
    first, second = machines.on("one"), machines.on("two")
    first.write_json(RECORD, 1)
    assert (first.read_json(RECORD), second.read_json(RECORD), second.read_json(RECORD)) == (
        1,
        1,
        1,
    )
    assert machines.asked["cat_file"] == 1
    second.write_json(RECORD, 22)
    assert (first.read_json(RECORD), second.read_json(RECORD)) == (22, 22)
    assert machines.asked["cat_file"] == 2


def test_a_copy_goes_with_the_original(machines: Machines) -> None:
    first, second = machines.on("one"), machines.on("two")
    first.write_json(RECORD, 1)
    second.read_json(RECORD)
    first.remove(RECORD)
    first.remove(RECORD)
    assert first.read_json(RECORD) is None
    assert second.read_json(RECORD) is None
    assert machines.copies("one") == machines.copies("two") == set()


def test_weights_that_others_deleted_are_known_to_be_gone(machines: Machines) -> None:
    machines.on("one").write(WEIGHTS, text)
    machines.on("two").paths([WEIGHTS])
    machines.on("one").remove(WEIGHTS)
    assert not machines.on("two").exists(WEIGHTS)
    assert machines.on("two").names("models") == []


@pytest.mark.parametrize(("name", "left"), [(RECORD, 1), (WEIGHTS, None)])
def test_a_file_that_does_not_reach_the_bucket_is_on_no_machine(
    machines: Machines, name: str, left: int | None
) -> None:
    files = machines.on("one")
    if left:
        files.write_json(name, left)
    machines.refused = {"put_file"}
    with pytest.raises(StorageError, match=r"did not answer \(OSError\)") as caught:
        files.write_json(name, 2)
    assert "hidden" not in f"{caught.value}{caught.value.__cause__}"
    assert machines.copies("one") == ({name} if left else set())
    machines.refused = set()
    assert files.read_json(name) == left


def test_a_kill_between_bucket_and_disk_is_made_good_by_the_next_read(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = machines.on("one")
    files.write_json(RECORD, 1)
    with monkeypatch.context() as patch:

        def kill(*_: object) -> None:
            raise Killed

        patch.setattr(Path, "replace", kill)
        for name in (RECORD, WEIGHTS):
            with pytest.raises(Killed):
                files.write_json(name, 2)
    assert (files.read_json(RECORD), files.read_json(WEIGHTS)) == (2, 2)
    assert len(list(files.leftovers())) == 2


def test_a_mark_that_cannot_be_had_after_writing_costs_a_second_look_and_nothing_else(
    machines: Machines,
) -> None:
    files = machines.on("one")
    files.write_json(RECORD, 1)
    machines.refused = {"ukey"}
    with pytest.raises(StorageError):
        files.write_json(RECORD, 2)
    with pytest.raises(StorageError):
        files.read_json(RECORD)
    machines.refused = set()
    assert files.read_json(RECORD) == 2


@pytest.mark.parametrize("name", [RECORD, CHUNK])
def test_a_damaged_copy_is_fetched_again(machines: Machines, name: str) -> None:
    files = machines.on("one")
    files.write_array(name, np.arange(3.0))
    (files.folder / name).write_bytes(b"rubbish")
    assert files.read(name, np.load).tolist() == [0, 1, 2]


def test_what_is_damaged_in_the_bucket_too_is_said_to_be(machines: Machines) -> None:
    files = machines.on("one")
    files.write(CHUNK, text)
    with pytest.raises(DAMAGED):
        files.read(CHUNK, np.load)
    assert machines.asked["cat_file"] == 1
    files.write(RECORD, text)
    assert files.read_json(RECORD) is None


def test_copies_of_what_was_deleted_elsewhere_go_with_the_next_fetch(machines: Machines) -> None:
    first, second = machines.on("one"), machines.on("two")
    names = [f"{kind}/{number}" for kind in ("models", "drafts", "embeddings") for number in "123"]
    for name in names:
        first.write(name, text)
    second.paths(names)
    for name in names:
        if not name.endswith("3"):
            first.remove(name)
    for kind in ("models", "drafts", "embeddings"):
        first.write(f"{kind}/4", text)
    second.paths(["models/4", "drafts/4", "embeddings/4"])
    assert machines.copies("two") == {
        *("models/3", "models/4", "drafts/3", "drafts/4"),
        *(f"embeddings/{number}" for number in "1234"),
    }


def test_many_files_are_fetched_together_and_none_twice(machines: Machines) -> None:
    first, second = machines.on("one"), machines.on("two")
    names = [f"embeddings/{number}" for number in range(50)]
    for name in names:
        first.write(name, text)
    second.paths(names[:10])
    machines.asked.clear()
    assert [path.read_bytes() for path in second.paths([*names, *names])] == [b"weights"] * 100
    assert machines.asked == {"cat_file": 40}
    machines.refused = {"cat_file"}
    with pytest.raises(StorageError, match="did not answer"):
        machines.on("three").paths(names)
    assert machines.asked["cat_file"] < 90


def test_a_project_is_cleared_without_its_neighbours(machines: Machines) -> None:
    files, neighbour = machines.on("one"), machines.on("one", 10)
    for one in (files, neighbour):
        one.write_json(RECORD, 1)
        one.write(WEIGHTS, text)
    (files.folder / "scans-256").mkdir()
    files.clear()
    files.clear()
    assert not files.folder.exists()
    assert (files.read_json(RECORD), files.names("models")) == (None, [])
    assert (neighbour.read_json(RECORD), neighbour.names("models")) == (1, [WEIGHTS])


def test_a_probe_leaves_nothing_and_notices_a_store_that_forgets(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Artifacts(machines.folder / "one", machines.url)
    kept.probe()
    assert not MemoryFileSystem.store
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *_: [])
    with pytest.raises(StorageError, match="did not return a file"):
        kept.probe()
    assert list((machines.folder / "one" / "projects").iterdir()) == []


# -- a folder that machines share -----------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["", "file://"])
def test_a_shared_folder_is_used_as_it_is(tmp_path: Path, protocol: str) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    url = f"{protocol}{shared}"
    first, second = (Artifacts(tmp_path / name, url).of(7) for name in ("one", "two"))
    first.write_json(RECORD, 1)
    first.write(WEIGHTS, text)
    assert (second.read_json(RECORD), second.names("models")) == (1, [WEIGHTS])
    assert second.folder == shared / "projects" / "7"
    assert second.scratch == tmp_path / "two" / "projects" / "7"
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]
    second.scratch.mkdir(parents=True)
    Artifacts(tmp_path / "two", url).probe()
    second.clear()
    assert (first.read_json(RECORD), first.names("models")) == (None, [])
    assert not second.scratch.exists()


def test_a_shared_folder_that_is_full_is_named(tmp_path: Path) -> None:
    def full(file: IO[bytes]) -> None:
        raise OSError(28, "No space left on device")

    files = Artifacts(tmp_path / "one", str(tmp_path)).of(1)
    with pytest.raises(StorageError, match="make ARTIFACTS_URL writable"):
        files.write(RECORD, full)
    assert list(files.leftovers()) == []


def test_half_written_files_are_no_artifacts(tmp_path: Path) -> None:
    files = Artifacts(tmp_path).of(1)
    files.write(WEIGHTS, text)
    for name in ("k.1.partial", ".k.1.partial", ".k.mark"):
        (files.folder / "models" / name).touch()
    assert files.names("models") == [WEIGHTS]
    assert len(list(files.leftovers())) == 2
