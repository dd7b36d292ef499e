from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backend.label_studio import labels
from tests.backend.label_studio.labels.samples import QUICK


@given(
    hnp.arrays(bool, st.tuples(st.integers(1, 5), st.just(2), st.integers(1, 4), st.integers(1, 4)))
)
@QUICK
def test_a_pixel_is_foreground_if_more_than_half_say_so(drawn: np.ndarray[Any, Any]) -> None:
    merged = labels.merge(list(drawn))
    np.testing.assert_array_equal(merged, drawn.mean(axis=0) > 0.5)
    np.testing.assert_array_equal(labels.merge([drawn[0]]), drawn[0])


def test_a_tie_is_background() -> None:
    full, empty = np.ones((1, 2, 2), dtype=bool), np.zeros((1, 2, 2), dtype=bool)
    assert not labels.merge([full, empty]).any()
    assert labels.merge([full, empty, full]).all()


def test_staple_outvotes_a_careless_annotator() -> None:
    careful, careless = np.zeros((2, 1, 16, 8), bool)
    careful[0, 4:12], careless[0, :3] = True, True
    merged = labels.merge(iter([careful, careless, careful]), "staple")
    np.testing.assert_array_equal(merged, careful)


@pytest.mark.parametrize(
    "given_masks", [[], [np.ones((1, 2, 2), dtype=bool), np.ones((1, 2, 3), dtype=bool)]]
)
def test_masks_of_different_shapes_or_none_cannot_be_merged(
    given_masks: list[np.ndarray[Any, Any]],
) -> None:
    with pytest.raises(ValueError, match="one shape"):
        labels.merge(given_masks)
