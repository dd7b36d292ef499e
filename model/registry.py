"""The names that a person may choose from: strategies, projections, encoders and networks.

Settings and the command line read the names here, so this module imports nothing heavy. The code
behind the names is in `cold_start`, `acquisition`, `uncertainty`, `projection`, `encoders.recipes`
and `networks`. Other packages add names (`model.plugins`); a built-in name wins over theirs.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from model import plugins

ColdStart = Literal[
    "medoids", "kmeans", "coverage", "tempered", "typical", "random", "stratified-random"
]
Acquisition = Literal[
    "entropy-diversity", "entropy", "entropy-then-diversity", "power-noise", "coverage",
    "tempered", "random",
]  # fmt: skip
Uncertainty = Literal["entropy", "boundary-entropy"]
Projection = Literal["auto", "tsne", "umap", "pca", "components", "none"]

COLD_STARTS: tuple[ColdStart, ...] = get_args(ColdStart)
ACQUISITIONS: tuple[Acquisition, ...] = get_args(Acquisition)
UNCERTAINTIES: tuple[Uncertainty, ...] = get_args(Uncertainty)
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)

# The recipes that a refinement compares. Rounds train with QUICK until another one is better.
QUICK, WHOLE, PARTS, IMAGENET = "quick", "whole scans", "parts of scans", "ImageNet start"

# The version of the rules of training that no TrainConfig holds; a model names it. It needs another
# number when the same labels and config give another network, or the Dice of a scan another value.
# 2: negatives are inverted, and the Dice of a slab counts all pages together.
# 3: small regions are learnt for longer.
TRAINING_RULES = 3

AUTO = "auto"
RADIMAGENET = "radimagenet-resnet50"
STAND_IN = "efficientnet-lite0"
ENCODERS = (
    RADIMAGENET, "radimagenet-densenet121", STAND_IN, "resnet50-random", "pixels",
    "normalised-pixels", "statistics",
)  # fmt: skip
TIMM = "timm/"
JOINT = "+"  # between the parts of an encoder that describes a scan in several ways
# A network sees what a scan shows, the grey values how it is laid out, the statistics how it was
# made; together they find rare scans on more kinds of pools than alone (docs/benchmarks.md).
DESCRIBED = f"{AUTO}{JOINT}normalised-pixels{JOINT}statistics"
ATTENTION_UNET = "attention-unet"
HALF_ATTENTION_UNET = "attention-unet-half"  # it draws at half the resolution of its input
ARCHITECTURES = (
    ATTENTION_UNET, HALF_ATTENTION_UNET, "unet", "unetplusplus", "manet", "linknet", "fpn",
    "pspnet", "deeplabv3", "deeplabv3plus", "pan", "upernet", "segformer", "dpt",
)  # fmt: skip
# They choose where a plugin fails.
USUAL_COLD_START: ColdStart = "tempered"
USUAL_ACQUISITION: Acquisition = "entropy-diversity"

KNOWN_COLD_STARTS = f"choose one of {', '.join(COLD_STARTS)}, or the name of a plugin's cold start"
KNOWN_ACQUISITIONS = (
    f"choose one of {', '.join(ACQUISITIONS)}, or the name of a plugin's acquisition"
)
KNOWN_ENCODERS = (
    f"choose {AUTO}, one of {', '.join(ENCODERS)}, the name of a plugin's encoder, or {TIMM}<model "
    f"name>; or several different ones joined by {JOINT}"
)

KNOWN_NETWORKS = (
    f"choose {AUTO}, {ATTENTION_UNET}, the name of a plugin's network, or <architecture>/<encoder> "
    f"with one of the architectures {', '.join(ARCHITECTURES)}"
)

_ENCODER_OF_NETWORK = re.compile(r"[A-Za-z0-9_.+-]+")
_TIMM_NAME = re.compile(TIMM + r"[a-z0-9_]+(\.[a-z0-9_]+)?")


def is_encoder(name: str) -> bool:
    """Return whether a name may name an encoder; for timm models only the form is checked."""
    parts = parts_of(name)
    known = all(
        part == AUTO or part in ENCODERS or is_timm(part) or is_plugged_encoder(part)
        for part in parts
    )
    return known and len(set(parts)) == len(parts)


def parts_of(encoder: str) -> tuple[str, ...]:
    """Return the names of an encoder's parts, in the order of their vectors."""
    return tuple(encoder.split(JOINT))


def is_timm(name: str) -> bool:
    """Return whether a name has the form of a timm model."""
    return _TIMM_NAME.fullmatch(name) is not None


def is_plugged_encoder(part: str) -> bool:
    """Return whether a plugin has an encoder of this name."""
    built_in = part == AUTO or part in ENCODERS or is_timm(part)
    return not built_in and part in plugins.found(plugins.ENCODERS)


def is_cold_start(name: str) -> bool:
    """Return whether a name names a cold start, a plugin's included."""
    return name in COLD_STARTS or name in plugins.found(plugins.COLD_STARTS)


def is_acquisition(name: str) -> bool:
    """Return whether a name names an acquisition, a plugin's included."""
    return name in ACQUISITIONS or name in plugins.found(plugins.ACQUISITIONS)


def is_plugged_network(name: str) -> bool:
    """Return whether a plugin has a network of this name."""
    return not _is_built_in_network(name) and name in plugins.found(plugins.NETWORKS)


def _is_built_in_network(name: str) -> bool:
    architecture, _, encoder = name.partition("/")
    known = architecture in ARCHITECTURES and _ENCODER_OF_NETWORK.fullmatch(encoder) is not None
    return known or name in {AUTO, ATTENTION_UNET}


def is_network(name: str) -> bool:
    """Return whether a name may name a network; of an encoder only the form is checked."""
    return _is_built_in_network(name) or is_plugged_network(name)
