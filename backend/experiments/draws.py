"""Draw a pool and its held-out scans from all scans of a recipe, anew for every seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from backend.errors import ConfigError
from backend.experiments.pools import Mixture, Recipe, SourceRecipe

Rows = tuple[int, ...]


@dataclass(frozen=True)
class Stratum:
    """One group of a source, and how many of it go where; counts are in the recipe's unit.

    Attributes:
        name: For messages.
        patients: The rows of each patient; of inverted copies only the originals.
        held_out: Number that is held out, and of inverted copies the same again.
        pool: Number in the pool; None for all that are left.
        limit: Most in the pool if `pool` is None.
        inverted: Number in the pool that are inverted copies.
        copies: Distance from an original's row to that of its inverted copy; 0 without copies.
    """

    name: str
    patients: tuple[Rows, ...]
    held_out: int
    pool: int | None
    limit: int | None
    inverted: int
    copies: int


@dataclass(frozen=True)
class Draws:
    """The pool and the held-out scans of every seed.

    Attributes:
        strata: Of all sources.
        by_patient: Whether counts are patients instead of scans.
        most_per_patient: Limit for the scans of a patient in the pool.
        split_seed: A second seed, for other draws with the same seeds.
    """

    strata: tuple[Stratum, ...]
    by_patient: bool
    most_per_patient: int | None
    split_seed: int

    def of(self, seed: int) -> tuple[Rows, Rows]:
        """Return the pool and the held-out scans of a seed as rows, ascending.

        No patient is on both sides, and none is in use both as it is and inverted.

        Raises:
            ConfigError: If patients with several scans leave too few scans for the pool.
        """
        chance = np.random.default_rng((self.split_seed, seed))
        pool: list[int] = []
        held: list[int] = []
        for stratum in self.strata:
            left = [stratum.patients[i] for i in chance.permutation(len(stratum.patients))]
            for copies in (0, stratum.copies)[: 1 + (stratum.copies > 0)]:
                rows, left = self._take(left, stratum.held_out)
                held += [row + copies for row in rows]
            left = [self._thinned(patient, chance) for patient in left]
            if stratum.pool is not None and self.size(left) < stratum.pool:
                raise _too_few(stratum.name, stratum.pool, self.size(left))
            rows, left = self._take(left, stratum.inverted)
            pool += [row + stratum.copies for row in rows]
            plain = stratum.limit if stratum.pool is None else stratum.pool - stratum.inverted
            pool += self._take(left, plain)[0]
        return tuple(sorted(pool)), tuple(sorted(held))

    def size(self, patients: Sequence[Rows]) -> int:
        """Return the number of these patients, or of their scans, in the unit of the counts."""
        return len(patients) if self.by_patient else sum(map(len, patients))

    def _take(self, patients: Sequence[Rows], count: int | None) -> tuple[list[int], list[Rows]]:
        """Return the rows of the first patients, and the other patients; None takes all.

        Scans of the last patient beyond the count go nowhere: the others of that patient are used.
        """
        if count is None or self.by_patient:
            return [*chain.from_iterable(patients[:count])], [*patients[len(patients[:count]) :]]
        rows: list[int] = []
        for place, patient in enumerate(patients):
            if len(rows) >= count:
                return rows, [*patients[place:]]
            rows += patient[: count - len(rows)]
        return rows, []

    def _thinned(self, patient: Rows, chance: np.random.Generator) -> Rows:
        most = self.most_per_patient
        if most is None or len(patient) <= most:
            return patient
        return tuple(sorted(chance.choice(patient, most, replace=False).tolist()))


def plan(recipe: Recipe, mixture: Mixture, patients: Sequence[int], split_seed: int) -> Draws:
    """Return the draws of a recipe.

    Args:
        recipe: Says how many scans go where.
        mixture: All scans.
        patients: Number of the patient of each scan, equal for scans that must stay together.
        split_seed: See `Draws`.

    Raises:
        ConfigError: If there are fewer scans than the recipe asks for, or none to hold out.
    """
    members = _members(mixture, patients)
    by_patient = recipe.unit == "patients"
    strata = tuple(
        _stratum(recipe, mixture, (name, group), members.get((name, group), ()))
        for name, source in recipe.sources.items()
        for group in _drawn(source, [of for owner, of in members if owner == name])
    )
    if not any(stratum.held_out for stratum in strata):
        raise ConfigError(
            f"The recipe {recipe.name} holds no scan out: every group is too small.",
            "Raise `largest_share`, or give `pool` a smaller number.",
        )
    return Draws(strata, by_patient, recipe.most_per_patient, split_seed)


def _members(mixture: Mixture, patients: Sequence[int]) -> dict[tuple[str, str], tuple[Rows, ...]]:
    """Return the patients of each source and group, in the order of their first scans.

    A patient belongs to the source and group of the first scan. Later scans of the patient in
    another source or group are never drawn: they could end up on the other side.
    """
    homes: dict[int, tuple[str, str]] = {}
    rows: dict[tuple[str, str], dict[int, list[int]]] = {}
    for row, patient in enumerate(patients):
        home = mixture.sources[row], mixture.groups[row]
        if not mixture.inverted[row] and homes.setdefault(patient, home) == home:
            rows.setdefault(home, {}).setdefault(patient, []).append(row)
    return {home: tuple(map(tuple, of.values())) for home, of in rows.items()}


def _drawn(source: SourceRecipe, groups: Sequence[str]) -> Sequence[str]:
    return list(source.pool) if isinstance(source.pool, dict) else sorted(groups)


def _stratum(
    recipe: Recipe, mixture: Mixture, home: tuple[str, str], patients: tuple[Rows, ...]
) -> Stratum:
    (name, group), source = home, recipe.sources[home[0]]
    pool = source.pool[group] if isinstance(source.pool, dict) else source.pool
    total = len(patients) if recipe.unit == "patients" else sum(map(len, patients))
    room = int(total * recipe.largest_share) if pool is None else total - pool
    if room < 0:
        raise _too_few(group or name, pool or 0, total)
    sides = 2 if source.inverted else 1
    return Stratum(
        name=group or name,
        patients=patients,
        held_out=0 if source.outlier else min(recipe.held_out, room // sides),
        pool=pool,
        limit=recipe.most_per_group,
        inverted=source.inverted,
        copies=mixture.sources.count(name) // 2 if source.inverted else 0,
    )


def _too_few(name: str, wanted: int, there: int) -> ConfigError:
    return ConfigError(
        f"The recipe asks for {wanted} of {name} in the pool, but {there} are there.",
        "Lower the count in `pool`, or correct the name of the group.",
    )
