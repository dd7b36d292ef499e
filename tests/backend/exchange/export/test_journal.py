from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import ConfigError, StorageError
from backend.exchange.export.files import Files, hash_of
from backend.exchange.export.journal import JOURNAL, Entry, Journal


def write(journal: Journal, folder: Path, case: str, *names: str) -> None:
    files = Files(folder)
    for name in names:
        files.write(name, lambda file: file.write(case.encode()))
    journal.save(Entry(case, "k", {"": {"scans": 1}}, ["odd"]), files.written)


def test_a_case_is_written_while_its_key_and_files_are_unchanged(tmp_path: Path) -> None:
    with Journal(tmp_path, {}) as journal:
        write(journal, tmp_path, "a", "x/1", "x/2")
        assert journal.is_written("a", "k")
        assert not journal.is_written("a", "other")
        assert not journal.is_written("b", "k")
        (tmp_path / "x" / "2").unlink()
        assert not journal.is_written("a", "k")


def test_only_what_was_committed_is_known_after_a_kill(tmp_path: Path) -> None:
    with Journal(tmp_path, {}) as journal:
        write(journal, tmp_path, "a", "1")
        journal.commit()
        write(journal, tmp_path, "b", "2")
    with Journal(tmp_path, {}) as journal:
        assert [(entry.name, entry.problems) for entry in journal.entries()] == [("a", ["odd"])]
        assert journal.files() == {"1": hash_of(tmp_path / "1")}


def test_files_that_a_case_no_longer_has_are_deleted_with_their_folders(tmp_path: Path) -> None:
    with Journal(tmp_path, {}) as journal:
        write(journal, tmp_path, "a", "x/y/1", "2")
        write(journal, tmp_path, "a", "2")
        write(journal, tmp_path, "b", "3")
        assert not (tmp_path / "x").exists()
        assert journal.keep_only({"a"}) == 1
        assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} == {"2"}


def test_files_of_all_cases_that_were_not_written_again_are_deleted(tmp_path: Path) -> None:
    with Journal(tmp_path, {}) as journal:
        write(journal, tmp_path, "a", "1")
        files = Files(tmp_path)
        for name in ("x/split", "index"):
            files.write(name, lambda file: file.write(b"1"))
        journal.save_common(files.written)
        journal.keep_common({"index"})
        assert journal.files().keys() == {"1", "index"}
        assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} == {"1", "index"}


def test_two_exports_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with (
        Journal(tmp_path, {}),
        pytest.raises(ConfigError, match="Another export writes into"),
        Journal(tmp_path, {}),
    ):
        pass


def test_a_damaged_journal_and_a_folder_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match="is damaged"), Journal(tmp_path, {}):
        pass
    with pytest.raises(ConfigError, match="cannot be written"), Journal(Path("/proc/out"), {}):
        pass
    with pytest.raises(StorageError, match="goes on where it stopped"):
        Files(Path("/proc/out")).write("a", lambda file: None)
