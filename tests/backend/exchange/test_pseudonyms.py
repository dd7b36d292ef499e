from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import ConfigError, StorageError
from backend.exchange.pseudonyms import Pseudonyms
from backend.settings import Settings


@given(st.text(), st.text())
def test_equal_identities_and_only_these_have_equal_names(one: str, other: str) -> None:
    names = Pseudonyms(b"key")
    assert (names.name("volume", one) == names.name("volume", other)) == (one == other)


def test_a_name_tells_nothing_without_the_key() -> None:
    name = Pseudonyms(b"key").name("volume", "John Doe")
    assert name == Pseudonyms(b"key").name("volume", "John Doe")
    assert name.startswith("volume-")
    assert name != Pseudonyms(b"other").name("volume", "John Doe")
    assert "Doe" not in name


def test_kinds_do_not_tell_that_identities_are_equal() -> None:
    names = Pseudonyms(b"key")
    assert names.name("volume", "1")[-12:] != names.name("patient", "1")[-12:]


def test_the_key_is_made_once_and_its_owner_alone_may_read_it(settings: Settings) -> None:
    first = Pseudonyms.of(settings).name("volume", "a")
    assert Pseudonyms.of(settings).name("volume", "a") == first
    [key] = settings.data_dir.glob("*.key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32
    assert [path.name for path in settings.data_dir.iterdir()] == [key.name]


def test_a_folder_that_cannot_be_written_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lost = settings.model_copy(update={"data_dir": tmp_path / "file"})
    with pytest.raises(StorageError, match=r"pseudonyms.key cannot be read or written"):
        Pseudonyms.of(lost)


def shared(settings: Settings, tmp_path: Path) -> Settings:
    folder = tmp_path / "share"
    folder.mkdir(exist_ok=True)
    return settings.model_copy(update={"data_dir": tmp_path / "data", "imports_dir": folder})


@pytest.mark.parametrize("there", ["pseudonyms.key", "imports"])
def test_no_second_key_is_made_beside_earlier_imports(
    settings: Settings, tmp_path: Path, there: str
) -> None:
    moved = shared(settings, tmp_path)
    (moved.data_dir / there).mkdir(parents=True)
    old, new = tmp_path / "data" / "pseudonyms.key", tmp_path / "share" / "pseudonyms.key"
    with pytest.raises(ConfigError, match=f"earlier imports: .*{there}") as caught:
        Pseudonyms.of(moved)
    assert f"Copy {old} to {new} and " in caught.value.fix
    assert not new.exists()


def test_a_key_that_was_copied_gives_the_same_names(settings: Settings, tmp_path: Path) -> None:
    moved = shared(settings, tmp_path)
    before = Pseudonyms.of(moved.model_copy(update={"imports_dir": None})).name("volume", "a")
    key = moved.data_dir / "pseudonyms.key"
    (tmp_path / "share" / key.name).write_bytes(key.read_bytes())
    assert Pseudonyms.of(moved).name("volume", "a") == before


def test_the_first_key_is_made_in_the_folder_of_imports(settings: Settings, tmp_path: Path) -> None:
    fresh = shared(settings, tmp_path)
    Pseudonyms.of(fresh)
    assert [path.name for path in (tmp_path / "share").iterdir()] == ["pseudonyms.key"]
    same = fresh.model_copy(update={"data_dir": tmp_path / "share"})
    (tmp_path / "share" / "pseudonyms.key").unlink()
    (tmp_path / "share" / "imports").mkdir()
    Pseudonyms.of(same)  # nothing was moved
