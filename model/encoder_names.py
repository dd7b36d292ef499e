"""The names of the encoders, for those who only check one: nothing else is imported here."""

from __future__ import annotations

import re

AUTO = "auto"
RADIMAGENET = "radimagenet-resnet50"
STAND_IN = "efficientnet-lite0"
NAMES = (RADIMAGENET, "radimagenet-densenet121", STAND_IN, "resnet50-random", "pixels")
TIMM = "timm/"
KNOWN = f"choose {AUTO}, one of {', '.join(NAMES)}, or {TIMM}<model name>"

_TIMM_NAME = re.compile(TIMM + r"[a-z0-9_]+(\.[a-z0-9_]+)?")


def is_known(name: str) -> bool:
    """Say whether a name may be that of an encoder; of timm's models only the form is checked."""
    return name == AUTO or name in NAMES or is_timm(name)


def is_timm(name: str) -> bool:
    """Say whether a name has the form of a model of timm."""
    return _TIMM_NAME.fullmatch(name) is not None
