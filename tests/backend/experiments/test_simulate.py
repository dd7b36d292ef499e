from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from backend.commands.cli import cli
from backend.errors import ConfigError
from backend.experiments import plans, simulate
from backend.experiments.plans import Plan
from backend.experiments.simulate import Study
from backend.settings import Settings
from backend.storage import artifacts
from model import active_learning, evaluation, phantoms, projection, training

ROOT = Path(__file__).parents[3]
ASKED: dict[str, Any] = {
    "encoder": "pixels",
    "projection": "pca",
    "cold_start": "medoids",
    "acquisition": "entropy-diversity",
    "alpha": "0.3",
    "uncertainty": "entropy",
    "seeds": "0",
    "labels": "2,4",
    "random_draws": None,
    "held_out": 3,
    "folds": None,
    "split_seed": 0,
    "image_size": 32,
    "steps": 2,
    "train_seeds": 1,
    "baseline": "",
    "attention": 0,
}


def plan(**changes: Any) -> Plan:
    return plans.plan_of({**ASKED, **changes})


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve phantoms with the masks of their lungs."""
    found = tmp_path_factory.mktemp("phantoms")
    (found / "images").mkdir()
    (found / "masks").mkdir()
    for number, phantom in enumerate(phantoms.generate(12, size=32)):
        name = f"{number:02}.png"
        Image.fromarray(np.round(phantom.image * 255).astype(np.uint8)).save(
            found / "images" / name
        )
        Image.fromarray(phantom.mask[0].astype(np.uint8) * 255).save(found / "masks" / name)
    return found


def study(folder: Path, out: Path, asked: Plan | None = None) -> Study:
    return simulate.prepare(asked or plan(), folder, out, Settings(device="cpu"), lambda line: None)


def run(of: Study, arm: int = 0, seed: int = 0) -> dict[str, Any]:
    return simulate.run(of, of.plan.arms[arm], seed)


def test_lists_of_numbers_may_have_ranges() -> None:
    assert plans.numbers("0-2, 5,1") == (0, 1, 2, 5)


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1,,2"])
def test_what_is_no_list_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"Write one such as 0,1,2 or 0-9\."):
        plans.numbers(text)


def test_the_grid_holds_every_combination_once() -> None:
    arms = plan(encoder="pixels,auto,pixels", alpha="0.3,auto").arms
    assert [(arm.encoder, arm.alpha) for arm in arms] == [
        ("pixels", 0.3), ("pixels", "auto"), ("auto", 0.3), ("auto", "auto"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "known"),
    [
        ("cold_start", "medoids,best", "--cold-start 'best'.*stratified-random"),
        ("acquisition", "", "--acquisition ''.*power-noise"),
        ("alpha", "2", "--alpha '2': expected a number from 0 to 1"),
        ("encoder", "resnet", "--encoder 'resnet'.*efficientnet-lite0"),
    ],
)
def test_what_production_does_not_know_is_refused_with_what_it_knows(
    name: str, value: str, known: str
) -> None:
    with pytest.raises(ConfigError, match=known):
        plan(**{name: value})


@pytest.mark.parametrize("labels", ["10,5", "0,5"])
def test_counts_of_labels_have_to_grow_from_one(labels: str) -> None:
    with pytest.raises(ConfigError, match="--labels is"):
        plan(labels=labels)


def test_acquisitions_cannot_be_compared_on_one_count_of_labels() -> None:
    with pytest.raises(ConfigError, match="no acquisition takes place"):
        plan(labels="5", alpha="0,1")


def test_arms_are_named_by_what_differs() -> None:
    assert list(plan().names().values()) == ["medoids"]
    names = plan(encoder="pixels,auto", acquisition="entropy,random").names()
    assert list(names.values())[:2] == ["pixels, entropy", "pixels, random"]


def test_chance_draws_for_all_encoders_at_once() -> None:
    names = plan(encoder="pixels,auto", cold_start="medoids,random", labels="5").names()
    assert list(names.values()) == ["pixels, medoids", "random", "auto, medoids"]


def test_chance_may_have_draws_of_its_own() -> None:
    asked = plan(cold_start="medoids,random", seeds="0,3", random_draws=4)
    assert [asked.seeds_of(arm) for arm in asked.arms] == [(0, 3), (0, 3, 4, 5)]
    assert len(asked.runs()) == 6
    fewer = plan(cold_start="medoids,random", seeds="0,3", random_draws=1)
    assert fewer.seeds_of(fewer.arms[1]) == (0,)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cold_start": "medoids,random"}, {"cold_start": "random"}),
        ({"cold_start": "medoids,kmeans"}, {"cold_start": "medoids"}),
        ({"acquisition": "entropy,random"}, {"acquisition": "random"}),
        ({"cold_start": "medoids,kmeans", "baseline": "kmeans"}, {"cold_start": "kmeans"}),
        ({"alpha": "0.3,1", "baseline": "1.0,pixels"}, {"alpha": 1.0}),
    ],
)
def test_differences_are_taken_against_the_control_or_what_is_asked(
    changes: dict[str, str], expected: dict[str, object]
) -> None:
    assert expected.items() <= asdict(plan(**changes).control()).items()


def test_an_unknown_baseline_is_said_before_any_work(folder: Path, tmp_path: Path) -> None:
    asked = plan(cold_start="medoids,kmeans", baseline="typical")
    with pytest.raises(ConfigError, match=r"--baseline typical is no arm.*medoids; kmeans"):
        simulate.simulate(
            asked, folder, tmp_path / "out", jobs=1, settings=Settings(), say=lambda line: None
        )
    assert not (tmp_path / "out").exists()


def test_groups_are_held_out_whole_until_there_are_enough() -> None:
    groups = [0, 0, 1, 1, 1, 2, 3, 3]
    drawn = simulate.hold_out(groups, 4, seed=0)
    assert drawn == simulate.hold_out(groups, 4, seed=0)
    assert len(drawn) >= 4
    inside = {groups[row] for row in drawn}
    assert [row for row, group in enumerate(groups) if group in inside] == list(drawn)
    assert len({simulate.hold_out(groups, 4, seed) for seed in range(9)}) > 1


@pytest.mark.parametrize("seed", range(3))
def test_folds_deal_every_scan_once_and_no_group_to_two(seed: int) -> None:
    groups = [0, 0, 1, 1, 1, 2, 3, 3, 4, 5, 6, 6]
    dealt = simulate.deal(groups, 3, seed)
    assert sorted(row for fold in dealt for row in fold) == list(range(len(groups)))
    assert all(fold == tuple(sorted(fold)) for fold in dealt)
    held_by = [{groups[row] for row in fold} for fold in dealt]
    assert sum(map(len, held_by)) == len(set(groups))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 3  # the largest group


def test_seeds_take_turns_with_the_folds(folder: Path, tmp_path: Path) -> None:
    of = study(folder, tmp_path, plan(labels="2", seeds="0-5", folds=3))
    records = [run(of, seed=seed)["steps"][0] for seed in range(4)]
    measured = [set(record["held_out"]) for record in records]
    assert measured[0] == measured[3]
    assert set.union(*measured) == {scan.name for scan in of.data.scans}
    assert not any(
        set(record["names"]) & held for record, held in zip(records, measured, strict=True)
    )
    assert len({of.file(of.plan.arms[0], seed) for seed in range(4)}) == 4


def test_every_fold_has_to_be_held_out_equally_often() -> None:
    with pytest.raises(ConfigError, match="Give a multiple of 3 seeds and draws"):
        plan(labels="2", seeds="0-3", folds=3)
    with pytest.raises(ConfigError, match="equally often"):
        plan(labels="2", cold_start="random", seeds="0-2", random_draws=4, folds=3)


def test_more_folds_than_scans_can_fill_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a scan in every fold"):
        study(folder, tmp_path, plan(labels="2", seeds="0-12", folds=13))


def test_a_folder_that_cannot_be_written_is_said_at_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/out cannot be written \(Not a directory\)"):
        invoked(command(folder, tmp_path / "file" / "out"))


def test_more_labels_than_scans_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="12 scans, 3 of them held out, leave 9 to label"):
        study(folder, tmp_path, plan(labels="10"))


def test_a_size_that_no_network_takes_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--image-size"):
        study(folder, tmp_path, plan(image_size=33))


def test_a_run_chooses_what_production_would_choose(folder: Path, tmp_path: Path) -> None:
    of = study(folder, tmp_path)
    record = run(of)

    embeddings = np.load(of.encoded["pixels"].path)[list(of.pool)]
    points = projection.fit(embeddings, method="pca").coordinates
    options = active_learning.SelectionOptions(cold_start_budget=2, batch_size=2, projection="pca")
    labelled = np.zeros(9, bool)
    first = active_learning.decide(points, labelled, options, coordinates=points).order[:2]
    labelled[first] = True
    learned = simulate._learned(of, np.flatnonzero(labelled), 0, "entropy")
    second = active_learning.decide(
        points, labelled, options, coordinates=points, uncertainty=learned.uncertainty
    ).order[:2]
    assert [step["rows"] for step in record["steps"]] == [
        [of.pool[row] for row in chosen] for chosen in (first, second)
    ]


def test_a_run_never_labels_twice_or_what_is_held_out(folder: Path, tmp_path: Path) -> None:
    of = study(folder, tmp_path)
    record = json.loads(json.dumps(run(of), allow_nan=False))

    rows = [row for step in record["steps"] for row in step["rows"]]
    assert len(rows) == len({*rows} - {*of.held}) == 4
    first, second = record["steps"]
    assert (first["phase"], second["phase"]) == ("cold-start", "acquisition")
    assert (first["labels"], second["labels"]) == (2, 4)
    assert (first["alpha"], second["alpha"]) == (None, 0.3)
    held = first["held_out"]
    assert list(held) == [of.data.scans[row].name for row in of.held]
    dice = [scores["dice"][0] for scores in held.values()]
    assert first["dice"] == pytest.approx(np.mean(dice))
    assert first["worst"] == pytest.approx(min(dice))
    assert record["train"]["seed"] == 0


def test_labels_that_are_not_on_a_scan_are_no_part_of_its_score(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = tmp_path / "several"
    shutil.copytree(folder / "images", several / "images")
    for label in range(8):
        (several / "masks" / f"label {label}").mkdir(parents=True)
        for number in range(12):  # scan 0 holds label 0 alone; scans 8 to 11 hold none
            mask = 255 * (label == number) * np.eye(32, dtype=np.uint8)
            Image.fromarray(mask).save(several / "masks" / f"label {label}" / f"{number:02}.png")
    of = study(several, tmp_path / "out", plan(labels="2", held_out=12 - 2))
    nothing = np.zeros((8, 32, 32), np.float32)
    monkeypatch.setattr(simulate, "_predicted", lambda fitted, scans: (nothing for _ in scans))

    [step] = json.loads(json.dumps(run(of), allow_nan=False))["steps"]

    # All that is drawn is missed, and the scans above number 7 are rightly empty.
    held = step["held_out"]
    drawn = {name: scores for name, scores in held.items() if int(Path(name).stem) < 8}
    assert 0 < len(drawn) < len(held)
    assert all(set(scores["dice"]) == {None, 0.0} for scores in drawn.values())
    assert step["dice"] == pytest.approx(1 - len(drawn) / len(held))
    assert step["worst"] == 0
    assert set(step["dice_by_label"].values()) == {0.0, 1.0}


def without_times(record: dict[str, Any]) -> str:
    steps = [{**step, "seconds": 0} for step in record["steps"]]
    return json.dumps({**record, "steps": steps})


def test_the_same_run_comes_out_the_same_anywhere(folder: Path, tmp_path: Path) -> None:
    one, other = study(folder, tmp_path / "one"), study(folder, tmp_path / "other")
    assert without_times(run(one)) == without_times(run(other))
    assert one.file(one.plan.arms[0], 0).name == other.file(other.plan.arms[0], 0).name


def spied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the seeds of all trainings from now on."""
    seeds: list[int] = []
    fit = training.fit

    def noted(images: Sequence[Any], masks: Sequence[Any], config: training.TrainConfig) -> Any:
        seeds.append(config.seed)
        return fit(images, masks, config)

    monkeypatch.setattr(training, "fit", noted)
    return seeds


