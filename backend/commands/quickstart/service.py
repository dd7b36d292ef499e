"""The service, run as a user would run it, and watched over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from backend.commands.quickstart.process import (
    Process,
    Server,
    environment_without,
    free_port,
)
from backend.commands.quickstart.studio import ROOT
from backend.errors import ServerError

# Set for another installation, these would give this one its folder, its addresses or its people.
_FOREIGN = (
    "ARTIFACTS_URL",
    "BACKEND_URL",
    "BASIC_AUTH_PASS",
    "BASIC_AUTH_USER",
    "DATABASE_URL",
    "IMPORTS_DIR",
    "LABEL_STUDIO_PUBLIC_URL",
    "NOTIFY_URL",
    "PAGES_URL",
    "TRUSTED_PROXIES",
    "TRUSTED_USER_HEADER",
    "WEBHOOK_SECRET",
)
_TOLD = (*_FOREIGN, "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "DATA_DIR", "HOST", "PORT")
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - a user's choice, compared with
_PROBLEM_SECONDS = 60  # a problem that lasts longer does not pass by itself


@dataclass(frozen=True)
class Status:
    """A project's status, as far as it is watched here."""

    step: str | None
    live_version: str | None
    validation_dice: float | None
    prequential_dice: float | None
    requested: int
    completed: int
    next_tasks: tuple[int, ...]
    labels_in_live: int
    problem: str | None
    embedded: int | None = None  # scans, in the step "embed"

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        """The status in an answer of /projects/<id>?format=json."""
        return cls(
            step=answer["step"],
            live_version=answer["live_version"],
            validation_dice=answer["validation_dice"],
            prequential_dice=answer["prequential_dice"],
            requested=answer["requested"],
            completed=answer["completed"],
            next_tasks=tuple(scan["task"] for scan in answer["next"]),
            labels_in_live=answer["labels_in_live"],
            problem=answer["problem"],
            embedded=answer["progress"].get("done") if answer["step"] == "embed" else None,
        )

    def settled(self, labels: int) -> bool:
        """Whether no round runs or waits, and the queue was made from at least so many labels."""
        idle = self.step is None and self.requested == self.completed
        return idle and self.live_version is not None and self.labels_in_live >= labels


# The status until the worker takes the project up, some seconds after its connection.
UNKNOWN = Status(
    step=None,
    live_version=None,
    validation_dice=None,
    prequential_dice=None,
    requested=1,
    completed=0,
    next_tasks=(),
    labels_in_live=0,
    problem=None,
)


class Backend(Server):
    """`python -m backend start` on a port and a data directory of its own; a context manager.

    Args:
        studio_url: Address of Label Studio.
        token: An API token of Label Studio.
        data: DATA_DIR; made when missing.
        port: Where it listens; any free port when None.
        env: Further variables for the backend.
    """

    title = "The backend"
    grace = 6.0

    def __init__(
        self,
        studio_url: str,
        token: str,
        data: Path,
        *,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.data = data.resolve()
        self.data.mkdir(parents=True, exist_ok=True)
        port = port or free_port()
        self._env = environment_without(_FOREIGN) | {
            "LABEL_STUDIO_URL": studio_url,
            "LABEL_STUDIO_API_KEY": token,
            "DATA_DIR": str(self.data),
            "HOST": "127.0.0.1",
            "PORT": str(port),
            **(env or {}),
        }
        host = "127.0.0.1" if self._env["HOST"] in _EVERYWHERE else self._env["HOST"]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        user, password = (self._env.get(f"BASIC_AUTH_{name}") for name in ("USER", "PASS"))
        self._auth = (user, password) if user and password else None

    def start(self, seconds: float = 120) -> Self:
        """Start it, and return when /health answers.

        Raises:
            ServerError: If it ends early or does not answer in that time.
        """
        command = [sys.executable, "-m", "backend", "start"]
        log = self.data / "backend.log"
        self._process = Process(command, log=log, env=self._env, cwd=ROOT)
        deadline = time.monotonic() + seconds
        while not self._healthy():
            self.check()
            if time.monotonic() > deadline:
                raise ServerError(f"The backend does not answer at {self.url}; see {log}.")
            time.sleep(0.2)
        return self

    def connect(
        self, project: int, options: Mapping[str, Any] | None = None, *, clicks: bool = False
    ) -> None:
        """Register it for a project of Label Studio, with options as extra_params."""
        command = [sys.executable, "-m", "backend", "connect", str(project)]
        command += ["--clicks"] if clicks else []
        if options:
            command += ["--extra-params", json.dumps(options)]
        try:
            done = subprocess.run(
                command,
                env=self._env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=120,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ServerError("connect did not end within two minutes.") from None
        if done.returncode:
            raise ServerError(f"connect failed: {done.stdout.strip()[-300:]}")

    @property
    def variables(self) -> dict[str, str]:
        """The variables that lead another command to this service and its Label Studio."""
        return {name: self._env[name] for name in _TOLD if name in self._env}

    def page(self, project: int) -> str:
        """Address of the page that shows the project."""
        return f"{self.url}/projects/{project}"

    def status(self, project: int) -> Status:
        """The project's status now."""
        address = f"{self.page(project)}?format=json"
        try:
            answer = httpx.get(address, timeout=30, trust_env=False, auth=self._auth)
            if answer.status_code == 404:
                return UNKNOWN
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise ServerError(f"The backend did not tell the project's status: {error}") from error
        return Status.read(answer.json())

    def wait_for_queue(
        self,
        project: int,
        *,
        labels: int,
        seconds: float = 1200,
        show: Callable[[Status], None] = lambda status: None,
    ) -> Status:
        """The status once the published queue was made from so many labels.

        Args:
            project: The project.
            labels: How many labels the queue has to know.
            seconds: How long to wait.
            show: Told every status on the way.

        Raises:
            ServerError: If that time passes, the backend ends, or a problem lasts for a minute.
        """

        def shown() -> Status:
            self.check()
            status = self.status(project)
            show(status)
            return status

        return wait_until_settled(shown, labels, seconds)

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5, trust_env=False).is_success
        except httpx.TransportError:
            return False


def wait_until_settled(
    status: Callable[[], Status],
    labels: int,
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Status:
    """The first settled status with so many labels; a ServerError says why there was none."""
    started = healthy = clock()
    while not (now := status()).settled(labels):
        healthy = healthy if now.problem else clock()
        if clock() - healthy > _PROBLEM_SECONDS:
            raise ServerError(f"The backend cannot go on: {now.problem}")
        if clock() - started > seconds:
            raise ServerError(f"No new queue after {seconds:.0f} s; the backend says {now}.")
        sleep(0.5)
    return now
