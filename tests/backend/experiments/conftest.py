from __future__ import annotations

from pathlib import Path

import nibabel
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


@pytest.fixture(scope="session")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two volumes of each of the patients a, b, c and d, with five slices each."""
    found, chance = tmp_path_factory.mktemp("stacks"), np.random.default_rng(0)
    for kind in ("images", "labels"):
        (found / kind).mkdir()
    names = [f"{patient}{number}" for patient in "abcd" for number in (1, 2)]
    for name in names:
        values = chance.random((32, 32, 5)).astype(np.float32)
        for kind, grid in (("images", values), ("labels", (values > 0.5).astype(np.uint8))):
            image = nibabel.Nifti1Image(grid, np.diag([1.0, 1.0, 5.0, 1.0]))  # type: ignore[no-untyped-call]
            nibabel.save(image, found / kind / f"{name}.nii.gz")
    rows = [f"{name},{name[0]}" for name in names]
    (found / "groups.csv").write_text("\n".join(["name,patient", *rows]) + "\n")
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
