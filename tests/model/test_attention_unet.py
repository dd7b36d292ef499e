from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.attention_unet import (
    AttentionGate,
    AttentionUnet,
    DecoderBlock,
    attention_maps,
    decoder_channels,
)

SMALLEST = "tu-test_resnet"
few = settings(max_examples=20)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


@few
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))
def test_a_gate_dims_the_skip_and_keeps_its_shape(
    skip_channels: int, gating_channels: int, height: int, width: int
) -> None:
    gate = AttentionGate(skip_channels, gating_channels)
    skip, gating = (
        random(2, skip_channels, 2 * height, 2 * width),
        random(2, gating_channels, height, width),
    )

    gated, attention = gate(skip, gating), gate.attention(skip, gating)

    assert gated.shape == skip.shape
    assert attention.shape == (2, 1, 2 * height, 2 * width)
    assert torch.all((attention > 0) & (attention < 1))
    assert torch.all(gated.abs() <= skip.abs())


@pytest.mark.parametrize(("score", "share"), [(-1e9, 0.0), (0.0, 0.5), (1e9, 1.0)])
def test_the_score_decides_how_much_of_the_skip_passes(score: float, share: float) -> None:
    gate = AttentionGate(4, 6)
    nn.init.zeros_(gate.score.weight)
    nn.init.constant_(bias(gate.score), score)
    skip = random(1, 4, 8, 8)

    torch.testing.assert_close(gate(skip, random(1, 6, 4, 4)), skip * share)


def test_the_attention_follows_the_additive_formula_of_the_paper() -> None:
    gate = AttentionGate(2, 3)
    skip, gating = random(1, 2, 2, 2), random(1, 3, 1, 1)
    projected = torch.einsum("oihw,ihw->o", gate.skip.weight, skip[0])
    context = gate.gating.weight[:, :, 0, 0] @ gating[0, :, 0, 0] + bias(gate.gating)
    score = gate.score.weight[0, :, 0, 0] @ torch.relu(projected + context) + bias(gate.score)

    attention = gate.attention(skip, gating)

    torch.testing.assert_close(attention, torch.sigmoid(score).expand(1, 1, 2, 2))


def test_the_gating_signal_alone_can_close_a_gate() -> None:
    gate = AttentionGate(1, 1)
    for layer in (gate.skip, gate.score):
        nn.init.constant_(layer.weight, 1.0)
    nn.init.zeros_(gate.skip.weight)
    nn.init.constant_(gate.gating.weight, 1.0)
    nn.init.constant_(bias(gate.score), -20.0)
    nn.init.zeros_(bias(gate.gating))
    skip = torch.ones(1, 1, 2, 2)

    wanted, unwanted = (gate(skip, torch.full((1, 1, 1, 1), signal)) for signal in (40.0, -40.0))

    assert torch.all(wanted > 0.99)
    assert torch.all(unwanted < 0.01)


def test_a_closed_gate_keeps_the_skip_out_of_the_decoder() -> None:
    block = DecoderBlock(4, 3, 5).eval()
    assert block.gate is not None
    nn.init.constant_(bias(block.gate.score), -1e9)
    coarse = random(1, 4, 2, 2)

    first, second = (block(coarse, random(1, 3, 4, 4, seed=seed)) for seed in (1, 2))

    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("encoder_name", [SMALLEST, "resnet18", "tu-resnet10t"])
def test_every_skip_has_a_gate_that_learns(encoder_name: str, half: bool) -> None:
    network = AttentionUnet(encoder_name, in_channels=1, classes=1, half=half)
    network(random(2, 1, 64, 64)).square().mean().backward()

    gates = [module for module in network.modules() if isinstance(module, AttentionGate)]

    assert len(gates) == 4
    for gate in gates:
        assert gate.gating.weight.grad is not None
        assert gate.gating.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("in_channels", "classes", "height", "width"), [(1, 1, 32, 64), (3, 4, 96, 32)]
)
def test_logits_have_the_size_of_the_images(
    in_channels: int, classes: int, height: int, width: int
) -> None:
    network = AttentionUnet(SMALLEST, in_channels, classes).eval()
    nn.init.constant_(bias(network.head[0]), 9.0)

    logits = network(random(2, in_channels, height, width))

    assert logits.shape == (2, classes, height, width)
    assert logits.max() > 1  # no probabilities


