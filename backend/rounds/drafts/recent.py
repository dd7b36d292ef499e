"""Keep in memory what was used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

Key = TypeVar("Key")
Kept = TypeVar("Kept")


def kept(
    entries: OrderedDict[Key, Kept],
    name: Key,
    most: int,
    make: Callable[[], Kept],
    size: Callable[[Kept], int] = lambda entry: 1,
) -> Kept:
    """Return an entry, made if it is missing; only the entries used last stay.

    Args:
        entries: The entries in memory.
        name: Of the entry.
        most: Size of all entries together. A larger entry stays alone.
        make: Makes the entry.
        size: Of an entry.
    """
    if name not in entries:
        entries[name] = make()
    entries.move_to_end(name)
    total = sum(map(size, entries.values()))
    while total > most and len(entries) > 1:
        _, dropped = entries.popitem(last=False)
        total -= size(dropped)
    return entries[name]
