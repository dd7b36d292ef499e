"""The address of a scan: that of its image, or of a slab the addresses of all its pages."""

from __future__ import annotations

from collections.abc import Iterable

MOST_PAGES = 15  # of a slab: more are slow to open and to submit in Label Studio
SEPARATOR = "\x1e"  # no URL may hold it


def joined(addresses: Iterable[str]) -> str:
    """Return the address of a scan with these pages, in their order."""
    return SEPARATOR.join(address.replace(SEPARATOR, "") for address in addresses)


def separate(address: str) -> list[str]:
    """Return the address of each page; a scan that is no slab has one page."""
    return address.split(SEPARATOR)
