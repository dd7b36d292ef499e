from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import ConfigError
from backend.experiments import stopping
from backend.experiments.stopping import replay
from tests.backend.experiments import samples
from tests.backend.experiments.samples import plan
from tests.backend.experiments.studied import run, study

SCANS = 24


def flat(*dice: float, change: float = 0.0, unlabelled: int = 0) -> dict[str, Any]:
    """Return a run with these mean Dice at 10, 20, ... labels, whose masks change by `change`."""
    apart = np.linspace(-0.02, 0.02, SCANS)
    steps = [
        {
            "labels": 10 * number,
            "dice": value,
            "held_out": {
                f"{scan:02}": {"dice": [value + off]} for scan, off in enumerate(apart.tolist())
            },
            "agreement_with_twin": [0.95] * 5,
            "agreement_with_before": [0.95 - change] * 5,
            "unlabelled_clusters": unlabelled,
        }
        for number, value in enumerate(dice, 1)
    ]
    return {"seed": 3, "steps": steps}


RISING = [0.5, 0.6, 0.68, 0.75, 0.81, 0.86, 0.9, 0.93]
FLAT = [0.80, 0.90, 0.92, 0.9205, 0.9206, 0.9207, 0.9207, 0.9207]


def test_a_flat_curve_stops_and_saves_the_labels_that_follow() -> None:
    found = replay(flat(*FLAT), 0.005)
    assert found.stopped == 60
    assert (found.last, found.saved, found.too_early) == (80, 20, False)
    assert found.silent == 4


@pytest.mark.parametrize(
    "run_of", [flat(*RISING), flat(*FLAT, change=0.02), flat(*FLAT, unlabelled=1)]
)
def test_gain_change_or_an_unlabelled_cluster_go_on(run_of: dict[str, Any]) -> None:
    found = replay(run_of, 0.005)
    assert (found.stopped, found.saved, found.left) == (None, 0, None)


def test_a_stop_before_a_late_gain_is_too_early() -> None:
    found = replay(flat(*FLAT[:-1], 0.96), 0.005)
    assert found.too_early
    assert found.left == pytest.approx(0.96 - FLAT[5])


def test_the_summary_counts_stops_and_saved_labels() -> None:
    replays = [replay(flat(*dice), enough) for dice in (FLAT, RISING) for enough in (0.005, 0.01)]
    assert stopping.summary(replays)[0] == (
        "With a threshold of 0.5 points the rule stopped in 1 of 2 runs, 0 times too early; where "
        "it stopped, 25% of the labels were saved."
    )


def test_the_replay_of_every_run_is_a_line(tmp_path: Path) -> None:
    stopping.write(samples.results({"random": {3: flat(*FLAT)}}), tmp_path)
    with (tmp_path / stopping.FILE).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["enough"] for row in rows] == ["0.005", "0.01", "0.02"]
    assert {row["stopped"] for row in rows} == {"60"}


@pytest.mark.parametrize(
    "changes", [{"train_seeds": 1}, {"labels": "1,2,3"}, {"train_seeds": 1, "labels": "1,2"}]
)
def test_a_replay_needs_two_networks_and_enough_counts(changes: dict[str, Any]) -> None:
    asked = {"train_seeds": 2, "labels": "1,2,3,4,5,6", **changes}
    with pytest.raises(ConfigError, match="--train-seeds 2, more than 5 counts"):
        plan(stop=True, **asked)


@pytest.mark.slow
def test_a_run_keeps_what_the_rule_needs(folder: Path, tmp_path: Path) -> None:
    asked = plan(stop=True, train_seeds=2, labels="1,2,3,4,5,6")
    steps = run(study(folder, tmp_path, asked))["steps"]
    assert "agreement_with_before" not in steps[0]
    for step in steps[1:]:
        assert len(step["agreement_with_before"]) == len(step["agreement_with_twin"])
        assert len(step["agreement_with_twin"]) == 9 - step["labels"], "scans without a label"
