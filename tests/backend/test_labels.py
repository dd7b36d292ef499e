from __future__ import annotations

import json
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backend import labels
from backend.errors import UnsupportedLabelConfig
from backend.labels import LabelConfig

with warnings.catch_warnings():
    # The SDK, here only as an oracle, warns of its own deprecated imports.
    warnings.simplefilter("ignore")
    from label_studio_sdk.converter.brush import decode_rle, mask2rle
    from label_studio_sdk.label_interface.interface import LabelInterface

QUICK = settings(deadline=None, max_examples=40)
IMAGE = '<Image name="image" value="$image"/>'
BRUSH = (
    '<BrushLabels name="tag" toName="image"><Label value="Lung"/><Label value="Heart"/>'
    "</BrushLabels>"
)
PLAIN = f"<View>{IMAGE}{BRUSH}</View>"
CONFIG = LabelConfig("image", "image", "tag", ("Lung", "Heart"))


def region(mask: np.ndarray[Any, Any], label: str = "Lung", **other: Any) -> dict[str, Any]:
    height, width = mask.shape
    return {
        "id": "a",
        "from_name": "tag",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            "format": "rle",
            "rle": mask2rle(mask.astype(np.uint8) * 255),  # type: ignore[no-untyped-call]
            "brushlabels": [label],
        },
    } | other


def problems(xml: str, result: list[dict[str, Any]]) -> list[str]:
    """Return what Label Studio's own check finds wrong with a prediction."""
    prediction = {"model_version": "v", "score": 0.5, "result": result}
    return LabelInterface(xml).validate_prediction(prediction, return_errors=True)  # type: ignore[no-any-return, no-untyped-call]


def block(height: int, width: int, rows: slice, columns: slice) -> np.ndarray[Any, Any]:
    mask = np.zeros((height, width), dtype=bool)
    mask[rows, columns] = True
    return mask


# ---- parse


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (PLAIN, CONFIG),
        (f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- lungs -->\n{PLAIN}', CONFIG),
        (
            "<View><Header value='x'/><View><View>"
            '<Image name="scan" value="$cxr_2-a" zoom="true"/></View></View>'
            '<View className="c"><BrushLabels name="b" toName="scan"><View>'
            '<Label value="Lunge links" background="#f00"/></View></BrushLabels></View></View>',
            LabelConfig("scan", "cxr_2-a", "b", ("Lunge links",)),
        ),
        (
            f'<View>{IMAGE}<RectangleLabels name="r" toName="image"><Label value="Box"/>'
            f'</RectangleLabels>{BRUSH}<Choices name="c" toName="image"><Choice value="x"/>'
            f'</Choices><Text name="t" value="$text"/></View>',
            CONFIG,
        ),
        (
            f'<View>{IMAGE}<BrushLabels name="tag" toName="image"><Label value="肺" alias="lung"/>'
            '<Label value="Herz"/></BrushLabels></View>',
            LabelConfig("image", "image", "tag", ("lung", "Herz")),
        ),
        (
            '<View><brushlabels name="tag" toName="image"><label value="Lung"/>'
            f'<label value="Heart"/></brushlabels>{IMAGE.lower()}</View>',
            CONFIG,
        ),
    ],
)
def test_one_image_and_one_brush_are_found_wherever_they_stand(
    xml: str, expected: LabelConfig
) -> None:
    assert labels.parse(xml) == expected


