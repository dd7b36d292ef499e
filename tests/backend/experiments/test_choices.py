from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.errors import ConfigError
from backend.experiments import choices
from backend.experiments.studies import Array
from model import active_learning, plugins
from tests.backend.experiments.samples import plan
from tests.backend.experiments.studied import study
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


@pytest.mark.server
def test_an_arm_groups_by_patient_or_by_volume_and_may_read_places(
    stacks: Path, tmp_path: Path
) -> None:
    of = study(stacks, tmp_path, plan(group_by="patient,volume,volume+slice", held_out=1))
    by_patient, by_volume, with_places = of.plan.arms
    names = [scan.name for scan in of.scans(of.pool)]  # such as a1.nii.gz/003

    def members(groups: Array) -> list[int]:
        return sorted(Counter(groups.tolist()).values())

    assert members(choices.groups(of, by_patient)) == [10, 10, 10]
    for arm in (by_volume, with_places):
        pairs = {*zip([name[:2] for name in names], choices.groups(of, arm), strict=True)}
        assert len(pairs) == 6
        assert members(choices.groups(of, arm)) == [5] * 6
    assert choices.places(of, by_patient) is choices.places(of, by_volume) is None
    places = choices.places(of, with_places)
    assert places is not None
    assert places.tolist() == [int(name[-3:]) for name in names]
