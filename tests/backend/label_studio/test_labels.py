from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backend.errors import UnsupportedLabelConfig
from backend.label_studio import labels
from backend.label_studio.labels import LabelConfig, Tool

with warnings.catch_warnings():
    # The SDK, here only as an oracle, warns of its own deprecated imports.
    warnings.simplefilter("ignore")
    from label_studio_sdk.converter.brush import decode_rle, mask2rle
    from label_studio_sdk.label_interface.interface import LabelInterface

QUICK = settings(max_examples=40)
IMAGE = '<Image name="image" value="$image"/>'
BRUSH = (
    '<BrushLabels name="tag" toName="image"><Label value="Lung"/><Label value="Heart"/>'
    "</BrushLabels>"
)
LABELS = '<Labels name="names" toName="image"><Label value="Lung"/><Label value="Heart"/></Labels>'
PLAIN = f"<View>{IMAGE}{BRUSH}</View>"
BOTH = ("Lung", "Heart")
CONFIG = LabelConfig("image", "image", (Tool("tag", "brush", BOTH),), BOTH, {"Lung": 0, "Heart": 1})


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


def tools(xml: str) -> list[tuple[str, str, tuple[str, ...], str]]:
    found = labels.parse(xml).tools
    return [(tool.name, tool.shape, tool.labels, tool.labels_name) for tool in found]


@pytest.mark.parametrize(
    "xml",
    [
        PLAIN,
        f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- lungs -->\n{PLAIN}',
        f"<View><Header value='x'/><View><View>{IMAGE}</View></View><View>{BRUSH}</View></View>",
        '<View><brushlabels name="tag" toName="image"><label value="Lung"/>'
        f'<label value="Heart"/></brushlabels>{IMAGE.lower()}</View>',
        PLAIN.replace('<Label value="Heart"/>', '<View><Label value="Heart" color="#f00"/></View>'),
    ],
)
def test_one_image_and_one_brush_are_found_wherever_they_stand(xml: str) -> None:
    assert labels.parse(xml) == CONFIG


def test_names_may_be_any() -> None:
    config = labels.parse(
        '<View><Image name="mein Bild" value="$cxr_2-a"/><BrushLabels name="b-1" '
        'toName="mein Bild"><Label value="Lunge links"/></BrushLabels></View>'
    )
    assert (config.image_name, config.image_key) == ("mein Bild", "cxr_2-a")
    assert config.tools == (Tool("b-1", "brush", ("Lunge links",)),)


@pytest.mark.parametrize("shape", ["Brush", "Polygon", "Rectangle", "Ellipse"])
def test_every_shape_is_served_with_labels_of_its_own_or_of_a_separate_tag(shape: str) -> None:
    own = f'<{shape}Labels name="s" toName="image"><Label value="Lung"/></{shape}Labels>'
    assert tools(f"<View>{IMAGE}{own}</View>") == [("s", shape.lower(), ("Lung",), "")]
    apart = f'<{shape} name="s" toName="image"/>{LABELS}'
    assert tools(f"<View>{IMAGE}{apart}</View>") == [("s", shape.lower(), BOTH, "names")]


def test_the_magic_wand_is_a_brush() -> None:
    xml = f'<View>{IMAGE}<MagicWand name="m" toName="image"/>{LABELS}</View>'
    assert tools(xml) == [("m", "brush", BOTH, "names")]


def test_labels_of_several_tags_are_classes_in_their_order_and_each_once() -> None:
    xml = (
        f'<View>{IMAGE}<RectangleLabels name="r" toName="image"><Label value="Box"/>'
        f'<Label value="Heart"/></RectangleLabels>{BRUSH}</View>'
    )
    config = labels.parse(xml)
    assert config.labels == ("Box", "Heart", "Lung")
    assert [config.tool_for(label).name for label in config.labels] == ["r", "tag", "tag"]


def test_a_draft_is_drawn_with_the_tool_that_is_closest_to_a_mask() -> None:
    offered = ["Rectangle", "Ellipse", "Polygon", "Brush"]
    for last in range(1, 5):
        drawn = "".join(f'<{shape} name="{shape}" toName="image"/>' for shape in offered[:last])
        config = labels.parse(f"<View>{IMAGE}{drawn}{LABELS}</View>")
        assert config.tool_for("Lung").name == offered[last - 1]


def test_labels_of_a_text_beside_the_image_are_not_classes() -> None:
    text = '<Text name="t" value="$t"/><Labels name="n" toName="t"><Label value="Drug"/></Labels>'
    assert labels.parse(f"<View>{text}{IMAGE}{BRUSH}</View>") == CONFIG


