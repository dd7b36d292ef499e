"""Simulate active learning on a labelled folder, to compare arms: choose, train, measure, repeat.

Selection and training call the same functions as production. Every run is one JSON file, named by
a digest of all that determines it, so that the same command continues where it was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from backend.experiments import (
    choices,
    datasets,
    figures,
    group_scores,
    pools_report,
    processes,
    report,
    results,
    stopping,
    studies,
    volume_scores,
)
from backend.experiments.plans import Arm, Plan
from backend.experiments.studies import Array, Data, Say, Study
from backend.settings import Settings
from backend.storage import artifacts
from model import active_learning, clustering, evaluation, inference, training
from model.evaluation import MAIN, METRICS
from model.side_by_side import using_threads
from model.uncertainty import UNCERTAINTIES

RunOf = tuple[Arm | None, int]  # an arm, or None for all labels; and the seed
NETWORKS_APART = 10_000  # difference between the seeds of networks that share a selection


def simulate(
    plan: Plan,
    data: Data,
    out: Path,
    *,
    jobs: int,
    settings: Settings,
    say: Say,
) -> dict[str, str]:
    """Make the missing runs of a plan, and the report of all its runs.

    Args:
        plan: What to compare.
        data: A folder of labelled scans, or recipes of pools.
        out: Folder for all results; a second call with the same folder continues the first.
        jobs: Number of processes, each on one core.
        settings: Of the installation.
        say: Called with a line of text on every progress.

    Returns:
        Errors by the name of the run.

    Raises:
        FirstlightError: If the plan does not fit the data, or a file cannot be read or written.
    """
    prepared = studies.prepare(plan, data, out, settings=settings, say=say)
    finished = [_finished(study, jobs, say) for study in prepared]
    if finished[0].groups:
        pools_report.write(finished, out)
        say(f"Report over pools: {out / 'pools.md'}")
    return {f"{of.title}: {name}": error for of in finished for name, error in of.failed.items()}


def _finished(study: Study, jobs: int, say: Say) -> results.Results:
    """Make the missing runs of a study; write its report."""
    plan, names = study.plan, study.plan.names()
    runs: list[RunOf] = [*plan.runs()]
    if plan.all_labels:
        runs += [(None, seed) for seed in plan.seeds]
    todo = {of: _name(names, of) for of in runs if not study.file(*of).exists()}
    say(f"{study.data.name}: {len(runs)} runs, {len(todo)} of them still to be made")
    failed = processes.finish(
        partial(_make, study), todo, jobs, say, lambda of: _outcome(study.file(*of))
    )
    finished = results.read(study, failed)
    report.write(finished, _maps(study, finished), _attention(study, finished), study.out)
    if plan.stop:
        say(stopping.write(finished, study.out))
    say(f"Report: {study.out / 'report.md'}")
    return finished


def _name(names: Mapping[Arm, str], of: RunOf) -> str:
    return f"{names[of[0]] if of[0] else results.ALL_LABELS}, seed {of[1]}"


def _make(study: Study, of: RunOf) -> None:
    arm, seed = of
    made = run_with_all(study, seed) if arm is None else run(study, arm, seed)
    artifacts.write_json(study.file(arm, seed), made)


def run(study: Study, arm: Arm, seed: int) -> dict[str, Any]:
    """Return the record of one run: the choice and the scores at every count of labels."""
    study = study.of(seed)
    fitted, plan = choices.fitted_map(study, arm, seed), study.plan
    points = fitted.coordinates
    clusters = clustering.cluster(points.astype(np.float64), plan.labels[0], seed=seed)
    groups, places = choices.groups(study, arm), choices.places(study, arm)
    labelled = np.zeros(len(points), bool)
    uncertainty = None
    steps: list[dict[str, Any]] = []
    before: Array | None = None
    for count in plan.labels:
        decision = active_learning.decide(
            points,
            labelled,
            choices.options(arm, plan.labels[0], count - int(labelled.sum()), seed),
            uncertainty=uncertainty,
            coordinates=points,
            clusters=clusters,
            groups=groups,
            places=places,
        )
        choices.check_rule(decision, arm)
        chosen = decision.order[: count - labelled.sum()]
        labelled[chosen] = True
        # Score the pool only if another batch follows.
        measure = arm.uncertainty if count != plan.labels[-1] else ""
        learned = _learn_all(study, np.flatnonzero(labelled), seed, measure)
        uncertainty = learned[0].uncertainty  # of one network, as in production
        told = {"warnings": [*fitted.warnings, *decision.warnings], **_recall(study, labelled)}
        if plan.stop:
            masks, rows = (learned[0].probe, learned[1].probe), stopping.probe(study)
            told |= stopping.signs(rows, labelled, clusters.clusters, masks, before)
            before = masks[0]
        steps.append(_step(study, decision, chosen, learned) | told)
    encoded = study.encoded[arm.encoder]
    described = {"arm": asdict(arm), "encoder": encoded.name, "substitution": encoded.substitution}
    return described | _described(study, seed) | {"steps": steps}


def run_with_all(study: Study, seed: int) -> dict[str, Any]:
    """Return the record of the run that labels the whole pool: one step, without a choice."""
    study = study.of(seed)
    learned = _learn_all(study, np.arange(len(study.pool)), seed, "")
    step = {"labels": len(study.pool), **_scored(study, learned)}
    return _described(study, seed) | {"steps": [step]}


def _recall(study: Study, labelled: Array) -> dict[str, float]:
    if not study.groups:
        return {}
    pool = [study.groups[row] for row in study.pool]
    return {"recall": group_scores.recall([pool[row] for row in np.flatnonzero(labelled)], pool)}


def _described(study: Study, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "data": study.data.fingerprint,
        **{f"{name}_unit": study.data.unit for name, metric in METRICS.items() if metric.unit},
        "train": asdict(replace(study.train, seed=seed)),
        "code": study.code,
    }


@dataclass(frozen=True, eq=False)
class Outcome:
    """The scores of a network on held-out scans, and its uncertainty on the pool.

    Attributes:
        scores: Of each metric of METRICS, held-out scan and class, shape (m, h, c); NaN for a
            class that is neither drawn nor predicted.
        volumes: The same of each held-out volume, shape (m, v, c).
        uncertainty: Of each scan of the pool, shape (p,); 0 if labelled or not measured.
        seconds: Of training and measuring, shape ().
        probe: The masks of some scans of the pool, for the stop rule; see `stopping.thinned`.
    """

    scores: Array
    volumes: Array
    uncertainty: Array
    seconds: Array
    probe: Array = field(default_factory=lambda: np.zeros((0, 0, 0), bool))


def _learn_all(study: Study, labelled: Array, seed: int, measure: str) -> list[Outcome]:
    seeds = [seed + NETWORKS_APART * number for number in range(study.plan.train_seeds)]
    return [
        learn(study, labelled, network, measure if network == seed else "") for network in seeds
    ]


def learn(study: Study, labelled: Array, seed: int, measure: str) -> Outcome:
    """Train on rows of the pool, or read an earlier outcome: arms often share a choice."""
    config = replace(study.train, seed=seed)
    rows = [study.pool[row] for row in labelled]  # ascending, so that the order does not count
    name = artifacts.digest(
        study.code,
        study.data.fingerprint,
        study.divided,
        rows,
        repr(config),
        measure,
        *(["stop"] if study.plan.stop else []),
    )
    path = study.out / "trainings" / f"{name}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            return Outcome(**stored)
    outcome = _train(study, labelled, config, measure)
    artifacts.write(path, lambda file: np.savez(file, **vars(outcome)))
    return outcome


def _train(study: Study, labelled: Array, config: training.TrainConfig, measure: str) -> Outcome:
    started = time.monotonic()
    fitted = _fit(study.scans(study.pool[row] for row in labelled), config)
    held = study.scans(study.held)
    predicted = (probabilities > 0.5 for probabilities in _predicted(fitted, held))
    scores, by_volume = volume_scores.scored(zip(held, predicted, strict=True))
    uncertainty = np.zeros(len(study.pool))
    if measure:
        others = np.setdiff1d(np.arange(len(study.pool)), labelled)
        pool = study.scans(study.pool[row] for row in others)
        of = UNCERTAINTIES[measure]
        uncertainty[others] = [
            of(probabilities[None])[0] for probabilities in _predicted(fitted, pool)
        ]
    probe = study.scans(study.pool[row] for row in stopping.probe(study))
    return Outcome(
        scores=scores,
        volumes=by_volume,
        uncertainty=uncertainty,
        seconds=np.array(time.monotonic() - started),
        probe=stopping.thinned(found > 0.5 for found in _predicted(fitted, probe)),
    )


def _fit(scans: Sequence[datasets.ScanFile], config: training.TrainConfig) -> training.Fitted:
    examples = [scan.load() for scan in scans]
    return training.fit(
        [image for image, _ in examples],
        [masks for _, masks in examples],
        config,
        groups=[scan.patient for scan in scans],
    )


def _predicted(fitted: training.Fitted, scans: Sequence[datasets.ScanFile]) -> Iterator[Array]:
    return inference.predict(fitted, (scan.load()[0] for scan in scans))


def _step(
    study: Study, decision: active_learning.Decision, chosen: Array, learned: Sequence[Outcome]
) -> dict[str, Any]:
    """Return the record of one count of labels."""
    rows = [study.pool[row] for row in chosen]
    return {
        "labels": len(study.pool) - len(decision.order) + len(chosen),
        "phase": decision.phase,
        "strategy": decision.strategy,
        "rows": rows,
        "names": [scan.name for scan in study.scans(rows)],
        **_scored(study, learned),
        "k": decision.k,
        "silhouette": _number(decision.silhouette),
        "alpha": _number(decision.alpha),
    }


def _scored(study: Study, learned: Sequence[Outcome]) -> dict[str, Any]:
    """Return the scores of networks that share a choice, as means over them.

    The score of a scan is the mean over its classes. The score of a class is the mean over the
    scans in which it is drawn or predicted.
    """
    scores = _by_metric([outcome.scores for outcome in learned])
    # By metric: scores have shape (networks, h, c), means over classes (networks, h).
    means = {name: METRICS[name].mean(of) for name, of in scores.items()}
    by_label = {
        f"{name}_by_label": METRICS[name].mean(of, axis=1).mean(axis=0).tolist()
        for name, of in scores.items()
    }
    by_scan = means[MAIN.name]
    told = {
        **{name: float(of.mean()) for name, of in means.items()},
        f"{MAIN.name}_by_network": by_scan.mean(axis=1).tolist(),
        "worst": MAIN.worst(by_scan.mean(axis=0)),
        **{name: dict(zip(study.data.labels, of, strict=True)) for name, of in by_label.items()},
        "held_out": _held_out(study, scores),
        **volume_scores.summaries(
            _by_metric([outcome.volumes for outcome in learned]), study.scans(study.held)
        ),
        "seconds": round(sum(float(outcome.seconds) for outcome in learned), 1),
    }
    if study.groups:
        of_networks = {name: of.mean(axis=0) for name, of in means.items()}
        told |= group_scores.summaries(of_networks, [study.groups[row] for row in study.held])
    return told


def _by_metric(scores: Sequence[Array]) -> dict[str, Array]:
    """Return scores of networks, each of shape (m, n, c), by metric: shape (networks, n, c)."""
    return dict(zip(METRICS, np.stack(scores, axis=1), strict=True))


def _held_out(
    study: Study, scores: Mapping[str, Array]
) -> dict[str, dict[str, list[float | None]]]:
    """Return the scores of each scan and class; null if a class is neither drawn nor predicted."""
    means = {name: evaluation.mean(of, empty=np.nan, axis=0) for name, of in scores.items()}
    return {
        scan.name: {name: [*map(_number, of[place])] for name, of in means.items()}  # of (h, c)
        for place, scan in enumerate(study.scans(study.held))
    }


def _number(value: float) -> float | None:
    """Return a value for JSON, which has no NaN: NaN becomes null."""
    return None if np.isnan(value) else float(value)


def _outcome(path: Path) -> str:
    steps = artifacts.read_json(path)["steps"]
    dice = ", ".join(f"{step['dice']:.3f} at {step['labels']}" for step in steps)
    return f"Dice {dice} ({sum(step['seconds'] for step in steps):.0f} s of training)"


def _maps(study: Study, finished: results.Results) -> list[figures.Map]:
    """Return a map of the first seed for each encoder and projection, with the arms' choices."""
    names, seed = study.plan.names(), study.plan.seeds[0]
    study = study.of(seed)
    place = {row: index for index, row in enumerate(study.pool)}
    spaces: dict[str, dict[Arm, list[int]]] = {}
    for arm, name in names.items():
        run_of = finished.arms.get(name, {}).get(seed)
        if run_of is not None:
            rows = [place[row] for step in run_of["steps"] for row in step["rows"]]
            spaces.setdefault(f"{arm.encoder}, {arm.projection}", {})[arm] = rows
    return [
        figures.Map(
            name=space,
            seed=seed,
            points=choices.fitted_map(study, next(iter(chosen)), seed).coordinates,
            chosen={names[arm]: rows for arm, rows in chosen.items()},
            first=study.plan.labels[0],
        )
        for space, chosen in spaces.items()
    ]


def _attention(study: Study, finished: results.Results) -> Iterator[figures.Attention]:
    """Yield the output of the attention gates of each arm, for all labels of the first seed.

    Runs do not keep their weights. So the network is trained again, on one core like a run, which
    gives the same weights.
    """
    seed = study.plan.seeds[0]
    shown = study.scans(study.of(seed).held[: study.plan.attention])
    for name in study.plan.names().values():
        run_of = finished.arms.get(name, {}).get(seed)
        if not shown or run_of is None:
            continue
        rows = sorted(row for step in run_of["steps"] for row in step["rows"])
        with using_threads(1):  # as in the processes of the runs
            fitted = _fit(study.scans(rows), replace(study.train, seed=seed))
        drawn = zip(shown, _predicted(fitted, shown), strict=True)
        yield figures.Attention(
            name=name,
            scans=tuple(
                figures.ScanView(
                    scan.name,
                    scan.load()[0],
                    probabilities > 0.5,
                    inference.attention(fitted, scan.load()[0]),
                )
                for scan, probabilities in drawn
            ),
        )
