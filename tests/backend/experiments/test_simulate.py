from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from backend.commands.cli import cli
from backend.errors import ConfigError
from backend.experiments import report, results, simulate
from backend.experiments.studies import Data, Study
from backend.settings import Settings
from backend.storage import artifacts
from model import active_learning, evaluation, projection, training, validation
from tests.backend.experiments.samples import ASKED, plan
from tests.backend.experiments.studied import run, study

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[3]


def test_an_unknown_baseline_is_said_before_any_work(folder: Path, tmp_path: Path) -> None:
    asked = plan(cold_start="medoids,kmeans", baseline="typical")
    with pytest.raises(ConfigError, match=r"--baseline typical is no arm.*medoids; kmeans"):
        simulate.simulate(
            asked,
            Data((folder,)),
            tmp_path / "out",
            jobs=1,
            settings=Settings(),
            say=lambda line: None,
        )
    assert not (tmp_path / "out").exists()


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


def test_the_report_tells_the_longer_training_of_small_regions(
    folder: Path, tmp_path: Path
) -> None:
    of = study(folder, tmp_path)
    for adapt in (False, True):
        told = results.read(replace(of, train=replace(of.train, steps=7, adapt=adapt)), {}).settings
        assert told["steps"] == "7"
        assert told.get("steps-for-small-regions") == ("21" if adapt else None)


def test_a_folder_that_cannot_be_written_is_said_at_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/out cannot be written \(Not a directory\)"):
        invoked(command(folder, tmp_path / "file" / "out"))


def test_a_run_chooses_what_production_would_choose(folder: Path, tmp_path: Path) -> None:
    of = study(folder, tmp_path)
    record = run(of)

    embeddings = np.load(of.encoded["pixels"].path)[list(of.pool)]
    points = projection.fit(embeddings, method="pca").coordinates
    options = active_learning.SelectionOptions(cold_start_budget=2, batch_size=2, projection="pca")
    labelled = np.zeros(9, bool)
    first = active_learning.decide(points, labelled, options, coordinates=points).order[:2]
    labelled[first] = True
    learned = simulate.learn(of, np.flatnonzero(labelled), 0, "entropy")
    second = active_learning.decide(
        points, labelled, options, coordinates=points, uncertainty=learned.uncertainty
    ).order[:2]
    assert [step["rows"] for step in record["steps"]] == [
        [of.pool[row] for row in chosen] for chosen in (first, second)
    ]


def test_slices_of_volumes_are_chosen_as_an_imported_project_chooses_them(
    stacks: Path, tmp_path: Path
) -> None:
    asked = plan(group_by="auto,volume", labels="9,14", held_out=1)
    of = study(stacks, tmp_path, asked)
    record, without_places = run(of, 0), run(of, 1)

    # Three patients with two volumes of five slices are the pool.
    scans = of.scans(of.pool)
    embeddings = np.load(of.encoded["pixels"].path)[list(of.pool)]
    points = projection.fit(embeddings, method="pca").coordinates
    volumes = validation.group([scan.name[:2] for scan in scans], [scan.name for scan in scans])
    places = np.array([float(scan.name[-3:]) for scan in scans])
    labelled, uncertainty = np.zeros(30, bool), None
    for step, phase in zip(record["steps"], ("cold-start", "acquisition"), strict=True):
        batch = len(step["rows"])
        decision = active_learning.decide(
            points,
            labelled,
            active_learning.SelectionOptions(
                cold_start_budget=9, batch_size=batch, projection="pca"
            ),
            coordinates=points,
            uncertainty=uncertainty,
            groups=volumes,
            places=places,
        )
        assert decision.phase == step["phase"] == phase
        assert step["rows"] == [of.pool[row] for row in decision.order[:batch]]
        labelled[decision.order[:batch]] = True
        uncertainty = simulate.learn(of, np.flatnonzero(labelled), 0, "entropy").uncertainty

    assert len({name[:2] for name in record["steps"][0]["names"][:6]}) == 6
    for step, other in zip(record["steps"], without_places["steps"], strict=True):
        assert step["rows"] != other["rows"]


