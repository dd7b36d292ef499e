"""What the README says is complete: every setting, option, command and route is in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backend.commands.cli import cli
from backend.settings import ProjectOptions, Settings
from backend.storage.store import open_store
from backend.web.app import create_app
from backend.web.ml_protocol import live_drafts

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_explained(name: str) -> None:
    assert f"`{name.upper()}`" in README


@pytest.mark.parametrize("name", ProjectOptions.model_fields)
def test_every_option_is_explained(name: str) -> None:
    assert f"| `{name}` |" in README


@pytest.mark.parametrize("name", cli.commands)
def test_every_command_is_named(name: str) -> None:
    assert f"python -m backend {name}" in README or f"`{name}`" in README


def test_every_route_is_named(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'memory.sqlite'}")
    store.create()
    settings = Settings(data_dir=tmp_path)
    app = create_app(settings, store, live_drafts(settings, store))
    rules = {
        re.sub("<int[^>]*:project_id>", "<id>", str(rule)) for rule in app.url_map.iter_rules()
    }
    assert not [rule for rule in rules - {"/"} if f"`{rule}`" not in README]
    store.engine.dispose()
