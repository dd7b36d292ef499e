from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from model import phantoms
from model.phantoms import Phantom


@pytest.fixture(scope="module")
def pool() -> list[Phantom]:
    return phantoms.generate(150, size=96)


def dice(pred: Any, true: Any) -> float:
    return float(2 * (pred & true).sum() / (pred.sum() + true.sum()))


def test_images_are_float32_in_the_unit_range_and_masks_are_bool() -> None:
    phantom = phantoms.generate(1, size=(64, 80), classes=2)[0]
    assert phantom.image.shape == (64, 80)
    assert phantom.image.dtype == np.float32
    assert 0 <= phantom.image.min() < phantom.image.max() <= 1
    assert phantom.mask.shape == (2, 64, 80)
    assert phantom.mask.dtype == np.bool_


def test_every_scan_has_two_separate_lungs_of_a_sensible_size() -> None:
    for phantom in phantoms.generate(60, size=96, classes=2):
        assert not phantom.mask.all(axis=0).any()
        assert ndimage.label(phantom.mask.any(axis=0), np.ones((3, 3)))[1] == 2
        assert (phantom.mask.mean(axis=(1, 2)) > 0.01).all()
        assert 0.05 < phantom.mask.any(axis=0).mean() < 0.4


def test_one_class_is_the_union_of_two_over_the_same_images() -> None:
    for one, two in zip(phantoms.generate(5), phantoms.generate(5, classes=2), strict=True):
        assert np.array_equal(one.image, two.image)
        assert np.array_equal(one.mask[0], two.mask.any(axis=0))


def test_the_mask_is_where_the_picture_shows_air_not_shifted_or_scaled() -> None:
    for phantom in phantoms.generate(60, size=128):
        if phantom.mode == phantoms.STANDARD:
            lung = phantom.mask[0]
            ring = ndimage.binary_dilation(lung, iterations=5) & ~ndimage.binary_dilation(
                lung, iterations=1
            )
            rim = lung & ~ndimage.binary_erosion(lung, iterations=5)
            assert phantom.image[ring].mean() > phantom.image[rim].mean() + 0.1


def test_a_scan_does_not_depend_on_how_many_are_asked_for() -> None:
    short, long = phantoms.generate(3, seed=7), phantoms.generate(6, seed=7)
    for a, b in zip(short, long, strict=False):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.mask, b.mask)
        assert a.mode == b.mode


def test_seeds_give_different_series_and_a_series_has_no_twins() -> None:
    first, other = phantoms.generate(20, size=32), phantoms.generate(20, size=32, seed=1)
    assert len({phantom.image.tobytes() for phantom in first + other}) == 40


def test_modes_come_in_unequal_shares_and_all_of_them_come(pool: list[Phantom]) -> None:
    counts = np.bincount([phantom.mode for phantom in pool], minlength=5)
    assert (counts >= 5).all()
    assert counts.max() > 3 * counts.min()


def test_modes_can_be_told_apart_from_small_pictures(pool: list[Phantom]) -> None:
    modes = np.array([phantom.mode for phantom in pool])
    grain = [np.std(phantom.image - ndimage.uniform_filter(phantom.image, 3)) for phantom in pool]
    small = [ndimage.zoom(phantom.image, 1 / 6, order=1).ravel() for phantom in pool]
    features = np.column_stack([np.array(small), 40 * np.array(grain)])
    accuracy = cross_val_score(KNeighborsClassifier(3), features, modes, cv=4).mean()
    majority = np.bincount(modes).max() / modes.size
    assert accuracy > majority + 0.3


def test_no_threshold_of_grey_values_finds_the_lungs(pool: list[Phantom]) -> None:
    levels = np.linspace(0, 1, 41)
    best = []
    for phantom in pool[:40]:
        below = [phantom.image < level for level in levels]
        above = [phantom.image >= level for level in levels]
        best.append(max(dice(found, phantom.mask[0]) for found in below + above))
    assert np.mean(best) < 0.75
    assert max(best) < 0.9


@pytest.mark.parametrize("wrong", [{"count": -1}, {"size": 31}, {"size": (64, 8)}, {"classes": 3}])
def test_arguments_out_of_bounds_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be at least 0, both sides at least 32"):
        phantoms.generate(**{"count": 1, **wrong})


def test_none_asked_for_is_none_given() -> None:
    assert phantoms.generate(0) == []
