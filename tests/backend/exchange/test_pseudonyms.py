from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import StorageError
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
