"""The web process: gunicorn with one worker, started from code."""

from __future__ import annotations

import atexit
import logging
import socket
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from backend import logs
from backend.answers import live_drafts
from backend.app import create_app
from backend.errors import ConfigError
from backend.settings import Settings, prepare_data_dir
from backend.store import open_store

# More than can wait for a draft, so that webhooks are always answered.
THREADS = 32


class _Log(Logger):  # type: ignore[misc]
    """Gunicorn's messages, through the handlers of this process."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(logging.NOTSET)


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings, listener: int) -> None:
        self._settings = settings
        self._listener = listener
        super().__init__()

    def load_config(self) -> None:
        values = {
            "bind": f"fd://{self._listener}",
            "workers": 1,
            "worker_class": "gthread",
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
        app = create_app(self._settings, store, live_drafts(self._settings, store))
        atexit.register(app.extensions["hints"].close)
        return app


def serve(settings: Settings) -> None:
    """Answer Label Studio until the process is told to stop.

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
    _Server(settings, listen(settings.host, settings.port).detach()).run()


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