BOMB = (
    '<!DOCTYPE v [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    f"<View>&b;{IMAGE}{BRUSH}</View>"
)


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("<View>", "not valid XML"),
        ("no xml", "not valid XML"),
        ("<View>\x00</View>", "not valid XML"),
        ("<View>\ud800</View>", "not valid XML"),
        (BOMB, "DTD or entities"),
        (f'<!DOCTYPE v SYSTEM "file:///etc/passwd">{PLAIN}', "DTD or entities"),
        ("<View/>", "0 Image tags"),
        (f"<View>{BRUSH}</View>", "0 Image tags"),
        (f"<View>{IMAGE}{IMAGE}{BRUSH}</View>", "2 Image tags"),
        (PLAIN.replace("$image", "image"), "value is 'image'"),
        (PLAIN.replace("$image", "$a/$b"), r"value is '\$a/\$b'"),
        (PLAIN.replace(' value="$image"', ' valueList="$image"'), "value is missing"),
        (f"<View>{IMAGE}</View>", "no BrushLabels tag; its control tags are: none"),
        (
            f'<View>{IMAGE}<RectangleLabels name="r" toName="image"/>'
            '<PolygonLabels name="p" toName="image"/></View>',
            "no BrushLabels tag; its control tags are: 'PolygonLabels', 'RectangleLabels'",
        ),
        (f"<View>{IMAGE}{BRUSH}{BRUSH}</View>", "2 BrushLabels tags"),
        (PLAIN.replace('toName="image"', 'toName="other"'), "bound to 'other'"),
        (PLAIN.replace('toName="image"', ""), "bound to missing"),
        (PLAIN.replace('name="tag"', ""), "no name"),
        (f'<View>{IMAGE}<BrushLabels name="tag" toName="image"/></View>', "no labels"),
        (PLAIN.replace('<Label value="Lung"/>', "<Label/>"), "Label has no value"),
        (PLAIN.replace("Heart", "Lung"), "'Lung' more than once"),
        (PLAIN.replace('"Heart"', '"Heart" alias="Lung"'), "'Lung' more than once"),
        (PLAIN.replace("Lung", "a&#10;b").replace("Heart", "a&#10;b"), r"'a\\nb' more than once"),
    ],
)
def test_any_other_interface_is_refused_in_one_line_with_its_mend(xml: str, says: str) -> None:
    with pytest.raises(UnsupportedLabelConfig, match=says) as caught:
        labels.parse(xml)
    assert caught.value.mend
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@given(st.one_of(st.text(), st.text(alphabet=PLAIN), st.binary().map(lambda b: b.decode("latin1"))))
@QUICK
def test_no_text_makes_parse_fail_in_another_way(text: str) -> None:
    with pytest.raises(UnsupportedLabelConfig):
        labels.parse(text)


@given(st.integers(0, len(PLAIN)), st.integers(0, len(PLAIN)), st.text(max_size=3))
@QUICK
def test_a_mutated_config_is_served_or_refused(start: int, end: int, new: str) -> None:
    with suppress(UnsupportedLabelConfig):
        assert labels.parse(PLAIN[:start] + new + PLAIN[end:]).labels


def test_the_module_is_imported_without_torch_or_the_sdk() -> None:
    code = (
        "import sys, backend.labels, backend.images;"
        "print([m for m in ('torch', 'label_studio_sdk') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(labels.__file__).parents[1],
    )
    assert done.stdout.strip() == "[]"


# ---- masks


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
        {"id": "r", "from_name": "r", "to_name": "image", "type": "rectanglelabels", "value": {}},
        {"id": "c", "from_name": "c", "to_name": "image", "type": "choices"},
        {"type": "relation", "from_id": "a", "to_id": "b"},
        {},
    ]
    found = labels.masks([*others, region(mask), *others], CONFIG, size=(6, 9))
    np.testing.assert_array_equal(found[0], mask)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_rotation": 90}, "rotated by 90"),
        ({"original_width": 8}, ""),
        ({"original_width": None}, "original_width is None"),
        ({"original_height": 0}, "original_height is 0"),
        ({"original_height": True}, "original_height is True"),
        ({"original_height": "6"}, "original_height is '6'"),
        ({"original_height": 10**6, "original_width": 10**6}, "are more than"),
        ({"from_name": "former"}, "belongs to tag 'former'"),
        ({"to_name": "former"}, "on 'former'"),
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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KEYS = ["from_name", "to_name", "type", "original_width", "original_height", "image_rotation"]


@given(st.dictionaries(st.sampled_from([*KEYS, "value"]), JSON, max_size=3))
@QUICK
def test_odd_regions_raise_nothing_but_value_errors(change: dict[str, Any]) -> None:
    with suppress(ValueError):
        found = labels.masks([region(np.ones((3, 4), bool)) | change], CONFIG, size=(3, 4))
        assert found.shape == (2, 3, 4)


@given(st.dictionaries(st.sampled_from(["format", "rle", "brushlabels"]), JSON, max_size=2))
@QUICK
def test_odd_values_raise_nothing_but_value_errors(change: dict[str, Any]) -> None:
    odd = region(np.ones((3, 4), dtype=bool))
    odd["value"] |= change
    with suppress(ValueError):
        assert labels.masks([odd], CONFIG, size=(3, 4)).shape == (2, 3, 4)


def test_a_mask_drawn_at_another_size_is_scaled_by_nearest_neighbour() -> None:
    mask = block(40, 60, slice(10, 30), slice(0, 20))
    found = labels.masks([region(mask)], CONFIG, size=(20, 30))[0]
    np.testing.assert_array_equal(found, block(20, 30, slice(5, 15), slice(0, 10)))