def test_what_draws_no_masks_is_ignored_with_a_note() -> None:
    xml = (
        f'<View>{IMAGE}<KeyPointLabels name="k" toName="image"><Label value="Tip"/>'
        f'</KeyPointLabels>{BRUSH}<Choices name="c" toName="image"><Choice value="x"/></Choices>'
        '<Text name="t" value="$text"/></View>'
    )
    config = labels.parse(xml)
    assert config.labels == BOTH
    assert config.notes == (
        "Not used for training, only kept in Label Studio: KeyPointLabels 'k', Choices 'c'.",
    )
    assert labels.parse(PLAIN).notes == ()


def test_a_label_goes_by_its_alias_and_is_known_by_its_other_names() -> None:
    xml = (
        f'<View>{IMAGE}<BrushLabels name="tag" toName="image"><Label value="肺" alias="lung" '
        'predicted_values="left lung, Heart"/><Label value="Heart"/></BrushLabels></View>'
    )
    config = labels.parse(xml)
    assert config.labels == ("lung", "Heart")
    assert config.rows == {"lung": 0, "肺": 0, "left lung": 0, "Heart": 1}


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
        (f"<View>{IMAGE}</View>", "no tag that draws masks; its control tags are: none"),
        (
            f'<View>{IMAGE}{LABELS}<KeyPoint name="k" toName="image"/></View>',
            "no tag that draws masks; its control tags are: 'KeyPoint', 'Labels'",
        ),
        (f'<View>{IMAGE}<Polygon name="p" toName="image"/></View>', "Polygon has no labels"),
        (f'<View>{IMAGE}<Polygon toName="image"/>{LABELS}</View>', "Polygon tag has no name"),
        (PLAIN.replace('name="image" ', ""), "Image tag has no name"),
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
        "import sys, backend.label_studio.labels, backend.imaging.fetch;"
        "print([m for m in ('torch', 'label_studio_sdk') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(labels.__file__).parents[3],
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
        ({"to_name": "former"}, "drawn on 'former', the Image is called 'image'"),
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


# ---- every shape

SHAPED = "".join(
    f'<{shape}Labels name="{shape}" toName="image"><Label value="Lung"/></{shape}Labels>'
    for shape in ("Polygon", "Rectangle", "Ellipse")
)
EVERY = labels.parse(f"<View>{IMAGE}{BRUSH}{SHAPED}</View>")
SQUARE: dict[str, Any] = {
    "x": 20,
    "y": 50,
    "width": 40,
    "height": 50,
}  # on 10 x 8: columns 2 to 5, rows 4 to 7
ROUND: dict[str, Any] = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 25}
TRIANGLE: dict[str, Any] = {"points": [[0, 0], [100, 0], [0, 100]]}
DRAWN: dict[str, dict[str, Any]] = {"rectangle": SQUARE, "ellipse": ROUND, "polygon": TRIANGLE}


def shape(kind: str, value: dict[str, Any], **other: Any) -> dict[str, Any]:
    """A region on an image of 10 x 8 pixels."""
    return {
        "id": kind,
        "from_name": kind.capitalize(),
        "to_name": "image",
        "type": f"{kind}labels",
        "original_width": 10,
        "original_height": 8,
        "image_rotation": 0,
        "value": {f"{kind}labels": ["Lung"]} | value,
    } | other


def picture(mask: np.ndarray[Any, Any]) -> list[str]:
    return ["".join(".#"[int(pixel)] for pixel in row) for row in mask]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("rectangle", SQUARE, [*["." * 10] * 4, *["..####...."] * 4]),
        # Turned by 90 degrees clockwise around its upper left corner at (6, 2): what was to the
        # right of it lies below, what was below lies to the left.
        (
            "rectangle",
            {"x": 60, "y": 25, "width": 40, "height": 25, "rotation": 90},
            ["." * 10, "." * 10, *["....##...."] * 4, "." * 10, "." * 10],
        ),
        # Turned by 45 degrees, its corners at (5, 0.8), (8.2, 4), (5, 7.2) and (1.8, 4).
        (
            "rectangle",
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
        # Both radii are two pixels: a circle around (5, 4).
        (
            "ellipse",
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
            "ellipse",
            {"x": 50, "y": 50, "radiusX": 40, "radiusY": 12.5, "rotation": 90},
            ["." * 10, *["....##...."] * 6, "." * 10],
        ),
        (
            "polygon",
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
        ("polygon", {"points": [[-50, -50], [150, -50], [150, 150], [-50, 150]]}, ["#" * 10] * 8),
        ("polygon", {"points": [[20, 20], [20, 20], [20, 20]]}, ["." * 10] * 8),
    ],
)
def test_a_shape_covers_the_pixels_whose_centres_lie_in_it(
    kind: str, value: dict[str, Any], expected: list[str]
) -> None:
    found = labels.masks([shape(kind, value)], EVERY, size=(8, 10))
    assert picture(found[0]) == expected
    assert not found[1].any()


