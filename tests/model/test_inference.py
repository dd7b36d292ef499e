from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.attention_unet import AttentionUnet, attention_maps
from model.fitted import Fitted, TrainConfig
from model.inference import attention, entropy, predict
from model.polarity import layout
from model.preprocessing import Image, prepare
from tests.model.scans import CONFIG, disc, noise


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


def test_every_scan_is_predicted_at_its_own_size_and_in_order(fitted: Fitted) -> None:
    images = [noise(37, 53), noise(8, 200), noise(64, 64, 3), noise(1, 1), noise(300, 20)]

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


def test_a_batch_that_does_not_fit_into_memory_is_divided(
    fitted: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, most = [noise(20, 30, seed=seed) for seed in range(7)], 2
    whole, forward = list(predict(fitted, images, batch_size=7)), Brightness.forward

    def cramped(self: Brightness, scans: Tensor) -> Tensor:
        if len(scans) > most:
            raise torch.OutOfMemoryError("no room")
        return forward(self, scans)

    monkeypatch.setattr(Brightness, "forward", cramped)
    np.testing.assert_array_equal(list(predict(fitted, images, batch_size=7)), whole)
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        list(predict(fitted, images, batch_size=7))


def test_a_prediction_lies_where_the_scan_is_bright(fitted: Fitted) -> None:
    image = np.zeros((60, 90), dtype=np.float32)
    image[15:45, 60:90] = 1.0

    (found,) = predict(fitted, [image])

    assert np.mean((found[0] > 0.5) == (image > 0.5)) > 0.95


def test_the_size_of_the_batch_changes_nothing(fitted: Fitted) -> None:
    images = [noise(20, 30, seed=seed) for seed in range(5)]

    one, many = (list(predict(fitted, images, batch_size=size)) for size in (1, 8))

    np.testing.assert_allclose(one, many, rtol=1e-5)


def test_scans_are_taken_from_the_pool_one_batch_at_a_time(fitted: Fitted) -> None:
    taken = []

    def pool() -> Iterator[Image]:
        for row in range(100):
            taken.append(row)
            yield noise(16, 16)

    next(predict(fitted, pool(), batch_size=3))

    assert taken == [0, 1, 2]


def test_an_empty_pool_has_no_predictions(fitted: Fitted) -> None:
    assert list(predict(fitted, [])) == []


def test_a_batch_without_scans_is_refused(fitted: Fitted) -> None:
    with pytest.raises(ValueError, match="batch_size 0"):
        list(predict(fitted, [noise(4, 4)], batch_size=0))


def test_padding_never_counts_in_the_entropy(fitted: Fitted) -> None:
    class SureOfTheUpperHalf(Brightness):
        def forward(self, images: Tensor) -> Tensor:
            logits = torch.zeros_like(images[:, :1])
            logits[:, :, :16] = 50.0
            return logits * self.scale

    image = noise(16, 32)
    fitted = replace(fitted, network=SureOfTheUpperHalf())

    (found,) = predict(fitted, [image])

    assert entropy(found[None])[0] == pytest.approx(0.0, abs=1e-6)


def gated(size: int, reference: tuple[float, ...] = ()) -> Fitted:
    """An attention U-Net that learnt nothing."""
    config = replace(CONFIG, image_size=size)
    return Fitted(AttentionUnet("tu-test_resnet", 3, 1), config, (), (), reference)


def test_attention_comes_at_the_scans_own_size_one_map_for_each_gate() -> None:
    maps = attention(gated(64), noise(50, 81))
    assert maps.shape == (4, 50, 81)
    assert np.all((maps >= 0) & (maps <= 1))


def test_attention_to_the_padding_is_left_out() -> None:
    fitted, tall = gated(128), noise(128, 64)
    network = cast(AttentionUnet, fitted.network)
    whole = attention_maps(network, prepare([tall], 128))[-1]  # of the padded square
    seen = F.interpolate(whole, size=(128, 128), mode="bilinear", align_corners=False)
    assert np.allclose(attention(fitted, tall)[-1], seen[0, 0, :, :64], atol=1e-6)


def test_attention_to_a_negative_is_that_to_the_scan() -> None:
    image = disc(48, 40, 0)[0]
    fitted = gated(64, tuple(layout(image).tolist()))

    np.testing.assert_allclose(attention(fitted, 1 - image), attention(fitted, image), atol=1e-4)
