from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.validation import TRAINING, UNKNOWN, VALIDATION, Ints, group, refuses, split

NAMES = st.sampled_from(["", *"abcd"])


@given(st.lists(st.tuples(NAMES, NAMES), max_size=8))
def test_groups_are_the_scans_that_keys_and_pixels_join(scans: list[tuple[str, str]]) -> None:
    found = group([key for key, _ in scans], [pixels for _, pixels in scans]).tolist()
    naive = list(range(len(scans)))
    for _ in scans:  # each pass carries the lowest number one step further
        for i, one in enumerate(scans):
            for j, other in enumerate(scans):
                if any(a and a == b for a, b in zip(one, other, strict=True)):
                    naive[i] = naive[j] = min(naive[i], naive[j])
    assert [found[i] == found[j] for i in range(len(scans)) for j in range(len(scans))] == [
        a == b for a in naive for b in naive
    ]


def test_scans_that_share_a_patient_or_their_pixels_are_one_group() -> None:
    found = group(["anna", "anna", "bert", "", ""], ["a", "b", "b", "c", ""])
    assert found[0] == found[1] == found[2]
    assert len({found[0], found[3], found[4]}) == 3


def test_scans_that_say_nothing_of_themselves_stay_alone() -> None:
    assert len(set(group(["", "", ""], ["", "", ""]).tolist())) == 3
    assert group([], []).shape == (0,)


def fresh(n: int) -> tuple[Ints, Ints, Ints, npt.NDArray[np.bool_]]:
    return np.arange(n), np.full(n, UNKNOWN), np.zeros(n, np.int64), np.zeros(n, bool)


def test_nothing_is_held_out_below_twenty_labelled_groups() -> None:
    assert (split(*fresh(19)) == TRAINING).all()


def test_a_fifth_is_held_out_when_all_labels_arrive_at_once() -> None:
    assert (split(*fresh(40)) == VALIDATION).sum() == 8


def test_a_scan_that_has_trained_does_not_become_validation() -> None:
    groups, sides, clusters, always = fresh(40)
    sides[:19] = TRAINING
    assert (split(groups, sides, clusters, always)[:19] == TRAINING).all()


def test_the_least_represented_cluster_joins_validation_first() -> None:
    groups, sides, _, always = fresh(20)
    clusters = np.array([0] * 10 + [1] * 5 + [2] * 5)
    found = split(groups, sides, clusters, always)
    assert set(clusters[found == VALIDATION]) == {0, 1, 2}


def test_a_group_on_both_sides_goes_wholly_to_validation() -> None:
    groups = np.array([0, 0, 1])
    sides = np.array([TRAINING, VALIDATION, TRAINING])
    found = split(groups, sides, np.zeros(3, np.int64), np.zeros(3, bool))
    assert found.tolist() == [VALIDATION, VALIDATION, TRAINING]


def test_ground_truth_is_always_validation() -> None:
    groups, sides, clusters, always = fresh(3)
    always[1] = True
    assert split(groups, sides, clusters, always).tolist() == [TRAINING, VALIDATION, TRAINING]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(0, 2**31))
def test_no_group_is_ever_split_and_membership_only_grows(keys: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.array(keys)
    clusters = rng.integers(0, 4, len(keys))
    none = np.zeros(len(keys), bool)
    half = max(1, len(keys) // 2)
    early = split(groups[:half], np.full(half, UNKNOWN), clusters[:half], none[:half])
    sides = np.full(len(keys), UNKNOWN)
    sides[:half] = early
    late = split(groups, sides, clusters, none)
    assert all(len(set(late[groups == g])) == 1 for g in set(keys))
    assert (late[:half][early == VALIDATION] == VALIDATION).all()


@pytest.mark.parametrize(
    ("new", "refused"),
    [
        ([0.9, 0.9, 0.9], False),
        ([0.5, 0.6, 0.7], True),
        ([0.95, 0.2, 0.95], False),
        ([0.8] * 3, True),
    ],
)
def test_a_model_is_refused_only_when_it_is_worse_beyond_doubt(
    new: list[float], refused: bool
) -> None:
    assert refuses(np.array([0.9, 0.91, 0.9]), np.array(new)) is refused


def test_one_scan_refuses_nothing() -> None:
    assert not refuses(np.array([0.9]), np.array([0.1]))