@pytest.mark.parametrize("kind", DRAWN)
def test_a_shape_is_drawn_at_any_working_size(kind: str) -> None:
    coarse = labels.masks([shape(kind, DRAWN[kind])], EVERY, size=(8, 10))[0]
    fine = labels.masks([shape(kind, DRAWN[kind])], EVERY, size=(160, 200))[0]
    assert fine.mean() == pytest.approx(coarse.mean(), abs=0.03)
    area = {"rectangle": 16 / 80, "ellipse": np.pi * 4 / 80, "polygon": 0.5}[kind]
    assert fine.mean() == pytest.approx(area, abs=0.005)


def test_a_turned_rectangle_keeps_its_right_angles_at_a_working_size_of_other_proportions() -> None:
    turned = shape("rectangle", {"x": 50, "y": 12.5, "width": 42.4, "height": 53, "rotation": 45})
    found = labels.masks([turned], EVERY, size=(80, 200))[0]
    rows, columns = (np.flatnonzero(found.any(axis=axis)) for axis in (1, 0))
    # Its corners lie at (5, 1), (8, 4), (5, 7) and (2, 4) of 10 x 8.
    assert [rows[0], rows[-1] + 1] == pytest.approx([10, 70], abs=1)
    assert [columns[0], columns[-1] + 1] == pytest.approx([40, 160], abs=1)
    assert found.mean() == pytest.approx(18 / 80, abs=0.002)


def test_regions_of_one_label_are_united_whatever_they_are_drawn_with() -> None:
    brush = region(block(8, 10, slice(0, 1), slice(None)))
    found = labels.masks([brush, shape("rectangle", SQUARE)], EVERY, size=(8, 10))[0]
    assert picture(found) == ["#" * 10, *["." * 10] * 3, *["..####...."] * 4]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_how_the_page_showed_the_image_does_not_turn_what_was_drawn(rotation: int) -> None:
    for drawn in (region(block(8, 10, slice(0, 3), slice(2, 4))), shape("rectangle", SQUARE)):
        turned = labels.masks([drawn | {"image_rotation": rotation}], EVERY, size=(8, 10))
        np.testing.assert_array_equal(turned, labels.masks([drawn], EVERY, size=(8, 10)))


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("rectangle", {"x": None}, "x is None, expected per cent"),
        ("rectangle", {"width": "40"}, "width is '40'"),
        ("rectangle", {"height": float("nan")}, "height is nan"),
        ("rectangle", {"y": float("inf")}, "y is inf"),
        ("rectangle", {"y": True}, "y is True"),
        ("rectangle", {"x": 1e9}, "x is 1000000000.0"),
        ("rectangle", {"rotation": "a"}, "rotation is 'a', expected degrees"),
        ("ellipse", {"radiusX": []}, r"radiusX is \[\]"),
        ("ellipse", {"radiusY": 10**400}, "radiusY is 1000"),
        ("polygon", {"points": [[0, 0], [1, 1]]}, "2 points, expected at least 3"),
        ("polygon", {"points": []}, "0 points"),
        ("polygon", {"points": "abc"}, "points are not a list"),
        ("polygon", {"points": None}, "points are not a list"),
        ("polygon", {"points": [[0, 0], [1, 1], [2]]}, "points are not a list"),
        ("polygon", {"points": [[0, 0], [1, 1], [2, float("nan")]]}, "points are not a list"),
        ("polygon", {"points": [[0, 0], [1, 1], ["2", 3]]}, "points are not a list"),
        ("polygon", {"polygonlabels": ["Rib"]}, "'Rib' is not one of Lung, Heart"),
    ],
)
def test_a_malformed_shape_names_itself_and_the_reason(
    kind: str, change: dict[str, Any], says: str
) -> None:
    bad = shape(kind, DRAWN[kind] | change)
    with pytest.raises(ValueError, match=f"{kind} region 1: .*{says}"):
        labels.masks([shape(kind, DRAWN[kind]), bad], EVERY, size=(8, 10))


