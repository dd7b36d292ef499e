from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.fitted import Fitted
from model.inference import predict
from model.training import fit
from tests.model.scans import CONFIG, discs, same


def test_a_loaded_network_predicts_what_the_saved_one_did(tmp_path: Path) -> None:
    images, masks = discs(3, height=20, width=27)
    fitted = fit(images, masks, CONFIG, validation=(images[:1], masks[:1]))
    fitted.save(tmp_path / "network.safetensors")

    loaded = Fitted.load(tmp_path / "network.safetensors")

    assert replace(loaded, network=fitted.network) == fitted
    np.testing.assert_array_equal(list(predict(loaded, images)), list(predict(fitted, images)))
    assert [path.name for path in tmp_path.iterdir()] == ["network.safetensors"]


def test_saving_again_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    first, second = (fit(*discs(2), replace(CONFIG, seed=seed)) for seed in (0, 1))

    first.save(path)
    second.save(path)

    assert same(Fitted.load(path), second)


@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_half_a_file_is_never_taken_for_a_network(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "network.safetensors"
    fit(*discs(1), CONFIG, stop=lambda: True).save(path)
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(ValueError, match="damaged"):
        Fitted.load(path)


def test_weights_that_changed_on_the_disk_are_never_taken_for_the_network(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    fit(*discs(1), CONFIG, stop=lambda: True).save(path)
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)

    with pytest.raises(ValueError, match="do not match their checksum"):
        Fitted.load(path)


def test_a_network_that_another_release_described_otherwise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    fit(*discs(1), CONFIG, stop=lambda: True).save(path)
    content = path.read_bytes()
    assert content.count(b"learning_rate") == 1
    path.write_bytes(content.replace(b"learning_rate", b"learning_pace"))

    with pytest.raises(ValueError, match="of another release"):
        Fitted.load(path)


def test_a_file_of_the_first_release_which_names_an_encoder_is_read(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    fitted = fit(*discs(1), CONFIG, stop=lambda: True)
    weights, story = fitted.parts()
    story["config"]["encoder_name"] = story["config"].pop("network").removeprefix("attention-unet/")

    loaded = Fitted.of(weights, story, str(path))

    assert loaded.config == CONFIG
    assert same(loaded, fitted)


def test_a_save_that_breaks_off_leaves_the_old_network_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "network.safetensors"
    fitted = fit(*discs(1), CONFIG, stop=lambda: True)
    fitted.save(path)
    whole = path.read_bytes()

    def power_cut(_: int) -> None:
        raise OSError("power cut")

    monkeypatch.setattr("model.fitted.os.fsync", power_cut)
    with pytest.raises(OSError, match="power cut"):
        replace(fitted, history=(1.0,)).save(path)

    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_tells_its_story_as_json(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    fit(*discs(1), CONFIG).save(path)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])

    assert json.loads(header["__metadata__"]["fitted"])["config"]["seed"] == CONFIG.seed


@pytest.mark.parametrize(
    "change",
    [
        {"init": "tepid"},
        {"encoder_weights": "ResNet50.pt"},
        {"classes": 0},
        {"steps": 0},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"image_size": 0},
        {"image_size": 50},
    ],
)
def test_settings_that_cannot_be_trained_with_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(CONFIG, **change)  # type: ignore[arg-type]
