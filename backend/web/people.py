"""The name of the person behind a request, where a proxy signs people in."""

from __future__ import annotations

import logging
from contextlib import suppress
from ipaddress import IPv6Address, ip_address

from flask import request

from backend import logs
from backend.settings import Settings

log = logging.getLogger(__name__)

LONGEST_NAME = 200


class People:
    """Reads names from TRUSTED_USER_HEADER, in requests of TRUSTED_PROXIES alone."""

    def __init__(self, settings: Settings) -> None:
        self._header = settings.trusted_user_header
        self._proxies = settings.trusted_proxies
        self._ignored = logs.Once(log)

    def name(self) -> str:
        """Return who sent this request, "" if no trusted proxy says so."""
        sent = request.headers.get(self._header, "") if self._header else ""
        if not sent:
            return ""
        if not self._is_proxy(request.remote_addr or ""):
            # Anybody can send the header: its value stays out of the log.
            self._ignored(
                f"the header {self._header} of a caller outside of TRUSTED_PROXIES is ignored"
            )
            return ""
        return _cleaned(sent)

    def _is_proxy(self, address: str) -> bool:
        try:
            caller = ip_address(address)
        except ValueError:  # a socket of this machine has no address
            return False
        # A socket for both kinds of addresses shows IPv4 as ::ffff:10.0.0.7.
        if isinstance(caller, IPv6Address) and caller.ipv4_mapped:
            caller = caller.ipv4_mapped
        return any(caller in network for network in self._proxies)


def _cleaned(sent: str) -> str:
    """Return a name in one line. WSGI reads headers as Latin-1, proxies mostly send UTF-8."""
    with suppress(UnicodeError):
        sent = sent.encode("latin-1").decode()
    shown = "".join(letter if letter.isprintable() else " " for letter in sent)
    return " ".join(shown.split())[:LONGEST_NAME]
