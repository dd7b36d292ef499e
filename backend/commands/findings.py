"""What a check of the doctor returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.encoders import Encoder


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        name: The thing that was checked.
        ok: Whether it is in order.
        what: What the check saw, in a sentence.
        fix: What a person has to do; a note if `ok`.
        repair: Repairs it through Label Studio's API; None if only a person can.
        repaired: Whether it was wrong until `repair` was called.
        variables: Environment variables that Label Studio has to be started with.
    """

    name: str
    ok: bool
    what: str
    fix: str = ""
    repair: Callable[[], object] | None = None
    repaired: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)


Check = Callable[[], Finding]
Load = Callable[[], "Encoder"]
