from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import ensemble
from model.ensemble import Ensemble
from model.fitted import Fitted, TrainConfig, build_network
from model.inference import predict

CONFIG = TrainConfig(
    "attention-unet/tu-test_resnet", 32, 2, steps=1, batch_size=2, learning_rate=1e-3
)
CPU = torch.device("cpu")
IMAGES = [np.random.default_rng(seed).random((40, 30), np.float32) for seed in range(3)]


def member(seed: int, **changes: int) -> Fitted:
    config = replace(CONFIG, seed=seed, **changes)  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Fitted(build_network(config, CPU).eval(), config, (0.5,), ())


PAIR = Ensemble((member(0), member(1, image_size=64, crop=32)))


def test_probabilities_are_the_mean_of_the_members_each_at_its_own_size() -> None:
    each = [list(predict(one, IMAGES)) for one in PAIR.members]
    for found, first, second in zip(predict(PAIR, IMAGES), *each, strict=True):
        assert found.shape == (2, 40, 30)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, (first + second) / 2, rtol=1e-6)
    assert PAIR.config.image_size == 64


def test_a_file_holds_one_network_or_several(tmp_path: Path) -> None:
    models: list[Fitted | Ensemble] = [PAIR, PAIR.members[0]]
    for number, model in enumerate(models):
        path = tmp_path / str(number)
        path.write_bytes(model.to_bytes())
        loaded = ensemble.load(path)
        assert [one.config for one in loaded.members] == [one.config for one in model.members]
        for found, expected in zip(predict(loaded, IMAGES), predict(model, IMAGES), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path, content = tmp_path / "model", bytearray(PAIR.to_bytes())
    for broken in (b"", bytes(content[: len(content) // 2])):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="damaged"):
            ensemble.load(path)
    content[-5] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match="do not match their checksum"):
        ensemble.load(path)


def test_networks_for_different_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="same number of classes"):
        Ensemble((member(0), member(0, classes=3)))
    with pytest.raises(ValueError, match="at least one network"):
        Ensemble(())
