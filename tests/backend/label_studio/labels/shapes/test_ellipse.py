from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.label_studio import labels
from tests.backend.label_studio.labels.samples import (
    DRAWN,
    EVERY,
    IMAGE,
    ROUND,
    offering,
    picture,
    shape,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # Both radii are two pixels: a circle around (5, 4).
        (
            ROUND,
            [
                "..........",
                "..........",
                "....##....",
                "...####...",
                "...####...",
                "....##....",
                "..........",
                "..........",
            ],
        ),
        # Four pixels to the right and one down, turned upright around its centre.
        (
            {"x": 50, "y": 50, "radiusX": 40, "radiusY": 12.5, "rotation": 90},
            ["." * 10, *["....##...."] * 6, "." * 10],
        ),
    ],
)
def test_it_covers_the_pixels_whose_centres_lie_in_it(
    value: dict[str, Any], expected: list[str]
) -> None:
    found = labels.masks([shape("ellipse", value)], EVERY, size=(8, 10))
    assert picture(found[0]) == expected
    assert not found[1].any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"radiusX": []}, r"radiusX is \[\]"),
        ({"radiusY": 10**400}, "radiusY is 1000"),
    ],
)
def test_a_malformed_one_names_itself_and_the_reason(change: dict[str, Any], says: str) -> None:
    good = shape("ellipse", DRAWN["ellipse"])
    bad = shape("ellipse", DRAWN["ellipse"] | change)
    with pytest.raises(ValueError, match=f"ellipse region 1: .*{says}"):
        labels.masks([good, bad], EVERY, size=(8, 10))


def test_the_drafted_ellipse_of_a_tall_scan_can_be_read_back() -> None:
    plane = np.zeros((1, 2000, 60), bool)
    plane[0, 10:1990, 20:40] = True
    config = labels.parse(
        f'<View>{IMAGE}<EllipseLabels name="e" toName="image">'
        '<Label value="Lung"/></EllipseLabels></View>'
    )
    drafted = labels.regions(plane, config, scores=[1.0])
    assert labels.masks(drafted, config, size=(2000, 60)).any()


def test_an_ellipse_comes_back_as_it_was_turned() -> None:
    config = labels.parse(offering("ellipse"))
    drawn = shape("ellipse", {"x": 40, "y": 55, "radiusX": 30, "radiusY": 10, "rotation": 30},
                  original_width=300, original_height=200)  # fmt: skip
    mask = labels.masks([drawn], config, size=(200, 300))
    [found] = labels.regions(mask, config, scores=(1, 1))
    for name, tolerance in {
        "x": 0.2, "y": 0.2, "radiusX": 0.2, "radiusY": 0.2, "rotation": 0.5,
    }.items():  # fmt: skip
        assert found["value"][name] == pytest.approx(drawn["value"][name], abs=tolerance)
