"""Label Studios that answer near a wrong LABEL_STUDIO_URL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

# Label Studio takes 8080, or the next port that is free; 8000 and 80 are common behind proxies.
PORTS = (8080, *range(8081, 8090), 8000, 80)
LOOPBACK = "127.0.0.1"
# A machine of the same network takes a connection sooner; a busy Label Studio answers later.
TIMEOUT = httpx.Timeout(5.0, connect=1.0)


@dataclass(frozen=True)
class Neighbour:
    """A Label Studio, and its release."""

    url: str
    version: str


def search(web: httpx.Client, url: str) -> Iterator[Neighbour]:
    """Yield the Label Studios on the usual ports of this machine and of the host of an address.

    Args:
        web: Calls them, without a token.
        url: The address at which no Label Studio answers.
    """
    hosts = dict.fromkeys([urlsplit(url).hostname or LOOPBACK, LOOPBACK])
    hosts.pop("localhost", None)  # the same machine
    for host in hosts:
        shown = f"[{host}]" if ":" in host else host
        for port in PORTS:
            address = f"http://{shown}:{port}"
            if version := _version(web, address):
                yield Neighbour(address, version)


def _version(web: httpx.Client, address: str) -> str:
    """Return the release of the Label Studio at an address, "" if none answers."""
    try:
        answer = web.get(f"{address}/api/version", timeout=TIMEOUT).json()
    except (httpx.HTTPError, ValueError):
        return ""
    return str(answer.get("release") or "") if isinstance(answer, dict) else ""
