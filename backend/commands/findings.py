"""What a check of the doctor returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.encoders import Encoder


@dataclass(frozen=True)
class Finding:
    """What one check saw.

    Attributes:
        name: What was looked at.
        ok: Whether it is as it should be.
        what: What was seen, in a sentence.
        fix: What a person has to do, or may want to know.
        repair: Repairs it through Label Studio's API; None where only a person can.
        repaired: Whether it was wrong until `repair` was called.
    """

    name: str
    ok: bool
    what: str
    fix: str = ""
    repair: Callable[[], object] | None = None
    repaired: bool = False


Check = Callable[[], Finding]
Load = Callable[[], "Encoder"]
