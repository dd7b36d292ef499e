from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.errors import ConfigError
from backend.experiments import choices
from model import active_learning, plugins
from tests.backend.experiments.samples import plan
from tests.model.plugs import plug

POINTS = np.arange(12, dtype=np.float32).reshape(6, 2)
NOT_A_STRATEGY = "anything else"


def test_the_choice_of_a_stand_in_is_no_result_of_an_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, plugins.COLD_STARTS, __name__, "NOT_A_STRATEGY")
    [own, *_] = plan().arms
    for arm in (own, replace(own, cold_start="NOT_A_STRATEGY")):
        decision = active_learning.decide(
            POINTS, np.zeros(6, bool), choices.options(arm, 2, 2, 0), coordinates=POINTS
        )
        if arm is own:
            choices.check_rule(decision, arm)
        else:
            with pytest.raises(ConfigError, match="cold start 'NOT_A_STRATEGY' returned a str"):
                choices.check_rule(decision, arm)
