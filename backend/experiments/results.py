"""Read the files of a plan's runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.experiments.plans import Arm
from backend.storage import artifacts

if TYPE_CHECKING:
    from backend.experiments.studies import Study  # loads torch

Run = Mapping[str, Any]  # the record from simulate.run, and the name of its file
ALL_LABELS = "all labels"  # the name of a run that labels the whole pool


@dataclass(frozen=True)
class Results:
    """All runs of one plan.

    Attributes:
        title: Of the data.
        settings: The settings that were asked for, as in results.json.
        unit: Of HD95.
        labels: Counts of labelled scans at which networks were measured.
        folds: Number of folds that are held out in turn, by seed; None if all runs hold out the
            same scans.
        arms: The runs of each arm by seed; arms without runs are left out.
        baseline: The arm that the others are compared with.
        failed: Errors by the name of the run.
        notes: Further notes for the reader.
        groups: Names of the groups of a recipe's pool; none for a folder.
        all_labels: Runs by seed that label the whole pool, with one step each.
    """

    title: str
    settings: Mapping[str, Any]
    unit: str
    labels: tuple[int, ...]
    arms: Mapping[str, Mapping[int, Run]]
    baseline: str
    failed: Mapping[str, str]
    notes: tuple[str, ...]
    folds: int | None = None
    groups: tuple[str, ...] = ()
    all_labels: Mapping[int, Run] = field(default_factory=dict)

    def independent(self, values: Mapping[int, float]) -> dict[int, float]:
        """Return values by seed, or means by fold if several seeds share their held-out scans.

        Runs with the same held-out scans are dependent: counted one by one, they would make an
        interval too narrow.
        """
        if self.folds is None:
            return dict(values)
        by_fold: dict[int, list[float]] = {}
        for seed, value in values.items():
            by_fold.setdefault(seed % self.folds, []).append(value)
        return {fold: float(np.mean(shared)) for fold, shared in by_fold.items()}

    def values(self, arm: str, step: int, measure: str) -> dict[int, float]:
        """Return a measure of one step of an arm's runs, by seed."""
        runs = self.arms.get(arm, {})
        return {seed: run["steps"][step][measure] for seed, run in runs.items()}


def read(study: Study, failed: Mapping[str, str]) -> Results:
    """Return the results of the finished runs, and the errors of the failed ones."""
    plan = study.plan
    arms = {
        name: {
            seed: arm.completed(_record(path))
            for seed in plan.seeds_of(arm)
            if (path := study.file(arm, seed)).exists()
        }
        for arm, name in plan.names().items()
    }
    return Results(
        title=study.data.name,
        settings=_settings(study),
        unit=study.data.unit,
        labels=plan.labels,
        arms={name: runs for name, runs in arms.items() if runs},
        baseline=plan.names()[plan.control()],
        failed=failed,
        notes=_notes(study, arms),
        folds=plan.folds,
        groups=tuple(sorted({*study.groups} - {""})),
        all_labels={
            seed: _record(path)
            for seed in plan.seeds
            if plan.all_labels and (path := study.file(None, seed)).exists()
        },
    )


def _record(path: Path) -> dict[str, Any]:
    return {**artifacts.read_json(path), "file": f"runs/{path.name}"}


def _settings(study: Study) -> dict[str, str]:
    plan = study.plan
    divided = [study.of(seed) for seed in plan.seeds]
    arms = {
        option.name.replace("_", "-"): _listed(getattr(arm, option.name) for arm in plan.arms)
        for option in fields(Arm)
    }
    return {
        **arms,
        "labels": _listed(plan.labels),
        "seeds": _listed(plan.seeds),
        "random-draws": str(plan.random_draws or len(plan.seeds)),
        "train-seeds": str(plan.train_seeds),
        **({"pool": f"{_range(len(of.pool) for of in divided)} scans"} if study.groups else {}),
        "held-out": f"{_range(len(of.held) for of in divided)} of {len(study.data.scans)} scans",
        "folds": str(plan.folds or "none"),
        "split-seed": str(plan.split_seed),
        "image-size": str(study.train.image_size),
        "steps": str(study.train.steps),
        **({"steps-for-small-regions": str(study.small_steps)} if study.train.adapt else {}),
        "network": study.train.network,
    }


def _range(sizes: Iterable[int]) -> str:
    listed = list(sizes)
    return " to ".join(map(str, sorted({min(listed), max(listed)})))


def _listed(values: Iterable[object]) -> str:
    return ",".join(dict.fromkeys(map(str, values)))


def _notes(study: Study, arms: Mapping[str, Mapping[int, Any]]) -> tuple[str, ...]:
    substituted = [
        f"Encoder `{name}` is `{encoded.name}`: {encoded.substitution}."
        for name, encoded in study.encoded.items()
        if encoded.substitution
    ]
    codes = {run["code"] for runs in arms.values() for run in runs.values()}
    if len(codes) > 1:
        substituted.append(
            f"These runs were made by {len(codes)} states of the code in `model`. If a difference "
            "between them may matter, choose another --out and run everything again."
        )
    return tuple(substituted)
