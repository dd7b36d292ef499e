from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn
from torch.nn import functional as F

from model.attention_unet import AttentionUnet, attention_maps
from model.inference import (
    UNCERTAINTIES,
    Image,
    attention,
    boundary_entropy,
    entropy,
    fitting,
    letterbox,
    predict,
    prepare,
    restore,
)
from model.training import Fitted, TrainConfig

few = settings(max_examples=40)
sides = st.integers(1, 90)
chances = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    elements=st.floats(0, 1, width=32),
)


class Brightness(nn.Module):
    """Logits that are the prepared scan itself, so that predictions can be told by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return images[:, :1] * self.scale


@pytest.fixture
def fitted() -> Fitted:
    config = TrainConfig("none", 32, classes=1, steps=1, batch_size=2, learning_rate=1.0)
    return Fitted(Brightness(), config, history=(), validation=())


def scan(*shape: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("chance", "expected"), [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0), (0.25, 0.811278), (0.75, 0.811278)]
)
def test_entropy_of_known_probabilities(chance: float, expected: float) -> None:
    probabilities = np.full((2, 3, 4, 5), chance, dtype=np.float32)

    assert entropy(probabilities) == pytest.approx([expected, expected], abs=1e-5)


def test_entropy_is_the_mean_over_classes_and_pixels() -> None:
    probabilities = np.array([[[[0.5, 0.5]], [[0.0, 1.0]]]], dtype=np.float32)

    assert entropy(probabilities) == pytest.approx([0.5])


@few
@given(chances)
def test_entropy_is_bounded_and_blind_to_which_side_is_meant(probabilities: Image) -> None:
    values = entropy(probabilities)

    assert values.shape == probabilities.shape[:1]
    assert np.all((values >= 0) & (values <= 1))
    assert values == pytest.approx(entropy(1 - probabilities), abs=1e-5)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_entropy_of_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        entropy(np.full((1, 1, 1, 1), value, dtype=np.float32))


def edge(inside: float, near: float, far: float) -> Image:
    """A half plane of 40 columns, sure inside; `near` is the background beside it."""
    plane = np.full((1, 1, 40, 40), inside, np.float32)
    plane[..., 20:25] = near
    plane[..., 25:] = far
    return plane


def test_boundary_entropy_is_the_mean_within_the_band_of_the_predicted_outline() -> None:
    # Five columns inside, sure; five outside at 0.25: 0.811 bits. Nothing else is looked at.
    assert boundary_entropy(edge(1, 0.25, 0.5)) == pytest.approx([0.8113 / 2], abs=1e-3)
    assert boundary_entropy(edge(1, 0.25, 0.5), band=1) == pytest.approx([0.8113 / 2], abs=1e-3)


def test_boundary_entropy_tells_doubtful_outlines_apart_where_entropy_is_drowned() -> None:
    doubtful, sure = edge(1, 0.4, 0.0), edge(1, 0.0, 0.0)
    doubtful_far, sure_far = edge(1, 0.4, 0.1), edge(1, 0.0, 0.2)

    assert boundary_entropy(doubtful) > boundary_entropy(sure)
    assert boundary_entropy(doubtful_far) > boundary_entropy(sure_far)
    assert entropy(doubtful_far) > entropy(sure)


def test_a_class_without_an_outline_takes_all_pixels() -> None:
    nothing, everything = (np.full((1, 2, 6, 6), p, np.float32) for p in (0.25, 0.75))

    assert boundary_entropy(nothing) == pytest.approx(entropy(nothing))
    assert boundary_entropy(everything) == pytest.approx(entropy(everything))


def test_classes_count_alike_in_boundary_entropy() -> None:
    both = np.concatenate([edge(1, 0.25, 0.5), edge(1, 0.0, 0.0)], axis=1)

    assert boundary_entropy(both) == pytest.approx([0.8113 / 4], abs=1e-3)


@few
@given(chances, st.sampled_from(sorted(UNCERTAINTIES)))
def test_an_uncertainty_is_one_number_from_0_to_1_for_each_scan(
    probabilities: Image, name: str
) -> None:
    values = UNCERTAINTIES[name](probabilities)

    assert values.shape == probabilities.shape[:1]
    assert ((values >= 0) & (values <= 1)).all()


def test_a_band_below_a_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="band is 0: expected at least 1 pixel"):
        boundary_entropy(edge(1, 0, 0), band=0)


def test_entropy_without_the_axis_of_scans_is_refused() -> None:
    with pytest.raises(ValueError, match="single scan"):
        entropy(np.zeros((2, 4, 4), dtype=np.float32))


@few
@given(sides, sides, st.sampled_from([32, 64]))
def test_padding_is_undone_at_the_image_s_own_size(height: int, width: int, size: int) -> None:
    square = letterbox(torch.ones(2, height, width), size)
    rows, columns = fitting((height, width), size)

    assert square.shape == (2, size, size)
    assert max(rows, columns) == size
    assert torch.all(square[:, rows:] == 0)
    assert torch.all(square[:, :, columns:] == 0)
    torch.testing.assert_close(restore(square, (height, width)), torch.ones(2, height, width))


def test_an_image_as_large_as_the_network_comes_back_unchanged() -> None:
    planes = torch.from_numpy(scan(1, 32, 20))

    torch.testing.assert_close(restore(letterbox(planes, 32), (32, 20)), planes)


@few
@given(sides, sides, st.floats(0.1, 1.0), st.floats(0.0, 0.5))
def test_a_prepared_scan_does_not_depend_on_brightness_or_contrast(
    height: int, width: int, gain: float, offset: float
) -> None:
    image = scan(height + 1, width)

    prepared = prepare([image], 64)

    torch.testing.assert_close(
        prepare([(gain * image + offset).astype(np.float32)], 64), prepared, rtol=1e-3, atol=1e-3
    )


def test_grey_and_the_same_grey_as_colour_are_prepared_alike() -> None:
    grey = scan(20, 30)

    torch.testing.assert_close(prepare([np.stack([grey] * 3, axis=2)], 32), prepare([grey], 32))


def test_colours_are_kept() -> None:
    red, green, blue = prepare([scan(32, 32, 3)], 32)[0]

    assert not torch.equal(red, green)
    assert not torch.equal(green, blue)


def test_scans_prepared_together_are_prepared_as_each_alone() -> None:
    scans = [
        scan(20, 30),
        scan(20, 30, seed=1),
        scan(20, 30, 3),
        scan(30, 20),
        scan(20, 30, seed=2),
    ]

    alone = torch.cat([prepare([each], 32) for each in scans])

    torch.testing.assert_close(prepare(scans, 32), alone)


def test_a_scan_is_padded_with_its_own_black() -> None:
    prepared = prepare([scan(16, 32)], 32)[0]

    assert torch.all(prepared[:, 16:] == prepared[:, :16].min())


def test_a_blank_scan_is_prepared_as_zeros() -> None:
    assert torch.all(prepare([np.full((9, 9), 0.25, dtype=np.float32)], 32) == 0)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 1), (4, 4, 4), (0, 4), (1, 4, 4, 3)])
def test_an_image_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        prepare([np.zeros(shape, dtype=np.float32)], 32)


def test_an_image_with_missing_values_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        prepare([np.full((4, 4), np.nan, dtype=np.float32)], 32)


def test_every_scan_is_predicted_at_its_own_size_and_in_order(fitted: Fitted) -> None:
    images = [scan(37, 53), scan(8, 200), scan(64, 64, 3), scan(1, 1), scan(300, 20)]

    found = list(predict(fitted, images, batch_size=2))

    assert [chance.shape for chance in found] == [
        (1, 37, 53),
        (1, 8, 200),
        (1, 64, 64),
        (1, 1, 1),
        (1, 300, 20),
    ]
    assert all(chance.dtype == np.float32 for chance in found)
    assert all(np.all((chance >= 0) & (chance <= 1)) for chance in found)


def test_a_prediction_lies_where_the_scan_is_bright(fitted: Fitted) -> None:
    image = np.zeros((60, 90), dtype=np.float32)
    image[15:45, 60:90] = 1.0

    (found,) = predict(fitted, [image])

    assert np.mean((found[0] > 0.5) == (image > 0.5)) > 0.95


def test_the_size_of_the_batch_changes_nothing(fitted: Fitted) -> None:
    images = [scan(20, 30, seed=seed) for seed in range(5)]

    one, many = (list(predict(fitted, images, batch_size=size)) for size in (1, 8))

    np.testing.assert_allclose(one, many, rtol=1e-5)


def test_scans_are_taken_from_the_pool_one_batch_at_a_time(fitted: Fitted) -> None:
    taken = []

    def pool() -> Iterator[Image]:
        for row in range(100):
            taken.append(row)
            yield scan(16, 16)

    next(predict(fitted, pool(), batch_size=3))

    assert taken == [0, 1, 2]


def test_an_empty_pool_has_no_predictions(fitted: Fitted) -> None:
    assert list(predict(fitted, [])) == []


def test_a_batch_without_scans_is_refused(fitted: Fitted) -> None:
    with pytest.raises(ValueError, match="batch_size 0"):
        list(predict(fitted, [scan(4, 4)], batch_size=0))


def test_padding_never_counts_in_the_entropy(fitted: Fitted) -> None:
    class SureOfTheUpperHalf(Brightness):
        def forward(self, images: Tensor) -> Tensor:
            logits = torch.zeros_like(images[:, :1])
            logits[:, :, :16] = 50.0
            return logits * self.scale

    image = scan(16, 32)
    fitted = replace(fitted, network=SureOfTheUpperHalf())

    (found,) = predict(fitted, [image])

    assert entropy(found[None])[0] == pytest.approx(0.0, abs=1e-6)


def test_attention_comes_at_the_scans_own_size_one_map_for_each_gate() -> None:
    network = AttentionUnet("tu-test_resnet", 3, 1)
    maps = attention(network, scan(50, 81), 64)
    assert maps.shape == (4, 50, 81)
    assert np.all((maps >= 0) & (maps <= 1))


def test_attention_to_the_padding_is_left_out() -> None:
    network, tall = AttentionUnet("tu-test_resnet", 3, 1), scan(128, 64)
    whole = attention_maps(network, prepare([tall], 128))[-1]  # of the padded square
    seen = F.interpolate(whole, size=(128, 128), mode="bilinear", align_corners=False)
    assert np.allclose(attention(network, tall, 128)[-1], seen[0, 0, :, :64], atol=1e-6)
