from __future__ import annotations

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
    PLAIN,
    QUICK,
    ROUND,
    SQUARE,
    block,
    offering,
    paired,
    picture,
    region,
    shape,
)

KEYS = ["from_name", "to_name", "type", "original_width", "original_height", "image_rotation"]


def test_regions_of_one_label_are_united_and_labels_keep_their_order() -> None:
    top, left, heart = (
        block(6, 9, slice(0, 2), slice(None)),
        block(6, 9, slice(None), slice(0, 3)),
        block(6, 9, slice(4, 6), slice(5, 9)),
    )
    result = [region(top), region(heart, "Heart"), region(left)]
    found = labels.masks(result, CONFIG, size=(6, 9))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, [top | left, heart])


def test_a_region_with_two_labels_counts_for_both() -> None:
    mask = block(6, 9, slice(0, 2), slice(None))
    both = region(mask)
    both["value"]["brushlabels"] = ["Heart", "Lung"]
    np.testing.assert_array_equal(labels.masks([both], CONFIG, size=(6, 9)), [mask, mask])


def test_an_annotation_without_regions_is_an_empty_mask() -> None:
    found = labels.masks([], CONFIG, size=(6, 9))
    assert found.shape == (2, 6, 9)
    assert not found.any()


def test_regions_of_other_tags_are_left_out() -> None:
    mask = block(6, 9, slice(0, 2), slice(None))
    others: list[dict[str, Any]] = [
        {"id": "k", "from_name": "k", "to_name": "image", "type": "keypointlabels", "value": {}},
        {"id": "c", "from_name": "c", "to_name": "image", "type": "choices"},
        {"type": "relation", "from_id": "a", "to_id": "b"},
        {},
    ]
    found = labels.masks([*others, region(mask), *others], CONFIG, size=(6, 9))
    np.testing.assert_array_equal(found[0], mask)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"original_width": 8}, ""),
        ({"original_width": None}, "original_width is None"),
        ({"original_height": 0}, "original_height is 0"),
        ({"original_height": True}, "original_height is True"),
        ({"original_height": "6"}, "original_height is '6'"),
        ({"original_height": 10**400}, "original_height is 1000"),
        ({"original_height": 10**6, "original_width": 10**6}, "check original_height"),
        ({"to_name": "former"}, "drawn on 'former', but the Image is called 'image'"),
        ({"value": None}, "no value"),
        ({"value": {"format": "rle", "rle": [1, 2, 3], "brushlabels": ["Lung"]}}, ""),
        ({"value": {"format": "rle", "rle": [], "brushlabels": ["Lung"]}}, ""),
        ({"value": {"format": "rle", "rle": ["x"] * 40, "brushlabels": ["Lung"]}}, ""),
        ({"value": {"format": "rle", "rle": [900] * 40, "brushlabels": ["Lung"]}}, ""),
        ({"value": {"format": "rle", "rle": "abc", "brushlabels": ["Lung"]}}, "no run-length"),
        ({"value": {"format": "png", "rle": [1], "brushlabels": ["Lung"]}}, "no run-length"),
        ({"value": {"format": "rle", "rle": [1], "brushlabels": ["Rib"]}}, "'Rib' is not one of"),
        ({"value": {"format": "rle", "rle": [1], "brushlabels": [["Rib"]]}}, "is not one of"),
        ({"value": {"format": "rle", "rle": [1], "brushlabels": []}}, "no label"),
        ({"value": {"format": "rle", "rle": [1]}}, "no label"),
    ],
)
def test_a_region_that_cannot_be_read_names_itself_and_the_reason(
    change: dict[str, Any], says: str
) -> None:
    good = region(block(6, 9, slice(0, 2), slice(None)))
    with pytest.raises(ValueError, match="brush region 1: .*" + says):
        labels.masks([good, good | change], CONFIG, size=(6, 9))


def test_an_entry_that_is_no_object_is_refused() -> None:
    with pytest.raises(ValueError, match="entry 0 of the result is not an object"):
        labels.masks([None], CONFIG, size=(6, 9))


@given(st.dictionaries(st.sampled_from([*KEYS, "value"]), JSON, max_size=3))
@QUICK
def test_odd_regions_raise_nothing_but_value_errors(change: dict[str, Any]) -> None:
    with suppress(ValueError):
        found = labels.masks([region(np.ones((3, 4), bool)) | change], CONFIG, size=(3, 4))
        assert found.shape == (2, 3, 4)


def test_regions_of_one_label_are_united_whatever_they_are_drawn_with() -> None:
    brush = region(block(8, 10, slice(0, 1), slice(None)))
    found = labels.masks([brush, shape("rectangle", SQUARE)], EVERY, size=(8, 10))[0]
    assert picture(found) == ["#" * 10, *["." * 10] * 3, *["..####...."] * 4]


def test_brush_masks_of_more_bytes_than_people_draw_are_refused() -> None:
    brush = region(block(6, 9, slice(0, 2), slice(None)))
    brush["value"]["rle"] += [0] * 10_000_000
    assert labels.masks([brush], CONFIG, size=(6, 9))[0].sum() == 18
    with pytest.raises(
        ValueError, match=r"^brush region 1: with it the brush masks .* bytes; draw"
    ):
        labels.masks([brush] * 2, CONFIG, size=(6, 9))
    brush["value"]["brushlabels"] = ["Lung", "Heart"]
    with pytest.raises(ValueError, match=r"^brush region 0: with it the brush masks"):
        labels.masks([brush], CONFIG, size=(6, 9))


