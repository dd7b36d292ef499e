from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.evaluation import Masks
from model.fitted import Fitted
from model.inference import predict
from model.polarity import LEAST, aligned, layout, usual
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
