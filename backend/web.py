"""The web process: gunicorn with one worker, started from code."""

from __future__ import annotations

import atexit
import errno
import logging
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.util import close_graceful
from gunicorn.workers.gthread import TConn, ThreadWorker

from backend import logs
from backend.answers import live_drafts
from backend.app import create_app
from backend.artifacts import Artifacts
from backend.erasing import Eraser, follow
from backend.errors import ConfigError
from backend.settings import Settings, prepare_data_dir
from backend.store import open_store

# More than can wait for a draft, so that webhooks are always answered.
THREADS = 32
SILENCE_SECONDS = 30.0
SEND_BUFFER_BYTES = 65536


class _Log(Logger):  # type: ignore[misc]
    """Gunicorn's messages, through the handlers of this process and without pieces of requests."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(logging.NOTSET)

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Name the kind of a malformed request: its error quotes it, and a token may be in it."""
        error = sys.exc_info()[1]
        if quoted := str(error or ""):
            msg = msg.replace(quoted, type(error).__name__)
        super().warning(msg, *args, **kwargs)

    def debug(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Name the kind of an error that is handed over, for the same reason."""
        kinds = (type(one).__name__ if isinstance(one, Exception) else one for one in args)
        super().debug(msg, *kinds, **kwargs)


class _Client(socket.socket):
    """An accepted connection that is given up once it was silent for so many seconds.

    Gunicorn switches it to blocking before each request, which takes any other timeout away.
    """

    def __init__(self, accepted: socket.socket, silence_seconds: float) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self._silence_seconds = silence_seconds
        # Linux tells of room once a third of the buffer is free. Left to grow it holds megabytes,
        # and a slow line that takes them all the while would look silent.
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def setblocking(self, flag: bool) -> None:
        if self.fileno() >= 0:  # gunicorn's last touch comes after the end
            self.settimeout(self._silence_seconds if flag else 0.0)

    def recv(self, *args: Any) -> bytes:
        with _silence_is_the_end():
            return super().recv(*args)

    def sendall(self, data: Any, flags: int = 0) -> None:
        # The original's timeout is for the whole: a large answer down a slow line takes longer.
        left = memoryview(data).cast("B")
        with _silence_is_the_end():
            while left:
                left = left[self.send(left, flags) :]

    def sendfile(self, *args: Any, **kwargs: Any) -> int:
        with _silence_is_the_end():
            return super().sendfile(*args, **kwargs)


@contextmanager
def _silence_is_the_end() -> Iterator[None]:
    """Turn a timeout into what gunicorn takes for a client's leaving: no traceback, no 500."""
    try:
        yield
    except TimeoutError:
        raise ConnectionResetError(errno.ECONNRESET, "The client was silent.") from None


class _Worker(ThreadWorker):  # type: ignore[misc]
    """Gunicorn's threads, which no silent client can hold for ever."""

    def enqueue_req(self, conn: TConn) -> None:
        if not isinstance(conn.sock, _Client):
            conn.sock = _Client(conn.sock, self.app.silence_seconds)
        super().enqueue_req(conn)

    def handle(self, conn: TConn) -> object:
        goes_on = super().handle(conn)
        if goes_on is False:
            # Gunicorn waits up to 2 s for the client to close, too, but in the thread that accepts.
            close_graceful(conn.sock)
        return goes_on


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings, listener: int, silence_seconds: float) -> None:
        self._settings = settings
        self._listener = listener
        self.silence_seconds = silence_seconds
        super().__init__()

    def load_config(self) -> None:
        values = {
            "bind": f"fd://{self._listener}",
            "workers": 1,
            "worker_class": _Worker,
            "threads": THREADS,
            "timeout": 120,
            "graceful_timeout": 5,
            "logger_class": _Log,
            "control_socket_disable": True,
        }
        for name, value in values.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        # In the worker, after the fork: connections and threads do not survive one.
        store = open_store(self._settings.database)
        drafts = live_drafts(self._settings, store)
        drafts.keep_warm()
        app = create_app(self._settings, store, drafts)
        atexit.register(app.extensions["hints"].close)
        # Decoded scans lie here as well, and there may be no worker on this machine.
        files = Artifacts(self._settings.data_dir, self._settings.artifacts_url)
        eraser = Eraser(store, files, self._settings.data_dir)
        never = threading.Event()
        threading.Thread(target=follow, args=(eraser, lambda: False, never), daemon=True).start()
        return app


def serve(settings: Settings, *, silence_seconds: float = SILENCE_SECONDS) -> None:
    """Answer Label Studio until the process is told to stop.

    Args:
        settings: Of this installation.
        silence_seconds: How long a client may neither send what it began nor take its answer.

    Raises:
        ConfigError: If HOST and PORT cannot be listened on.
        StorageError: If DATA_DIR or the database cannot be opened.
    """
    logs.configure(settings.log_level)
    prepare_data_dir(settings)
    store = open_store(settings.database)
    store.create()
    store.engine.dispose()
    # Handed over whole: gunicorn closes it, in the master and in the worker.
    listener = listen(settings.host, settings.port).detach()
    _Server(settings, listener, silence_seconds).run()


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
        # Python appends the address, which is said already.
        why = str(error.strerror).partition(" (while")[0]
        raise ConfigError(
            f"Cannot listen on {host}, port {port} ({why}).",
            "Stop what uses the port, or set HOST and PORT.",
        ) from None
