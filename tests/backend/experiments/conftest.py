from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.experiments.results import Results
from model import phantoms
from tests.backend.experiments.samples import results, run


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve phantoms with the masks of their lungs."""
    found = tmp_path_factory.mktemp("phantoms")
    (found / "images").mkdir()
    (found / "masks").mkdir()
    for number, phantom in enumerate(phantoms.generate(12, size=32)):
        name = f"{number:02}.png"
        Image.fromarray(np.round(phantom.image * 255).astype(np.uint8)).save(
            found / "images" / name
        )
        Image.fromarray(phantom.mask[0].astype(np.uint8) * 255).save(found / "masks" / name)
    return found


@pytest.fixture
def two() -> Results:
    """Two arms, two counts of labels, three seeds."""
    return results(
        {
            "medoids": {0: run(0.5, 0.8), 1: run(0.6, 0.8), 2: run(0.7, 0.7)},
            "random": {0: run(0.4, 0.8), 1: run(0.5, 0.7), 2: run(0.8, 0.6)},
        }
    )
