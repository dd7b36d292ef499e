from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import ConfigError
from backend.experiments import pools
from tests.backend.experiments.recipes import TWO_SOURCES, recipe, scans, table

LIMIT = 1_000_000
RECIPES = sorted((Path(__file__).parents[3] / "bench" / "pools").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_of_the_benchmarks_are_valid_and_name_no_place(path: Path) -> None:
    asked = pools.read(path)
    assert asked.name == path.stem
    assert not any("/" in source.folder for source in asked.sources.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "is no TOML file"),
        ('name = "a"', "`sources`: Field required"),
        (TWO_SOURCES.replace("held_out", "holdout"), "`holdout`: Extra inputs"),
        (TWO_SOURCES.replace("pool = 4", 'pool = "all"'), "`sources.plain.pool`: .*valid integer"),
        (TWO_SOURCES.replace("pool = 4", "pool = {x = 4}"), "so give `group_column` too"),
        (TWO_SOURCES.replace("pool = 4", 'pool = 4\ngroup_column = "x"'), "`pool` is a table"),
        (TWO_SOURCES.replace("inverted = 1", "inverted = 4"), "`inverted` is more than `pool`"),
        (TWO_SOURCES.replace("pool = 3", ""), "`inverted` needs a number as `pool`"),
        (TWO_SOURCES.replace('"b"', '"a"'), "two sources have the folder 'a'"),
        (TWO_SOURCES.replace('"two"', '"../two"'), "`name`: String should match"),
        ('name = "a"\n[sources.b]\nfolder = "b"\npool = 1\noutlier = true', "every source is an"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_place_and_the_reason(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        pools.read(path)


def test_sources_are_mixed_under_their_names_and_inverted_copies_follow(tmp_path: Path) -> None:
    scans(tmp_path / "a", 3, seed=0)
    scans(tmp_path / "b", 2, seed=1)
    asked = recipe({"plain": {"folder": "a"}, "turned": {"folder": "b", "pool": 1, "inverted": 1}})
    mixture = pools.mix(asked, tmp_path, max_pixels=LIMIT)

    assert [scan.name for scan in mixture.dataset.scans][2:] == [
        "plain/02.png", "turned/00.png", "turned/01.png",
        "turned inverted/00.png", "turned inverted/01.png",
    ]  # fmt: skip
    assert mixture.groups[2:] == ("plain", *["turned"] * 2, *["turned inverted"] * 2)
    assert mixture.sources == (*["plain"] * 3, *["turned"] * 4)
    scan, copy = (mixture.dataset.scans[row].read() for row in (3, 5))
    np.testing.assert_allclose(copy.image, 1 - scan.image)
    assert copy.masks.tolist() == scan.masks.tolist()
    patients = mixture.dataset.patients
    assert patients["turned/00.png"] == patients["turned inverted/00.png"]
    assert patients["plain/00.png"] != patients["turned/00.png"]


def test_a_table_gives_each_scan_its_group(tmp_path: Path) -> None:
    scans(tmp_path / "a", 3, seed=0)
    table(tmp_path / "a", "kind", {"00": "x", "01": "y", "02": "x"})
    asked = recipe({"all": {"folder": "a", "group_column": "kind"}})
    assert pools.mix(asked, tmp_path, max_pixels=LIMIT).groups == ("x", "y", "x")
    table(tmp_path / "a", "kind", {"00": "x"})
    with pytest.raises(ConfigError, match=r"2 of 3 scans no kind, first 01\.png"):
        pools.mix(asked, tmp_path, max_pixels=LIMIT)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"folder": "c"}, "the folder 'c', which is not in"),
        ({"folder": "b", "group_column": "kind"}, "the table 'groups.csv', which is not in"),
    ],
)
def test_what_a_recipe_names_has_to_be_there(
    tmp_path: Path, source: dict[str, Any], said: str
) -> None:
    scans(tmp_path / "b", 1, seed=0)
    with pytest.raises(ConfigError, match=said):
        pools.mix(recipe({"all": source}), tmp_path, max_pixels=LIMIT)


def test_sources_with_different_classes_are_refused(tmp_path: Path) -> None:
    scans(tmp_path / "a", 1, seed=0)
    scans(tmp_path / "b", 1, seed=1)
    (tmp_path / "b" / "masks" / "lung").mkdir()
    (tmp_path / "b" / "masks" / "00.png").rename(tmp_path / "b" / "masks" / "lung" / "00.png")
    with pytest.raises(ConfigError, match=r"different classes \(a: mask; b: lung\)"):
        pools.mix(recipe({n: {"folder": n} for n in "ab"}), tmp_path, max_pixels=LIMIT)
