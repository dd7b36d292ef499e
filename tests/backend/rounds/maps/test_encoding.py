from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from backend.errors import ConfigError
from backend.rounds.maps import encoding, weights_hub
from backend.settings import Settings
from model import encoders


@pytest.mark.slow
def test_the_hub_is_asked_for_weights_that_were_not_given(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    lite0_folder: Path,
) -> None:
    copytree(lite0_folder, settings.data_dir / "encoders")
    asked: list[str] = []
    monkeypatch.setattr(
        weights_hub, "fetch", lambda repository, files, **_: asked.append(repository)
    )

    with caplog.at_level(logging.WARNING, logger="backend"):
        found = encoding.load(settings, "auto")

    assert asked == ["Lab-Rasool/RadImageNet"]
    assert found.substituted
    assert "stands in" in caplog.text


def test_an_encoder_whose_weights_cannot_be_had_is_an_error_with_the_mend(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_hub, "fetch", lambda repository, files, **_: None)

    with pytest.raises(ConfigError, match="set ENCODER_WEIGHTS to its path") as caught:
        encoding.load(settings, "radimagenet-densenet121")

    assert "ENCODER" in caught.value.fix


def test_weights_go_to_the_encoder_that_they_were_given_for(
    settings: Settings, tmp_path: Path
) -> None:
    given = settings.model_copy(update={"encoder_weights": tmp_path / "absent.pt"})

    assert encoding.load(given, "pixels").name == "pixels"
    with pytest.raises(ConfigError, match="no encoder weights at"):
        encoding.load(given.model_copy(update={"encoder": "auto"}), "auto")


def test_a_note_of_an_encoder_is_logged(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow = replace(encoders.load("pixels"), note="runs in torch, slower")
    monkeypatch.setattr(encoders, "load", lambda *names, **options: slow)

    with caplog.at_level(logging.INFO, logger="backend"):
        encoding.load(settings, "pixels")

    assert "runs in torch, slower" in caplog.text


COMMIT = "0123456789" * 4
FILES = ("a.safetensors", "a.bin")


@pytest.fixture
def hub_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A hub whose one repository has a.bin; the revisions that were asked for."""
    asked: list[str] = []
    file = tmp_path / "a.bin"
    file.write_bytes(b"weights")

    def fetch(repository: str, files: tuple[str, ...], revision: str) -> weights_hub.Weights:
        assert (repository, files[-1]) == ("them/it", "a.bin")
        asked.append(revision)
        return weights_hub.Weights(file, revision or COMMIT)

    monkeypatch.setattr(weights_hub, "fetch", fetch)
    return asked


def test_weights_are_pinned_at_their_first_use_and_asked_for_by_commit_afterwards(
    hub_with: list[str], tmp_path: Path
) -> None:
    pins = tmp_path / "encoders" / "weights.json"
    file = encoding.pinned(pins, "them/it", FILES)
    assert file == tmp_path / "a.bin"
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert json.loads(pins.read_bytes()) == {
        "them/it/a.bin": {"revision": COMMIT, "sha256": sha256}
    }
    assert encoding.pinned(pins, "them/it", FILES) == file
    assert hub_with == ["", COMMIT]


def test_another_file_than_the_pinned_one_is_refused_and_the_pin_stays(
    hub_with: list[str], tmp_path: Path
) -> None:
    pins = tmp_path / "weights.json"
    encoding.pinned(pins, "them/it", FILES)
    before = pins.read_bytes()
    (tmp_path / "a.bin").write_bytes(b"other weights")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"them/it/a.bin have the SHA-256 \w{12}\.\.\., exp"):
            encoding.pinned(pins, "them/it", FILES)
    assert pins.read_bytes() == before


def test_a_person_may_pin_weights_before_their_first_use(
    hub_with: list[str], tmp_path: Path
) -> None:
    pins = tmp_path / "weights.json"
    pins.write_text(json.dumps({"them/it/a.bin": {"revision": "f" * 40, "sha256": "0" * 64}}))
    with pytest.raises(ConfigError, match="expected 000000000000"):
        encoding.pinned(pins, "them/it", FILES)
    assert hub_with == ["f" * 40]


@pytest.mark.parametrize("content", ["", "[]", '{"them/it/a.bin": {"revision": "main"}}'])
def test_pins_that_cannot_be_read_are_no_reason_to_trust_anew(
    hub_with: list[str], tmp_path: Path, content: str
) -> None:
    pins = tmp_path / "weights.json"
    pins.write_text(content)
    with pytest.raises(ConfigError, match="Expected a JSON object with entries"):
        encoding.pinned(pins, "them/it", FILES)
    assert hub_with == []
    assert pins.read_text() == content


def test_what_the_hub_does_not_have_is_not_pinned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights_hub, "fetch", lambda repository, files, **_: None)
    assert encoding.pinned(tmp_path / "weights.json", "them/it", FILES) is None
    assert list(tmp_path.iterdir()) == []


def test_a_changed_file_fails_the_encoder_and_is_no_reason_for_a_stand_in(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "ResNet50.pt"
    file.write_bytes(b"other weights")
    monkeypatch.setattr(
        weights_hub, "fetch", lambda repository, files, **_: weights_hub.Weights(file, COMMIT)
    )
    pins = settings.data_dir / "encoders" / "weights.json"
    pins.parent.mkdir(parents=True)
    pin = {"revision": COMMIT, "sha256": "0" * 64}
    pins.write_text(json.dumps({"Lab-Rasool/RadImageNet/ResNet50.pt": pin}))
    with pytest.raises(ConfigError, match="have the SHA-256"):
        encoding.load(settings, "auto")
