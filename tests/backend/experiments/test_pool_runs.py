from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from backend.commands.cli import cli
from backend.errors import ConfigError
from backend.experiments import group_report, pools, results, selections, simulate, studies
from backend.experiments.datasets import ScanFile
from backend.settings import Settings
from tests.backend.experiments.recipes import TWO_SOURCES, recipe, scans, study_of
from tests.backend.experiments.samples import plan
from tests.backend.experiments.studied import run

pytestmark = pytest.mark.server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two folders of scans, and two recipes that mix them."""
    scans(tmp_path / "a", 8, seed=0)
    scans(tmp_path / "b", 8, seed=1)
    (tmp_path / "two.toml").write_text(TWO_SOURCES)
    (tmp_path / "other.toml").write_text(TWO_SOURCES.replace('"two"', '"other"'))
    return tmp_path


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks see one column of each mask for every scan they were trained on."""

    def predicted(columns: int, scans: Sequence[ScanFile]) -> Iterator[Any]:
        for scan in scans:
            mask = scan.load()[1].astype(np.float32)
            mask[..., columns:] = 0
            yield mask

    monkeypatch.setattr(simulate, "_fit", lambda scans, config: len(scans))
    monkeypatch.setattr(simulate, "_predicted", predicted)


SOURCES = {"a": {"folder": "a", "pool": 4}, "b": {"folder": "b", "pool": 3}}


def test_every_seed_has_a_pool_of_its_own_that_all_arms_share(root: Path) -> None:
    asked = recipe(SOURCES, held_out=2)
    of = study_of(asked, root, root / "out", seeds="0-3", cold_start="medoids,random")
    drawn = [of.of(seed) for seed in range(4)]
    assert len({one.pool for one in drawn}) == len({one.held for one in drawn}) == 4
    first, second = (run(of, arm=arm, seed=1)["steps"][0] for arm in (0, 1))
    assert first["held_out"].keys() == second["held_out"].keys()
    assert {*first["rows"], *second["rows"]} <= {*drawn[1].pool}
    arm = of.plan.arms[0]
    assert of.file(arm, 0) != of.file(arm, 1) != of.file(None, 1)


def test_a_run_on_a_pool_tells_its_groups(root: Path) -> None:
    of = study_of(recipe(SOURCES, held_out=2), root, root / "out")
    [step] = json.loads(json.dumps(run(of), allow_nan=False))["steps"]
    assert {name: told["scans"] for name, told in step["groups"].items()} == {"a": 2, "b": 2}
    assert step["dice_macro"] == pytest.approx(step["dice"])  # the groups have equal sizes here
    by_group = [told["dice"] for told in step["groups"].values()]
    assert step["dice_worst_group"] == pytest.approx(min(by_group))
    chosen = {of.groups[row] for row in step["rows"]}
    assert step["recall"] == len(chosen) / 2


def test_pools_share_the_embeddings_of_their_sources(root: Path) -> None:
    first = study_of(recipe(SOURCES, held_out=2), root, root / "out")
    second = study_of(recipe({"a": SOURCES["a"]}, held_out=2), root, root / "out")
    both, alone = (np.load(of.encoded["pixels"].path) for of in (first, second))
    np.testing.assert_array_equal(both[:8], alone)


def test_a_pool_smaller_than_the_labels_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="draws 7 to label and 4 to hold out"):
        study_of(recipe(SOURCES, held_out=2), root, root / "out", labels="8")
    with pytest.raises(ConfigError, match="--folds does not go with a recipe"):
        study_of(recipe(SOURCES, held_out=2), root, root / "out", folds=2, seeds="0,1")


def test_two_recipes_of_one_name_are_refused(root: Path) -> None:
    data = studies.Data((root / "two.toml",) * 2)
    with pytest.raises(ConfigError, match="Two recipes have the name two"):
        studies.prepare(plan(), data, root / "out", settings=Settings(), say=lambda line: None)


