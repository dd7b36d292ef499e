from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from backend.experiments import report
from backend.experiments.report import Map, Results
from model.evaluation import OTHERS

ARM = {"encoder": "pixels", "cold_start": "medoids"}


def run(
    *dice: float,
    warnings: tuple[str, ...] = (),
    networks: tuple[float, ...] = (0.0,),
    names: tuple[str, ...] = ("b.png", "a.png"),
) -> dict[str, Any]:
    """The record of a run, one Dice for each count of labels.

    Args:
        networks: How far each network's Dice lies from the mean of all.
    """
    steps = [
        {
            "labels": 10 * number,
            "phase": "cold-start",
            "dice": value,
            "dice_by_network": [value + apart for apart in networks],
            "worst": value - 0.1,
            **{metric.name: 5.0 for metric in OTHERS},
            "dice_by_label": {"lung": value},
            **{f"{metric.name}_by_label": {"lung": 5.0} for metric in OTHERS},
            "seconds": 1.0,
            "k": 2,
            "silhouette": None,
            "alpha": None,
            "names": list(names),
            "warnings": list(warnings),
        }
        for number, value in enumerate(dice, 1)
    ]
    return {"arm": ARM, "file": "runs/1.json", "steps": steps}


def results(arms: Mapping[str, Mapping[int, Any]], **changes: Any) -> Results:
    said: dict[str, Any] = {
        "title": "phantoms",
        "settings": {"steps": "2"},
        "unit": "mm",
        "labels": (10, 20),
        "arms": arms,
        "baseline": "random",
        "failed": {},
        "notes": (),
    }
    return Results(**{**said, **changes})


@pytest.fixture
def two() -> Results:
    """Two arms, two counts of labels, three seeds."""
    return results(
        {
            "medoids": {0: run(0.5, 0.8), 1: run(0.6, 0.8), 2: run(0.7, 0.7)},
            "random": {0: run(0.4, 0.8), 1: run(0.5, 0.7), 2: run(0.8, 0.6)},
        }
    )


def test_an_interval_is_students() -> None:
    values = [0.9, 0.8, 0.85, 0.95]
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert report.interval(values) == pytest.approx((0.875, expected.low, expected.high))


def test_one_run_has_no_interval() -> None:
    assert report.interval([0.5]) == pytest.approx((0.5, np.nan, np.nan), nan_ok=True)


def test_equal_seeds_are_paired() -> None:
    ours, theirs = {0: 0.9, 1: 0.7, 2: 0.8}, {2: 0.75, 0: 0.8, 1: 0.68}
    expected = stats.ttest_rel([0.9, 0.7, 0.8], [0.8, 0.68, 0.75]).confidence_interval()
    found, made = report.difference(ours, theirs)
    assert found[1:] == pytest.approx((expected.low, expected.high))
    assert made == "paired, n = 3"


def test_unequal_seeds_are_compared_by_welch() -> None:
    ours, theirs = {0: 0.9, 1: 0.7}, {0: 0.8, 1: 0.68, 2: 0.75, 3: 0.5}
    test = stats.ttest_ind(list(ours.values()), list(theirs.values()), equal_var=False)
    expected = test.confidence_interval()
    found, made = report.difference(ours, theirs)
    assert found[1:] == pytest.approx((expected.low, expected.high))
    assert made == "Welch, n = 2 and 4"


@pytest.mark.parametrize(
    ("ours", "low"), [({0: 0.5, 1: 0.5}, 0.1), ({0: 0.5}, np.nan)], ids=["no spread", "one run"]
)
def test_welch_without_spread_has_no_width_and_of_one_run_no_interval(
    ours: dict[int, float], low: float
) -> None:
    found, _ = report.difference(ours, {0: 0.4, 1: 0.4, 2: 0.4})
    assert found == pytest.approx((0.1, low, low), nan_ok=True)


