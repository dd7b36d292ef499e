from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.label_studio import labels
from tests.backend.label_studio.labels.samples import DRAWN, EVERY, SQUARE, picture, shape


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (SQUARE, [*["." * 10] * 4, *["..####...."] * 4]),
        # Turned by 90 degrees clockwise around its upper left corner at (6, 2): what was to the
        # right of it lies below, what was below lies to the left.
        (
            {"x": 60, "y": 25, "width": 40, "height": 25, "rotation": 90},
            ["." * 10, "." * 10, *["....##...."] * 4, "." * 10, "." * 10],
        ),
        # Turned by 45 degrees, its corners at (5, 0.8), (8.2, 4), (5, 7.2) and (1.8, 4).
        (
            {
                "x": 50,
                "y": 10,
                "width": 100 * 3.2 * 2**0.5 / 10,
                "height": 100 * 3.2 * 2**0.5 / 8,
                "rotation": 45,
            },
            [
                "..........",
                "....##....",
                "...####...",
                "..######..",
                "..######..",
                "...####...",
                "....##....",
                "..........",
            ],
        ),
    ],
)
def test_it_covers_the_pixels_whose_centres_lie_in_it(
    value: dict[str, Any], expected: list[str]
) -> None:
    found = labels.masks([shape("rectangle", value)], EVERY, size=(8, 10))
    assert picture(found[0]) == expected
    assert not found[1].any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": None}, "x is None, expected per cent"),
        ({"width": "40"}, "width is '40'"),
        ({"height": float("nan")}, "height is nan"),
        ({"y": float("inf")}, "y is inf"),
        ({"y": True}, "y is True"),
        ({"x": 1e9}, "x is 1000000000.0"),
        ({"rotation": "a"}, "rotation is 'a', expected degrees"),
    ],
)
def test_a_malformed_one_names_itself_and_the_reason(change: dict[str, Any], says: str) -> None:
    good = shape("rectangle", DRAWN["rectangle"])
    bad = shape("rectangle", DRAWN["rectangle"] | change)
    with pytest.raises(ValueError, match=f"rectangle region 1: .*{says}"):
        labels.masks([good, bad], EVERY, size=(8, 10))


def test_a_turned_rectangle_keeps_its_right_angles_at_a_working_size_of_other_proportions() -> None:
    turned = shape("rectangle", {"x": 50, "y": 12.5, "width": 42.4, "height": 53, "rotation": 45})
    found = labels.masks([turned], EVERY, size=(80, 200))[0]
    rows, columns = (np.flatnonzero(found.any(axis=axis)) for axis in (1, 0))
    # Its corners lie at (5, 1), (8, 4), (5, 7) and (2, 4) of 10 x 8.
    assert [rows[0], rows[-1] + 1] == pytest.approx([10, 70], abs=1)
    assert [columns[0], columns[-1] + 1] == pytest.approx([40, 160], abs=1)
    assert found.mean() == pytest.approx(18 / 80, abs=0.002)


def test_a_click_that_drew_nothing_is_not_grown_into_a_pixel() -> None:
    nothing = shape("rectangle", {"x": 50, "y": 50, "width": 0, "height": 0})
    assert not labels.masks([nothing], EVERY, size=(4, 5)).any()


def test_an_outline_on_an_image_without_end_is_refused() -> None:
    endless = shape("rectangle", SQUARE, original_width=10**400)
    with pytest.raises(
        ValueError, match=r"^rectangle region 0: original_width is 1000\d+, expected"
    ):
        labels.masks([endless], EVERY, size=(8, 10))


def test_an_outline_on_the_largest_image_costs_no_more_than_on_a_small_one() -> None:
    huge = shape("rectangle", SQUARE, original_width=10**6, original_height=10**6)
    small = shape("rectangle", SQUARE)
    found, expected = (labels.masks([one], EVERY, size=(8, 10)) for one in (huge, small))
    np.testing.assert_array_equal(found, expected)
