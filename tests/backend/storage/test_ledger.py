"""Figures that follow from the ledger alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.storage.ledger import DraftQuality
from backend.storage.tables import DraftScore

CHANGED = st.floats(0, 1, exclude_max=True, allow_subnormal=False)


def scores(*dice: float) -> list[DraftScore]:
    return [DraftScore(task_id=task, dice=one) for task, one in enumerate(dice)]


@given(st.lists(CHANGED, min_size=1, max_size=20), st.integers(1, 20))
def test_drafts_submitted_unchanged_do_not_raise_the_dice_of_the_changed(
    changed: list[float], unchanged: int
) -> None:
    alone, beside = (
        DraftQuality.of(scores(*[1.0] * number, *changed)) for number in (0, unchanged)
    )
    assert beside.changed_dice == alone.changed_dice == alone.dice
    assert (beside.compared, beside.unchanged) == (len(changed) + unchanged, unchanged)
    assert beside.share_unchanged == unchanged / beside.compared
    assert alone.dice is not None
    total = alone.dice * len(changed) + unchanged
    assert beside.dice == pytest.approx(total / beside.compared)


def test_without_drafts_no_figure_is_made_up() -> None:
    assert DraftQuality.of([]) == DraftQuality(0, 0, None, None)
    assert DraftQuality.of([]).share_unchanged is None
    all_unchanged = DraftQuality.of(scores(1.0, 1.0))
    assert all_unchanged == DraftQuality(compared=2, unchanged=2, dice=1.0, changed_dice=None)
