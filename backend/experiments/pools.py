"""Recipes of pools: which scans of which folders are mixed, and which are held out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from backend.errors import ConfigError
from backend.experiments import datasets, group_tables
from backend.experiments.scans import Dataset, Scan, ScanReader, VolumeSlice
from backend.options import in_words

Count = Annotated[int, Field(ge=1)]
INVERTED = " inverted"  # follows the name of a group

STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


class SourceRecipe(BaseModel):
    """A folder that gives scans to a pool.

    Attributes:
        folder: A labelled folder, relative to the recipe or to --root.
        pool: Number of scans in the pool, or the number for each group, and no scans of other
            groups; None for all that are not held out.
        inverted: Number of these scans whose grey values are inverted. They are a group.
        table: CSV file in the folder that gives each scan its group.
        group_column: Its column with the groups; "" if the folder is one group.
        patient_column: Its column of patients; "" for the columns that `simulate` reads, and for
            no patients if there is a `group_column`.
        outlier: Whether the scans are planted outliers: no group, and never held out.
    """

    model_config = STRICT

    folder: str
    pool: Count | dict[str, Count] | None = None
    inverted: Annotated[int, Field(ge=0)] = 0
    table: str = datasets.GROUPS_FILE
    group_column: str = ""
    patient_column: str = ""
    outlier: bool = False

    @model_validator(mode="after")
    def _fits(self) -> SourceRecipe:
        if isinstance(self.pool, dict) and not self.group_column:
            raise ValueError("`pool` counts groups, so give `group_column` too")
        if isinstance(self.pool, int) and self.group_column:
            raise ValueError("with `group_column`, `pool` is a table with a number for each group")
        if self.inverted and not isinstance(self.pool, int):
            raise ValueError("`inverted` needs a number as `pool`")
        if isinstance(self.pool, int) and self.inverted > self.pool:
            raise ValueError("`inverted` is more than `pool`")
        if self.outlier and (not isinstance(self.pool, int) or self.inverted):
            raise ValueError("an `outlier` needs a number as `pool`, and no `inverted`")
        return self


class Recipe(BaseModel):
    """How a pool and its held-out scans are drawn, anew for every seed.

    Attributes:
        name: Of the pool; its results go into a folder of this name.
        unit: What all counts count: scans, or patients (volumes) with all their scans.
        held_out: Number of each group that is held out, where there are enough.
        largest_share: Of a group, that is held out where the pool takes all other scans of it.
        most_per_group: Limit for a group whose scans would all be in the pool.
        most_per_patient: Limit for the scans of a patient or volume in the pool.
        sources: The folders, by the name of their group.
    """

    model_config = STRICT

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    unit: Literal["scans", "patients"] = "scans"
    held_out: Count = 40
    largest_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    most_per_group: Count | None = None
    most_per_patient: Count | None = None
    sources: Annotated[dict[str, SourceRecipe], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        folders = [source.folder for source in self.sources.values()]
        twice = sorted({folder for folder in folders if folders.count(folder) > 1})
        if twice:
            raise ValueError(
                f"two sources have the folder {twice[0]!r}: its scans could be in the pool and "
                "held out; use `group_column` or `inverted`"
            )
        if all(source.outlier for source in self.sources.values()):
            raise ValueError("every source is an `outlier`, so no scan can be held out")
        return self


def read(path: Path) -> Recipe:
    """Return the recipe in a TOML file.

    Raises:
        ConfigError: If the file is no recipe; all that is wrong is named.
    """
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is no TOML file ({error}).", _FIX) from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {'; '.join(_problems(error))}.", _FIX) from None


_FIX = "docs/experiments.md shows a recipe and all its keys."


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        # Of a key with two types pydantic names the type as well: "int" or "dict[str,int]".
        place = ".".join(p for p in map(str, problem["loc"]) if not _TYPE.search(p))
        text = in_words(problem["msg"])
        yield f"`{place}`: {text}" if place else text


_TYPE = re.compile(r"^constrained-int$|^dict\[")


@dataclass(frozen=True)
class Mixture:
    """All scans that a recipe may draw from, those of one source together.

    Attributes:
        dataset: The scans under the names SOURCE/NAME. Inverted copies of all scans of a source
            follow them in the same order; a copy has the patient of its original.
        sources: Source of each scan.
        groups: Group of each scan; "" for a planted outlier.
        inverted: Whether each scan is an inverted copy.
    """

    dataset: Dataset
    sources: tuple[str, ...]
    groups: tuple[str, ...]
    inverted: tuple[bool, ...]


def mix(recipe: Recipe, root: Path, *, max_pixels: int) -> Mixture:
    """Return the scans of all sources.

    Args:
        recipe: Names the folders.
        root: Their parent.
        max_pixels: See `datasets.find`.

    Raises:
        ConfigError: If a folder or table does not fit, or the sources have different classes.
    """
    scans: list[ScanReader] = []
    patients: dict[str, str] = {}
    sources: list[str] = []
    groups: list[str] = []
    inverted: list[bool] = []
    labels: dict[str, tuple[str, ...]] = {}
    for name, source in recipe.sources.items():
        found = _found(source, root, max_pixels)
        labels[name] = found.labels
        of_scan = _groups(name, source, root / source.folder, found)
        for copy in ("", INVERTED)[: 1 + (source.inverted > 0)]:
            for place, scan in enumerate(found.scans):
                title = f"{name}{copy}/{scan.name}"
                read_scan = partial(_inverted, scan) if copy else scan.read
                scans.append(ScanReader(title, read_scan, _placed(scan, f"{name}{copy}")))
                patients[title] = f"{name}/{found.patients.get(scan.name) or scan.name}"
                groups.append(of_scan[place] + copy)
                inverted.append(bool(copy))
                sources.append(name)
    _check_labels(recipe, labels)
    dataset = Dataset(recipe.name, next(iter(labels.values())), tuple(scans), patients)
    return Mixture(dataset, tuple(sources), tuple(groups), tuple(inverted))


def _found(source: SourceRecipe, root: Path, max_pixels: int) -> Dataset:
    folder = root / source.folder
    if not folder.is_dir():
        raise ConfigError(
            f"The recipe names the folder {source.folder!r}, which is not in {root}.",
            "Correct `folder`, or give the parent of all folders as --root.",
        )
    no_patients = source.group_column and not source.patient_column
    patients = None if no_patients else source.patient_column
    return datasets.find(folder, max_pixels=max_pixels, patients=patients)


def _groups(name: str, source: SourceRecipe, folder: Path, found: Dataset) -> list[str]:
    """Return the group of each scan of a source."""
    if source.outlier:
        return [""] * len(found.scans)
    if not source.group_column:
        return [name] * len(found.scans)
    table = folder / source.table
    if not table.is_file():
        raise ConfigError(
            f"The recipe names the table {source.table!r}, which is not in {folder}.",
            "Correct `table`, or remove `group_column`.",
        )
    listed = group_tables.values(table, (source.group_column,), found.scans)
    without = [scan.name for scan in found.scans if scan.name not in listed]
    if without:
        raise ConfigError(
            f"{table} gives {len(without)} of {len(found.scans)} scans no {source.group_column}, "
            f"first {without[0]}.",
            "Give every scan a line with its group.",
        )
    return [listed[scan.name] for scan in found.scans]


def _placed(scan: ScanReader, source: str) -> VolumeSlice | None:
    """Return the place of a scan in the mixture, where sources may have volumes of one name."""
    place = scan.place
    return replace(place, volume=f"{source}/{place.volume}") if place else None


def _inverted(scan: ScanReader) -> Scan:
    original = scan.read()
    return Scan(1 - original.image, original.masks, original.spacing)


def _check_labels(recipe: Recipe, labels: Mapping[str, tuple[str, ...]]) -> None:
    if len(set(labels.values())) > 1:
        told = "; ".join(f"{name}: {', '.join(classes)}" for name, classes in labels.items())
        raise ConfigError(
            f"The sources of {recipe.name} have different classes ({told}).",
            "Mix folders whose masks have the same classes.",
        )
