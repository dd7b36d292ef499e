from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.scoring import NEIGHBOURS, estimated, to_score


@given(seed=st.integers(0, 1000), n=st.integers(1, 80), limit=st.integers(1, 100))
def test_as_many_candidates_are_scored_as_the_limit_allows_the_same_for_a_seed(
    seed: int, n: int, limit: int
) -> None:
    draw = np.random.default_rng(seed)
    known = np.where(draw.random(n) < 0.3, np.nan, draw.random(n))
    labelled = draw.random(n) < 0.2
    candidates = ~labelled & (draw.random(n) < 0.9)
    given_ = (known, draw.random((n, 2)), labelled, candidates)
    rows = to_score(*given_, limit=limit, seed=seed)
    assert len(rows) == min(limit, candidates.sum())
    assert candidates[rows].all()
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, to_score(*given_, limit=limit, seed=seed))


def test_the_most_uncertain_and_the_farthest_scans_are_among_them_and_chance_has_a_share() -> None:
    n, limit = 1000, 90
    draw = np.random.default_rng(0)
    known, places = draw.random(n), draw.random((n, 2))
    known[:100] = np.nan
    labelled = np.arange(n) >= 990
    places[990:] = 0.0
    places[:20] = 5.0  # far from every label, and never scored
    rows = to_score(known, places, labelled, ~labelled, limit=limit)
    top = np.argsort(-np.nan_to_num(known[:990], nan=-1))[: limit // 3]
    assert set(top) <= set(rows.tolist())
    assert set(range(20)) <= set(rows.tolist())
    others = [to_score(known, places, labelled, ~labelled, limit=limit, seed=s) for s in (1, 2)]
    differing = set(others[0].tolist()) ^ set(others[1].tolist())
    assert len(differing) > limit // 3


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="limit 0: expected at least 1"):
        to_score(np.ones(2), np.ones((2, 2)), np.zeros(2, bool), np.ones(2, bool), limit=0)


@given(seed=st.integers(0, 1000), n=st.integers(1, 60))
def test_estimates_lie_among_the_known_values_which_stay(seed: int, n: int) -> None:
    draw = np.random.default_rng(seed)
    known = np.where(draw.random(n) < 0.6, np.nan, draw.random(n))
    wanted = draw.random(n) < 0.8
    found = estimated(known, draw.random((n, 2)), wanted)
    there = ~np.isnan(known)
    np.testing.assert_array_equal(found[there], known[there])
    if there.any():
        assert not np.isnan(found[wanted]).any()
        assert np.isnan(found[~wanted & ~there]).all()
        assert (found[wanted] >= known[there].min() - 1e-12).all()
        assert (found[wanted] <= known[there].max() + 1e-12).all()


def test_an_estimate_is_the_mean_of_the_nearest_known_values() -> None:
    places = np.array([[float(place), 0.0] for place in range(12)])
    known = np.arange(12) / 12
    known[0] = np.nan
    found = estimated(known, places, np.ones(12, bool))
    assert found[0] == pytest.approx(known[1 : NEIGHBOURS + 1].mean())


def test_a_drawn_part_of_many_known_scans_gives_the_estimates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.pool.SAMPLE", 3)
    monkeypatch.setattr("model.scoring.PAIRS", 60)
    draw = np.random.default_rng(0)
    known, places, wanted = draw.random(50), draw.random((50, 2)), np.ones(50, bool)
    known[:20] = np.nan

    found = estimated(known, places, wanted, seed=1)

    part = np.full(50, np.nan)
    drawn = np.random.default_rng(1).permutation(np.arange(20, 50))[:3]
    part[drawn] = known[drawn]
    np.testing.assert_array_equal(found[20:], known[20:])
    np.testing.assert_allclose(found[:20], estimated(part, places, wanted)[:20])
