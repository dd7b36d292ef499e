from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.evaluation import Masks
from model.fitted import Fitted
from model.inference import predict
from model.polarity import LEAST, aligned, layout, lies_at_one_place, overlap, usual
from model.preprocessing import Image
from model.training import fit
from tests.model.scans import CONFIG, disc, noise


def negative(image: Image) -> Image:
    return 1 - image


def scans(number: int) -> tuple[list[Image], list[Masks]]:
    images, masks = zip(*(disc(48, 40, seed) for seed in range(number)), strict=True)
    return list(images), list(masks)


def test_a_scan_that_looks_like_a_negative_is_inverted_and_the_others_stay() -> None:
    images, _ = scans(8)
    reference = usual(images[:6])
    colour = np.repeat(images[7][..., None], 3, axis=2)

    found = aligned([images[6], negative(images[6]), colour, negative(colour)], reference)

    assert found[0] is images[6]
    assert found[2] is colour
    for image, before in ((found[1], images[6]), (found[3], colour)):
        assert image.dtype == np.float32
        np.testing.assert_allclose(image - image.min(), before - before.min(), atol=1e-6)


def test_without_a_reference_and_where_nothing_is_to_be_seen_no_scan_changes() -> None:
    images, _ = scans(LEAST)
    reference = usual(images)
    odd = [np.full((9, 9), 0.5, np.float32), np.zeros((0, 4), np.float32), noise(1, 1)]
    odd.append(np.full((4, 4), np.nan, np.float32))

    assert all(a is b for a, b in zip(aligned(odd, reference), odd, strict=True))
    assert all(a is b for a, b in zip(aligned(images, ()), images, strict=True)), (
        "what is drawn lies at no fixed place"
    )


@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 99))
def test_a_layout_ignores_brightness_and_contrast_and_a_negative_has_the_opposite_one(
    height: int, width: int, seed: int
) -> None:
    image = noise(height, width, seed=seed)

    np.testing.assert_allclose(layout(0.3 * image + 0.1), layout(image), atol=2e-3)
    np.testing.assert_allclose(layout(negative(image)), -layout(image), atol=2e-3)


def test_a_network_draws_on_the_negative_of_a_scan_what_it_draws_on_the_scan() -> None:
    images, masks = scans(LEAST)

    trained = fit(images, masks, CONFIG)
    as_before, inverted = predict(trained, [images[0], negative(images[0])])

    np.testing.assert_allclose(inverted, as_before, atol=1e-4)


def test_scans_of_one_group_count_once() -> None:
    images, masks = scans(LEAST + 1)
    groups = [0, 0, *range(1, LEAST)]
    layouts = np.array([layout(image) for image in images])
    expected = np.mean([layouts[:2].mean(axis=0), *layouts[2:]], axis=0)

    np.testing.assert_allclose(np.array(usual(images, groups)), expected, atol=1e-6)
    assert usual(images[1:], [0, 0, 0, 1, 2]) == ()
    assert len(fit(images, masks, CONFIG, groups=groups).reference) == 256
    assert fit(images, masks, CONFIG, groups=[0, 0, 0, 1, 1, 1]).reference == ()


def test_pages_are_never_inverted_because_each_is_predicted_alone() -> None:
    images, masks = scans(2 * LEAST)
    slabs = [row // 2 for row in range(2 * LEAST)]

    assert fit(images, masks, CONFIG, groups=slabs).reference
    assert fit(images, masks, CONFIG, groups=slabs, scans=slabs).reference == ()


def test_training_sees_one_polarity() -> None:
    images, masks = scans(12)
    mixed = [negative(images[0]), *images[1:]]

    one, other = fit(images, masks, CONFIG), fit(mixed, masks, CONFIG)

    np.testing.assert_allclose(one.history, other.history, rtol=1e-4)


def test_a_file_keeps_what_tells_the_polarity_and_files_of_earlier_releases_lack_it() -> None:
    trained = fit(*scans(LEAST), CONFIG)
    weights, story = trained.parts()

    assert len(trained.reference) == 256
    assert fit(*scans(LEAST - 1), CONFIG).reference == (), "too few to compare with"
    assert Fitted.of(weights, story, "file").reference == trained.reference
    del story["reference"]
    assert Fitted.of(weights, story, "file").reference == ()


def at(row: int, column: int) -> Masks:
    """A square of 20 pixels in a scan of 100."""
    mask = np.zeros((1, 100, 100), bool)
    mask[0, row : row + 20, column : column + 20] = True
    return mask


def test_masks_tell_whether_what_is_drawn_lies_at_one_place() -> None:
    alike, apart = (
        overlap([at(40, 40), at(42, 40), at(40, 43)]),
        overlap([at(0, 0), at(40, 70), at(70, 10)]),
    )
    assert lies_at_one_place(alike)
    assert not lies_at_one_place(apart)


def test_masks_of_one_group_say_nothing_of_the_place() -> None:
    pages, groups = [at(0, 0)] * 3 + [at(40, 70)] * 3, [7, 7, 7, 2, 2, 2]
    assert overlap(pages) == pytest.approx(0.4)
    assert overlap(pages, groups) == pytest.approx(0.0, abs=1e-6)
    assert np.isnan(overlap(pages[:3], groups[:3])), "two groups at least"


def test_every_group_counts_the_same_in_the_overlap() -> None:
    once = [at(0, 0), at(0, 0), at(50, 50)]
    often = [at(0, 0)] * 5 + once[1:]
    assert overlap(often, [0] * 5 + [1, 2]) == pytest.approx(overlap(once))


@pytest.mark.parametrize("masks", [[at(0, 0)], [np.zeros((1, 9, 9), bool)] * 2])
def test_an_unknown_place_is_not_one_place(masks: list[Masks]) -> None:
    assert not lies_at_one_place(overlap(masks))


def test_masks_overlap_from_not_at_all_to_fully_whatever_else_is_empty() -> None:
    empty = np.zeros((1, 100, 100), bool)
    assert overlap([at(0, 0), at(50, 50), empty]) == pytest.approx(0.0, abs=1e-6)
    assert overlap([at(0, 0), at(0, 0), empty]) == pytest.approx(1.0)
    assert overlap([at(10, 10), at(20, 10)]) == pytest.approx(0.5, abs=0.05)
    both = [np.concatenate([at(0, 0), at(row, row)]) for row in (0, 50)]
    assert overlap(both) == pytest.approx(0.5), "the mean over classes"


@given(places=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 2999)), min_size=2, max_size=6))
def test_the_overlap_of_single_pixels_in_a_long_scan_is_a_share(
    places: list[tuple[int, int]],
) -> None:
    masks = [np.zeros((1, 20, 3000), bool) for _ in places]
    for mask, place in zip(masks, places, strict=True):
        mask[(0, *place)] = True
    assert -1e-6 <= overlap(masks) <= 1 + 1e-6
    groups = [place[1] % 2 for place in places]
    assert np.isnan(found := overlap(masks, groups)) or -1e-6 <= found <= 1 + 1e-6
