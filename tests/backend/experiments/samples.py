"""Plans, and records of runs that nobody made, for the tests of experiments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from backend.experiments import plans
from backend.experiments.figures import Map
from backend.experiments.plans import Plan
from backend.experiments.results import Results
from model.evaluation import OTHERS

ASKED: dict[str, Any] = {
    "encoder": "pixels",
    "projection": "pca",
    "cold_start": "medoids",
    "acquisition": "entropy-diversity",
    "alpha": "0.3",
    "uncertainty": "entropy",
    "group_by": "patient",
    "arm": (),
    "seeds": "0",
    "labels": "2,4",
    "random_draws": None,
    "held_out": 3,
    "folds": None,
    "split_seed": 0,
    "image_size": 32,
    "steps": 2,
    "train_seeds": 1,
    "baseline": "",
    "attention": 0,
    "all_labels": False,
    "selection_only": False,
    "stop": False,
}


def plan(**changes: Any) -> Plan:
    return plans.plan_of({**ASKED, **changes})


ARM = {"encoder": "pixels", "cold_start": "medoids"}


def run(
    *dice: float,
    warnings: tuple[str, ...] = (),
    networks: tuple[float, ...] = (0.0,),
    names: tuple[str, ...] = ("b.png", "a.png"),
) -> dict[str, Any]:
    """The record of a run, one Dice for each count of labels.

    Args:
        networks: How far each network's Dice lies from the mean of all.
    """
    steps = [
        {
            "labels": 10 * number,
            "phase": "cold-start",
            "dice": value,
            "dice_by_network": [value + apart for apart in networks],
            "worst": value - 0.1,
            **{metric.name: 5.0 for metric in OTHERS},
            "dice_by_label": {"lung": value},
            **{f"{metric.name}_by_label": {"lung": 5.0} for metric in OTHERS},
            "seconds": 1.0,
            "k": 2,
            "silhouette": None,
            "alpha": None,
            "names": list(names),
            "warnings": list(warnings),
        }
        for number, value in enumerate(dice, 1)
    ]
    return {"arm": ARM, "file": "runs/1.json", "steps": steps}


def results(arms: Mapping[str, Mapping[int, Any]], **changes: Any) -> Results:
    said: dict[str, Any] = {
        "title": "phantoms",
        "settings": {"steps": "2"},
        "unit": "mm",
        "labels": (10, 20),
        "arms": arms,
        "baseline": "random",
        "failed": {},
        "notes": (),
    }
    return Results(**{**said, **changes})


def chosen() -> Map:
    points = np.random.default_rng(0).random((9, 2))
    arms = {"medoids": [4, 2, 8], "random": [0, 1, 5]}
    return Map("timm/vit, tsne", 0, points, arms, first=2)
