from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from backend.commands.cli import cli
from backend.experiments import selections, selections_report
from backend.experiments.selections_report import PoolPicks
from tests.backend.experiments.recipes import TWO_SOURCES, recipe, scans, study_of
from tests.backend.experiments.samples import plan
from tests.backend.experiments.studied import study


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two folders of scans, and a recipe that mixes them."""
    scans(tmp_path / "a", 8, seed=0)
    scans(tmp_path / "b", 8, seed=1)
    (tmp_path / "two.toml").write_text(TWO_SOURCES)
    return tmp_path


def test_the_loneliest_scans_are_those_far_from_their_neighbours() -> None:
    points = np.random.default_rng(0).normal(0, 1, (40, 3))
    points[[7, 30]] += 50 * np.array([[1], [-1]])
    assert np.flatnonzero(selections.lonely(points)).tolist() == [7, 30]
    assert selections.lonely(points[:4]).sum() == 1


def test_choices_are_measured_by_groups_that_the_strategy_does_not_see(root: Path) -> None:
    sources = {
        "a": {"folder": "a", "pool": 4},
        "b": {"folder": "b", "pool": 3, "outlier": True},
    }
    of = study_of(recipe(sources, held_out=2), root, root / "out", labels="2,7")
    [arm] = of.plan.arms
    [record] = selections.picks(of, [arm], 0)

    few, everything = record["choices"]
    assert len(few["names"]) == 2
    assert few["empty"] == 0  # every mask of these scans is drawn
    assert everything["recall"] == 1
    assert everything["planted"] == pytest.approx(3 / 7)
    assert everything["lonely"] == pytest.approx(1 / 7)
    assert few["planted"] == sum(name.startswith("b/") for name in few["names"]) / 2


def test_a_folder_has_no_groups_and_the_same_pool_for_every_seed(
    folder: Path, tmp_path: Path
) -> None:
    of = study(folder, tmp_path, plan(labels="2", cold_start="medoids", selection_only=True))
    [arm] = of.plan.arms
    first, second = (selections.picks(of, [arm], seed)[0] for seed in (0, 1))
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["pool"] == second["pool"]
    assert first["choices"][0]["recall"] is None


def test_a_recipe_has_another_pool_for_every_seed(root: Path) -> None:
    sources = {"a": {"folder": "a", "pool": 4}, "b": {"folder": "b", "pool": 3}}
    of = study_of(recipe(sources, held_out=2), root, root / "out", seeds="0,1")
    [arm] = of.plan.arms
    first, second = (selections.picks(of, [arm], seed)[0] for seed in (0, 1))
    assert first["pool"] != second["pool"]


def test_every_grouping_has_a_choice_of_its_own(stacks: Path, tmp_path: Path) -> None:
    groupings = "patient,volume,volume+slice"
    asked = plan(labels="6", held_out=1, group_by=groupings, selection_only=True)
    of = study(stacks, tmp_path, asked)
    assert [arm.group_by for arm in of.plan.arms] == groupings.split(",")
    assert len({selections._file(of, arm, 0) for arm in of.plan.arms}) == 3

    records = selections.picks(of, of.plan.arms, 0)

    by_patient, *by_volume = [record["choices"][0]["names"] for record in records]
    assert len({name[0] for name in by_patient[:3]}) == 3
    assert [len({name[:2] for name in names}) for names in by_volume] == [6, 6]


def choice(recall: float | None, names: list[str]) -> dict[str, Any]:
    return {
        "labels": len(names), "names": names, "recall": recall, "lonely": 0.5, "planted": None,
        "empty": 0.0,
    }  # fmt: skip


def record(pool: str, recall: float | None, *names: str) -> dict[str, Any]:
    rule = ("encoder", "projection", "cold_start", "group_by")
    arm = dict(zip(rule, ("pixels", "none", "kmeans", "patient"), strict=True))
    return {"arm": arm, "pool": pool, "choices": [choice(recall, [*names])]}


def test_picks_overlap_between_seeds_of_one_pool_only() -> None:
    one, other = record("p", None, "a", "b"), record("p", None, "b", "c")
    assert selections_report.overlap([one, one], 0) == 1
    assert selections_report.overlap([one, other], 0) == 0.5
    assert selections_report.overlap([one, other, one], 0) == pytest.approx(2 / 3)
    assert selections_report.overlap([one, other, record("q", None, "a", "b")], 0) == 0.5
    assert math.isnan(selections_report.overlap([one, record("q", None, "a", "b")], 0))
    assert math.isnan(selections_report.overlap([one], 0))


def test_the_report_has_recalls_side_by_side_and_a_table_for_each_pool(tmp_path: Path) -> None:
    arms = {
        "random": {0: record("p", 0.5, "a", "b"), 1: record("q", 0.5, "a", "b")},
        "kmeans": {0: record("p", 1.0, "a", "c"), 1: record("q", 0.5, "a", "c")},
    }
    pools = [PoolPicks(title, (2,), "random", arms, {}) for title in ("one", "other")]
    selections_report.write(pools, tmp_path)

    text = (tmp_path / "selections.md").read_text()
    assert "| arm | one | other |\n|---|---|---|\n| random | 0.50 | 0.50 |\n" in text
    assert "| kmeans | 0.75 | 0.75 |" in text
    assert "| 2 | kmeans | 2 | 0.75 | +0.25 [-2.93, +3.43] | 0.50 | - | 0.00 | - |" in text
    lines = list(csv.DictReader((tmp_path / "selections.csv").read_text().splitlines()))
    assert len(lines) == 8
    assert (lines[0]["pool"], lines[0]["seed"], lines[0]["chosen"]) == ("one", "0", "a b")
    assert json.loads((tmp_path / "selections.json").read_text())["table"][0]["overlap"] is None


def test_without_groups_no_recall_is_shown() -> None:
    arms = {"kmeans": {0: record("p", None, "a", "c"), 1: record("p", None, "a", "b")}}
    told = [PoolPicks("folder", (2,), "kmeans", arms, {})]
    text = selections_report.markdown(told, selections_report.table(told))
    assert "Group recall at" not in text
    assert "| 2 | kmeans | 2 | - | - | 0.50 | - | 0.00 | 0.50 |" in text


@pytest.mark.server
def test_the_command_measures_recipes_and_goes_on_where_it_was(root: Path) -> None:
    words = [
        "simulate", str(root / "two.toml"), "--selection-only", "--out", str(root / "out"),
        "--encoder", "pixels", "--projection", "pca", "--cold-start", "random,kmeans",
        "--labels", "2,3", "--seeds", "0,1", "--jobs", "1",
    ]  # fmt: skip
    first = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert first.exit_code == 0
    assert "4 choices, 4 of them still to be made" in first.output
    again = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert "4 choices, 0 of them still to be made" in again.output
    assert len(list((root / "out" / "two" / "picks").iterdir())) == 4
    assert "| kmeans |" in (root / "out" / "selections.md").read_text()


def test_without_training_no_acquisition_can_be_compared() -> None:
    asked = {"selection_only": True, "labels": "2,4"}
    names = plan(**asked, cold_start="medoids,random", encoder="pixels,auto").names()
    assert list(names.values()) == ["pixels, medoids", "random", "auto, medoids"]
    with pytest.raises(Exception, match="With --selection-only no acquisition takes place"):
        plan(**asked, acquisition="entropy,random")