@pytest.mark.seconds
@pytest.mark.parametrize("size", [(8, 8), (64, 80)])
def test_outlines_that_cover_the_image_a_thousand_times_are_refused_at_every_size(
    size: tuple[int, int],
) -> None:
    whole = shape("rectangle", {"x": -10, "y": 0, "width": 500, "height": 100})
    assert labels.masks([whole] * 1000, EVERY, size=size).any()
    with pytest.raises(ValueError, match=r"^rectangle region 1000: with it .* times the image"):
        labels.masks([whole] * 1001, EVERY, size=size)


@pytest.mark.seconds
def test_a_label_named_twice_by_its_region_is_drawn_once() -> None:
    brush = region(block(6, 9, slice(0, 2), slice(None)))
    brush["value"]["brushlabels"] = ["Lung"] * 100_000
    assert labels.masks([brush] * 100, CONFIG, size=(6, 9))[0].sum() == 18


def test_planes_are_the_masks_one_by_one() -> None:
    result = [
        region(block(6, 9, slice(0, 2), slice(None)), "Heart"),
        shape("polygon", DRAWN["polygon"]),
    ]
    found = list(labels.planes(result, EVERY, size=(6, 9)))
    np.testing.assert_array_equal(found, labels.masks(result, EVERY, size=(6, 9)))
    with pytest.raises(ValueError, match="entry 0"):
        labels.planes([None], CONFIG, size=(6, 9))  # before the first plane is asked for


def test_a_bitmask_is_refused_and_not_taken_for_empty() -> None:
    with pytest.raises(ValueError, match="region 0: a bitmasklabels is not read"):
        labels.masks([shape("bitmask", {"imageDataURL": "data:,"})], EVERY, size=(8, 10))


def test_what_a_tag_of_ours_draws_but_cannot_is_refused() -> None:
    with pytest.raises(ValueError, match="region 0: its type is 'magic', which draws no mask"):
        labels.masks([region(np.ones((2, 2), bool)) | {"type": "magic"}], CONFIG, size=(2, 2))


def test_another_entry_of_a_region_does_not_hide_its_shape() -> None:
    alone = paired("rectangle", SQUARE)[1:]
    grade = {"type": "choices", "from_name": "grade", "value": {"choices": ["sure"]}}
    told = [*alone, alone[0] | grade]
    found = labels.masks(told, APART, size=(8, 10))
    np.testing.assert_array_equal(found, labels.masks(alone, APART, size=(8, 10)))
    assert found.any()


def test_regions_of_different_ids_keep_their_own_labels() -> None:
    lung = paired("rectangle", SQUARE, "Lung", id="1")
    heart = paired("ellipse", ROUND, "Heart", id="2")
    apart = [
        labels.masks(lung, APART, size=(8, 10))[0],
        labels.masks(heart, APART, size=(8, 10))[1],
    ]
    mixed = [lung[0], heart[0], heart[1], lung[1]]
    np.testing.assert_array_equal(labels.masks(mixed, APART, size=(8, 10)), apart)


def test_a_shape_without_a_label_is_refused() -> None:
    with pytest.raises(ValueError, match="rectangle region 0: it has no label"):
        labels.masks(paired("rectangle", SQUARE)[:1], APART, size=(8, 10))


def test_a_label_without_a_shape_is_refused() -> None:
    alone = paired("rectangle", {})[1:]
    with pytest.raises(ValueError, match="shapeless region 0: it holds no shape"):
        labels.masks(alone, APART, size=(8, 10))


def test_a_labelled_key_point_is_no_mask() -> None:
    point = paired("keypoint", {"x": 1, "y": 2, "width": 0.5})
    assert not labels.masks([point[0] | {"from_name": "k"}, point[1]], APART, size=(8, 10)).any()


def test_annotations_outlive_renamed_tags_and_a_change_of_tool() -> None:
    drawn = [region(block(8, 10, slice(0, 2), slice(None)))]
    before = labels.masks(drawn, CONFIG, size=(8, 10))
    for xml in (PLAIN.replace('"tag"', '"other"'), offering("polygon"), offering("brush")):
        np.testing.assert_array_equal(labels.masks(drawn, labels.parse(xml), size=(8, 10)), before)


def test_a_label_that_is_gone_is_named_and_a_label_that_came_changes_nothing() -> None:
    drawn = [region(block(8, 10, slice(0, 2), slice(None)))]
    gone = labels.parse(PLAIN.replace("Lung", "Rib"))
    with pytest.raises(ValueError, match="label 'Lung' is not one of Rib, Heart"):
        labels.masks(drawn, gone, size=(8, 10))
    more = labels.parse(PLAIN.replace('<Label value="Heart"/>', '<Label value="Rib"/>'))
    assert labels.masks(drawn, more, size=(8, 10))[0].any()


def test_a_renamed_label_keeps_its_annotations_under_its_former_name() -> None:
    drawn = [region(block(8, 10, slice(0, 2), slice(None)))]
    new = '<Label value="Left lung" predicted_values="Lung"/>'
    config = labels.parse(PLAIN.replace('<Label value="Lung"/>', new))
    assert config.labels == ("Left lung", "Heart")
    assert labels.masks(drawn, config, size=(8, 10))[0].any()


def test_an_annotation_older_than_an_alias_counts_under_it() -> None:
    drawn = [region(block(8, 10, slice(0, 2), slice(None)))]
    config = labels.parse(PLAIN.replace('value="Lung"', 'value="Lung" alias="l"'))
    assert config.labels == ("l", "Heart")
    assert labels.masks(drawn, config, size=(8, 10))[0].any()
