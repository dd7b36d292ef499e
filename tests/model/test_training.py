from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import resnet50

from model.attention_unet import AttentionUnet
from model.evaluation import Masks, dice
from model.fitted import Fitted, Untrainable
from model.inference import predict
from model.preprocessing import Image
from model.recipes import default_config
from model.training import (
    PATIENCE,
    Progress,
    _balanced,
    fit,
    segmentation_loss,
)
from tests.model.scans import CONFIG, disc, discs, same


def mean_dice(fitted: Fitted, images: list[Image], masks: list[Masks]) -> float:
    found = predict(fitted, images)
    return float(np.mean([dice(p > 0.5, m) for p, m in zip(found, masks, strict=True)]))


def test_four_scans_are_learnt_which_an_untrained_network_cannot_segment() -> None:
    images, masks = discs(4)
    config = replace(CONFIG, steps=50)

    trained = fit(images, masks, config)
    untrained = fit(images, masks, config, stop=lambda: True)

    assert mean_dice(untrained, images, masks) < 0.6
    assert mean_dice(trained, images, masks) > 0.95
    assert np.mean(trained.history[-10:]) < 0.5 * np.mean(trained.history[:10])


@pytest.mark.slow
def test_several_classes_are_learnt_and_one_that_never_occurs_stays_empty() -> None:
    images, masks = discs(4)
    for image, mask in zip(images, masks, strict=True):
        image[binary_erosion(mask[0], iterations=4)] = 1.0
    several = [
        np.stack([mask[0], image == 1.0, np.zeros_like(mask[0])])
        for image, mask in zip(images, masks, strict=True)
    ]

    trained = fit(images, several, replace(CONFIG, classes=3, steps=50))

    scores = [dice(p > 0.5, m) for p, m in zip(predict(trained, images), several, strict=True)]
    disc_dice, core_dice, absent_dice = np.mean(scores, axis=0)
    assert disc_dice > 0.9
    assert core_dice > 0.75
    assert absent_dice == 1.0


def test_the_same_seed_gives_the_same_network_and_another_seed_another() -> None:
    images, masks = discs(3)

    first, again, other = (fit(images, masks, replace(CONFIG, seed=seed)) for seed in (3, 3, 4))

    assert same(first, again)
    assert first.history == again.history
    assert not same(first, other)


def test_training_leaves_the_caller_s_random_state_alone() -> None:
    before = torch.random.get_rng_state()

    fit(*discs(2), CONFIG)

    assert torch.equal(torch.random.get_rng_state(), before)


def test_training_leaves_the_scans_as_they_were() -> None:
    images, masks = discs(2)
    copies = [image.copy() for image in images], [mask.copy() for mask in masks]

    fit(images, masks, CONFIG)

    np.testing.assert_array_equal(images, copies[0])
    np.testing.assert_array_equal(masks, copies[1])


def test_scans_of_any_size_in_grey_and_colour_are_trained_together() -> None:
    grey, colour = disc(37, 53, seed=0), disc(64, 20, seed=1)
    images = [grey[0], np.stack([colour[0]] * 3, axis=2)]

    fitted = fit(images, [grey[1], colour[1]], CONFIG)

    assert [found.shape for found in predict(fitted, images)] == [(1, 37, 53), (1, 64, 20)]


def test_scans_and_masks_may_be_read_only_or_mirrored_views() -> None:
    image, mask = disc(20, 30, seed=0)
    image.flags.writeable = mask.flags.writeable = False

    fitted = fit([image, image[:, ::-1]], [mask, mask[:, :, ::-1]], CONFIG)

    assert len(list(predict(fitted, [image, image[::-1]]))) == 2


def test_one_scan_is_enough_to_train() -> None:
    assert len(fit(*discs(1), CONFIG).history) == CONFIG.steps


