"""When the next round of a project is due, and why it waits."""

from __future__ import annotations

from typing import Any

import pytest

from backend.storage.tables import Project
from backend.web.project_page import sentences, status

NOW = 1_800_000_000.0
TRAIN = "press Start Training in Label Studio (Settings > Model)"
IDLE = {
    "requested": 4,
    "completed": 4,
    "train_requested": 0,
    "disconnected": False,
    "vanished_at": 0.0,
    "step": "",
    "problem": "",
    "failures": 0,
    "options": {"retrain_after": 6},
    "started_at": NOW - 100,
    "not_before": NOW - 5,
    "publish_seconds": 6.0,
}
KNOWN = {"labels_changed": 2, "scans_waiting": 30, "pinned": None, "complete": False}


def project(**row: Any) -> Project:
    return Project(id=3, **{**IDLE, **row})


def due(row: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    return status.next_round(project(**row), {**KNOWN, **known}, NOW)


def said(row: dict[str, Any], known: dict[str, Any]) -> str:
    state = {**KNOWN, **known, "problem": project(**row).problem}
    return sentences.next_round({**state, "next_round": due(row, known)})


NEWS = {"requested": 5}
SOON = {**NEWS, "not_before": NOW + 40}
DOWN = "Label Studio does not answer."


@pytest.mark.parametrize(
    ("row", "known", "reason", "sentence"),
    [
        (
            {}, {}, "labels",
            f"2 of 6 new or changed labels; next round at 6 labels, or now: {TRAIN}.",
        ),
        (
            {"options": {}}, {"labels_changed": 0}, "labels",
            f"The next round starts with the next label, or now: {TRAIN}.",
        ),
        (
            {}, {"labels_changed": 6}, "labels",
            "The next round starts with the next check of Label Studio.",
        ),
        (
            {**SOON, "options": {}}, {}, "spacing",
            "Next round in 40 s (rounds start at most every 60 s).",
        ),
        (
            {**SOON, "options": {"min_seconds_between_rounds": 300}}, {}, "spacing",
            "Next round in 40 s (rounds start at most every 5 min).",
        ),
        (
            SOON, {}, "spacing",
            "Next check of Label Studio in 40 s (rounds start at most every 60 s).",
        ),
        (NEWS, {}, "worker", "The next round starts as soon as the worker is free."),
        (
            {**NEWS, "not_before": NOW + 20, "problem": DOWN, "failures": 3}, {}, "problem",
            "Waits: Label Studio does not answer; tried again in 20 s.",
        ),
        (
            {"problem": DOWN}, {}, "problem",
            "Waits: Label Studio does not answer; tried again soon.",
        ),
        (
            {**SOON, "train_requested": 5}, {}, "asked",
            "Start Training was pressed: the round starts in 40 s.",
        ),
        (
            {**NEWS, "train_requested": 5}, {}, "asked",
            "Start Training was pressed: the round starts as soon as the worker is free.",
        ),
        (
            {**NEWS, "options": {"paused": True}}, {}, "paused",
            "Paused by the option `paused`: set it to false in Label Studio (Settings > Model).",
        ),
        (
            {}, {"pinned": "unet r0003"}, "pinned",
            "unet r0003 is pinned: rounds follow scans and labels, but train nothing.",
        ),
        ({}, {"complete": True}, "complete", "No round is due: every scan is labelled."),
        (
            {}, {"scans_waiting": 0}, "scans",
            "The next round starts when there are readable scans without a label.",
        ),
        ({**SOON, "step": "train", "problem": DOWN}, {}, "running", ""),
        (
            {"disconnected": True, "problem": DOWN}, {"complete": True}, "disconnected",
            "No round starts while the project is not connected.",
        ),
    ],
)  # fmt: skip
def test_why_the_next_round_waits_is_one_reason_and_one_sentence(
    row: dict[str, Any], known: dict[str, Any], reason: str, sentence: str
) -> None:
    assert due(row, known)["reason"] == reason
    assert said(row, known) == sentence


def test_what_the_sentence_says_is_in_the_json_as_figures() -> None:
    waits = {"reason": "spacing", "labels": 2, "needed": 6, "seconds": 40.0, "every": 60.0}
    assert due(SOON, {}) == waits
    assert due({}, {}) == {**waits, "reason": "labels", "seconds": None}


@pytest.mark.parametrize(
    ("model", "drafts", "sentence"),
    [
        (None, None, "No model was trained: that takes two labels."),
        (
            {"labels": 40, "dice": 0.912, "held_out": 8}, 0.5,
            "The last model was trained on 40 labels, Dice 0.91 on 8 held-out scans.",
        ),
        (
            {"labels": 12, "dice": None, "held_out": None}, 0.834,
            "The last model was trained on 12 labels; the last drafts had Dice 0.83.",
        ),
        (
            {"labels": 2, "dice": None, "held_out": None}, None,
            "The last model was trained on 2 labels; its quality is not known, because no scan is "
            "held out.",
        ),
    ],
)  # fmt: skip
def test_with_every_scan_labelled_the_page_says_how_good_the_last_model_is(
    model: dict[str, Any] | None, drafts: float | None, sentence: str
) -> None:
    shown = sentences.complete({"last_model": model, "prequential_dice": drafts})
    assert shown == f"Every scan is labelled: nothing is left to draw. {sentence}"
