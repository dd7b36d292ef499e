from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

import numpy as np
import pytest

from model import acquisition, cold_start, projection, registry, uncertainty
from model.encoders import recipes


@pytest.mark.parametrize(
    ("names", "implemented"),
    [
        (registry.COLD_STARTS, cold_start.STRATEGIES),
        (registry.ACQUISITIONS, acquisition.STRATEGIES),
        (registry.UNCERTAINTIES, uncertainty.UNCERTAINTIES),
        (registry.ENCODERS, recipes.RECIPES),
    ],
    ids=["cold starts", "acquisitions", "uncertainties", "encoders"],
)
def test_every_name_has_its_implementation_and_every_implementation_its_name(
    names: tuple[str, ...], implemented: Iterable[str]
) -> None:
    assert names == tuple(implemented)


@pytest.mark.parametrize("name", registry.PROJECTIONS)
def test_every_projection_maps_a_pool(name: str) -> None:
    same = np.zeros((3, 4), np.float32)  # all alike: no method takes long

    assert projection.fit(same, method=name).coordinates.shape[0] == 3


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("auto", True),
        ("pixels", True),
        ("timm/vit_small.a1", True),
        ("timm/", False),
        ("", False),
        ("auto+statistics", True),
        ("timm/vit_small.a1+pixels+statistics", True),
        ("pixels+pixels", False),
        ("pixels+", False),
        ("pixels + statistics", False),
        ("pixels+vgg", False),
    ],
)
def test_an_encoder_is_known_by_its_name_or_by_the_form_of_timm_s(name: str, known: bool) -> None:
    assert registry.is_encoder(name) is known


def test_names_are_read_without_the_maths() -> None:
    heavy = "{'numpy', 'scipy', 'sklearn', 'torch'}"
    script = f"import sys, model.registry; print({heavy} & set(sys.modules))"

    found = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )

    assert found.stdout == "set()\n"
