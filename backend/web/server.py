"""The web process: threads behind the loop of waitress, which deals with slow clients.

The loop reads whole requests and sends whole answers, so a thread is busy only while the app
computes an answer. This module limits the time that a client may take.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from flask import Flask
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask

from backend import logs
from backend.errors import ConfigError
from backend.label_studio.credentials import SECRET_HEADER
from backend.rounds.erasing import Eraser, follow
from backend.settings import Settings, prepare_data_dir, require_click_model
from backend.storage.artifacts import Artifacts
from backend.storage.store import Store, open_store
from backend.web.app import MOST_BYTES, create_app
from backend.web.auth import REFUSED_BYTES, WEBHOOK, Gate
from backend.web.ml_protocol import live_drafts

log = logging.getLogger(__name__)

# More threads than requests that may wait for something slow (drafts, clicks, records, an export),
# so that webhooks always get answers.
THREADS = 40
# A client may take so many seconds to send a request or to receive an answer, plus one second for
# every LEAST_RATE bytes.
PATIENCE_SECONDS = 30.0
LEAST_RATE = 10_000
FAREWELL_SECONDS = 2.0
# The start waits so long for the live networks. On two cores beside a training they take about ten
# seconds, in which every draft would come too late and the loading would slow down webhooks.
WARM_SECONDS = 30.0
LOOK_SECONDS = 0.5  # between two checks for clients that take too long
# Limits for all clients together; beyond them the client that takes longest is cut off.
MOST_CONNECTIONS = 400
MOST_HELD_BYTES = 500_000_000
MOST_HEAD_BYTES = 65_536
SEND_BUFFER_BYTES = 65_536

_REFUSALS = {
    400: "The request is not valid HTTP.",
    413: f"The body is larger than {MOST_BYTES} bytes. Send less at once.",
    431: f"The head of the request is larger than {MOST_HEAD_BYTES} bytes. Send fewer headers.",
    501: "The body comes in an unknown transfer coding. Send it plain or as `chunked`.",
}


class _Request(HTTPRequestParser):  # type: ignore[misc]
    """A request as it arrives. A body that the app will refuse is left unread."""

    def __init__(self, adj: Any, gate: Gate) -> None:
        super().__init__(adj)
        self._gate = gate

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError:  # an invalid address, which the error would quote
            raise ParsingError("") from None
        length = 1 if self.chunked else self.content_length  # unknown for chunks
        if self.body_rcv is not None and length > self._most_bytes():
            self._leave_unread()

    def _most_bytes(self) -> int:
        """Return how many bytes of the body may be read."""
        sent = self.headers
        secret = sent.get(SECRET_HEADER.upper().replace("-", "_"), "")
        if self._gate.admits(self.path, sent.get("AUTHORIZATION", ""), secret):
            return MOST_BYTES
        return 0 if self.chunked or self.path != WEBHOOK else REFUSED_BYTES

    def _leave_unread(self) -> None:
        """Hand the head alone to the app, which says what is wrong, and close after its answer."""
        self.body_rcv, self.content_length, self.expect_continue = None, 0, False
        self.headers["CONNECTION"] = "close"


class _Refusal(ErrorTask):  # type: ignore[misc]
    """The answer to a request that never reaches the app: JSON that quotes nothing of it."""

    def execute(self) -> None:
        code = int(self.request.error.code)
        said = _REFUSALS.get(code, "internal error")
        if code == 400 and self.request.chunked:
            said = "The body is not in valid chunks."
        log.warning("malformed request from %s: %s", self.channel.addr[0], said)
        body = json.dumps({"error": said}).encode()
        self.version = "1.1"
        self.status = f"{code} {self.request.error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Client(HTTPChannel):  # type: ignore[misc]
    """A connection, and since when we wait for its client."""

    error_task_class = _Refusal
    close_when_flushed: bool
    connected: bool
    leaving = False  # the answer is sent; the client should close now

    def __init__(self, server: _Server, *args: Any, **kwargs: Any) -> None:
        super().__init__(server, *args, **kwargs)
        self.parser_class: Callable[[Any], _Request] = lambda adj: _Request(adj, server.gate)
        self.since, self.moved = time.monotonic(), 0

    @property
    def is_served(self) -> bool:
        """Whether the app computes its answer, so that we do not wait for the client."""
        return bool(self.requests) and not self.total_outbufs_len

    @property
    def held(self) -> int:
        """Bytes of its requests in memory: of the unfinished one and of those awaiting a thread."""
        requests = (*self.requests, self.request)
        return sum(request.body_bytes_received for request in requests if request)

    def is_late(self, now: float, patience: float) -> bool:
        """Return whether the client has taken longer than it may."""
        return now - self.since > (FAREWELL_SECONDS if self.leaving else patience) + (
            self.moved / LEAST_RATE
        )

    def restart(self) -> None:
        """Start to measure the client's time anew."""
        self.since, self.moved = time.monotonic(), 0

    def received(self, data: bytes) -> bool:
        if self.request is None and data.strip(b"\r\n"):
            self.restart()
        self.moved += len(data)
        return bool(super().received(data))

    def send(self, *args: Any, **kwargs: Any) -> int:
        sent = int(super().send(*args, **kwargs))
        self.moved += sent
        return sent

    def service(self) -> None:
        self.restart()
        super().service()
        self.restart()

    # The server closes late clients while the loop lists the sockets to wait for. A closed client
    # must not be listed: its number may already be that of a new client, who would be cut off.

    def readable(self) -> bool:
        return self.connected and (self.leaving or bool(super().readable()))

    def writable(self) -> bool:
        return self.connected and bool(super().writable())

    def handle_read(self) -> None:
        if self.leaving:
            self.recv(self.adj.recv_bytes)  # closes the connection once the client closed it
        else:
            super().handle_read()

    def handle_write(self) -> None:
        """Send; after the last byte give the client time to receive it.

        If we closed at once while bytes of the request are unread, the system would reset the
        connection and drop the answer.
        """
        ends = self.close_when_flushed
        if ends:
            self.close_when_flushed = False  # else waitress closes at once
        super().handle_write()
        if ends and self.connected and self.total_outbufs_len:
            self.close_when_flushed = True
        elif ends and self.connected:
            self.restart()
            self.leaving = True
            self.socket.shutdown(socket.SHUT_WR)

    def handle_error(self) -> None:
        """Close the connection. Waitress would log the error, which may quote the request."""
        log.error("a connection failed unexpectedly", exc_info=sys.exc_info())
        self.handle_close()


