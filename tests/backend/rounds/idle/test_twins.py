"""A model is compared with the one before and with a twin, on scans without a label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backend.rounds.idle import twins
from backend.rounds.stopping import Signs
from backend.storage.tables import Model
from model.fitted import Fitted, TrainConfig
from model.refinement import LabelledScans, Stopped
from model.registry import TRAINING_RULES
from tests.backend.site import OPTIONS, Site


@pytest.fixture(autouse=True)
def _two_models(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds, which the rule takes for the last two models of a flat curve."""
    site.entry["extra_params"] = {**OPTIONS, "refine": False}
    site.label(0, 1)
    site.refresh()
    site.label(2)
    site.refresh()
    monkeypatch.setattr(Signs, "gains_little", property(lambda self: True))
    monkeypatch.setattr(Signs, "models", property(lambda self: models(site)))


def models(site: Site) -> list[Model]:
    return site.store.publications.models(site.number)


def here(site: Site) -> Any:
    return site.rounds._here(site.number)


def test_the_masks_of_unlabelled_scans_are_compared_once(site: Site) -> None:
    twins.compare(here(site), lambda: False)
    before, newest = models(site)
    found = newest.quality
    assert found.compared_with == before.key
    assert len(found.agreement_before) == len(found.agreement_twin) == 3, "six scans, three labels"
    assert all(0 <= dice <= 1 for dice in [*found.agreement_before, *found.agreement_twin])
    assert site.store.annotators.figures(site.number).stopping is not None
    twins.compare(here(site), lambda: pytest.fail("it was compared already"))


@pytest.mark.parametrize("place", [0, 1])
def test_models_of_other_rules_of_training_are_not_compared(site: Site, place: int) -> None:
    model = models(site)[place]
    assert model.quality.rules == TRAINING_RULES
    model.quality = model.quality.changed(rules=1)
    site.store.publications.save_model(model)
    twins.compare(here(site), lambda: pytest.fail("nothing is to be compared"))
    assert not models(site)[-1].quality.compared_with


def test_a_comparison_makes_way_and_leaves_nothing(site: Site) -> None:
    with pytest.raises(Stopped):
        twins.compare(here(site), lambda: True)
    assert not models(site)[-1].quality.compared_with


def test_a_twin_is_planned_like_its_model_even_if_that_ran_out_of_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models(site)[-1]
    model.quality = model.quality.changed(steps=1)  # its training was cut short
    site.store.publications.save_model(model)
    [planned] = [member.config for member in here(site).learner.load(model.key).members]
    trained: list[TrainConfig] = []
    fit = LabelledScans.fit

    def noted(scans: LabelledScans, config: TrainConfig, **others: Any) -> Fitted:
        trained.append(config)
        return fit(scans, config, **others)

    monkeypatch.setattr(LabelledScans, "fit", noted)
    twins.compare(here(site), lambda: False)
    assert planned.steps > 1
    assert trained == [replace(planned, seed=planned.seed + twins.SEED_OF_TWIN)]
