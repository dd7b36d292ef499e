from __future__ import annotations

from typing import Any

from backend.web.project_page.volume_panel import LISTED, volumes


def a_volume(name: str, dice: float, **fields: Any) -> dict[str, Any]:
    scores = {"dice": dice, "hd95": 10 * dice}
    return {"volume": name, "judged": 3, "slices": 9, "scores": scores, **fields}


def test_the_worst_volume_stands_first_and_the_judged_slices_are_counted() -> None:
    assert volumes({"volumes": [a_volume("a", 0.9), a_volume("b", 0.5, judged=9)]}) == [
        "2 held-out volumes, means: Dice 0.70, HD95 7.0 mm. 12 of 18 slices are labelled; the "
        "others are left out.",
        "  - b: Dice 0.50, HD95 5.0 mm (9 of 9 slices)",
        "  - a: Dice 0.90, HD95 9.0 mm (3 of 9 slices)",
    ]


def test_a_volume_without_spacing_has_no_distance() -> None:
    head, line = volumes({"volumes": [a_volume("a", 0.9, scores={"dice": 0.9})]})
    assert "means: Dice 0.90. 3 of 9" in head
    assert line == "  - a: Dice 0.90 (3 of 9 slices)"


def test_of_many_volumes_the_worst_are_listed() -> None:
    lines = volumes({"volumes": [a_volume(f"{n}", n / 100) for n in range(LISTED + 5)]})
    assert len(lines) == LISTED + 2
    assert lines[-1] == "  and 5 more (?format=json lists them)"


def test_without_volumes_nothing_is_said() -> None:
    assert volumes({"volumes": []}) == []