def test_stop_is_asked_before_every_batch_and_ends_the_training() -> None:
    answers = iter([False, False, True])
    told: list[Progress] = []

    fitted = fit(
        *discs(2), replace(CONFIG, steps=50), stop=lambda: next(answers), on_batch=told.append
    )

    assert next(answers, None) is None
    assert [progress.step for progress in told] == [1, 2]
    assert fitted.history == tuple(progress.loss for progress in told)
    assert {progress.steps for progress in told} == {50}


@pytest.mark.slow
def test_a_training_that_is_cut_short_already_segments() -> None:
    images, masks = discs(4)
    asked = iter(range(30))

    fitted = fit(images, masks, replace(CONFIG, steps=60), stop=lambda: next(asked, None) is None)

    assert len(fitted.history) == 30
    assert mean_dice(fitted, images, masks) > 0.85


def test_held_out_scans_are_measured_and_do_not_touch_the_course_of_training() -> None:
    images, masks = discs(4, height=30, width=41)

    alone = fit(images[:2], masks[:2], CONFIG)
    watched = fit(images[:2], masks[:2], CONFIG, validation=(images[2:], masks[2:]))

    assert alone.validation == ()
    assert same(alone, watched)
    assert np.mean(watched.validation) == pytest.approx(mean_dice(alone, images[2:], masks[2:]))
    assert np.shape(watched.validation) == (2, 1)


# -- early stopping -------------------------------------------------------------------------------


def told_by(told: list[Progress]) -> list[float]:
    """The Dice on held-out scans after each epoch of ten batches."""
    return [progress.dice for progress in told[9::10] if progress.dice is not None]


@pytest.mark.slow
def test_the_weights_that_did_best_on_held_out_scans_are_kept() -> None:
    images, masks = discs(4)
    inverse = [~mask for mask in masks]  # what is learnt makes these worse and worse
    told: list[Progress] = []

    fitted = fit(
        images,
        masks,
        replace(CONFIG, steps=60),
        validation=(images, inverse),
        on_batch=told.append,
    )

    scores = told_by(told)
    assert len(scores) == 6
    assert max(scores) > scores[-1] + 0.1
    assert np.mean(fitted.validation) == pytest.approx(max(scores))
    assert mean_dice(fitted, images, inverse) == pytest.approx(max(scores))


@pytest.mark.slow
def test_training_ends_when_held_out_scans_gain_nothing_any_more() -> None:
    images, masks = discs(4)
    told: list[Progress] = []

    fitted = fit(
        images,
        masks,
        replace(CONFIG, steps=130),
        validation=(images, [~mask for mask in masks]),
        on_batch=told.append,
    )

    # The learning rate rises for 39 steps; from then on every epoch counts.
    best = int(np.argmax(told_by(told))) + 1
    assert len(fitted.history) == 10 * (max(best, 3) + PATIENCE)
    assert len(fitted.history) < 130


@pytest.mark.slow
def test_without_held_out_scans_training_takes_all_its_steps() -> None:
    told: list[Progress] = []

    fitted = fit(*discs(2), replace(CONFIG, steps=80), on_batch=told.append)

    assert len(fitted.history) == 80
    assert {progress.dice for progress in told} == {None}


def test_a_training_that_is_cut_short_is_measured_as_it_is() -> None:
    images, masks = discs(2)
    asked = iter(range(13))

    fitted = fit(
        images,
        masks,
        replace(CONFIG, steps=60),
        validation=(images, masks),
        stop=lambda: next(asked, None) is None,
    )

    assert len(fitted.history) == 13
    assert np.mean(fitted.validation) == pytest.approx(mean_dice(fitted, images, masks))


# -- going on from an earlier training ------------------------------------------------------------


@pytest.mark.slow
def test_a_warm_start_goes_on_from_the_weights_it_is_given() -> None:
    images, masks = discs(4)
    first = fit(images, masks, replace(CONFIG, steps=50))
    warm = replace(CONFIG, init="warm", image_size=64)

    unmoved = fit(images, masks, warm, start=first, stop=lambda: True)
    trained, again = (fit(images, masks, replace(warm, seed=9), start=first) for _ in range(2))

    assert same(unmoved, first)
    assert same(trained, again)
    assert not same(trained, first)


