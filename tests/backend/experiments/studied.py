"""A study of the phantoms, and its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.experiments import simulate, studies
from backend.experiments.plans import Plan
from backend.experiments.studies import Study
from backend.settings import Settings
from tests.backend.experiments.samples import plan


def study(folder: Path, out: Path, asked: Plan | None = None) -> Study:
    return studies.of_folder(
        asked or plan(), folder, out, Settings(device="cpu"), lambda line: None
    )


def run(of: Study, arm: int = 0, seed: int = 0) -> dict[str, Any]:
    return simulate.run(of, of.plan.arms[arm], seed)
