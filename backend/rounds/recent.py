"""Keep in memory what was used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

Key = TypeVar("Key")
Kept = TypeVar("Kept")


def kept(entries: OrderedDict[Key, Kept], name: Key, most: int, make: Callable[[], Kept]) -> Kept:
    """Return an entry, made if it is missing; only the `most` entries used last stay."""
    if name not in entries:
        entries[name] = make()
    entries.move_to_end(name)
    while len(entries) > most:
        entries.popitem(last=False)
    return entries[name]
