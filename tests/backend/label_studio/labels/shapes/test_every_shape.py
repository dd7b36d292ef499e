from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.label_studio import labels
from tests.backend.label_studio.labels.samples import (
    APART,
    CONFIG,
    DRAWN,
    EVERY,
    JSON,
    KINDS,
    QUICK,
    SQUARE,
    block,
    offering,
    paired,
    problems,
    region,
    shape,
)


@pytest.mark.parametrize("kind", DRAWN)
def test_a_shape_is_drawn_at_any_working_size(kind: str) -> None:
    coarse = labels.masks([shape(kind, DRAWN[kind])], EVERY, size=(8, 10))[0]
    fine = labels.masks([shape(kind, DRAWN[kind])], EVERY, size=(160, 200))[0]
    assert fine.mean() == pytest.approx(coarse.mean(), abs=0.03)
    area = {"rectangle": 16 / 80, "ellipse": np.pi * 4 / 80, "polygon": 0.5}[kind]
    assert fine.mean() == pytest.approx(area, abs=0.005)


@given(
    st.sampled_from(sorted(DRAWN)),
    st.dictionaries(
        st.sampled_from(["x", "y", "width", "height", "radiusX", "radiusY", "rotation", "points"]),
        JSON | st.lists(st.lists(st.floats(allow_nan=True), min_size=2, max_size=2), min_size=3),
        max_size=3,
    ),
)
@QUICK
def test_odd_shapes_raise_nothing_but_value_errors(kind: str, change: dict[str, Any]) -> None:
    with suppress(ValueError):
        found = labels.masks([shape(kind, DRAWN[kind] | change)], EVERY, size=(3, 4))
        assert found.shape == (2, 3, 4)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_label_studios_sdk_accepts_a_draft_of_every_kind(kind: str, apart: bool) -> None:
    xml = offering(kind, apart=apart)
    mask = np.stack([block(12, 18, slice(0, 5), slice(0, 9)), block(12, 18, slice(6, 9), slice(4))])
    result = labels.regions(mask, labels.parse(xml), scores=(0.25, 0.75))
    assert problems(xml, result) == []
    assert json.loads(json.dumps(result)) == result
    types = [kind, "labels"] if apart else [f"{kind}labels"]
    assert [one["type"] for one in result] == 2 * types
    assert len({one["id"] for one in result}) == 2
    for name in types[-1:]:
        given_labels = [one["value"][name] for one in result if one["type"] == name]
        assert given_labels == [["Lung"], ["Heart"]]
    assert [one["score"] for one in result][:: len(types)] == [0.25, 0.75]


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("kind", ["brush", "polygon", "rectangle"])
def test_a_box_comes_back_exactly_in_every_kind_that_has_corners(kind: str, apart: bool) -> None:
    config = labels.parse(offering(kind, apart=apart))
    mask = np.stack([block(50, 70, slice(3, 33), slice(7, 50))] * 2)
    result = labels.regions(mask, config, scores=(1, 1), tolerance=0.4)
    np.testing.assert_array_equal(labels.masks(result, config, size=(50, 70)), mask)


@pytest.mark.parametrize("kind", ["polygon", "rectangle", "ellipse"])
def test_every_connected_part_is_a_region(kind: str) -> None:
    mask = block(40, 40, slice(2, 12), slice(2, 12)) | block(40, 40, slice(20, 30), slice(8, 38))
    config = labels.parse(offering(kind))
    result = labels.regions(np.stack([mask, ~mask & False]), config, scores=(1, 1))
    assert len(result) == 2
    assert {one["value"][f"{kind}labels"][0] for one in result} == {"Lung"}


@pytest.mark.parametrize("offset", range(8))
def test_what_is_small_beside_the_image_covers_a_pixel_of_the_small_mask(offset: int) -> None:
    mask = block(256, 256, slice(100 + offset, 102 + offset), slice(40, 42))
    [brush, _] = labels.masks([region(mask)], CONFIG, size=(32, 32))
    tiny = {"x": 4000 / 256, "y": (10000 + 100 * offset) / 256, "width": 0.8, "height": 0.8}
    side = {"original_width": 256, "original_height": 256}
    [box, _] = labels.masks([shape("rectangle", tiny, **side)], EVERY, size=(32, 32))
    assert 1 <= brush.sum() <= 2
    assert 1 <= box.sum() <= 2
    assert brush[12:14, 5].any()
    assert box[12:14, 5].any()


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_how_the_page_showed_the_image_does_not_turn_what_was_drawn(rotation: int) -> None:
    for drawn in (region(block(8, 10, slice(0, 3), slice(2, 4))), shape("rectangle", SQUARE)):
        turned = labels.masks([drawn | {"image_rotation": rotation}], EVERY, size=(8, 10))
        np.testing.assert_array_equal(turned, labels.masks([drawn], EVERY, size=(8, 10)))


@pytest.mark.parametrize("kind", [*DRAWN, "brush"])
def test_both_entries_of_a_region_are_one_region(kind: str) -> None:
    stripe = region(block(8, 10, slice(0, 1), slice(None)))["value"]
    value = DRAWN.get(kind, {"format": "rle", "rle": stripe["rle"]})
    pair = paired(kind, value, "Heart")
    found = labels.masks(pair, APART, size=(8, 10))
    assert found[1].any()
    assert not found[0].any()
    for variant in (pair[::-1], [pair[0], pair[1] | {"value": {"labels": ["Heart"]}}], pair[1:]):
        np.testing.assert_array_equal(labels.masks(variant, APART, size=(8, 10)), found)
