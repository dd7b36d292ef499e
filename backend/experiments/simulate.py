"""Simulate active learning on a labelled folder, to compare arms: choose, train, measure, repeat.

Selection and training call the same functions as production. Every run is one JSON file, named by
a digest of all that determines it, so that the same command continues where it was stopped.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from backend.errors import ConfigError
from backend.experiments import datasets, figures, report, results
from backend.experiments.plans import Arm, Plan
from backend.experiments.studies import Array, Say, Study, prepare
from backend.settings import Settings
from backend.storage import artifacts
from model import active_learning, clustering, evaluation, inference, projection, training
from model.attention_unet import AttentionUnet
from model.evaluation import MAIN, METRICS
from model.uncertainty import UNCERTAINTIES

log = logging.getLogger(__name__)

NETWORKS_APART = 10_000  # difference between the seeds of networks that share a selection


def simulate(
    plan: Plan, folder: Path, out: Path, *, jobs: int, settings: Settings, say: Say
) -> dict[str, str]:
    """Make the missing runs of a plan, and the report of all its runs.

    Args:
        folder: Labelled scans; see `datasets.find`.
        out: Folder for all results; a second call with the same folder continues the first.
        jobs: Number of processes, each on one core.
        say: Called with a line of text on every progress.

    Returns:
        Errors by the name of the run.

    Raises:
        FirstlightError: If the plan does not fit the data, or a file cannot be read or written.
    """
    plan.control()  # raise for a wrong name now, not after hours of work
    _prepare_folder(out)
    study = prepare(plan, folder, out, settings, say)
    names = plan.names()
    todo = [(arm, seed) for arm, seed in plan.runs() if not study.file(arm, seed).exists()]
    say(f"{len(plan.runs())} runs, {len(todo)} of them still to be made")
    failed: dict[str, str] = {}
    for done, (run_of, error) in enumerate(_made(study, todo, jobs), 1):
        name = f"{names[run_of[0]]}, seed {run_of[1]}"
        if error is not None:
            failed[name] = f"{type(error).__name__}: {error}"
            log.error("%s failed", name, exc_info=error)
        say(f"{done}/{len(todo)} {name}: {failed.get(name) or _outcome(study.file(*run_of))}")
    finished = results.read(study, failed)
    report.write(finished, _maps(study, finished), _attention(study, finished), out)
    say(f"Report: {out / 'report.md'}")
    return failed


def _prepare_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out {out} cannot be written ({error.strerror}).",
            "Give a folder that this user may write.",
        ) from None


def run(study: Study, arm: Arm, seed: int) -> dict[str, Any]:
    """Return the record of one run: the choice and the scores at every count of labels."""
    study = study.of(seed)
    fitted, plan = _map(study, arm, seed), study.plan
    points = fitted.coordinates
    clusters = clustering.cluster(points.astype(np.float64), plan.labels[0], seed=seed)
    groups = np.array([scan.group for scan in study.scans(study.pool)])
    labelled = np.zeros(len(points), bool)
    uncertainty = None
    steps = []
    for count in plan.labels:
        decision = active_learning.decide(
            points,
            labelled,
            _options(arm, plan.labels[0], count - int(labelled.sum()), seed),
            uncertainty=uncertainty,
            coordinates=points,
            clusters=clusters,
            groups=groups,
        )
        chosen = decision.order[: count - labelled.sum()]
        labelled[chosen] = True
        # Score the pool only if another batch follows.
        measure = arm.uncertainty if count != plan.labels[-1] else ""
        learned = _learn_all(study, np.flatnonzero(labelled), seed, measure)
        uncertainty = learned[0].uncertainty  # of one network, as in production
        warnings = {"warnings": [*fitted.warnings, *decision.warnings]}
        steps.append(_step(study, decision, chosen, learned) | warnings)
    return _described(study, arm, seed) | {"steps": steps}


def _described(study: Study, arm: Arm, seed: int) -> dict[str, Any]:
    return {
        "arm": asdict(arm),
        "seed": seed,
        "encoder": study.encoded[arm.encoder].name,
        "substitution": study.encoded[arm.encoder].substitution,
        "data": study.data.fingerprint,
        **{f"{name}_unit": study.data.unit for name, metric in METRICS.items() if metric.unit},
        "train": asdict(replace(study.train, seed=seed)),
        "code": study.code,
    }


def _options(arm: Arm, budget: int, batch: int, seed: int) -> active_learning.SelectionOptions:
    return active_learning.SelectionOptions(
        cold_start_budget=budget,
        cold_start=arm.cold_start,
        acquisition=arm.acquisition,
        alpha=arm.alpha,
        projection=arm.projection,
        batch_size=batch,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class Outcome:
    """The scores of a network on held-out scans, and its uncertainty on the pool.

    Attributes:
        scores: Of each metric of METRICS, held-out scan and class, shape (m, h, c); NaN for a
            class that is neither drawn nor predicted.
        uncertainty: Of each scan of the pool, shape (p,); 0 if labelled or not measured.
        seconds: Of training and measuring, shape ().
    """

    scores: Array
    uncertainty: Array
    seconds: Array


def _learn_all(study: Study, labelled: Array, seed: int, measure: str) -> list[Outcome]:
    seeds = [seed + NETWORKS_APART * number for number in range(study.plan.train_seeds)]
    return [
        _learned(study, labelled, network, measure if network == seed else "") for network in seeds
    ]


def _learned(study: Study, labelled: Array, seed: int, measure: str) -> Outcome:
    """Train on rows of the pool, or read an earlier outcome: arms often share a choice."""
    config = replace(study.train, seed=seed)
    rows = [study.pool[row] for row in labelled]  # ascending, so that the order does not count
    name = artifacts.digest(
        study.code, study.data.fingerprint, study.held, rows, repr(config), measure
    )
    path = study.out / "trainings" / f"{name}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            return Outcome(**stored)
    learned = _learn(study, labelled, config, measure)
    artifacts.write(path, lambda file: np.savez(file, **vars(learned)))
    return learned


def _learn(study: Study, labelled: Array, config: training.TrainConfig, measure: str) -> Outcome:
    started = time.monotonic()
    fitted = _fit(study.scans(study.pool[row] for row in labelled), config)
    held = study.scans(study.held)
    pairs = zip(held, _predicted(fitted, held), strict=True)
    scores = [_scores(scan, probabilities > 0.5) for scan, probabilities in pairs]
    uncertainty = np.zeros(len(study.pool))
    if measure:
        others = np.setdiff1d(np.arange(len(study.pool)), labelled)
        pool = study.scans(study.pool[row] for row in others)
        of = UNCERTAINTIES[measure]
        uncertainty[others] = [
            of(probabilities[None])[0] for probabilities in _predicted(fitted, pool)
        ]
    return Outcome(
        scores=np.array(scores).swapaxes(0, 1),
        uncertainty=uncertainty,
        seconds=np.array(time.monotonic() - started),
    )


def _scores(scan: datasets.ScanFile, predicted: Array) -> list[Array]:
    """Return the scores of each class of a scan, metric by metric, as production measures them."""
    return [*evaluation.of_labels(predicted, scan.load()[1], scan.spacing).values()]


def _fit(scans: Sequence[datasets.ScanFile], config: training.TrainConfig) -> training.Fitted:
    examples = [scan.load() for scan in scans]
    return training.fit([image for image, _ in examples], [masks for _, masks in examples], config)


def _predicted(fitted: training.Fitted, scans: Sequence[datasets.ScanFile]) -> Iterator[Array]:
    return inference.predict(fitted, (scan.load()[0] for scan in scans))


def _step(
    study: Study, decision: active_learning.Decision, chosen: Array, learned: Sequence[Outcome]
) -> dict[str, Any]:
    """Return the record of one count of labels, with scores as means over the networks.

    The score of a scan is the mean over its classes. The score of a class is the mean over the
    scans in which it is drawn or predicted.
    """
    scores = dict(
        zip(METRICS, np.stack([outcome.scores for outcome in learned], axis=1), strict=True)
    )
    # By metric: scores have shape (networks, h, c), means over classes (networks, h).
    means = {name: METRICS[name].mean(of) for name, of in scores.items()}
    by_label = {
        f"{name}_by_label": METRICS[name].mean(of, axis=1).mean(axis=0).tolist()
        for name, of in scores.items()
    }
    by_scan = means[MAIN.name]
    rows = [study.pool[row] for row in chosen]
    return {
        "labels": len(study.pool) - len(decision.order) + len(chosen),
        "phase": decision.phase,
        "strategy": decision.strategy,
        "rows": rows,
        "names": [scan.name for scan in study.scans(rows)],
        **{name: float(of.mean()) for name, of in means.items()},
        f"{MAIN.name}_by_network": by_scan.mean(axis=1).tolist(),
        "worst": MAIN.worst(by_scan.mean(axis=0)),
        **{name: dict(zip(study.data.labels, of, strict=True)) for name, of in by_label.items()},
        "held_out": _held_out(study, scores),
        "seconds": round(sum(float(outcome.seconds) for outcome in learned), 1),
        "k": decision.k,
        "silhouette": _number(decision.silhouette),
        "alpha": _number(decision.alpha),
    }


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


def _map(study: Study, arm: Arm, seed: int) -> projection.Projection:
    """Return the map of the pool, fitted once for all arms with the same encoder and projection."""
    path = study.map_file(arm, seed)
    if path.exists():
        return projection.Projection.load(path)
    encoded = study.encoded[arm.encoder]
    embeddings = np.load(encoded.path)[list(study.pool)]
    fitted = projection.fit(embeddings, method=arm.projection, seed=seed, widths=encoded.widths)
    artifacts.write(path, lambda file: np.savez(file, **vars(fitted)))
    return fitted


Made = tuple[tuple[Arm, int], BaseException | None]


def _made(study: Study, todo: Sequence[tuple[Arm, int]], jobs: int) -> Iterator[Made]:
    """Make runs in separate processes; yield each run with its error, if any."""
    if not todo:
        return
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    workers = ProcessPoolExecutor(min(jobs, len(todo)), spawn, initializer=_begin)
    try:
        futures = {workers.submit(_make, study, *run_of): run_of for run_of in todo}
        for future in as_completed(futures):
            yield futures[future], future.exception()
    except BaseException:  # mostly Ctrl-C: the next start makes the unfinished runs
        workers.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    workers.shutdown()


def _make(study: Study, arm: Arm, seed: int) -> None:
    artifacts.write_json(study.file(arm, seed), run(study, arm, seed))


def _begin() -> None:
    """Set a process up: use one core, leave Ctrl-C to the parent, and end with the parent."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


@contextmanager
def _one_core() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)


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
            points=_map(study, next(iter(chosen)), seed).coordinates,
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
        with _one_core():
            fitted = _fit(study.scans(rows), replace(study.train, seed=seed))
        network, size = cast(AttentionUnet, fitted.network), fitted.config.image_size
        drawn = zip(shown, _predicted(fitted, shown), strict=True)
        yield figures.Attention(
            name=name,
            scans=tuple(
                figures.ScanView(
                    scan.name,
                    scan.load()[0],
                    probabilities > 0.5,
                    inference.attention(network, scan.load()[0], size),
                )
                for scan, probabilities in drawn
            ),
        )