@pytest.mark.parametrize(
    ("module", "command"),
    [(simulate, simulate.simulate), (selections, selections.choose)],
    ids=["simulate", "choose"],
)
def test_nothing_is_made_before_every_recipe_is_known_to_fit(
    root: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, command: Callable[..., object]
) -> None:
    made: list[object] = []
    monkeypatch.setattr(module, "_finished", lambda *of: made.append(of))
    (root / "other.toml").write_text(TWO_SOURCES.replace('"two"', '"other"').replace("= 4", "= 40"))
    asked = plan(labels="2", cold_start="random")
    data = studies.Data((root / "two.toml", root / "other.toml"))
    with pytest.raises(ConfigError, match="asks for 40 of plain in the pool"):
        command(asked, data, root / "out", jobs=1, settings=Settings(device="cpu"), say=list)
    assert not made


@pytest.mark.seconds
def test_the_command_runs_several_recipes_and_reports_over_them(root: Path) -> None:
    asked = {"cold_start": "random,medoids", "labels": "2", "seeds": "0,1", "all_labels": True}
    paths = [root / "two.toml", root / "other.toml"]
    for path in paths:  # beforehand, because the processes of a command take seconds to start
        of = study_of(pools.read(path), root, root / "out", **asked)
        for arm in (*of.plan.arms, None):
            for seed in of.plan.seeds:
                simulate._make(of, (arm, seed))
    words = [
        "simulate", *map(str, paths), "--all-labels", "--encoder", "pixels", "--projection", "pca",
        "--cold-start", "random,medoids", "--labels", "2", "--seeds", "0,1", "--image-size", "32",
        "--steps", "2", "--jobs", "1", "--out", str(root / "out"),
    ]  # fmt: skip
    done = CliRunner().invoke(cli, words, catch_exceptions=False)

    assert done.exit_code == 0, done.output
    assert done.output.count("6 runs, 0 of them still to be made") == 2
    text = (root / "out" / "two" / "report.md").read_text()
    assert "### 2 labels, by group" in text
    assert "A network that is trained on all labels of the pool" in text
    assert "turned inverted (2 held out)" in text
    told = json.loads((root / "out" / "two" / "results.json").read_text())
    assert {row["arm"] for row in told["groups"]} == {"random", "medoids"}
    assert set(told["all_labels"]) == {"0", "1"}
    over = (root / "out" / "pools.md").read_text()
    assert "# 2 pools: two, other" in over
    assert "| medoids |" in over
    assert len((root / "out" / "pools.csv").read_text().splitlines()) == 5
    assert (root / "out" / "pools.png").exists()


def test_a_folder_and_a_recipe_do_not_go_together(root: Path) -> None:
    words = ["simulate", str(root / "a"), str(root / "two.toml")]
    assert "Give one folder, or recipes" in CliRunner().invoke(cli, words).output
    words = ["simulate", str(root / "a"), "--all-labels"]
    assert "--all-labels needs recipes" in CliRunner().invoke(cli, words).output


def test_runs_with_all_labels_are_read_for_the_gap(root: Path) -> None:
    asked = {"cold_start": "random,medoids", "seeds": "0,1", "all_labels": True}
    of = study_of(recipe(SOURCES, held_out=2), root, root / "out", **asked)
    for seed in (0, 1):
        for arm in (*of.plan.arms, None):
            simulate._make(of, (arm, seed))
    read = results.read(of, {})
    steps = {seed: made["steps"][0] for seed, made in read.all_labels.items()}
    assert {seed: step["labels"] for seed, step in steps.items()} == {0: 7, 1: 7}
    assert steps[0]["dice"] == pytest.approx(14 / 23)  # 7 of 16 columns
    baseline, row = group_report.table(read)
    assert row.means["dice"] == pytest.approx(4 / 18)  # 2 of 16 columns, as the baseline
    assert row.gaps["dice"] == pytest.approx((0, 0, 0))
    assert np.isnan(baseline.gaps["dice"]).all()
    assert "Gap closed" in group_report.markdown(read)
