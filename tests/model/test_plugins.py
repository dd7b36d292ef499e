"""A plugin chooses and encodes like our own code; one that fails is named and replaced."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model import acquisition, active_learning, cold_start, encoders, plugins, registry
from model.acquisition.entropy import Entropy
from model.acquisition.strategy import Array
from model.active_learning import SelectionOptions
from model.cold_start import uniform_random
from model.cold_start.strategy import Choice, Pool, Strategy, Words
from model.encoders import Floats, Part, plugged
from tests.model.plugs import plug

N = 12
POINTS = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
UNCERTAINTY = np.linspace(0, 1, N)
LABELLED = np.arange(N) < 3


def decide(start: str, rule: str, *, trained: bool) -> active_learning.Decision:
    options = SelectionOptions(cold_start=start, acquisition=rule, cold_start_budget=3)
    return active_learning.decide(
        POINTS, LABELLED.copy(), options, coordinates=POINTS.copy(),
        uncertainty=UNCERTAINTY.copy() if trained else None,
    )  # fmt: skip


# -- cold starts ----------------------------------------------------------------------------------


def backwards(pool: Pool) -> Choice:
    order = np.flatnonzero(~pool.labelled)[::-1]
    return Choice(order, len(order), pool.clustering)


def twice(pool: Pool) -> Choice:
    return replace(backwards(pool), order=np.zeros(N - 3, int))


def fraction(pool: Pool) -> Choice:
    return replace(backwards(pool), order=np.flatnonzero(~pool.labelled) + 0.5)


def nothing(pool: Pool) -> Any:
    return None


def clusterless(pool: Pool) -> Choice:
    return replace(backwards(pool), clustering=None)  # type: ignore[arg-type]


def vandal(pool: Pool) -> Choice:
    pool.labelled[:] = True
    pool.points[:] = np.nan
    raise KeyError("patient")


WORDS = Words("last row first", "last row first")
GOOD_START = Strategy(backwards, WORDS)
TWICE = Strategy(twice, WORDS)
FRACTION = Strategy(fraction, WORDS)
NOTHING = Strategy(nothing, WORDS)
CLUSTERLESS = Strategy(clusterless, WORDS)
VANDAL = Strategy(vandal, WORDS)
UNKNOWN_WORD = Strategy(backwards, Words("{patient}", "x"))
NO_STRATEGY = backwards
BAD_STARTS = (
    "TWICE", "FRACTION", "NOTHING", "CLUSTERLESS", "VANDAL", "UNKNOWN_WORD", "NO_STRATEGY",
    "NO_NAME_OF_THIS_MODULE",
)  # fmt: skip


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, plugins.COLD_STARTS, __name__, "GOOD_START", "medoids", *BAD_STARTS)


@pytest.mark.usefixtures("starts")
def test_a_plugin_s_cold_start_orders_the_pool_with_its_own_words() -> None:
    decision = decide("GOOD_START", "entropy", trained=False)
    assert decision.strategy == "GOOD_START"
    assert decision.order.tolist() == list(range(N - 1, 2, -1))
    assert set(active_learning.reasons(decision)) == {"last row first"}


@pytest.mark.usefixtures("starts")
@pytest.mark.parametrize("name", BAD_STARTS)
def test_the_default_chooses_instead_of_a_cold_start_that_fails(name: str) -> None:
    default = registry.USUAL_COLD_START
    decision, usual = (decide(n, "entropy", trained=False) for n in (name, default))
    assert decision.strategy == default
    assert decision.order.tolist() == usual.order.tolist()
    assert active_learning.reasons(decision) == active_learning.reasons(usual)
    [said] = set(decision.warnings) - set(usual.warnings)
    assert said.startswith(f"the plugin of cold start '{name}' ")
    assert said.endswith(f"; {default} chose instead")
    assert "patient" not in said


@pytest.mark.usefixtures("starts")
def test_a_built_in_name_wins_over_a_plugin_s() -> None:
    assert decide("medoids", "entropy", trained=False).strategy == "medoids"
    assert cold_start.STRATEGIES["random"] is uniform_random.STRATEGY
    assert registry.is_cold_start("GOOD_START")
    assert not registry.is_cold_start("luck")


# -- acquisitions ---------------------------------------------------------------------------------


class Certain(Entropy):
    """The most certain scan first."""

    words = "sure by {uncertainty:.2f}"

    def utility(self) -> Array:
        """The negative uncertainty."""
        return -self.state.uncertainty


class Raises(Entropy):
    """Fails at the second pick."""

    def pick(self, index: int) -> None:
        """Take one, then fail."""
        raise OSError


class NotFinite(Entropy):
    """Scores without a value."""

    def utility(self) -> Array:
        """Return NaN."""
        return np.full(len(self.state.left), np.nan)


class Short(Entropy):
    """Too few scores."""

    def utility(self) -> Array:
        """Return one score."""
        return np.ones(1)


class Repeats(Entropy):
    """Always the same scan."""

    def best(self, allowed: Array) -> int:
        """Return the first."""
        return 0


class OddWords(Entropy):
    """Words that cannot be filled in."""

    words = "{patient}"


class OddWeight(Entropy):
    """A weight that is no number."""

    alpha = "heavy"  # type: ignore[assignment]


class Spoils(Entropy):
    """Destroys what it was given."""

    def utility(self) -> Array:
        """Return the scores, after the damage."""
        self.candidates.rows.sort()
        self.state.diversity[:] = np.nan
        return self.state.uncertainty


class Leaves(Entropy):
    """Ends the process."""

    def utility(self) -> Array:
        """Leave."""
        raise SystemExit


NoRule = object()
BAD_RULES = (
    "Raises", "NotFinite", "Short", "Repeats", "OddWords", "OddWeight", "Spoils", "Leaves",
    "NoRule", "NoNameOfThisModule",
)  # fmt: skip


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, plugins.ACQUISITIONS, __name__, "Certain", *BAD_RULES)


@pytest.mark.usefixtures("rules")
def test_a_plugin_s_acquisition_orders_the_pool_with_its_own_words() -> None:
    decision = decide("medoids", "Certain", trained=True)
    assert decision.strategy == "Certain"
    assert decision.order.tolist() == list(range(3, N))
    assert active_learning.reasons(decision)[0] == "sure by 0.00"


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("name", BAD_RULES)
def test_the_default_ranks_instead_of_an_acquisition_that_fails(name: str) -> None:
    decision, usual = (decide("medoids", n, trained=True) for n in (name, "entropy-diversity"))
    assert decision.strategy == registry.USUAL_ACQUISITION
    assert decision.order.tolist() == usual.order.tolist()
    assert active_learning.reasons(decision) == active_learning.reasons(usual)
    [said] = set(decision.warnings) - set(usual.warnings)
    assert said.startswith(f"the plugin of acquisition '{name}' ")
    assert said.endswith("; entropy-diversity chose instead")


@pytest.mark.usefixtures("rules")
def test_wrong_arguments_are_no_failure_of_the_plugin() -> None:
    with pytest.raises(ValueError, match="alpha"):
        acquisition.rank(UNCERTAINTY, POINTS, LABELLED, strategy="Certain", alpha=7.0)


# -- encoders -------------------------------------------------------------------------------------


def _mean(images: Floats) -> Floats:
    means: Floats = images.mean(axis=(2, 3))
    return means


def means(device: str) -> Part:
    return Part(dim=3, forward=_mean, size=16)


def wrong_size(device: str) -> Part:
    return Part(dim=4, forward=_mean, size=16)


def not_finite(device: str) -> Part:
    return Part(dim=3, forward=lambda images: _mean(images) * np.float32(np.nan), size=16)


def no_part(device: str) -> str:
    return device


def unwilling(device: str) -> Part:
    raise MemoryError


def tires(device: str) -> Part:
    calls = itertools.count()
    return Part(dim=3, forward=lambda images: _mean(images) if next(calls) < 1 else images, size=16)


BAD_ENCODERS = ("wrong_size", "not_finite", "no_part", "unwilling", "no_such_name")


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged.load.cache_clear()
    plug(monkeypatch, plugins.ENCODERS, __name__, "means", "tires", *BAD_ENCODERS)
    lite = encoders.Part(dim=2, forward=lambda images: images[:, :2, 0, 0], size=16)
    start = encoders._start

    def quick_start(name: str, *rest: Any) -> tuple[str, Part, str]:
        return (name, lite, "") if name == encoders.STAND_IN else start(name, *rest)

    monkeypatch.setattr(encoders, "_start", quick_start)


@pytest.mark.usefixtures("described")
def test_a_plugin_s_encoder_encodes_alone_and_joined_with_another() -> None:
    image = np.linspace(0, 1, 300, dtype=np.float32).reshape(10, 10, 3)
    alone, joined = encoders.load("means"), encoders.load("means+pixels")
    assert (alone.name, alone.dim, alone.substituted) == ("means", 3, False)
    assert (joined.name, joined.dim) == ("means+pixels", 3 + 256)
    np.testing.assert_allclose(alone.encode([image])[0], image.mean(axis=(0, 1)), atol=0.02)
    with pytest.raises(ValueError, match="takes no weights"):
        encoders.load("means", weights="file.pt")


@pytest.mark.usefixtures("described")
@pytest.mark.parametrize("name", BAD_ENCODERS)
def test_the_default_stands_in_for_an_encoder_that_fails(name: str) -> None:
    found = encoders.load(name)
    assert found.name == encoders.STAND_IN
    assert found.substitution.startswith(f"the plugin of encoder '{name}' ")
    assert found.substitution.endswith(f"; {encoders.STAND_IN} stands in for it")
    assert encoders.set_aside(name) == (name,)


@pytest.mark.usefixtures("described")
def test_an_encoder_that_fails_later_is_set_aside() -> None:
    found = encoders.load("tires")
    assert encoders.set_aside("tires+pixels") == ()
    with pytest.raises(plugins.PluginError, match="'tires' returned a ndarray: expected finite"):
        found.encode([np.zeros((4, 4), np.float32)])
    assert encoders.set_aside("tires+pixels") == ("tires",)
    assert encoders.load("tires").name == encoders.STAND_IN
