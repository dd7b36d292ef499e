from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from backend.errors import ConfigError
from backend.experiments import studies
from backend.storage import artifacts
from tests.backend.experiments.recipes import recipe, study_of
from tests.backend.experiments.samples import plan
from tests.backend.experiments.studied import study


def test_patients_are_held_out_whole_until_there_are_enough() -> None:
    patients = [0, 0, 1, 1, 1, 2, 3, 3]
    drawn = studies.hold_out(patients, 4, seed=0)
    assert drawn == studies.hold_out(patients, 4, seed=0)
    assert len(drawn) >= 4
    inside = {patients[row] for row in drawn}
    assert [row for row, patient in enumerate(patients) if patient in inside] == list(drawn)
    assert len({studies.hold_out(patients, 4, seed) for seed in range(9)}) > 1


@pytest.mark.parametrize("seed", range(3))
def test_folds_deal_every_scan_once_and_no_patient_to_two(seed: int) -> None:
    patients = [0, 0, 1, 1, 1, 2, 3, 3, 4, 5, 6, 6]
    dealt = studies.deal(patients, 3, seed)
    assert sorted(row for fold in dealt for row in fold) == list(range(len(patients)))
    assert all(fold == tuple(sorted(fold)) for fold in dealt)
    held_by = [{patients[row] for row in fold} for fold in dealt]
    assert sum(map(len, held_by)) == len(set(patients))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 3  # the largest patient


def test_more_folds_than_scans_can_fill_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a scan in every fold"):
        study(folder, tmp_path, plan(labels="2", seeds="0-12", folds=13))


def test_more_labels_than_scans_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="12 scans, 3 of them held out, leave 9 to label"):
        study(folder, tmp_path, plan(labels="10"))


def test_a_size_that_no_network_takes_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--image-size"):
        study(folder, tmp_path, plan(image_size=33))


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


def test_a_grouping_changes_the_name_of_a_run_but_patients_keep_that_of_earlier_releases(
    stacks: Path, tmp_path: Path
) -> None:
    of = study(stacks, tmp_path, plan(group_by="patient,volume,volume+slice", held_out=1))
    patient = of.plan.arms[0]
    assert len({of.file(arm, 0) for arm in of.plan.arms}) == 3
    values = {name: value for name, value in asdict(patient).items() if name != "group_by"}
    shared = (studies.FORMAT, of.data.fingerprint, of.held, repr(of.train), of.plan.train_seeds)
    earlier = artifacts.digest(*shared, of.plan.labels, values, of.encoded["pixels"].name, 0)
    assert of.file(patient, 0).stem == earlier


@pytest.mark.parametrize("division", [{"held_out": 1}, {"folds": 4, "seeds": "0-3"}], ids=str)
def test_both_volumes_of_a_patient_are_on_one_side_however_slices_are_grouped(
    stacks: Path, tmp_path: Path, division: dict[str, Any]
) -> None:
    of = study(stacks, tmp_path, plan(group_by="auto", **division))
    assert {arm.group_by for arm in of.plan.arms} == {"volume+slice"}
    for seed in of.plan.seeds:
        pool, held = (
            {scan.name[0] for scan in of.scans(rows)}
            for rows in (of.of(seed).pool, of.of(seed).held)
        )
        assert len(held) == 1
        assert pool | held == set("abcd")
        assert not pool & held


def test_a_recipe_of_volumes_groups_as_a_folder_of_volumes_does(
    stacks: Path, tmp_path: Path
) -> None:
    asked = recipe({"hearts": {"folder": stacks.name, "pool": 20}}, held_out=5)
    of = study_of(asked, stacks.parent, tmp_path, group_by="auto")
    assert [arm.group_by for arm in of.plan.arms] == ["volume+slice"]
    pool, held = ({scan.patient for scan in of.scans(rows)} for rows in (of.pool, of.held))
    assert not pool & held


def test_a_recipe_without_volumes_cannot_group_by_them(folder: Path, tmp_path: Path) -> None:
    asked = recipe({"lungs": {"folder": folder.name, "pool": 4}}, held_out=2)
    with pytest.raises(ConfigError, match="--group-by volume: no scan of pool is a slice"):
        study_of(asked, folder.parent, tmp_path, group_by="volume")
