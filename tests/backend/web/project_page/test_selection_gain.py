"""What selection gains, in the words of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.settings import Settings
from backend.storage.records import SELECTION_GAIN, SelectionGainRecord
from backend.storage.store import Store
from backend.web.app import create_app
from backend.web.project_page import selection_gain

NONE = {
    "random_fraction": 0.1,
    "begun": True,
    "chosen": 0,
    "control": 0,
    "held_out": 0,
    "repeats": 0,
    "gain": None,
}
ENOUGH = {**NONE, "chosen": 14, "control": 14, "held_out": 12}


def said(**values: Any) -> str:
    return selection_gain.sentence({"selection_gain": {**NONE, **values}})


def result(low: float, value: float, high: float) -> str:
    return said(**{**ENOUGH, "gain": {"low": low, "value": value, "high": high}})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"random_fraction": 0.0, "begun": False}, "Set the option `random_fraction` to 0.1"),
        ({"begun": False}, "has not begun yet"),
        (
            {"chosen": 10, "control": 4, "held_out": 2},
            "There are only 4 of 10 training labels of scans drawn at random and 2 of 10 held-out "
            "groups of scans.",
        ),
        ({**ENOUGH, "repeats": 3}, "3 of 8 comparisons are made."),
    ],
)
def test_too_early_names_the_reason_and_what_is_missing(
    values: dict[str, Any], reason: str
) -> None:
    sentence = said(**values)
    assert sentence.startswith("What selection gains here: too early to tell.")
    assert reason in sentence


def test_the_interval_decides_whether_selection_gains_or_loses_or_neither() -> None:
    compared = (
        "networks of 7 labels of chosen scans against networks of as many labels of scans drawn at "
        "random, 8 times, on 12 held-out groups"
    )
    assert result(0.004, 0.021, 0.038) == (
        f"Selection gains 2.1 points of Dice here (0.4 to 3.8; {compared})."
    )
    assert result(-0.038, -0.021, -0.004) == (
        f"Selection loses 2.1 points of Dice here (0.4 to 3.8; {compared})."
    )
    assert result(-0.01, 0.01, 0.03) == (
        "What selection gains here: no clear difference yet "
        f"(-1.0 to +3.0 points of Dice; {compared})."
    )


def test_a_new_result_is_on_the_page_in_the_text_and_in_the_json(
    store: Store, tmp_path: Path
) -> None:
    client = create_app(Settings(data_dir=tmp_path), store, lambda *_: []).test_client()
    before = client.get("/projects/3?format=json").get_json()
    assert before["selection_gain"]["begun"] is False
    gain = {"value": 0.02, "low": 0.01, "high": 0.03}
    record = SelectionGainRecord(
        chosen=[*range(10)], control=[*range(10)], groups=11, differences=[[0.02]] * 8, gain=gain
    )
    store.studies.save(3, SELECTION_GAIN, "a digest", record.written())
    after = client.get("/projects/3?format=json").get_json()
    assert after["selection_gain"]["gain"] == gain
    assert after["digest"] != before["digest"]
    for kind in ("html", "text"):
        assert "Selection gains 2.0 points of Dice here" in client.get(
            f"/projects/3?format={kind}"
        ).get_data(as_text=True)
