from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backend.rounds.queue_terms import rounded, rounded_one, terms
from model.active_learning import SelectionOptions, decide

VALUES = st.floats(-1e6, 1e6) | st.just(float("nan"))


@given(st.lists(VALUES, max_size=5))
def test_terms_are_near_their_values_and_null_where_there_is_none(values: list[float]) -> None:
    for value, written in zip(values, rounded(np.array(values, float)), strict=True):
        assert written == rounded_one(value)
        assert (written is None) == np.isnan(value)
        assert written is None or abs(written - value) <= 1e-6


def test_each_ranked_scan_has_its_own_terms() -> None:
    points = np.random.default_rng(0).normal(size=(6, 2))
    labelled = np.arange(6) == 2
    doubt = np.linspace(0, 1, 6)
    options = SelectionOptions(cold_start_budget=1, batch_size=2)
    decision = decide(points, labelled, options, uncertainty=doubt, coordinates=points)
    ids = [10, 11, 12, 13, 14, 15]
    by_row = {"source": np.arange(6), "place": None}
    found = terms(decision, ids, doubt, {10: (0.0, 3)}, by_row, None)
    assert list(found) == [ids[row] for row in decision.order]
    assert {task: of["entropy"] for task, of in found.items()} == {
        i: round(doubt[row], 6) for row, i in enumerate(ids) if i != 12
    }
    assert {task: of["source"] for task, of in found.items()} == {i: i - 10 for i in found}
    assert {task: of["scored_in"] for task, of in found.items()} == {
        i: 3 if i == 10 else None for i in found
    }
    assert "place" not in found[10]
    assert json.loads(json.dumps(found))  # plain numbers, none of numpy's
