from __future__ import annotations

from typing import Any

import pytest

from backend.web.project_page import stopping_panel

GAIN = {"value": 0.002, "low": 0.0, "high": 0.0046}
CHANGE = {"value": -0.001, "low": -0.004, "high": 0.002}


def found(**changes: Any) -> dict[str, Any]:
    """Return the signs of a project that can stop."""
    band = [
        {"labels": labels, "value": level, "low": level - 0.01, "high": level + 0.01}
        for labels, level in ((20, 0.9), (30, 0.92), (40, 0.925), (50, 0.927))
    ]
    said = {
        "stop": True,
        "batch": 10,
        "enough": 0.5,
        "draft_target": 0.95,
        "gain": GAIN,
        "no_gain": True,
        "change": CHANGE,
        "no_change": True,
        "drafts": None,
        "random_drafts": 0,
        "good_drafts": False,
        "unlabelled_clusters": 0,
        "models": 6,
        "held_out": 24,
        "points": [{"labels": labels, "dice": 0.9} for labels in (20, 30, 40)],
        "forecast": band,
        "worst": None,
        "worst_label": None,
    }
    return {**said, **changes}


def sentence(**changes: Any) -> str:
    return stopping_panel.sentence({"stopping": found(**changes)})


def test_the_sentence_gives_gain_interval_and_verdict() -> None:
    assert sentence() == (
        "The next 10 labels are expected to gain 0.2 points of Dice (0.0 to 0.5): labelling can "
        "stop for your threshold of 0.5."
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stop": False, "no_gain": False}, "the gain is not yet below your threshold of 0.5"),
        ({"stop": False, "no_change": False}, "until the masks change no more than by chance"),
        (
            {"stop": False, "unlabelled_clusters": 2},
            "because the map has 2 large clusters without a label",
        ),
        ({"no_gain": False, "good_drafts": True}, "because drafts reach your target of 0.95"),
        ({"stop": False, "gain": None, "held_out": 7}, "there are 7 held-out scans"),
    ],
)
def test_the_sentence_says_why_labelling_goes_on_or_stops(
    changes: dict[str, Any], said: str
) -> None:
    assert said in sentence(**changes)


def test_a_project_without_a_model_says_so() -> None:
    assert stopping_panel.lines({"stopping": None}) == [
        "When to stop: too early to tell, because no model was trained yet."
    ]
    assert stopping_panel.picture({"stopping": None}) is None
    assert stopping_panel.picture({"stopping": found(forecast=[])}) is None


def test_the_worst_group_is_always_shown_with_its_source() -> None:
    worst = {"source_of": 7, "scans": 3, "dice": {"value": 0.7, "low": 0.6, "high": 0.8}}
    named = stopping_panel.with_names(found(worst=worst), {7: "north"})
    assert named is not None
    last = stopping_panel.lines({"stopping": named})[-1]
    assert last == "Lowest Dice on held-out scans: 0.70 (0.60 to 0.80) in source north, 3 scans."


def test_the_picture_lies_within_its_frame_and_rises_with_dice() -> None:
    drawn = stopping_panel.picture({"stopping": found()})
    assert drawn is not None
    places = [
        tuple(map(float, place.split(",")))
        for line in ("line", "ahead", "band")
        for place in drawn[line].split()
    ]
    assert all(0 <= x <= drawn["width"] and 0 <= y <= drawn["height"] for x, y in places)
    first, second = (tuple(map(float, place.split(","))) for place in drawn["line"].split()[:2])
    assert second[0] > first[0]
    assert second[1] < first[1], "a higher Dice stands higher"
    assert drawn["line"].split()[-1] == drawn["ahead"].split()[0]