def test_a_warm_start_leaves_the_earlier_network_as_it_was() -> None:
    images, masks = discs(2)
    first = fit(images, masks, CONFIG)
    before = {key: part.clone() for key, part in first.network.state_dict().items()}

    fit(images, masks, replace(CONFIG, init="warm"), start=first)

    assert all(torch.equal(before[key], part) for key, part in first.network.state_dict().items())


@pytest.mark.parametrize(
    ("change", "given", "message"),
    [
        ({"init": "warm"}, False, "start is missing"),
        ({"init": "scratch"}, True, "none with 'scratch'"),
        ({"init": "warm", "network": "unet/tu-resnet10t"}, True, "train from scratch"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(
    change: dict[str, object], given: bool, message: str
) -> None:
    images, masks = discs(2)
    first = fit(images, masks, CONFIG, stop=lambda: True) if given else None

    with pytest.raises(ValueError, match=message):
        fit(images, masks, replace(CONFIG, **change), start=first)  # type: ignore[arg-type]


def test_a_start_of_other_classes_is_refused() -> None:
    first = fit(*discs(1), CONFIG, stop=lambda: True)
    images, masks = discs(2)
    two = [np.concatenate([mask, mask]) for mask in masks]

    with pytest.raises(ValueError, match=r"1 classes: expected .* with 2; train from scratch"):
        fit(images, two, replace(CONFIG, init="warm", classes=2), start=first)


# -- labels that are rare -------------------------------------------------------------------------


def labelled(*scans: str) -> list[Masks]:
    """Masks (3, 2, 2) of scans on which the labels a, b and c named are drawn."""
    return [np.array([np.full((2, 2), label in scan) for label in "abc"]) for scan in scans]


@pytest.mark.parametrize(
    ("scans", "again"),
    [
        (["a", "a", "", "a"], []),  # one label
        (["a", "b", "", "ab"], []),  # equally often
        (["", ""], []),
        (["a", "a", "a", "a", "b", ""], [4, 4, 4]),
        (["a", "a", "a", "b", "b", "c"], [5, 5, 3]),
        (["a", "a", "a", "b", "bc"], [4, 4]),  # c brings b along
        (["a", "a", "ab"], [2, 2]),  # a scan without a cannot be had
    ],
)
def test_scans_of_rarer_labels_come_again_until_all_labels_are_seen_as_often(
    scans: list[str], again: list[int]
) -> None:
    rows = _balanced(labelled(*scans))

    assert rows[: len(scans)] == list(range(len(scans)))
    assert sorted(rows[len(scans) :]) == sorted(again)


def test_a_rare_label_is_drawn_about_as_often_as_a_common_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, masks = discs(8)
    common = [np.concatenate([mask, np.zeros_like(mask)]) for mask in masks[:7]]
    rare = np.concatenate([np.zeros_like(masks[7]), masks[7]])
    drawn: list[torch.Tensor] = []

    def noted(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        drawn.append(targets.amax(dim=(2, 3)) > 0)
        return segmentation_loss(logits, targets)

    monkeypatch.setattr("model.training.segmentation_loss", noted)
    fit(images, [*common, rare], replace(CONFIG, classes=2, steps=14))

    times = torch.cat(drawn).sum(dim=0)  # (classes,), of 56 scans drawn
    assert times.tolist() == [28, 28]


# -- memory ---------------------------------------------------------------------------------------


ON_A_GPU = torch.OutOfMemoryError("no room")
ON_A_CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
ON_MPS = RuntimeError("MPS backend out of memory (MPS allocated: 9 GB). Tried to allocate 1 GB")


def cramped(
    monkeypatch: pytest.MonkeyPatch, most: int, error: RuntimeError = ON_A_GPU
) -> list[int]:
    """Let a device hold `most` scans; return the list of the batches that were learnt from."""
    tried: list[int] = []

    class Cramped(AttentionUnet):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():
                tried.append(len(images))
            if len(images) > most:
                raise error
            return super().forward(images)

    monkeypatch.setattr("model.networks.AttentionUnet", Cramped)
    return tried


@pytest.mark.parametrize("error", [ON_A_GPU, ON_A_CPU, ON_MPS], ids=["GPU", "CPU", "MPS"])
def test_a_batch_that_does_not_fit_into_memory_is_halved_and_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    tried = cramped(monkeypatch, most=3, error=error)

    fitted = fit(*discs(4), replace(CONFIG, batch_size=13, steps=4))

    assert tried == [13, 6, 3, 3, 3, 3]
    assert len(fitted.history) == 4


def test_memory_that_cannot_hold_two_scans_is_said_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = cramped(monkeypatch, most=1)

    with pytest.raises(Untrainable, match=r"batch of 2 scans of 32 pixels .* smaller image_size"):
        fit(*discs(4), replace(CONFIG, batch_size=7))

    assert tried == [7, 3, 2]


# -- odd scans and labels -------------------------------------------------------------------------


def on_one_scan_only() -> tuple[list[Image], list[Masks]]:
    images, masks = discs(4)
    rare = [mask if row == 2 else np.zeros_like(mask) for row, mask in enumerate(masks)]
    return images, [np.concatenate(pair) for pair in zip(masks, rare, strict=True)]


def never_drawn() -> tuple[list[Image], list[Masks]]:
    images, masks = discs(3)
    return images, [np.concatenate([mask, np.zeros_like(mask)]) for mask in masks]


def one_pixel() -> tuple[list[Image], list[Masks]]:
    images, masks = discs(3)
    for mask in masks:
        mask[:] = False
        mask[0, 9, 9] = True
    return images, [np.concatenate([mask, mask]) for mask in masks]


def very_wide() -> tuple[list[Image], list[Masks]]:
    images, masks = discs(2, height=20, width=3000)
    return images, [np.concatenate([mask, mask]) for mask in masks]


def grey_and_colour() -> tuple[list[Image], list[Masks]]:
    images, masks = discs(3)
    images[1] = np.stack([images[1]] * 3, axis=2)
    return images, [np.concatenate([mask, mask]) for mask in masks]


@pytest.mark.parametrize(
    "odd", [on_one_scan_only, never_drawn, one_pixel, very_wide, grey_and_colour]
)
def test_odd_scans_and_labels_give_a_network_that_draws(
    odd: Callable[[], tuple[list[Image], list[Masks]]],
) -> None:
    images, masks = odd()
    fitted = fit(images, masks, replace(CONFIG, classes=2, adapt=True))
    assert len(fitted.history) == fitted.config.steps
    assert np.isfinite(fitted.history).all()
    for image, found in zip(images, predict(fitted, images), strict=True):
        assert found.shape == (2, *image.shape[:2])
        assert np.isfinite(found).all()


def test_a_step_waits_for_no_result_of_the_device() -> None:
    """On a GPU, reading a number between two steps would let the device stand idle."""
    read: list[int] = []

    class Watched(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.ops.aten._local_scalar_dense.default:
                read.append(1)
            return func(*args, **(kwargs or {}))

    steps: list[int] = []
    with Watched():  # type: ignore[no-untyped-call]
        fit(*discs(4), CONFIG, on_batch=lambda _: steps.append(len(read)))

    assert len(steps) == CONFIG.steps
    assert len(set(steps)) == 1


# -- weights for the encoder ----------------------------------------------------------------------


def test_training_can_start_from_radimagenet_s_weights(tmp_path: Path) -> None:
    path = tmp_path / "ResNet50.pt"
    body = torch.nn.Sequential(*list(resnet50(weights=None).children())[:9])
    torch.save(body.state_dict(prefix="backbone."), path)
    config = default_config("cpu", 1, image_size=32, encoder_weights=str(path))

    fitted = fit(*discs(1), config, stop=lambda: True)
    fitted.save(tmp_path / "network.safetensors")
    path.unlink()  # a trained network needs it no more

    loaded = Fitted.load(tmp_path / "network.safetensors").network
    for network in (fitted.network, loaded):
        kept = network.state_dict()["encoder.layer4.2.conv3.weight"]
        assert torch.equal(kept, body.state_dict()["7.2.conv3.weight"])


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_a_file_that_holds_no_such_weights_is_refused_before_training(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "ResNet50.pt"
    if content is not None:
        path.write_bytes(content)
    config = default_config("cpu", 1, image_size=32, encoder_weights=str(path))

    with pytest.raises(Untrainable, match=r"ResNet50\.pt.*expected RadImageNet ResNet-50"):
        fit(*discs(1), config)


# -- progress -------------------------------------------------------------------------------------


def test_an_epoch_is_a_pass_over_the_scans_but_no_shorter_than_ten_batches() -> None:
    told: list[list[Progress]] = [[], []]

    fit(*discs(2), replace(CONFIG, steps=12), on_batch=told[0].append)
    fit(*discs(23), replace(CONFIG, steps=14, batch_size=2), on_batch=told[1].append)

    few, many = told
    assert [(p.epoch, p.ends_epoch) for p in few[8:]] == [
        (1, False),
        (1, True),
        (2, False),
        (2, True),
    ]
    assert [p.step for p in many if p.ends_epoch] == [12, 14]
    assert {p.epochs for p in few} == {p.epochs for p in many} == {2}


def test_an_epoch_is_told_once_and_one_that_is_cut_short_is_not() -> None:
    batches: list[Progress] = []
    epochs: list[list[Progress]] = [[], []]
    asked = iter(range(15))

    fit(*discs(2), replace(CONFIG, steps=22), on_epoch=epochs[0].append, on_batch=batches.append)
    fit(
        *discs(2),
        replace(CONFIG, steps=22),
        on_epoch=epochs[1].append,
        stop=lambda: next(asked, None) is None,
    )

    assert [progress.step for progress in epochs[0]] == [10, 20, 22]
    assert [progress.step for progress in epochs[1]] == [10]
    assert [progress.step for progress in batches] == list(range(1, 23))
    assert epochs[0] == [progress for progress in batches if progress.ends_epoch]


def test_the_loss_is_near_0_for_the_truth_and_grows_with_the_error() -> None:
    targets = torch.zeros(1, 1, 8, 8)
    targets[..., :4] = 1
    sure = 40 * (targets - 0.5)

    right, undecided, wrong = (
        segmentation_loss(logits, targets).item() for logits in (sure, 0 * sure, -sure)
    )

    assert right == pytest.approx(0.0, abs=1e-3)
    assert undecided == pytest.approx(np.log(2) + 1 - 33 / 65, abs=1e-3)
    assert wrong > 20


def test_an_empty_mask_still_teaches_emptiness() -> None:
    logits = torch.zeros(1, 1, 16, 16, requires_grad=True)

    loss = segmentation_loss(logits, torch.zeros(1, 1, 16, 16))
    (slope,) = torch.autograd.grad(loss, logits)

    assert torch.all(slope > 1e-3)


IMAGE, MASK = disc(8, 9, seed=0)


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        ([], [], "at least one image"),
        ([IMAGE], [], "1 images and 0 masks"),
        ([IMAGE], [MASK[0]], r"expected \(1, 8, 9\)"),
        ([IMAGE], [MASK[:, :, :8]], "as large as their image"),
        ([IMAGE], [np.concatenate([MASK, MASK])], r"expected \(1, 8, 9\)"),
        ([IMAGE], [MASK.astype(np.float32)], "bool"),
        ([IMAGE[None]], [MASK], r"as large as their image"),
    ],
)
def test_scans_and_masks_that_do_not_fit_are_refused(
    images: list[Image], masks: list[Masks], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(images, masks, CONFIG)


def test_held_out_masks_that_do_not_fit_are_refused_before_training() -> None:
    def never() -> bool:
        raise AssertionError("training has begun")

    with pytest.raises(ValueError, match="as large as their image"):
        fit([IMAGE], [MASK], CONFIG, validation=([IMAGE], [MASK[:, :4]]), stop=never)
