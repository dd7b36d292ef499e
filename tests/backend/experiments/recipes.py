"""Labelled folders and recipes of pools, for the tests of mixed pools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.experiments import studies
from backend.experiments.pools import Recipe
from backend.experiments.studies import Study
from backend.settings import Settings
from tests.backend.experiments.samples import plan

TWO_SOURCES = """
name = "two"
held_out = 2

[sources.plain]
folder = "a"
pool = 4

[sources.turned]
folder = "b"
pool = 3
inverted = 1
"""


def scans(folder: Path, number: int, *, seed: int) -> None:
    """Write scans with different pixels, each with a mask that is drawn on its left half."""
    chance = np.random.default_rng(seed)
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :16] = 255
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for scan in range(number):
        image = chance.integers(0, 256, (32, 32)).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{scan:02}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{scan:02}.png")


def table(folder: Path, column: str, values: Mapping[str, str]) -> None:
    """Write groups.csv."""
    lines = [f"name,{column}", *(f"{name},{value}" for name, value in values.items())]
    (folder / "groups.csv").write_text("\n".join(lines) + "\n")


def recipe(sources: Mapping[str, Mapping[str, Any]], **others: Any) -> Recipe:
    """Return a recipe named "pool"."""
    return Recipe.model_validate({"name": "pool", "sources": sources, **others})


def study_of(asked: Recipe, root: Path, out: Path, **changes: Any) -> Study:
    """Return the study of a recipe, two of whose scans are labelled."""
    settings = Settings(device="cpu")
    wanted = plan(**{"labels": "2", **changes})
    return studies.of_recipe(wanted, asked, root, out, settings, lambda line: None)