@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)),
    st.integers(1, 4),
)
@QUICK
def test_scaling_up_by_a_whole_number_repeats_every_pixel(
    mask: np.ndarray[Any, Any], times: int
) -> None:
    size = (mask.shape[0] * times, mask.shape[1] * times)
    found = labels.masks([region(mask)], CONFIG, size=size)[0]
    np.testing.assert_array_equal(found, mask.repeat(times, 0).repeat(times, 1))


# ---- merge


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


@pytest.mark.parametrize(
    "given_masks", [[], [np.ones((1, 2, 2), dtype=bool), np.ones((1, 2, 3), dtype=bool)]]
)
def test_masks_of_different_shapes_or_none_cannot_be_merged(
    given_masks: list[np.ndarray[Any, Any]],
) -> None:
    with pytest.raises(ValueError, match="one shape"):
        labels.merge(given_masks)


# ---- regions


MASKS = hnp.arrays(bool, st.tuples(st.just(2), st.integers(1, 20), st.integers(1, 20)))


@given(MASKS)
@QUICK
def test_a_mask_comes_back_from_its_own_regions(mask: np.ndarray[Any, Any]) -> None:
    made = labels.regions(mask, CONFIG, scores=(0.5, 1))
    assert json.loads(json.dumps(made)) == made
    np.testing.assert_array_equal(labels.masks(made, CONFIG, size=mask.shape[1:]), mask)


@given(MASKS)
@QUICK
def test_label_studios_own_decoder_reads_the_same_mask(mask: np.ndarray[Any, Any]) -> None:
    for one in labels.regions(mask, CONFIG, scores=(0.5, 1)):
        rgba = decode_rle(one["value"]["rle"]).reshape(*mask.shape[1:], 4)
        row = CONFIG.labels.index(one["value"]["brushlabels"][0])
        np.testing.assert_array_equal(rgba[..., 3] > 127, mask[row])


def test_label_studios_sdk_accepts_the_regions_as_a_prediction() -> None:
    mask = np.stack(
        [block(12, 18, slice(0, 5), slice(0, 9)), block(12, 18, slice(6, 12), slice(2, 4))]
    )
    result = labels.regions(mask, CONFIG, scores=(0.25, 0.75))
    assert problems(PLAIN, result) == []
    result[0]["value"]["brushlabels"] = ["Rib"]
    assert problems(PLAIN, result)


def test_the_regions_of_an_aliased_label_carry_the_alias() -> None:
    xml = PLAIN.replace('value="Lung"', 'value="Lung" alias="l"')
    result = labels.regions(np.ones((2, 3, 3), bool), labels.parse(xml), scores=(1, 1))
    assert problems(xml, result) == []


def test_only_labels_that_cover_something_get_a_region_with_their_own_score() -> None:
    empty = np.zeros((2, 4, 5), dtype=bool)
    assert labels.regions(empty, CONFIG, scores=(0.1, 0.9)) == []
    empty[1, 0, 0] = True
    (one,) = labels.regions(empty, CONFIG, scores=(0.1, 0.9))
    assert (one["value"]["brushlabels"], one["score"]) == (["Heart"], 0.9)
    assert (one["original_width"], one["original_height"]) == (5, 4)


def test_region_ids_are_whole_repeatable_and_differ_between_labels() -> None:
    mask = np.ones((2, 4, 5), dtype=bool)
    ids = [one["id"] for one in labels.regions(mask, CONFIG, scores=(1, 1))]
    assert ids == [one["id"] for one in labels.regions(mask, CONFIG, scores=(1, 1))]
    assert len(set(ids)) == 2
    assert all(len(one) == 36 for one in ids)


@pytest.mark.parametrize(
    ("classes", "scores"),
    [(2, (1.0,)), (3, (1.0, 1.0)), (2, (1.0, 1.1)), (2, (-0.1, 1.0)), (2, (float("nan"), 1.0))],
)
def test_masks_or_scores_that_do_not_fit_the_labels_are_refused(
    classes: int, scores: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match="scores"):
        labels.regions(np.ones((classes, 2, 2), dtype=bool), CONFIG, scores=scores)


def test_what_was_drawn_with_other_tools_only_is_refused_and_not_taken_for_empty() -> None:
    polygon = {"type": "polygonlabels", "from_name": "poly", "to_name": "image", "value": {}}
    choice = {"type": "choices", "from_name": "quality", "to_name": "image", "value": {}}
    with pytest.raises(ValueError, match="polygonlabels"):
        labels.masks([polygon], CONFIG, size=(4, 4))
    assert not labels.masks([choice], CONFIG, size=(4, 4)).any()
