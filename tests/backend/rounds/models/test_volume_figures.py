from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from backend.imaging import manifest as manifests
from backend.imaging.manifest import default_folder
from backend.imaging.planes import Plane
from backend.rounds.models import volume_figures
from backend.rounds.models.volume_figures import JudgedSlice, SlicePosition, positions, scores
from backend.rounds.services import Services
from model import evaluation
from tests.backend.exchange.export.exported import a_volume, affine_of, save_manifest
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.rounds.models.test_learner import Lab

MM = (8.0, 1.5, 3.0)  # between slices, down, across
STRETCHED = Plane(2, False, False, False, (4, 6), (8, 6))
AFFINE = affine_of((0, 1, 2), (1, 1, 1), (3.0, 1.5, 8.0))


def an_import(name: str, depth: int, **fields: Any) -> manifests.Volume:
    volume = a_volume(STRETCHED, depth, AFFINE, Path(f"/nowhere/{name}.nii.gz"))
    urls = [one.model_copy(update={"url": f"/{name}/{one.index}.png"}) for one in volume.slices]
    known = {"spacing": (3.0, 1.5, 8.0), "slices": tuple(urls)}
    return volume.model_copy(update={**known, **fields})


def test_the_manifest_tells_the_place_of_each_picture_and_its_pixels(tmp_path: Path) -> None:
    single = an_import("x-ray", 1, kind="picture")
    unknown = an_import("b", 2, has_spacing=False)
    save_manifest(1, tmp_path, an_import("a", 3), unknown, single)
    found = positions(tmp_path)
    assert found.keys() == {"/a/0.png", "/a/1.png", "/a/2.png", "/b/0.png", "/b/1.png"}
    # Rows of 3 mm were stretched to two pixels each.
    assert found["/a/2.png"] == SlicePosition("a", 2, (8.0, 1.5, 1.5), in_mm=True, slices=3)
    assert not found["/b/0.png"].in_mm


def test_a_missing_or_damaged_manifest_costs_the_figures_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert positions(tmp_path) == {}
    assert not caplog.records
    (tmp_path / manifests.MANIFEST).write_text("{}")
    assert positions(tmp_path) == {}
    assert "no figures by volume" in caplog.text


def slices_of(
    volume: str, at: list[int], pixel: tuple[float, float] = (1.0, 1.0), **fields: Any
) -> tuple[list[JudgedSlice], npt.NDArray[Any], npt.NDArray[Any]]:
    chance = np.random.default_rng(len(at))
    pred, true = (chance.random((len(at), 2, 5, 7)) < 0.4 for _ in range(2))
    pred[:, 1] = true[:, 1] = False
    position = replace(SlicePosition(volume, 0, MM, True, 9), **fields)
    made = [
        JudgedSlice.of(replace(position, index=index), pred[row], true[row], pixel)
        for row, index in enumerate(at)
    ]
    return made, pred, true


def test_volumes_are_judged_over_their_labelled_slices_in_mm() -> None:
    one, pred, true = slices_of("a", [2, 3, 7], pixel=(2.0, 4.0))
    other, *_ = slices_of("b", [0, 1])
    first, second = scores([*other, *reversed(one)])
    found = evaluation.of_volume(pred, true, [2, 3, 7], (8.0, 3.0, 12.0))
    assert first.scores == pytest.approx({name: values[0] for name, values in found.items()})
    assert (first.volume, first.judged, first.slices) == ("a", 3, 9)
    assert (second.volume, second.judged) == ("b", 2)


def test_without_a_spacing_no_distance_is_told() -> None:
    made, *_ = slices_of("a", [0, 1], in_mm=False)
    assert scores(made)[0].scores.keys() == {"dice"}


def test_a_second_task_of_a_slice_and_a_slice_of_another_size_count_once_or_not() -> None:
    made, *_ = slices_of("a", [0, 1])
    mask = np.ones((2, 3, 3), bool)
    smaller = JudgedSlice.of(replace(made[0].position, index=5), mask, mask, (1.0, 1.0))
    assert [each.judged for each in scores([*made, made[1], smaller])] == [2]


@pytest.fixture
def lab(services: Services, fake: FakeLabelStudio, project_id: int) -> Lab:
    return Lab(services, fake, project_id)


def test_a_model_is_scored_on_held_out_volumes(lab: Lab) -> None:
    lab.label(*range(6))
    key = lab.fit()
    now = lab.sync()
    urls = {task.id: task.url for task in now.tasks}
    held = lab.tasks[3:]
    volume = an_import("a", 3)
    slices = tuple(
        one.model_copy(update={"url": urls[task]})
        for one, task in zip(volume.slices, held, strict=True)
    )
    save_manifest(
        lab.number,
        default_folder(lab.services.settings, lab.number),
        volume.model_copy(update={"slices": slices}),
    )
    lab.learner.gate(now, key, "", held[:2])
    model = lab.store.publications.model(lab.number, key)
    assert model is not None
    [found] = model.quality.volumes
    assert (found.volume, found.judged, found.slices) == ("a", 2, 3)
    assert found.scores.keys() == evaluation.METRICS.keys()
    assert 0 <= found.scores["dice"] <= 1


def test_the_manifest_is_read_once_for_both_models_of_a_gate(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.label(*range(6))
    key, now = lab.fit(), lab.sync()
    read: list[Path] = []

    def noted(folder: Path) -> dict[str, SlicePosition]:
        read.append(folder)
        return {}

    monkeypatch.setattr(volume_figures, "positions", noted)
    learner = lab.learner
    for _ in range(2):
        learner._validate(now, key, lab.tasks[3:5], lambda: False)
    assert len(read) == 1


def test_no_volume_no_figures() -> None:
    assert volume_figures.scores([]) == []