class _Server(TcpWSGIServer):  # type: ignore[misc]
    """The loop; it also closes the connections of clients that take too long."""

    channel_class = _Client

    def __init__(self, app: Flask, listener: socket.socket, patience: float) -> None:
        self.gate: Gate = app.extensions["gate"]
        self._patience = patience
        self._next_look = 0.0
        super().__init__(
            app,
            _sock=listener,
            bind_socket=False,
            sockinfo=(listener.family, listener.type, listener.proto, listener.getsockname()),
            threads=THREADS,
            backlog=2048,
            connection_limit=2 * MOST_CONNECTIONS,  # beyond it waitress would lock clients out
            max_request_header_size=MOST_HEAD_BYTES,
            max_request_body_size=MOST_BYTES + 1,
            asyncore_use_poll=True,
            log_socket_errors=False,
            server_name="localhost",  # for clients without a Host header; browsers send one
            ident=None,
            recv_bytes=65_536,
        )

    def readable(self) -> bool:
        # Called in every turn of the loop, before it waits for anything.
        now = time.monotonic()
        full = len(self.active_channels) >= MOST_CONNECTIONS
        if full or now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._close_late(now, int(full))
        return bool(super().readable())

    def set_socket_options(self, conn: socket.socket) -> None:
        super().set_socket_options(conn)
        # Linux reports a socket as writable once a third of its buffer is free. A buffer that may
        # grow holds megabytes, and a slow client that empties it steadily would look silent.
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def maintenance(self, now: float) -> None:
        """Do nothing: `_close_late` does this, by a clock that nobody can set."""

    def _close_late(self, now: float, places: int) -> None:
        """Close connections of clients that take too long, and free at least so many places."""
        waited_for, held = [], 0
        for client in self.active_channels.values():
            held += client.held
            if client.is_served:
                client.restart()
            else:
                waited_for.append(client)
        waited_for.sort(key=lambda client: client.since)
        for client in waited_for:
            over = client.held and held > MOST_HELD_BYTES
            if places > 0 or over or client.is_late(now, self._patience):
                held -= client.held
                places -= 1
                client.handle_close()


def serve(settings: Settings, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Answer Label Studio until the process is told to stop.

    Args:
        settings: The settings of this installation.
        patience_seconds: How long a client may take to send a request or to receive an answer,
            plus one second for every LEAST_RATE bytes.

    Raises:
        ConfigError: If this process cannot listen on HOST and PORT, or CLICK_MODEL is no folder.
        StorageError: If DATA_DIR or the database cannot be opened.
    """
    logs.configure(settings.log_level)
    require_click_model(settings)
    prepare_data_dir(settings)
    store = open_store(settings.database)
    store.create()
    drafts = live_drafts(settings, store)
    app = create_app(settings, store, drafts, drafts.clicked)
    with listen(settings.host, settings.port) as listener:
        drafts.keep_warm(WARM_SECONDS)
        _erase_here(settings, store)
        server = _Server(app, listener, patience_seconds)
        _ = server.gate.secret  # read now: the loop must never wait for the database
        signal.signal(signal.SIGTERM, _stop)
        try:
            server.run()
        finally:
            drafts.close()  # a draft under way would keep this process alive until it is drawn
            app.extensions["requests"].close()


def _erase_here(settings: Settings, store: Store) -> None:
    """Erase forgotten scans in the background: this machine may hold scans but no worker."""
    files = Artifacts(settings.data_dir, settings.artifacts_url)
    eraser, never = Eraser(store, files, settings.data_dir), threading.Event()
    threading.Thread(target=follow, args=(eraser, lambda: False, never), daemon=True).start()


def _stop(*_: object) -> None:
    """End the loop; threads that compute an answer get 5 seconds to finish."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigError: If the port is taken or the host is not of this machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        # Python appends the address, which our message names already.
        why = str(error.strerror).partition(" (while")[0]
        raise ConfigError(
            f"Cannot listen on {host}, port {port} ({why}).",
            "Stop the program that uses the port, or set HOST and PORT.",
        ) from None
