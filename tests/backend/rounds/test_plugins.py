"""Rounds go on whatever a plugin does, and the page and /health name it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from torch import nn

from backend.storage import records
from backend.web.ml_protocol import Answers, OneAtATime
from backend.web.refresh_requests import RefreshRequests
from model import encoders, plugins, registry
from model.encoders import Floats, Part, plugged
from tests.backend.site import Site
from tests.model.plugs import plug

pytestmark = pytest.mark.seconds

WORN = itertools.count()


def broken(*given: object) -> Any:
    raise ZeroDivisionError("Jane Doe")


def tires(device: str) -> Part:
    """Return an encoder that works when it is loaded, and never again."""

    def forward(images: Floats) -> Floats:
        if next(WORN):
            raise ZeroDivisionError
        return np.zeros((len(images), 2), np.float32)

    return Part(dim=2, forward=forward, size=16)


def choose(site: Site, **options: str) -> None:
    site.entry["extra_params"] = {**site.entry["extra_params"], **options}
    site.store.projects.request_refresh(site.number)


def warnings(site: Site) -> list[str]:
    """Return what /health says of the plugins, without their project."""
    answers = Answers(site.store, RefreshRequests(site.store), OneAtATime(lambda *_: []))
    said = [line.partition(": ")[2] for line in answers.health().warnings]
    assert site.project.warnings == said
    assert "Jane" not in str(said)
    return [line for line in said if "plugin" in line]


def strategy(site: Site) -> str | None:
    live = site.store.publications.get(site.number, site.project.live_version)
    record = records.read_queue(site.services.files(site.number), live.round) if live else None
    return record.strategy if record else None


def test_a_strategy_that_fails_is_replaced_and_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug(monkeypatch, plugins.COLD_STARTS, __name__, "broken")
    choose(site, cold_start="broken")
    assert site.refresh().problem == ""
    assert len(site.queue) == len(site.tasks)
    assert strategy(site) == registry.USUAL_COLD_START
    [said] = warnings(site)
    assert said.startswith("the plugin of cold start 'broken' returned a function: expected")
    choose(site, cold_start="random")
    assert site.refresh().problem == ""
    assert warnings(site) == []


def test_a_strategy_whose_package_is_gone_is_replaced_and_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        plug(patch, plugins.COLD_STARTS, __name__, "broken")
        choose(site, cold_start="broken")
        assert site.refresh().problem == ""
    site.label(0)
    project = site.refresh()
    assert project.problem == ""
    assert "choose one of medoids" in project.options_problem
    instead = registry.USUAL_COLD_START
    assert project.warnings[0] == f"the package with 'broken' is gone: {instead} chooses instead"


def test_an_encoder_that_fails_in_a_round_is_replaced_with_the_next_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugged.load.cache_clear()
    plug(monkeypatch, plugins.ENCODERS, __name__, "tires")
    monkeypatch.setattr(encoders, "STAND_IN", "pixels")
    monkeypatch.setattr("backend.rounds.maps.encoding.pinned", lambda *_: None)
    choose(site, encoder="tires")
    problem = site.refresh().problem
    assert problem.startswith("The encoder failed: the plugin of encoder 'tires' failed (Zero")
    assert site.refresh().problem == ""
    assert len(site.queue) == len(site.tasks)
    [said] = warnings(site)
    assert said.endswith("; pixels stands in for it")


def test_a_network_that_cannot_be_built_is_replaced_and_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug(monkeypatch, plugins.NETWORKS, __name__, "broken")
    choose(site, network="broken")
    site.label(0, 1, 2)
    assert site.refresh().problem == ""
    assert site.store.publications.models(site.number)
    [said] = warnings(site)
    assert "the plugin of network 'broken' failed (ZeroDivisionError)" in said
    assert said.endswith(" is trained instead")


class Fickle(nn.Conv2d):
    """A network that works when it is tried, and fails in training."""

    def forward(self, images: Any) -> Any:
        """Return logits, but for gradients."""
        if images.shape[3] != 96:  # the size of the trial
            raise ZeroDivisionError
        return super().forward(images)


def fickle(classes: int) -> nn.Module:
    return Fickle(3, classes, kernel_size=1)


def test_a_network_that_fails_in_training_is_replaced_with_the_next_round(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.rounds.models import learner
    from model.networks import usable
    from tests.backend.site import TINY

    monkeypatch.setattr(
        learner, "train_config", lambda _, o, c: _with(TINY, usable(o.network, len(c.labels)))
    )
    plug(monkeypatch, plugins.NETWORKS, __name__, "fickle")
    choose(site, network="fickle")
    site.label(0, 1, 2)
    problem = site.refresh().problem
    assert problem.startswith("The network cannot be trained: the plugin of network 'fickle'")
    assert site.refresh().problem == ""
    assert site.store.publications.models(site.number)


def _with(config: Any, network: str) -> Any:
    from dataclasses import replace

    return config if network == "auto" else replace(config, network=network)