def test_records_of_earlier_releases_are_read_as_grouped_by_patient(
    folder: Path, tmp_path: Path
) -> None:
    of = study(folder, tmp_path, plan(seeds="0,1", labels="2"))
    [arm] = of.plan.arms
    for seed in (0, 1):
        simulate._make(of, (arm, seed))
    file = of.file(arm, 0)
    record = artifacts.read_json(file)
    del record["arm"]["group_by"]
    artifacts.write_json(file, record)

    finished = results.read(of, {})

    assert [run["arm"]["group_by"] for run in finished.arms["medoids"].values()] == ["patient"] * 2
    columns, *lines = report.steps_csv(finished).splitlines()
    assert "group_by" in columns
    assert len(lines) == 2


def test_volumes_that_are_not_there_are_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no scan of .* is a slice of a volume"):
        invoked(command(folder, tmp_path, group_by="volume+slice"))


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

    def noted(
        images: Sequence[Any], masks: Sequence[Any], config: training.TrainConfig, **others: Any
    ) -> Any:
        seeds.append(config.seed)
        return fit(images, masks, config, **others)

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
        float(simulate.learn(of, chosen(of, record), 10_001, "").scores[0].mean()),
    ]
    assert seeds == [1, 10_001]
    assert record["steps"][0]["dice"] == pytest.approx(np.mean(alone))


def chosen(of: Study, record: dict[str, Any]) -> Any:
    return np.sort([of.pool.index(row) for row in record["steps"][0]["rows"]])


def command(folder: Path, out: Path, **changes: Any) -> list[str]:
    options = {**ASKED, "out": out, "jobs": 1, **changes}
    given = [
        (f"--{name.replace('_', '-')}", str(value)) for name, value in options.items() if value
    ]
    return ["simulate", str(folder), *(word for pair in given for word in pair)]


def invoked(words: list[str]) -> Result:
    return CliRunner().invoke(cli, words, catch_exceptions=False)


@pytest.mark.slow
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
    assert "2 runs, 2 of them still to be made" in result.output
    assert "medoids, seed 1: ValueError" in (tmp_path / "report.md").read_text()
    done = of.file(arm, 0)
    before = done.stat().st_mtime_ns

    damaged.unlink()
    result = invoked(words)

    assert result.exit_code == 0
    assert "2 runs, 1 of them still to be made" in result.output
    assert "Failed" not in (tmp_path / "report.md").read_text()
    assert done.stat().st_mtime_ns == before
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert {"report.md", "results.csv", "learning-curves.svg", "map-pixels-pca.png"} <= names


def test_a_plan_that_is_done_only_writes_its_report_again(folder: Path, tmp_path: Path) -> None:
    of = study(folder, tmp_path)
    simulate._make(of, (of.plan.arms[0], 0))
    result = invoked(command(folder, tmp_path))
    assert result.exit_code == 0
    assert "1 runs, 0 of them still to be made" in result.output
    assert "| medoids | 1 |" in (tmp_path / "report.md").read_text()


def test_attention_is_shown_for_the_network_that_made_the_last_scores(
    folder: Path, tmp_path: Path
) -> None:
    of = study(folder, tmp_path, plan(labels="2", attention=2))
    simulate._make(of, (of.plan.arms[0], 0))
    [look] = simulate._attention(of, results.read(of, {}))
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


@pytest.mark.slow
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
        asked = "2 runs, 1 of them still to be made\n"
        assert any(line.endswith(asked) for line in process.stdout)
        process.send_signal(signal.SIGINT)
        process.stdout.read()  # ends when the last process that could write has ended

    assert process.returncode == 1
    assert list((tmp_path / "runs").iterdir()) == [done]
