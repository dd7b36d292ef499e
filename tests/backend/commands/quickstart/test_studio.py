from __future__ import annotations

from pathlib import Path

import pytest

from backend.commands.quickstart.studio import LabelStudio
from backend.errors import ServerError


def test_a_label_studio_keeps_its_secrets_to_its_owner(tmp_path: Path) -> None:
    first, again = LabelStudio(tmp_path / "one"), LabelStudio(tmp_path / "one")
    other = LabelStudio(tmp_path / "two")
    assert (tmp_path / "one" / "account.json").stat().st_mode & 0o777 == 0o600
    assert (first.token, first.password) == (again.token, again.password)
    assert first.token != other.token
    assert first.password != other.password


def test_a_label_studio_that_is_not_installed_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="Run scripts/setup"):
        LabelStudio(tmp_path / "data", venv=tmp_path / "missing").start()
