from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from backend.experiments import intervals, report
from backend.experiments.results import Results
from model.evaluation import OTHERS
from tests.backend.experiments.samples import chosen, results, run


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
    assert (row.difference, row.low, row.high) == pytest.approx(intervals.interval(apart.tolist()))
    assert "which of these scans are held out" in report.markdown(told, report.table(told))


def test_the_report_says_how_much_of_the_spread_is_training_where_it_is_known() -> None:
    def said(networks: tuple[float, ...]) -> str:
        told = results({"one": {0: run(0.9, networks=networks)}}, labels=(10,))
        return report.markdown(told, report.table(told))

    expected = "deviation of 0.0141 (1 choices of scans, 2 networks each), their means by 0.0100"
    assert expected in said((-0.01, 0.01))
    assert "Training alone" not in said((0.0,))
