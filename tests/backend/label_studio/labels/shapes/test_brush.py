from __future__ import annotations

import tracemalloc
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backend.label_studio import labels
from tests.backend.label_studio.labels.samples import CONFIG, JSON, QUICK, block, region

with warnings.catch_warnings():
    # The SDK, here only as an oracle, warns of its own deprecated imports.
    warnings.simplefilter("ignore")
    from label_studio_sdk.converter.brush import decode_rle


MASKS = hnp.arrays(bool, st.tuples(st.just(2), st.integers(1, 20), st.integers(1, 20)))


def claiming(height: int, width: int, tokens: int) -> dict[str, Any]:
    """A brush region of few bytes on an image of any size: all of it background but the start."""
    values = height * width * 4
    fields = [(values, 32), (7, 5), (2, 4), (3, 4), (7, 4), (15, 4)]
    for token in range(-(-values // 65_536)):
        count = min(values - token * 65_536, 65_536)
        fields += [(1, 1), (3, 2), (count - 1, 16), (255 * (token < tokens), 8)]
    bits = "".join(f"{value:0{size}b}" for value, size in fields)
    padded = bits + "0" * (-len(bits) % 8)
    rle = [int(padded[i : i + 8], 2) for i in range(0, len(padded), 8)]
    value = {"format": "rle", "rle": rle, "brushlabels": ["Lung"]}
    return region(np.ones((2, 2), bool), original_width=width, original_height=height) | {
        "value": value
    }


@given(MASKS)
@QUICK
def test_label_studios_own_decoder_reads_the_same_mask(mask: np.ndarray[Any, Any]) -> None:
    for one in labels.regions(mask, CONFIG, scores=(0.5, 1)):
        rgba = decode_rle(one["value"]["rle"]).reshape(*mask.shape[1:], 4)
        row = CONFIG.labels.index(one["value"]["brushlabels"][0])
        np.testing.assert_array_equal(rgba[..., 3] > 127, mask[row])


@given(st.dictionaries(st.sampled_from(["format", "rle", "brushlabels"]), JSON, max_size=2))
@QUICK
def test_odd_values_raise_nothing_but_value_errors(change: dict[str, Any]) -> None:
    odd = region(np.ones((3, 4), dtype=bool))
    odd["value"] |= change
    with suppress(ValueError):
        assert labels.masks([odd], CONFIG, size=(3, 4)).shape == (2, 3, 4)


def test_a_mask_drawn_at_another_size_is_scaled_by_nearest_neighbour() -> None:
    mask = block(40, 60, slice(10, 30), slice(0, 20))
    found = labels.masks([region(mask)], CONFIG, size=(20, 30))[0]
    np.testing.assert_array_equal(found, block(20, 30, slice(5, 15), slice(0, 10)))


@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)),
    st.integers(1, 4),
)
@QUICK
def test_scaling_up_by_a_whole_number_repeats_every_pixel(
    mask: np.ndarray[Any, Any], times: int
) -> None:
    size = (mask.shape[0] * times, mask.shape[1] * times)
    found = labels.masks([region(mask)], CONFIG, size=size)[0]
    np.testing.assert_array_equal(found, mask.repeat(times, 0).repeat(times, 1))


@pytest.mark.seconds
def test_what_a_brush_claims_of_its_image_costs_nothing() -> None:
    regions = [claiming(8_000, 12_500, 1)] * 50  # 50 x 100 megapixels, in 50 x 21 kilobytes
    tracemalloc.start()
    found = labels.masks(regions, CONFIG, size=(64, 100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0].sum() == found[0, 0].sum() == 100  # the first row, which it touches
    assert peak < 20_000_000  # one of them, decoded, is 100 MB


def test_a_thin_line_stays_a_line_in_the_small_mask() -> None:
    mask = block(256, 256, slice(100, 101), slice(16, 240))
    [brush, _] = labels.masks([region(mask)], CONFIG, size=(32, 32))
    np.testing.assert_array_equal(brush, block(32, 32, slice(12, 13), slice(2, 30)))
