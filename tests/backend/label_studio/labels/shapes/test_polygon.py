from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backend.label_studio import labels
from tests.backend.label_studio.labels.samples import (
    DRAWN,
    EVERY,
    QUICK,
    TRIANGLE,
    offering,
    picture,
    shape,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            TRIANGLE,
            [
                "#########.",
                "########..",
                "#######...",
                "######....",
                "####......",
                "###.......",
                "##........",
                "#.........",
            ],
        ),
        ({"points": [[-50, -50], [150, -50], [150, 150], [-50, 150]]}, ["#" * 10] * 8),
        ({"points": [[20, 20], [20, 20], [20, 20]]}, ["." * 10] * 8),
    ],
)
def test_it_covers_the_pixels_whose_centres_lie_in_it(
    value: dict[str, Any], expected: list[str]
) -> None:
    found = labels.masks([shape("polygon", value)], EVERY, size=(8, 10))
    assert picture(found[0]) == expected
    assert not found[1].any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"points": [[0, 0], [1, 1]]}, "2 points, expected at least 3"),
        ({"points": []}, "0 points"),
        ({"points": "abc"}, "points are not a list"),
        ({"points": None}, "points are not a list"),
        ({"points": [[0, 0], [1, 1], [2]]}, "points are not a list"),
        ({"points": [[0, 0], [1, 1], [2, float("nan")]]}, "points are not a list"),
        ({"points": [[0, 0], [1, 1], ["2", 3]]}, "points are not a list"),
        ({"polygonlabels": ["Rib"]}, "'Rib' is not one of Lung, Heart"),
    ],
)
def test_a_malformed_one_names_itself_and_the_reason(change: dict[str, Any], says: str) -> None:
    good = shape("polygon", DRAWN["polygon"])
    bad = shape("polygon", DRAWN["polygon"] | change)
    with pytest.raises(ValueError, match=f"polygon region 1: .*{says}"):
        labels.masks([good, bad], EVERY, size=(8, 10))


@pytest.mark.seconds
def test_a_thousand_small_polygons_cost_what_they_cover() -> None:
    corners = [[10.0, 10.0], [11.0, 10.0], [11.0, 11.0]]
    small = shape("polygon", {"points": corners, "polygonlabels": ["Lung"]})
    tracemalloc.start()
    found = labels.masks([small] * 1000, EVERY, size=(1500, 1500))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.sum() == pytest.approx(15 * 15 / 2, rel=0.1)
    assert peak < 4 * found.nbytes


def test_a_ring_comes_back_as_polygons_that_leave_its_hole_open() -> None:
    y, x = np.ogrid[:100, :120]
    away = np.hypot(y - 50, x - 60)
    mask = np.stack([(away < 40) & (away > 25), away < 0])
    config = labels.parse(offering("polygon"))
    result = labels.regions(mask, config, scores=(1, 1))
    found = labels.masks(result, config, size=(100, 120))
    assert len(result) == 2
    assert not found[0, 50, 60]
    assert (found & mask).sum() / (found | mask).sum() > 0.95


@given(hnp.arrays(bool, st.tuples(st.just(2), st.integers(1, 20), st.integers(1, 20))))
@QUICK
def test_any_mask_comes_back_from_its_polygons(mask: np.ndarray[Any, Any]) -> None:
    config = labels.parse(offering("polygon", apart=True))
    made = labels.regions(mask, config, scores=(1, 1))
    found = labels.masks(made, config, size=mask.shape[1:])
    for one, other in zip(found, mask, strict=True):
        assert (one & other).sum() >= 0.95 * (one | other).sum()