def test_the_table_has_a_row_for_each_count_and_arm(two: Results) -> None:
    rows = report.table(two)
    assert [(row.labels, row.arm) for row in rows] == [
        (10, "medoids"), (10, "random"), (20, "medoids"), (20, "random"),
    ]  # fmt: skip
    first = rows[0]
    assert first.dice == pytest.approx(0.6)
    assert first.dice_sd == pytest.approx(0.1)
    assert first.worst == pytest.approx(0.5)
    assert first.others == {metric.name: 5.0 for metric in OTHERS}
    assert first.difference == pytest.approx(1 / 30)
    assert (first.wins, first.pairs) == (2, 3)
    assert rows[2].wins == 2  # the seed that ties is no win


def test_every_difference_in_the_report_stands_beside_its_interval(two: Results) -> None:
    text = report.markdown(two, report.table(two))
    others = " | ".join("5.00" for _ in OTHERS)
    assert (
        f"| medoids | 3 | 0.6000 | 0.1000 | 0.500 | {others} | +0.0333 [-0.2535, +0.3202]" in text
    )
    assert "| paired, n = 3 | 2/3 |" in text
    assert f"| random | 3 | 0.5667 | 0.2082 | 0.467 | {others} | - | - | - |" in text
    assert "HD95 (mm)" in text
    assert "not corrected for the number of comparisons" in text


def test_one_seed_claims_nothing() -> None:
    alone = results({"medoids": {0: run(0.9)}, "random": {0: run(0.5)}}, labels=(10,))
    text = report.markdown(alone, report.table(alone))
    others = " | ".join("5.00" for _ in OTHERS)
    assert f"| medoids | 1 | 0.9000 | - | 0.800 | {others} | +0.4000 [?, ?] | paired, n = 1" in text


def test_the_report_names_failures_warnings_and_notes() -> None:
    warned = run(0.5, 0.6, warnings=("collapse: no clusters",))
    told = results(
        {"medoids": {0: warned, 1: run(0.5, 0.6)}},
        failed={"random, seed 0": "ValueError: no"},
        notes=("Encoder `auto` is a stand-in.",),
    )
    text = report.markdown(told, report.table(told))
    assert "- random, seed 0: ValueError: no" in text
    assert "- medoids: collapse in 1 of 2" in text
    assert "Encoder `auto` is a stand-in." in text


def test_the_csv_has_a_line_for_each_run_and_step(two: Results) -> None:
    lines = list(csv.DictReader(io.StringIO(report.steps_csv(two))))
    assert len(lines) == 12
    assert lines[1]["arm"] == "medoids"
    assert (lines[1]["seed"], lines[1]["labels"], lines[1]["dice_lung"]) == ("0", "20", "0.8")
    assert lines[1]["chosen"] == "b.png a.png"


def chosen() -> Map:
    points = np.random.default_rng(0).random((9, 2))
    arms = {"medoids": [4, 2, 8], "random": [0, 1, 5]}
    return Map("timm/vit, tsne", 0, points, arms, first=2)


