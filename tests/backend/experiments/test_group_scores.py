from __future__ import annotations

import numpy as np
import pytest

from backend.experiments import group_scores
from model.evaluation import METRICS


def test_a_rare_group_weighs_as_much_as_a_frequent_one() -> None:
    scores = {"dice": np.array([0.9] * 8 + [0.1, 0.3]), "hd95": np.array([1.0] * 8 + [7.0, 5.0])}
    told = group_scores.summaries(scores, ["often"] * 8 + ["rare"] * 2)
    assert told["dice_macro"] == pytest.approx((0.9 + 0.2) / 2)
    assert told["dice_worst_group"] == pytest.approx(0.2)
    assert told["hd95_worst_group"] == pytest.approx(6.0)  # of a distance the largest
    assert told["groups"]["rare"] == {"scans": 2, "dice": pytest.approx(0.2), "hd95": 6.0}


def test_the_worst_decile_is_at_least_one_scan() -> None:
    scores = np.arange(21) / 20
    assert group_scores.worst_decile(METRICS["dice"], scores) == pytest.approx(0.05)
    assert group_scores.worst_decile(METRICS["hd95"], scores) == pytest.approx(0.95)
    assert group_scores.worst_decile(METRICS["dice"], scores[3:5]) == pytest.approx(0.15)


def test_recall_counts_groups_and_no_outliers() -> None:
    pool = ["a", "a", "b", "c", ""]
    assert group_scores.recall(["a", "a", ""], pool) == pytest.approx(1 / 3)
    assert group_scores.recall(["a", "b", "c"], pool) == 1
    assert group_scores.recall([], pool) == 0
