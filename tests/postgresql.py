"""A PostgreSQL of the test run's own, out of Debian's package; it keeps nothing."""

from __future__ import annotations

import os
import pwd
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

DEBIAN = Path("/usr/lib/postgresql")
OPTIONS = (
    "listen_addresses=127.0.0.1",
    "max_connections=300",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
)


def programs() -> Path | None:
    """Return where the server's programs lie, None where there are none."""
    return max(DEBIAN.glob("*/bin"), default=None)


@contextmanager
def running() -> Iterator[str]:
    """Start a server on a free port of this machine; yields its address.

    As root it runs as the package's user, for it refuses to be root.
    """
    found = programs()
    assert found, f"no PostgreSQL below {DEBIAN}: install Debian's package `postgresql`"
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if user:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        data = str(folder / "data")
        init = [str(found / "initdb"), "-D", data, "-A", "trust", "-U", "postgres"]
        subprocess.run(init, check=True, cwd=folder, user=user, stdout=subprocess.DEVNULL)
        port = _free_port()
        start = [str(found / "postgres"), "-D", data, "-k", name, "-p", str(port)]
        start += [word for option in OPTIONS for word in ("-c", option)]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(start, cwd=folder, user=user, stdout=log, stderr=log)
        try:
            _wait_for([str(found / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)], server)
            yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        finally:
            server.terminate()  # it waits for connections to end ...
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                server.kill()  # ... and has nothing to lose
                server.wait()


@contextmanager
def empty_database(server: str) -> Iterator[str]:
    """Make a database on a server; yields its address, and drops it whoever is still connected."""
    with copied_database(server, "template1") as url:
        yield url


@contextmanager
def copied_database(server: str, template: str) -> Iterator[str]:
    """Make a copy of a database, yield its address, and drop it. Nobody may use the template."""
    name = f"firstlight_{secrets.token_hex(4)}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


def _wait_for(ready: list[str], server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while subprocess.run(ready, stdout=subprocess.DEVNULL, check=False).returncode:
        assert server.poll() is None, "PostgreSQL ended at once"
        assert time.monotonic() < end, "PostgreSQL does not answer"
        time.sleep(0.1)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
