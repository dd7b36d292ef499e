from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.experiments import results
from tests.backend.experiments.samples import plan
from tests.backend.experiments.studied import study


def test_runs_of_other_code_are_pointed_out(folder: Path, tmp_path: Path) -> None:
    of = study(folder, tmp_path, plan(seeds="0,1"))
    arms: dict[str, Any] = {"medoids": {0: {"code": "a"}, 1: {"code": "a"}}}
    assert results._notes(of, arms) == ()
    arms["medoids"][1]["code"] = "b"
    [note] = results._notes(of, arms)
    assert "2 states of the code" in note