def claiming(height: int, width: int, tokens: int) -> dict[str, Any]:
    """A brush region of few bytes on an image of any size: all of it background but the start."""
    values = height * width * 4
    fields = [(values, 32), (7, 5), (2, 4), (3, 4), (7, 4), (15, 4)]
    for token in range(-(-values // 65_536)):
        count = min(values - token * 65_536, 65_536)
        fields += [(1, 1), (3, 2), (count - 1, 16), (255 * (token < tokens), 8)]
    bits = "".join(f"{value:0{size}b}" for value, size in fields)
    padded = bits + "0" * (-len(bits) % 8)
    rle = [int(padded[i : i + 8], 2) for i in range(0, len(padded), 8)]
    value = {"format": "rle", "rle": rle, "brushlabels": ["Lung"]}
    return region(np.ones((2, 2), bool), original_width=width, original_height=height) | {
        "value": value
    }


def test_what_a_brush_claims_of_its_image_costs_nothing() -> None:
    regions = [claiming(8_000, 12_500, 1)] * 50  # 50 x 100 megapixels, in 50 x 21 kilobytes
    tracemalloc.start()
    found = labels.masks(regions, CONFIG, size=(64, 100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0].sum() == found[0, 0].sum() == 100  # the first row, which it touches
    assert peak < 20_000_000  # one of them, decoded, is 100 MB


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


@pytest.mark.parametrize("size", [(8, 8), (64, 80)])
def test_outlines_that_cover_the_image_a_thousand_times_are_refused_at_every_size(
    size: tuple[int, int],
) -> None:
    whole = shape("rectangle", {"x": -10, "y": 0, "width": 500, "height": 100})
    assert labels.masks([whole] * 1000, EVERY, size=size).any()
    with pytest.raises(ValueError, match=r"^rectangle region 1000: with it .* times the image"):
        labels.masks([whole] * 1001, EVERY, size=size)


def test_a_thousand_small_polygons_cost_what_they_cover() -> None:
    corners = [[10.0, 10.0], [11.0, 10.0], [11.0, 11.0]]
    small = shape("polygon", {"points": corners, "polygonlabels": ["Lung"]})
    tracemalloc.start()
    found = labels.masks([small] * 1000, EVERY, size=(1500, 1500))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.sum() == pytest.approx(15 * 15 / 2, rel=0.1)
    assert peak < 4 * found.nbytes


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


def test_a_thin_line_stays_a_line_in_the_small_mask() -> None:
    mask = block(256, 256, slice(100, 101), slice(16, 240))
    [brush, _] = labels.masks([region(mask)], CONFIG, size=(32, 32))
    np.testing.assert_array_equal(brush, block(32, 32, slice(12, 13), slice(2, 30)))


def test_a_click_that_drew_nothing_is_not_grown_into_a_pixel() -> None:
    nothing = shape("rectangle", {"x": 50, "y": 50, "width": 0, "height": 0})
    assert not labels.masks([nothing], EVERY, size=(4, 5)).any()


def test_the_drafted_ellipse_of_a_tall_scan_can_be_read_back() -> None:
    plane = np.zeros((1, 2000, 60), bool)
    plane[0, 10:1990, 20:40] = True
    config = labels.parse(
        f'<View>{IMAGE}<EllipseLabels name="e" toName="image">'
        '<Label value="Lung"/></EllipseLabels></View>'
    )
    drafted = labels.regions(plane, config, scores=[1.0])
    assert labels.masks(drafted, config, size=(2000, 60)).any()


def test_a_bitmask_is_refused_and_not_taken_for_empty() -> None:
    with pytest.raises(ValueError, match="region 0: a bitmasklabels is not read"):
        labels.masks([shape("bitmask", {"imageDataURL": "data:,"})], EVERY, size=(8, 10))


def test_what_a_tag_of_ours_draws_but_cannot_is_refused() -> None:
    with pytest.raises(ValueError, match="region 0: its type is 'magic', which draws no mask"):
        labels.masks([region(np.ones((2, 2), bool)) | {"type": "magic"}], CONFIG, size=(2, 2))


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


# ---- shapes whose labels come from a separate tag


def paired(kind: str, value: dict[str, Any], label: str = "Lung", **other: Any) -> list[Any]:
    """The two entries that Label Studio stores for one region."""
    one = shape(kind, {}, **other) | {"value": value}
    return [
        one | {"type": kind, "from_name": "s"},
        one | {"type": "labels", "from_name": "names", "value": value | {"labels": [label]}},
    ]


APART = labels.parse(
    f'<View>{IMAGE}<Polygon name="p" toName="image"/><Brush name="s" toName="image"/>'
    f'<Rectangle name="r" toName="image"/><Ellipse name="e" toName="image"/>{LABELS}</View>'
)


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


# ---- the draft comes back in the type that the config offers


def offering(kind: str, *, apart: bool = False) -> str:
    tag = kind.capitalize()
    if apart:
        return f'<View>{IMAGE}<{tag} name="s" toName="image"/>{LABELS}</View>'
    both = '<Label value="Lung"/><Label value="Heart"/>'
    return f'<View>{IMAGE}<{tag}Labels name="s" toName="image">{both}</{tag}Labels></View>'


KINDS = ["brush", "polygon", "rectangle", "ellipse"]


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


# ---- a config that changes under way


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
