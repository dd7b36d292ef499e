from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backend.errors import ConfigError
from backend.imaging.manifest import MANIFEST, check_unmoved, default_folder, load, save
from backend.settings import Settings
from tests.backend.exchange.samples import a_manifest


def changed(folder: Path, **fields: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = a_manifest(tmp_path)
    save(manifest)
    assert load(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


def test_a_volume_is_found_by_the_name_in_task_data(tmp_path: Path) -> None:
    manifest = a_manifest(tmp_path)
    assert manifest.volume("volume-3f9a2c81d04e") == manifest.volumes[0]
    assert manifest.volume("volume-of-another") is None
    assert manifest.volume(None) is None


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no manifest.json in .* Name the folder"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ConfigError, match=r"is damaged: it is no JSON object. Put the file back"):
        load(tmp_path)


def test_a_manifest_of_a_later_release_is_refused(tmp_path: Path) -> None:
    save(a_manifest(tmp_path))
    changed(tmp_path, format=2)
    with pytest.raises(ConfigError, match="has the format 2, expected 1"):
        load(tmp_path)


@pytest.mark.parametrize("fields", [{"project": 8}, {"checksum": "0"}, {"more": 1}])
def test_an_edited_manifest_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    save(a_manifest(tmp_path))
    changed(tmp_path, **fields)
    with pytest.raises(ConfigError, match="was edited: its checksum is wrong"):
        load(tmp_path)


def test_a_field_of_a_later_release_is_named(tmp_path: Path) -> None:
    save(a_manifest(tmp_path).model_copy(update={"layout": "slabs"}))
    with pytest.raises(ConfigError, match="is not understood: layout: Input should be 'slices'"):
        load(tmp_path)


def test_a_moved_manifest_is_read_but_not_added_to(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    manifest = a_manifest(old)
    save(manifest)
    check_unmoved(load(old), old)
    old.rename(new)
    assert load(new) == manifest
    with pytest.raises(ConfigError, match=rf"was moved: it was written in {old}. Move the whole"):
        check_unmoved(load(new), new)


def test_each_project_has_a_folder_of_its_own(settings: Settings) -> None:
    assert default_folder(settings, 7) == settings.data_dir / "imports" / "7"
