"""The names that a person may choose from: strategies, uncertainties, projections and encoders.

Settings and the command line read the names here, so this module imports nothing heavy. The code
behind the names is in `cold_start`, `acquisition`, `uncertainty`, `projection` and
`encoders.recipes`.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

ColdStart = Literal["medoids", "kmeans", "coverage", "typical", "random", "stratified-random"]
Acquisition = Literal[
    "entropy-diversity", "entropy", "entropy-then-diversity", "power-noise", "coverage", "random"
]
Uncertainty = Literal["entropy", "boundary-entropy"]
Projection = Literal["tsne", "umap", "pca", "none"]

COLD_STARTS: tuple[ColdStart, ...] = get_args(ColdStart)
ACQUISITIONS: tuple[Acquisition, ...] = get_args(Acquisition)
UNCERTAINTIES: tuple[Uncertainty, ...] = get_args(Uncertainty)
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)

QUICK = "quick"  # the recipe of a round's training, among those that a refinement compares

AUTO = "auto"
RADIMAGENET = "radimagenet-resnet50"
STAND_IN = "efficientnet-lite0"
ENCODERS = (RADIMAGENET, "radimagenet-densenet121", STAND_IN, "resnet50-random", "pixels")
TIMM = "timm/"
KNOWN_ENCODERS = f"choose {AUTO}, one of {', '.join(ENCODERS)}, or {TIMM}<model name>"

_TIMM_NAME = re.compile(TIMM + r"[a-z0-9_]+(\.[a-z0-9_]+)?")


def is_encoder(name: str) -> bool:
    """Return whether a name may name an encoder; for timm models only the form is checked."""
    return name == AUTO or name in ENCODERS or is_timm(name)


def is_timm(name: str) -> bool:
    """Return whether a name has the form of a timm model."""
    return _TIMM_NAME.fullmatch(name) is not None
