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
        mend: What a person has to do, or may want to know.
        fix: Mends it through Label Studio's API; None where only a person can.
        mended: Whether it was wrong until `fix` was called.
    """

    name: str
    ok: bool
    what: str
    mend: str = ""
    fix: Callable[[], object] | None = None
    mended: bool = False


Check = Callable[[], Finding]
Load = Callable[[], "Encoder"]
