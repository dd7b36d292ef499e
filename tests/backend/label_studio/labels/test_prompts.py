from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from backend.label_studio import labels
from backend.label_studio.labels import Prompt, Prompts
from tests.backend.label_studio.labels.samples import BRUSH, IMAGE, JSON, QUICK, block, region

SMART = "".join(
    f'<{kind}Labels name="{name}" toName="image" smart="true" smartOnly="true">'
    f'<Label value="Lung"/><Label value="Heart"/></{kind}Labels>'
    for kind, name in (("KeyPoint", "kp"), ("Rectangle", "box"))
)
CONFIG = labels.parse(f"<View>{IMAGE}{BRUSH}{SMART}</View>")


def click(x: float, y: float, label: str = "Lung", **other: Any) -> dict[str, Any]:
    """Return a click as Label Studio 1.23.2 sends it."""
    value = {"x": x, "y": y, "width": 0.28, "labels": [label], "keypointlabels": [label]}
    return {
        "id": f"{x} {y}",
        "from_name": "kp",
        "to_name": "image",
        "type": "keypointlabels",
        "original_width": 256,
        "original_height": 256,
        "is_positive": True,
        "value": value,
        **other,
    }


def box(label: str = "Lung") -> dict[str, Any]:
    """Return a box as Label Studio 1.23.2 sends it."""
    value = {"x": 50, "y": 40, "width": 25, "height": 10, "rotation": 0, "rectanglelabels": [label]}
    named = {"from_name": "box", "to_name": "image", "type": "rectanglelabels"}
    return {"id": "b", **named, "original_width": 256, "original_height": 256, "value": value}


def test_smart_key_points_and_rectangles_are_prompts_and_draw_nothing() -> None:
    assert CONFIG.prompts == ("kp", "box")
    assert [tool.name for tool in CONFIG.tools] == ["tag"]
    assert CONFIG.notes == (
        "Prompts that ask for a mask, ignored in training and in submitted labels: "
        "KeyPointLabels 'kp', RectangleLabels 'box'.",
    )


def test_rectangles_that_are_not_smart_stay_labels() -> None:
    config = labels.parse(f"<View>{IMAGE}{BRUSH}{SMART.replace('true', 'false')}</View>")
    assert config.prompts == ()
    assert [tool.name for tool in config.tools] == ["tag", "box"]
    [lung, _] = labels.masks([box()], config, size=(40, 40))
    assert lung.sum() == 40


def test_a_smart_rectangle_that_alone_draws_its_label_stays_a_tool() -> None:
    only = SMART.replace("Heart", "Rib")
    config = labels.parse(f"<View>{IMAGE}{BRUSH}{only}</View>")
    assert config.prompts == ("kp",)
    assert [tool.name for tool in config.tools] == ["tag", "box"]


def test_prompts_that_a_submit_left_cover_nothing() -> None:
    mask = block(8, 10, slice(2, 5), slice(3, 7))
    [lung, heart] = labels.masks([click(10, 10), region(mask), box()], CONFIG, size=(8, 10))
    np.testing.assert_array_equal(lung, mask)
    assert not heart.any()


@pytest.mark.parametrize("tag", ["kp", "tag"])
def test_an_accepted_mask_that_is_stored_twice_is_read_once_by_its_type(tag: str) -> None:
    mask = block(8, 10, slice(2, 5), slice(3, 7))
    twice = region(mask)
    second = {**twice, "type": "keypointlabels", "from_name": tag}
    second["value"] = {**twice["value"], "keypointlabels": ["Heart"]}
    [lung, heart] = labels.masks([twice, second], CONFIG, size=(8, 10))
    np.testing.assert_array_equal(lung, mask)
    assert not heart.any()


def test_clicks_are_read_in_order_as_shares_of_the_image() -> None:
    context = {"result": [click(25, 75), click(50, 10, is_positive=False)]}
    assert labels.prompts(context, CONFIG) == Prompts(
        "Lung",
        0,
        False,
        (Prompt("25 75", 0.25, 0.75), Prompt("50 10", 0.5, 0.1, positive=False)),
    )


def test_a_box_is_read_with_its_sides() -> None:
    [given] = labels.prompts({"result": [box()]}, CONFIG).given
    assert (given.x, given.y, given.width, given.height) == (0.5, 0.4, 0.25, 0.1)
    assert given.is_box
    assert given.positive


def test_prompts_of_other_pages_and_labels_are_left_out() -> None:
    sent = [
        click(10, 10, item_index=2),
        click(20, 20, item_index=4, label="Heart"),
        click(30, 30, item_index=4),
        click(40, 40, item_index=4),
    ]
    read = labels.prompts({"result": sent}, CONFIG)
    assert (read.label, read.page, read.paged) == ("Lung", 4, True)
    assert [prompt.x for prompt in read.given] == [0.3, 0.4]


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (None, "no click and no box"),
        ([], "no click and no box"),
        ([{"type": "brushlabels"}], "no click and no box"),
        ([click(1, 1, label="Rib")], "'Rib', expected one of Lung, Heart"),
        ([click(1, 1, item_index=-1)], "item_index is '-1'"),
        ([click(1, 1, value=None)], "no value"),
        ([click(float("nan"), 1)], "x of a prompt is 'nan'"),
    ],
)
def test_why_prompts_cannot_be_answered_is_said(result: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        labels.prompts({"result": result}, CONFIG)


@given(JSON, JSON)
@QUICK
def test_whatever_is_sent_is_read_or_refused(value: object, page: object) -> None:
    entry = {"type": "keypointlabels", "value": value, "item_index": page}
    try:
        read = labels.prompts({"result": [entry]}, CONFIG)
    except ValueError:
        return
    assert read.given
