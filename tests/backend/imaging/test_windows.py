from __future__ import annotations

import numpy as np
import pytest

from backend.errors import ConfigError
from backend.imaging.windows import Window, check, sample, tissue_threshold, window_of
from tests.backend.imaging.volume_files import volume_of

VOLUME = volume_of(np.arange(1000, dtype=np.float32).reshape(10, 10, 10))


@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [("lung", -1350, 150), ("brain", 0, 80), ("40/400", -160, 240), ("-600/1500", -1350, 150)],
)
def test_a_window_is_a_level_and_a_width(asked: str, low: float, high: float) -> None:
    check(asked)
    assert window_of(asked, VOLUME) == Window(low, high)


def test_percentiles_leave_out_the_darkest_and_brightest_voxels() -> None:
    window = window_of("percentile", VOLUME)
    assert (round(window.low), round(window.high)) == (5, 994)


@pytest.mark.parametrize("asked", ["liver", "40", "40/0", "40/-1", "nan/10", "1/2/3", ""])
def test_another_window_is_refused(asked: str) -> None:
    with pytest.raises(ConfigError, match="expected lung, bone, soft-tissue, brain, percentile or"):
        check(asked)


def test_the_ends_of_a_window_become_black_and_white() -> None:
    values = np.array([-1.0, 0.0, 5.0, 10.0, 11.0, np.nan, np.inf])
    window = Window(0, 10)
    assert window.grey(values).tolist() == [0, 0, 128, 255, 255, 0, 255]
    assert window.grey(values, inverted=True)[:5].tolist() == [255, 255, 128, 0, 0]


def test_bytes_in_a_window_of_bytes_stay_what_they_are() -> None:
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(Window(0, 255).grey(values), values)


def test_equal_values_give_a_black_picture() -> None:
    assert not Window(3, 3).grey(np.full(4, 3.0)).any()


def test_dark_and_bright_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    grid = rng.normal(100, 10, (20, 20, 4))
    grid[5:15, 5:15] = rng.normal(900, 50, (10, 10, 4))
    assert 150 < tissue_threshold(volume_of(grid)) < 750


def test_values_that_are_no_numbers_do_not_count() -> None:
    grid = np.full((4, 4, 2), np.nan)
    assert sample(volume_of(grid)).tolist() == [0.0]
    assert window_of("percentile", volume_of(grid)) == Window(0, 0)
