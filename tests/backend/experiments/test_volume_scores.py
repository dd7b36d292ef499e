from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from backend.experiments import report, volume_scores
from backend.experiments.datasets import ScanFile
from backend.experiments.scans import Masks, VolumeSlice
from model import volumes
from tests.backend.experiments.samples import plan, results, run
from tests.backend.experiments.studied import run as run_of
from tests.backend.experiments.studied import study

MM = (8.0, 1.5, 1.5)


def a_slice(folder: Path, volume: str, index: int, masks: Masks) -> ScanFile:
    path = folder / f"{volume}-{index}.npz"
    np.savez(path, image=np.zeros(masks.shape[1:], np.uint8), masks=masks)
    place = VolumeSlice(volume, index, MM) if volume else None
    return ScanFile(f"{volume}/{index}", 0, 0, path, (1.5, 1.5), place)


def test_volumes_are_scored_by_all_their_slices_and_single_scans_by_none(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    names = ["a", "a", "", "b", "b", "b"]
    truths, predicted = (chance.random((6, 2, 5, 5)) < 0.4 for _ in range(2))
    truths[:, 1] = predicted[:, 1] = False
    held = [
        a_slice(tmp_path, name, index, masks)
        for index, (name, masks) in enumerate(zip(names, truths, strict=True))
    ]
    by_scan, by_volume = volume_scores.scored(zip(held, predicted, strict=True))
    assert by_scan.shape == (2, 6, 2)
    for place, rows in enumerate(([0, 1], [3, 4, 5])):
        expected = [of(predicted[rows], truths[rows], rows, MM)[0] for of in MEASURES]
        assert by_volume[:, place, 0] == pytest.approx(expected)
    assert np.isnan(by_volume[..., 1]).all(), "a class that nobody drew"
    scores = {"dice": by_volume[0][None], "hd95": by_volume[1][None]}
    told = volume_scores.summaries(scores, held)
    assert told["volume_dice"] == pytest.approx(by_volume[0, :, 0].mean())
    assert {name: of["slices"] for name, of in told["volumes"].items()} == {"a": 2, "b": 3}
    assert told["volumes"]["b"]["dice"][1] is None


MEASURES = (volumes.dice, volumes.hd95)


@pytest.mark.server
def test_a_simulation_on_volumes_tells_their_figures(tmp_path: Path) -> None:
    folder, chance = tmp_path / "heads", np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(4):
        values = chance.random((12, 12, 3)).astype(np.float32)
        for kind, grid in (("images", values), ("labels", (values > 0.5).astype(np.uint8))):
            image = nibabel.Nifti1Image(grid, np.diag([1.0, 1.0, 5.0, 1.0]))  # type: ignore[no-untyped-call]
            nibabel.save(image, folder / kind / f"{number}.nii.gz")
    of = study(folder, tmp_path / "out", plan(labels="3", held_out=5))
    [step] = run_of(of)["steps"]
    assert {name: told["slices"] for name, told in step["volumes"].items()} == dict.fromkeys(
        {scan.place.volume for scan in of.scans(of.held) if scan.place}, 3
    )
    mean = np.mean([told["dice"] for told in step["volumes"].values()])
    assert step["volume_dice"] == pytest.approx(mean)


def test_the_report_has_figures_by_volume_only_where_runs_have_them() -> None:
    told, older = run(0.5, 0.6), run(0.5, 0.6)
    for step in told["steps"]:
        step |= {"volume_dice": 0.71234, "volume_hd95": 12.345}
    both = results({"medoids": {0: told}, "random": {0: older}})
    rows = report.table(both)
    assert rows[0].volumes == {"volume_dice": 0.71234, "volume_hd95": 12.345}
    assert rows[1].volumes == {}
    text = report.markdown(both, rows)
    assert "| arm | Dice | HD95 (mm) |\n|---|---|---|\n| medoids | 0.7123 | 12.35 |\n" in text
    assert "volume_hd95" in report.steps_csv(both).splitlines()[0]
    plain = results({"random": {0: older}})
    assert "By volume" not in report.markdown(plain, report.table(plain))
