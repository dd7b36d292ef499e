"""A real Label Studio of our own: SQLite, loopback, no outside calls."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import httpx
from filelock import FileLock

from backend.commands.quickstart.process import Process, Server, bare_environment, free_port, taken
from backend.errors import ServerError

ROOT = Path(__file__).resolve().parents[3]  # the clone, or the folder of installed packages
IS_CLONE = (ROOT / "scripts" / "setup").is_file()
DATABASE = "label_studio.sqlite3"

# Settings that the backend needs, and settings that keep Label Studio from calling outside.
SETTINGS = {
    "ML_BLOCK_LOCAL_IP": "false",
    "SSRF_PROTECTION_ENABLED": "false",
    "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
    "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
    "fflag_fix_back_4620_memory_efficient_predictions_import_08012025_short": "true",
    "COLLECT_ANALYTICS": "0",
    "LATEST_VERSION_CHECK": "0",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
}

_START = ("start", "--no-browser", "--internal-host", "127.0.0.1", "--port")


@dataclass(frozen=True)
class Account:
    """The account that owns a data directory of Label Studio."""

    email: str
    password: str
    token: str


class LabelStudio(Server):
    """The pinned Label Studio on one data directory; a context manager.

    Started again on the same directory, it keeps its projects, account and port.

    Args:
        data: Its data directory; made when missing, with an account of its own.
        port: Where it listens on 127.0.0.1; any free port when None.
        env: Further variables for Label Studio.
        venv: Where it is installed.
    """

    title = "Label Studio"
    grace = 2.0

    def __init__(
        self,
        data: Path,
        *,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        venv: Path = ROOT / ".venv-label-studio",
    ) -> None:
        self._data = data.resolve()
        self._port = port
        self._env = dict(env or {})
        self._venv = venv
        self._account = _account(self._data)

    @property
    def is_new(self) -> bool:
        """Whether its database has to be made first, which takes a minute once."""
        return not (self._data / DATABASE).exists() and not _template(self._venv).exists()

    def prepare(self) -> None:
        """Make its database.

        Raises:
            ServerError: If it is not installed, or its migrations fail.
        """
        if not (self._data / DATABASE).exists():
            shutil.copyfile(_migrated_database(self._venv), self._data / DATABASE)

    @property
    def url(self) -> str:
        """Its address; known once it has been started."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def email(self) -> str:
        """The login's name."""
        return self._account.email

    @property
    def password(self) -> str:
        """The login's password."""
        return self._account.password

    @property
    def token(self) -> str:
        """The account's legacy API token."""
        return self._account.token

    def start(self, seconds: float = 180) -> Self:
        """Start it, and return when it answers; a venv's first start migrates a database before.

        Raises:
            ServerError: If it is not installed, ends early or does not answer in that time.
        """
        program = _program(self._venv)
        self.prepare()
        self._port = self._port or free_port()
        if taken(self._port):
            # Label Studio would silently take another port.
            raise ServerError(
                f"Port {self._port} of 127.0.0.1 is in use.",
                "Stop the other program, or name another port with --label-studio-port.",
            )
        self._process = Process(
            [program, *_START, str(self._port)],
            log=self._data / "label-studio.log",
            env=_environment(self._data) | self._login() | self._env,
            cwd=self._data,
        )
        self._wait_until_it_answers(self._process, time.monotonic() + seconds)
        return self

    def _login(self) -> dict[str, str]:
        # By environment, not by flag: every user of the machine can read a command line.
        return {
            "LABEL_STUDIO_USERNAME": self.email,
            "LABEL_STUDIO_PASSWORD": self.password,
            "LABEL_STUDIO_USER_TOKEN": self.token,
        }

    def _wait_until_it_answers(self, process: Process, deadline: float) -> None:
        while not self._answers():
            process.check("Label Studio")
            if time.monotonic() > deadline:
                raise ServerError(f"Label Studio does not answer at {self.url}; see {process.log}.")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            # Our own token: another server on the port must not be taken for ours.
            answer = httpx.get(
                f"{self.url}/api/projects",
                headers={"Authorization": f"Token {self.token}"},
                timeout=5,
                trust_env=False,
            )
        except httpx.TransportError:
            return False
        return answer.status_code == httpx.codes.OK


def _account(data: Path) -> Account:
    data.mkdir(parents=True, exist_ok=True)
    path = data / "account.json"
    if path.exists():
        return Account(**json.loads(path.read_text()))
    account = Account("demo@firstlight.local", secrets.token_urlsafe(12), secrets.token_hex(20))
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(account), file)
    return account


def _program(venv: Path) -> Path:
    program = venv / "bin" / "label-studio"
    if not program.exists():
        raise ServerError(f"Label Studio is not installed in {venv}.", "Run scripts/setup.")
    return program


def _environment(data: Path) -> dict[str, str]:
    return bare_environment() | SETTINGS | {"LABEL_STUDIO_BASE_DATA_DIR": str(data)}


def _template(venv: Path) -> Path:
    return venv / "template" / DATABASE


def _migrated_database(venv: Path) -> Path:
    """An unused database of this Label Studio, made once: its migrations take half a minute."""
    database = _template(venv)
    database.parent.mkdir(exist_ok=True)
    with (
        FileLock(venv / "template" / "lock"),
        tempfile.TemporaryDirectory(dir=database.parent) as fresh,
    ):
        if not database.exists():
            _migrate(venv, Path(fresh))
            (Path(fresh) / DATABASE).replace(database)
    return database


def _migrate(venv: Path, data: Path) -> None:
    # Every command of Label Studio migrates its database first; "version" then does nothing else.
    process = Process(
        [_program(venv), "version"],
        log=data / "migrate.log",
        env=_environment(data),
        cwd=data,
    )
    try:
        code = process.wait(600)
    except subprocess.TimeoutExpired:
        raise ServerError("Label Studio's migrations took more than 10 minutes.") from None
    finally:
        process.stop(seconds=1)
    if code:
        raise ServerError(f"Label Studio's migrations failed with code {code}.")
