"""docker-compose.yml brought up beside whatever else runs here, under a name of its own."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from backend.commands.quickstart.process import free_port
from backend.commands.quickstart.service import Status, wait_until_settled
from backend.commands.quickstart.studio import ROOT

log = logging.getLogger(__name__)

FILES = (ROOT / "docker-compose.yml", ROOT / "tests" / "compose" / "override.yml")
_PASSED_ON = ("PATH", "HOME", "LANG", "DOCKER_HOST", "TORCH_INDEX", "PIP_INDEX_URL")
BASE = "python:3.11.15-slim-bookworm"


def compose_command() -> list[str]:
    """Return how Compose is called here; skip the test with the reason where it cannot be."""
    if shutil.which("docker") is None:
        pytest.skip("no container engine: there is no `docker` here")
    if _run(["docker", "info"], check=False).returncode:
        pytest.skip("no container engine: `docker info` does not reach one")
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not _run([*command, "version"], check=False).returncode:
            return command
    pytest.skip("no Compose: neither `docker compose` nor `docker-compose` is installed")


def need_images() -> None:
    """Skip the test unless every public image is here or can be pulled."""
    services = yaml.safe_load(FILES[0].read_text())["services"].values()
    public = {one["image"] for one in services} - {"firstlight"}
    for image in sorted(public | {BASE}):
        here = not _run(["docker", "image", "inspect", image], check=False).returncode
        if not here and _run(["docker", "pull", "--quiet", image], check=False).returncode:
            pytest.skip(f"{image} cannot be pulled; tests/compose/stand_ins.sh makes stand-ins")


class Stack:
    """The services of docker-compose.yml; a context manager that leaves nothing behind.

    Args:
        folder: Where its .env is written.
        settings: Lines of .env besides those that have to be there.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.name = f"firstlight-test-{secrets.token_hex(4)}"
        self.token = secrets.token_hex(20)
        self._password = "any@character:may/stand%here'" + secrets.token_hex(8)
        studio, web = free_port(), free_port()
        self.studio_url = f"http://127.0.0.1:{studio}"
        self.web_url = f"http://127.0.0.1:{web}"
        self.auth = ("compose", secrets.token_hex(8))
        values = {
            "LABEL_STUDIO_USERNAME": "compose@example.com",
            "LABEL_STUDIO_PASSWORD": secrets.token_hex(8),
            "LABEL_STUDIO_API_KEY": self.token,
            "LABEL_STUDIO_PUBLIC_URL": self.studio_url,
            "POSTGRES_PASSWORD": secrets.token_hex(8),
            "DATABASE_PASSWORD": self._password,
            "LABEL_STUDIO_PORT": str(studio),
            "WEB_PORT": str(web),
            "BASIC_AUTH_USER": self.auth[0],
            "BASIC_AUTH_PASS": self.auth[1],
            "WEBHOOK_SECRET": secrets.token_hex(8),
            **settings,
        }
        env_file = folder / ".env"
        env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        files = [part for file in FILES for part in ("--file", str(file))]
        self._compose = [
            *compose_command(),
            *("--project-name", self.name, "--project-directory", str(ROOT)),
            *("--env-file", str(env_file), *files),
        ]

    def compose(self, *arguments: str, check: bool = True, seconds: float = 600) -> str:
        """Return what a command of Compose printed."""
        return _run([*self._compose, *arguments], check=check, seconds=seconds).stdout

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        return self.compose("ps", "--quiet", service).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what the engine says about a service's container."""
        answer = _run(["docker", "inspect", self.container(service)]).stdout
        return dict(json.loads(answer)[0])

    def health(self, service: str) -> str:
        """Return starting, healthy or unhealthy."""
        return str(self.inspect(service)["State"]["Health"]["Status"])

    def query(self, database: str, query: str) -> subprocess.CompletedProcess[str]:
        """Ask a database as Firstlight's user does, by the network."""
        where = ["--host", "postgres", "--username", "firstlight", "--dbname", database]
        run = ["exec", "-T", "-e", f"PGPASSWORD={self._password}", "postgres"]
        ask = ["psql", "--no-psqlrc", "--tuples-only", *where, "--command", query]
        return _run([*self._compose, *run, *ask], check=False)

    def page(self, project: int) -> dict[str, Any]:
        """Return what the project's page says, as JSON."""
        return self._get(f"/projects/{project}?format=json")

    def versions(self, project: int) -> dict[int, list[str]]:
        """Return what every round has published, by the round's number."""
        record = self._get(f"/projects/{project}/rounds.json")["rounds"]
        return {one["round"]: [made["name"] for made in one["versions"]] for one in record}

    def settle(self, project: int, labels: int) -> dict[str, Any]:
        """Wait for the queue that takes so many labels into account; return the page."""
        wait_until_settled(lambda: Status.read(self.page(project)), labels, seconds=400)
        return self.page(project)

    def _get(self, path: str) -> dict[str, Any]:
        answer = httpx.get(self.web_url + path, auth=self.auth, timeout=30, trust_env=False)
        return dict(answer.raise_for_status().json())

    def __enter__(self) -> Self:
        begin = time.monotonic()
        self.compose("build", seconds=3600)
        log.info("built after %.0f s", time.monotonic() - begin)
        begin = time.monotonic()
        try:
            self.compose("up", "--detach", seconds=900)
            log.info("web is healthy after %.0f s", time.monotonic() - begin)
            # On an empty volume Label Studio makes its tables first.
            until(lambda: self.health("label-studio") == "healthy", self.told, seconds=600)
            log.info("Label Studio is healthy after %.0f s", time.monotonic() - begin)
        except BaseException:
            log.error("%s", self.told())
            self.down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            log.error("%s", self.told())
        self.down()

    def told(self) -> str:
        """Return what the services said last."""
        return self.compose("logs", "--no-color", "--tail", "30", check=False)

    def down(self) -> None:
        """Remove containers, networks and volumes."""
        begin = time.monotonic()
        self.compose("down", "--volumes", "--remove-orphans", check=False)
        log.info("down after %.0f s", time.monotonic() - begin)

    def left_behind(self) -> list[str]:
        """Return the ids of containers, networks and volumes that still are."""
        mine = ["--quiet", "--filter", f"label=com.docker.compose.project={self.name}"]
        kinds = (["ps", "--all"], ["network", "ls"], ["volume", "ls"])
        return [name for kind in kinds for name in _run(["docker", *kind, *mine]).stdout.split()]


def until(condition: Callable[[], bool], told: Callable[[], object], *, seconds: float) -> None:
    """Come back once it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {told()}"
        time.sleep(0.3)


def _run(
    command: list[str], *, check: bool = True, seconds: float = 600
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if check:
        assert done.returncode == 0, f"{command[-3:]}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done
