from __future__ import annotations

import numpy as np
import pytest

from model.consensus import Mask, staple


def rows(*drawn: slice, height: int = 16) -> Mask:
    mask = np.zeros((len(drawn), height, 8), bool)
    for plane, of in zip(mask, drawn, strict=True):
        plane[of] = True
    return mask


def test_one_mask_and_equal_masks_come_back_as_they_are() -> None:
    mask = rows(slice(2, 9), slice(0, 0), slice(0, 16))
    np.testing.assert_array_equal(staple([mask]), mask)
    np.testing.assert_array_equal(staple([mask, mask, mask]), mask)


def test_a_careless_annotator_is_outvoted_by_two_who_agree() -> None:
    careful, careless = rows(slice(4, 12)), rows(slice(0, 3))
    np.testing.assert_array_equal(staple([careful, careless, careful]), careful)


def test_an_annotator_who_sees_nothing_does_not_erase_the_others() -> None:
    drawn, nothing = rows(slice(4, 12)), rows(slice(0, 0))
    np.testing.assert_array_equal(staple([drawn, nothing, drawn]), drawn)


def test_each_class_is_merged_for_itself() -> None:
    one, other = rows(slice(2, 8), slice(9, 12)), rows(slice(2, 8), slice(0, 0))
    merged = staple([one, other, one])
    np.testing.assert_array_equal(merged, one)


@pytest.mark.parametrize("masks", [[], [rows(slice(0, 2)), rows(slice(0, 2), height=9)]])
def test_masks_of_one_shape_are_needed(masks: list[Mask]) -> None:
    with pytest.raises(ValueError, match="one shape"):
        staple(masks)
