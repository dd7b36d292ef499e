"""Measure choices of scans without training: which groups they find, and how many outliers.

Every arm chooses each count of labels anew, with that count as the budget of the cold start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors

from backend.experiments import choices, group_scores, processes, selections_report, studies
from backend.experiments.plans import Arm, Plan
from backend.experiments.selections_report import PoolPicks
from backend.experiments.studies import Array, Data, Say, Study
from backend.settings import Settings
from backend.storage import artifacts
from model import active_learning, clustering

LONELY = 0.05  # share of the pool that counts as lonely
NEIGHBOURS = 5  # the mean distance to so many nearest scans says how lonely a scan is


def choose(
    plan: Plan, data: Data, out: Path, *, jobs: int, settings: Settings, say: Say
) -> dict[str, str]:
    """Make the missing choices of a plan, and the report of all of them.

    Args:
        plan: Its acquisitions and trainings are not made.
        data: A folder of labelled scans, or recipes of pools.
        out: Folder for all results; a second call with the same folder continues the first.
        jobs: Number of processes, each on one core.
        settings: Of the installation.
        say: Called with a line of text on every progress.

    Returns:
        Errors by the name of the choice.

    Raises:
        FirstlightError: If the plan does not fit the data, or a file cannot be read or written.
    """
    prepared = studies.prepare(plan, data, out, settings=settings, say=say)
    finished = [_finished(study, jobs, say) for study in prepared]
    selections_report.write(finished, out)
    say(f"Report: {out / 'selections.md'}")
    return {f"{of.title}: {name}": error for of in finished for name, error in of.failed.items()}


def _finished(study: Study, jobs: int, say: Say) -> PoolPicks:
    plan, names = study.plan, study.plan.names()
    missing = [of for of in plan.runs() if not _file(study, *of).exists()]
    spaces: dict[tuple[str, str, int], list[Arm]] = {}
    for arm, seed in missing:
        spaces.setdefault((arm.encoder, arm.projection, seed), []).append(arm)
    todo = {(tuple(arms), space[-1]): ", ".join(map(str, space)) for space, arms in spaces.items()}
    say(f"{study.data.name}: {len(plan.runs())} choices, {len(missing)} of them still to be made")
    failed = processes.finish(partial(_make, study), todo, jobs, say, lambda of: "done")
    arms: dict[str, dict[int, Any]] = {name: {} for name in names.values()}
    for arm, seed in plan.runs():
        record = artifacts.read_json(_file(study, arm, seed))
        if record is not None:
            arms[names[arm]][seed] = arm.completed(record)
    return PoolPicks(
        title=study.data.name,
        labels=plan.labels,
        baseline=names[plan.control()],
        arms={name: records for name, records in arms.items() if records},
        failed=failed,
    )


def _file(study: Study, arm: Arm, seed: int) -> Path:
    study, encoder = study.of(seed), study.encoded[arm.encoder].name
    rule = (arm.cold_start, arm.projection, encoder, study.plan.labels, seed)
    grouping = filter(None, [arm.rule.get("group_by")])
    digest = artifacts.digest(study.code, study.data.fingerprint, study.pool, rule, *grouping)
    return study.out / "picks" / f"{digest}.json"


def _make(study: Study, of: tuple[tuple[Arm, ...], int]) -> None:
    arms, seed = of
    for arm, record in zip(arms, picks(study, arms, seed), strict=True):
        artifacts.write_json(_file(study, arm, seed), record)


def picks(study: Study, arms: Sequence[Arm], seed: int) -> list[dict[str, Any]]:
    """Return the records of the choices of some arms, one choice for each count of labels.

    Args:
        study: Of the pool.
        arms: With the same encoder and projection: they share the map and its clusters.
        seed: Of the pool, the map and the choices.
    """
    study = study.of(seed)
    embeddings = study.embeddings(arms[0])
    fitted = choices.fitted_map(study, arms[0], seed)
    points = fitted.coordinates
    clusters = {
        count: clustering.cluster(points.astype(np.float64), count, seed=seed)
        for count in study.plan.labels
    }
    alone = lonely(embeddings * fitted.scale)
    records = []
    for arm in arms:
        made = []
        for count, clusters_ in clusters.items():
            decision = active_learning.decide(
                embeddings,
                np.zeros(len(embeddings), bool),
                choices.options(arm, count, count, seed),
                coordinates=points,
                clusters=clusters_,
                groups=choices.groups(study, arm),
                places=choices.places(study, arm),
            )
            choices.check_rule(decision, arm)
            warnings = [*fitted.warnings, *decision.warnings]
            made.append(_measured(study, decision.order[:count], alone) | {"warnings": warnings})
        told = {"pool": artifacts.digest(study.pool), "scans": len(study.pool), "choices": made}
        records.append({"arm": asdict(arm), "seed": seed, **told})
    return records


def _measured(study: Study, chosen: Array, alone: Array) -> dict[str, Any]:
    """Return the measures of a choice; null for what the pool does not tell."""
    rows = [study.pool[row] for row in chosen]
    groups = [study.groups[row] for row in study.pool] if study.groups else []
    picked = [groups[row] for row in chosen] if groups else []
    scans = study.scans(rows)
    return {
        "labels": len(rows),
        "names": [scan.name for scan in scans],
        "recall": group_scores.recall(picked, groups) if groups else None,
        "lonely": float(alone[chosen].mean()),
        "planted": picked.count("") / len(picked) if "" in groups else None,
        "empty": float(np.mean([not scan.load()[1].any() for scan in scans])),
    }


def lonely(embeddings: Array) -> Array:
    """Return the scans that lie farthest from their nearest neighbours, shape (n,) bool.

    It is the 5 % with the largest mean distance to their five nearest scans, at least one scan.

    Args:
        embeddings: Of the pool, shape (n, d), with parts of one scale.
    """
    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(embeddings) - 1)).fit(embeddings)
    distances = near.kneighbors()[0].mean(axis=1)  # without the scan itself
    number = max(1, round(LONELY * len(embeddings)))
    alone = np.zeros(len(embeddings), bool)
    alone[np.argsort(-distances, kind="stable")[:number]] = True
    return alone