def test_arms_that_choose_alike_share_a_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = study(folder, tmp_path, plan(acquisition="entropy,entropy-diversity"))
    seeds = spied(monkeypatch)
    first, second = run(of, arm=0), run(of, arm=1)
    assert first["steps"][0]["dice"] == second["steps"][0]["dice"]
    assert len(seeds) <= 3  # the cold start's once, and the acquisitions' unless they agree


def test_the_scores_of_several_networks_are_averaged(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = study(folder, tmp_path, plan(labels="2", train_seeds=2))
    seeds = spied(monkeypatch)
    record = run(of, seed=1)
    alone = [
        run(replace(of, plan=plan(labels="2")), seed=1)["steps"][0]["dice"],
        float(simulate._learned(of, chosen(of, record), 10_001, "").scores[0].mean()),
    ]
    assert seeds == [1, 10_001]
    assert record["steps"][0]["dice"] == pytest.approx(np.mean(alone))


def chosen(of: Study, record: dict[str, Any]) -> Any:
    return np.sort([of.pool.index(row) for row in record["steps"][0]["rows"]])


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": "2,5"},
        {"alpha": "0.4"},
        {"steps": 3},
        {"image_size": 64},
        {"train_seeds": 2},
        {"split_seed": 1},
        {"encoder": "resnet50-random"},
    ],
    ids=str,
)
def test_whatever_decides_a_run_changes_its_name(
    folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    before = study(folder, tmp_path)
    changed = plan(**changes)
    if "encoder" in changes:  # its name is enough; loading it takes seconds
        named = {"resnet50-random": replace(before.encoded["pixels"], name="resnet50-random")}
        after = replace(before, plan=changed, encoded=named)
    else:
        after = study(folder, tmp_path, changed)
    assert before.file(before.plan.arms[0], 0) != after.file(changed.arms[0], 0)
    assert before.file(before.plan.arms[0], 0) != before.file(before.plan.arms[0], 1)


def test_runs_of_other_code_are_pointed_out(folder: Path, tmp_path: Path) -> None:
    of = study(folder, tmp_path, plan(seeds="0,1"))
    arms: dict[str, Any] = {"medoids": {0: {"code": "a"}, 1: {"code": "a"}}}
    assert simulate._notes(of, arms) == ()
    arms["medoids"][1]["code"] = "b"
    [note] = simulate._notes(of, arms)
    assert "2 states of the code" in note


def command(folder: Path, out: Path, **changes: Any) -> list[str]:
    options = {**ASKED, "out": out, "jobs": 1, **changes}
    given = [
        (f"--{name.replace('_', '-')}", str(value)) for name, value in options.items() if value
    ]
    return ["simulate", str(folder), *(word for pair in given for word in pair)]


def invoked(words: list[str]) -> Result:
    return CliRunner().invoke(cli, words, catch_exceptions=False)


def test_a_failed_run_is_named_and_made_again_while_the_others_stay(
    folder: Path, tmp_path: Path
) -> None:
    asked = plan(seeds="0,1")
    of, words = study(folder, tmp_path, asked), command(folder, tmp_path, seeds="0,1")
    [arm] = asked.arms
    damaged = of.map_file(arm, 1)
    artifacts.write(damaged, lambda file: file.write(b"no map"))

    result = invoked(words)

    assert result.exit_code == 1
    assert "2 runs, 2 of them to be made" in result.output
    assert "medoids, seed 1: ValueError" in (tmp_path / "report.md").read_text()
    done = of.file(arm, 0)
    before = done.stat().st_mtime_ns

    damaged.unlink()
    result = invoked(words)

    assert result.exit_code == 0
    assert "2 runs, 1 of them to be made" in result.output
    assert "Failed" not in (tmp_path / "report.md").read_text()
    assert done.stat().st_mtime_ns == before
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert {"report.md", "results.csv", "learning-curves.svg", "map-pixels-pca.png"} <= names


def test_a_plan_that_is_done_only_writes_its_report_again(folder: Path, tmp_path: Path) -> None:
    of = study(folder, tmp_path)
    simulate._make(of, of.plan.arms[0], 0)
    result = invoked(command(folder, tmp_path))
    assert result.exit_code == 0
    assert "1 runs, 0 of them to be made" in result.output
    assert "| medoids | 1 |" in (tmp_path / "report.md").read_text()


def test_attention_is_shown_for_the_network_that_made_the_last_scores(
    folder: Path, tmp_path: Path
) -> None:
    of = study(folder, tmp_path, plan(labels="2", attention=2))
    simulate._make(of, of.plan.arms[0], 0)
    [look] = simulate._attention(of, simulate._results(of, {}))
    shown = of.scans(of.held[:2])
    assert [scan.name for scan in look.scans] == [scan.name for scan in shown]
    assert [scan.gates.shape for scan in look.scans] == [(4, 32, 32)] * 2
    drawn = [
        evaluation.dice(a.masks, b.load()[1]).mean() for a, b in zip(look.scans, shown, strict=True)
    ]
    scored = artifacts.read_json(of.file(of.plan.arms[0], 0))["steps"][0]["held_out"]
    assert drawn == pytest.approx([np.mean(scored[scan.name]["dice"]) for scan in shown])

    assert invoked(command(folder, tmp_path, labels="2", attention=1)).exit_code == 0
    assert (tmp_path / "attention-medoids.png").exists()


def test_ctrl_c_ends_all_processes_at_once_and_keeps_what_was_done(
    folder: Path, tmp_path: Path
) -> None:
    endless = {"seeds": "0,1", "steps": 1_000_000}
    of = study(folder, tmp_path, plan(**endless))
    [arm] = of.plan.arms
    done = of.file(arm, 0)
    artifacts.write_json(done, {})
    words = [sys.executable, "-m", "backend", *command(folder, tmp_path, **endless)]

    def hear() -> None:  # tests that a script starts with `&` inherit deafness to Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=hear
    ) as process:
        assert process.stdout is not None
        assert any(line == "2 runs, 1 of them to be made\n" for line in process.stdout)
        process.send_signal(signal.SIGINT)
        process.stdout.read()  # ends when the last process that could write has ended

    assert process.returncode == 1
    assert list((tmp_path / "runs").iterdir()) == [done]
