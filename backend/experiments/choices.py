"""The choice of scans for an arm, as production makes it: its map and its options."""

from __future__ import annotations

import numpy as np

from backend.errors import ConfigError
from backend.experiments.plans import PATIENT, VOLUME_AND_SLICE, Arm
from backend.experiments.studies import Array, Study
from backend.storage import artifacts
from model import active_learning, projection


def fitted_map(study: Study, arm: Arm, seed: int) -> projection.Projection:
    """Return the map of the pool, fitted once for all arms with the same encoder and projection."""
    path = study.map_file(arm, seed)
    if path.exists():
        return projection.Projection.load(path)
    widths = study.encoded[arm.encoder].widths
    fitted = projection.fit(study.embeddings(arm), method=arm.projection, seed=seed, widths=widths)
    artifacts.write(path, lambda file: np.savez(file, **vars(fitted)))
    return fitted


def groups(study: Study, arm: Arm) -> Array:
    """Return the group of each scan of the pool, shape (p,): its patient or its volume."""
    scans = study.scans(study.pool)
    return np.array([scan.patient if arm.group_by == PATIENT else scan.volume for scan in scans])


def places(study: Study, arm: Arm) -> Array | None:
    """Return the place of each scan of the pool in its volume, shape (p,), NaN if it has none.

    None if the arm reads no places.
    """
    if arm.group_by != VOLUME_AND_SLICE:
        return None
    found = (scan.place for scan in study.scans(study.pool))
    return np.array([place.index if place else np.nan for place in found], float)


def options(arm: Arm, budget: int, batch: int, seed: int) -> active_learning.SelectionOptions:
    """Return the options of an arm.

    Args:
        arm: The way to choose.
        budget: Number of scans that the cold start chooses.
        batch: Number of scans to choose now.
        seed: Of all randomness.
    """
    return active_learning.SelectionOptions(
        cold_start_budget=budget,
        cold_start=arm.cold_start,
        acquisition=arm.acquisition,
        alpha=arm.alpha,
        projection=arm.projection,
        batch_size=batch,
        seed=seed,
    )


def check_rule(decision: active_learning.Decision, arm: Arm) -> None:
    """Raise if another rule than the arm's chose: results must not carry the name of a failed one.

    Raises:
        ConfigError: If a plugin failed, so that the built-in default took its place.
    """
    if decision.strategy not in {arm.cold_start, arm.acquisition}:
        raise ConfigError(f"{'; '.join(decision.warnings)}.", "Correct the plugin, and run again.")
