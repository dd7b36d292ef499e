from __future__ import annotations

from dataclasses import asdict

import pytest

from backend.commands import importing
from backend.errors import ConfigError
from backend.experiments import plans
from backend.experiments.scans import Dataset, Scan, ScanReader, VolumeSlice
from tests.backend.experiments.samples import plan


def test_lists_of_numbers_may_have_ranges() -> None:
    assert plans.numbers("0-2, 5,1") == (0, 1, 2, 5)


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1,,2"])
def test_what_is_no_list_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"Write a list such as 0,1,2 or 0-9\."):
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
        ("group_by", "scanner", r"--group-by 'scanner': expected one of .*volume\+slice"),
    ],
)
def test_what_production_does_not_know_is_refused_with_what_it_knows(
    name: str, value: str, known: str
) -> None:
    with pytest.raises(ConfigError, match=known):
        plan(**{name: value})


def test_single_arms_join_the_grid_once_as_changes_of_its_first_arm() -> None:
    further = ("cold-start=tempered, encoder=pixels+statistics", "cold-start=random")
    arms = plan(cold_start="random", projection="tsne", arm=further).arms
    assert [(arm.cold_start, arm.encoder, arm.projection) for arm in arms] == [
        ("random", "pixels", "tsne"),
        ("tempered", "pixels+statistics", "tsne"),
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kmeans", "'kmeans' is no option with a value"),
        ("seeds=3", "'seeds=3' is no option with a value"),
        ("cold-start=best", "--cold-start 'best'"),
    ],
)
def test_a_single_arm_that_names_nothing_known_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        plan(arm=(text,))


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


def test_chance_draws_anew_for_every_grouping() -> None:
    groupings = {"group_by": "patient,volume", "encoder": "pixels,auto"}
    names = plan(**groupings, cold_start="random", labels="5").names()
    assert list(names.values()) == ["random, patient", "random, volume"]


def dataset(place: VolumeSlice | None) -> Dataset:
    def read() -> Scan:
        raise AssertionError("a plan needs no pixels")

    return Dataset("hearts", ("heart",), (ScanReader("a", read, place),), {})


SLICES, SINGLE = dataset(VolumeSlice("a", 0, (5.0, 1.0, 1.0))), dataset(None)


def test_by_default_slices_are_grouped_as_import_groups_them() -> None:
    asked = plan(group_by="auto")
    assert [arm.group_by for arm in asked.resolved(SLICES).arms] == ["volume+slice"]
    assert [arm.group_by for arm in asked.resolved(SINGLE).arms] == ["patient"]
    assert "+".join(importing.GROUPED.values()) == "volume+slice"


def test_a_grouping_that_is_asked_for_twice_is_compared_once() -> None:
    both = plan(group_by="auto,volume+slice", cold_start="medoids,random", labels="5")
    names = both.resolved(SLICES).names()
    assert list(names.values()) == ["medoids", "random"]


def test_groups_of_volumes_need_volumes() -> None:
    asked = plan(group_by="patient,volume+slice")
    assert asked.resolved(SLICES) == asked
    with pytest.raises(
        ConfigError, match=r"--group-by volume\+slice: no scan of hearts is a slice"
    ):
        asked.resolved(SINGLE)


def test_a_baseline_that_the_data_leave_no_arm_is_said() -> None:
    with pytest.raises(ConfigError, match="--baseline auto is no arm"):
        plan(group_by="auto,volume", baseline="auto").resolved(SLICES)


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


def test_every_fold_has_to_be_held_out_equally_often() -> None:
    with pytest.raises(ConfigError, match="Give a multiple of 3 seeds and random draws"):
        plan(labels="2", seeds="0-3", folds=3)
    with pytest.raises(ConfigError, match="equally often"):
        plan(labels="2", cold_start="random", seeds="0-2", random_draws=4, folds=3)