def test_a_folder_gets_tables_and_pictures(two: Results, tmp_path: Path) -> None:
    report.write(two, [chosen()], [], tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {
        "report.md", "results.csv", "results.json", "learning-curves.png", "learning-curves.svg",
        "map-timm-vit-tsne.png", "map-timm-vit-tsne.svg",
    }  # fmt: skip
    assert (tmp_path / "learning-curves.png").read_bytes().startswith(b"\x89PNG")
    assert "](map-timm-vit-tsne.png)" in (tmp_path / "report.md").read_text()
    assert "NaN" not in (tmp_path / "results.json").read_text()
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert numbers["table"][1]["difference"] is None
    assert numbers["runs"] == {"medoids": ["runs/1.json"] * 3, "random": ["runs/1.json"] * 3}


def test_without_any_run_the_report_still_says_what_failed(tmp_path: Path) -> None:
    report.write(results({}, failed={"random, seed 0": "KeyError"}), [], [], tmp_path)
    assert "- random, seed 0: KeyError" in (tmp_path / "report.md").read_text()


def test_each_arm_has_a_line_of_its_own_with_its_band(two: Results) -> None:
    axes = report.curves(two).axes[0]
    lines = [(line.get_label(), line.get_marker(), line.get_color()) for line in axes.lines]
    assert [label for label, _, _ in lines] == ["medoids", "random"]
    assert lines[0][1:] != lines[1][1:]
    assert len(axes.collections) == 2
    assert axes.get_ylim()[1] <= 1


def test_one_count_of_labels_puts_the_arms_side_by_side(two: Results) -> None:
    axes = report.curves(results(two.arms, labels=(10,))).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["medoids", "random"]


def test_a_map_numbers_the_chosen_scans_in_order() -> None:
    one = chosen()
    figure = report.picture(one, ["other", "medoids", "random"])
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["medoids", "random"]
    texts = {text.get_text(): text.xy for text in panels[0].texts}  # type: ignore[attr-defined]
    assert texts == {
        "1": tuple(one.points[4]),
        "2": tuple(one.points[2]),
        "3": tuple(one.points[8]),
    }


def test_a_map_of_one_dimension_is_drawn_on_a_line() -> None:
    one = Map("pixels, none", 0, np.arange(4.0)[:, None], {"random": [1]}, first=1)
    [axes] = report.picture(one, ["random"]).axes
    assert axes.texts[0].get_text() == "1"


def test_the_chance_of_training_is_the_pooled_spread_of_networks_on_the_same_scans() -> None:
    arms = {
        "one": {0: run(0.9, networks=(-0.01, 0.01)), 1: run(0.7, networks=(0.0, 0.0))},
        "other": {0: run(0.8, networks=(-0.02, 0.02), names=("c.png",))},
        "as one": {0: run(0.9, networks=(-0.01, 0.01))},  # the very same networks
    }
    spread, choices, networks = report.training_sd(results(arms), 0)
    assert spread == pytest.approx(np.sqrt((0.0002 + 0 + 0.0008) / 3))
    assert (choices, networks) == (3, 2)


def test_seeds_that_are_measured_on_the_same_scans_count_as_one() -> None:
    rng = np.random.default_rng(0)
    apart = rng.normal(0, 0.02, 5)  # what the held-out scans of a fold do to both arms' difference
    arms = {
        "random": {seed: run(0.8) for seed in range(20)},
        "medoids": {seed: run(0.8 + apart[seed % 5]) for seed in range(20)},
    }
    told = results(arms, labels=(10,), folds=5)
    [row] = [row for row in report.table(told) if row.arm == "medoids"]
    assert row.test == "paired, n = 5"
    assert (row.difference, row.low, row.high) == pytest.approx(report.interval(apart.tolist()))
    assert "which of these scans are held out" in report.markdown(told, report.table(told))


def test_the_report_says_how_much_of_the_spread_is_training_where_it_is_known() -> None:
    def said(networks: tuple[float, ...]) -> str:
        told = results({"one": {0: run(0.9, networks=networks)}}, labels=(10,))
        return report.markdown(told, report.table(told))

    expected = "deviation of 0.0141 (1 choices of scans, 2 networks each), their means by 0.0100"
    assert expected in said((-0.01, 0.01))
    assert "Training alone" not in said((0.0,))


def test_attention_shows_each_scan_beside_its_gates() -> None:
    image, masks = np.full((20, 30), 0.5), np.zeros((1, 20, 30), bool)
    masks[0, 5:9, 5:9] = True
    scan = report.Looked("a.png", image, masks, np.full((4, 20, 30), 0.2))
    look = report.Attention("pixels, medoids", (scan, scan))
    figure = report.gates(look)
    panels = [axes for axes in figure.axes if axes.get_images()]
    assert len(panels) == 2 * (1 + 4)
    assert [axes.get_title() for axes in panels[:3]] == ["drawn", "gate 1", "gate 2"]
    assert look.file == "attention-pixels-medoids"