def test_half_a_decoder_enlarges_logits_of_half_the_resolution() -> None:
    network = AttentionUnet(SMALLEST, 1, 2, half=True).eval()
    images = random(2, 1, 64, 96)
    coarse: list[torch.Tensor] = []
    network.head.register_forward_hook(lambda *call: coarse.append(call[-1]))

    logits = network(images)

    assert coarse[0].shape == (2, 2, 32, 48)
    enlarged = nn.functional.interpolate(coarse[0], scale_factor=2.0, mode="bilinear")
    torch.testing.assert_close(logits, enlarged)
    assert [map_.shape[-1] for map_ in attention_maps(network, images)] == [6, 12, 24, 48]


@pytest.mark.parametrize(("height", "width"), [(31, 32), (32, 33), (37, 53)])
def test_an_image_that_does_not_fit_the_stride_is_refused_with_the_remedy(
    height: int, width: int
) -> None:
    network = AttentionUnet(SMALLEST, 1, 1)

    with pytest.raises(ValueError, match=f"{height}x{width}.*multiples of 32; pad"):
        network(random(1, 1, height, width))


@pytest.mark.parametrize(
    ("encoder_name", "skips"), [("efficientnet-b0", 4), ("mit_b0", 3), ("tu-convnext_atto", 3)]
)
def test_encoders_of_other_families_fit_even_if_they_lack_the_finest_skip(
    encoder_name: str, skips: int
) -> None:
    network = AttentionUnet(encoder_name, 3, 2).eval()

    maps = attention_maps(network, random(1, 3, 64, 32))

    assert network(random(1, 3, 64, 32)).shape == (1, 2, 64, 32)
    assert [tuple(found.shape[2:]) for found in maps] == [(4, 2), (8, 4), (16, 8), (32, 16)][:skips]


# -- looking at the attention ---------------------------------------------------------------------


def test_attention_maps_go_from_coarse_to_fine_each_at_its_own_resolution() -> None:
    network = AttentionUnet(SMALLEST, 1, 1)

    maps = attention_maps(network, random(2, 1, 64, 96))

    assert [tuple(found.shape) for found in maps] == [
        (2, 1, 4, 6),
        (2, 1, 8, 12),
        (2, 1, 16, 24),
        (2, 1, 32, 48),
    ]
    assert all(torch.all((found > 0) & (found < 1)) for found in maps)


def test_attention_maps_are_what_the_gates_let_through_in_a_prediction() -> None:
    network, images = AttentionUnet(SMALLEST, 1, 1).eval(), random(1, 1, 64, 64)
    passed: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, AttentionGate):
            module.register_forward_hook(lambda _, given, gated: passed.append(gated / given[0]))
    with torch.inference_mode():
        network(images)

    maps = attention_maps(network.train(), images)

    known = [(share, found) for share, found in zip(passed[:4], maps, strict=True)]
    assert all(
        torch.allclose(s[~s.isnan()], f.expand_as(s)[~s.isnan()], atol=1e-4) for s, f in known
    )
    assert not network.training


def test_a_closed_gate_shows_as_a_dark_map() -> None:
    network = AttentionUnet(SMALLEST, 1, 1)
    gates = [module for module in network.modules() if isinstance(module, AttentionGate)]
    nn.init.constant_(bias(gates[1].score), -1e9)

    dark = [bool(torch.all(found == 0)) for found in attention_maps(network, random(1, 1, 32, 32))]

    assert dark == [False, True, False, False]


def test_attention_maps_of_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        attention_maps(AttentionUnet(SMALLEST, 1, 1), random(1, 1, 33, 32))


@pytest.mark.parametrize("name", ["resnet-none", "tu-no_such_model"])
def test_an_unknown_encoder_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}'"):
        AttentionUnet(name, 1, 1)


def test_an_encoder_of_one_resolution_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="'tu-vit_tiny_patch16_224' gives no features at halved"):
        AttentionUnet("tu-vit_tiny_patch16_224", 3, 1)


def test_the_decoder_grows_with_the_encoder() -> None:
    light, heavy = (
        decoder_channels([3, 16, 16, 32, 64, 96]),
        decoder_channels([3, 64, 256, 512, 1024, 2048]),
    )

    assert len(light) == len(heavy) == 5
    assert all(small <= large for small, large in zip(light, heavy, strict=True))
    assert heavy == sorted(heavy, reverse=True)
