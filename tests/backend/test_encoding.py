from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from backend import encoding, hub
from backend.errors import ConfigError
from backend.settings import Settings
from model import encoders


def test_the_hub_is_asked_for_weights_that_were_not_given(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hub, "fetch", lambda repository, files: asked.append(repository))

    with caplog.at_level(logging.WARNING, logger="backend"):
        found = encoding.load(settings, "auto")

    assert asked == ["Lab-Rasool/RadImageNet"]
    assert found.substituted
    assert "stands in" in caplog.text


def test_an_encoder_whose_weights_cannot_be_had_is_an_error_with_the_mend(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "fetch", lambda repository, files: None)

    with pytest.raises(ConfigError, match="set ENCODER_WEIGHTS to its path") as caught:
        encoding.load(settings, "radimagenet-densenet121")

    assert "ENCODER" in caught.value.mend


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
