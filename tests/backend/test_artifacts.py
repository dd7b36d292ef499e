from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import pytest

from backend import artifacts
from backend.errors import StorageError


def test_a_name_follows_from_the_content_alone() -> None:
    assert artifacts.digest({"a": 1, "b": 2}, [3]) == artifacts.digest({"b": 2, "a": 1}, [3])
    assert artifacts.digest("a", "b") != artifacts.digest("ab")
    assert artifacts.digest([1]) != artifacts.digest([2])
    assert len(artifacts.digest()) == 40


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
