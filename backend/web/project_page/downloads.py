"""Exports as a download: made by a process of its own, so that this one goes on answering."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from typing import IO

from backend import PROGRAM, logs
from backend.errors import ConfigError
from backend.settings import Settings, own_python

log = logging.getLogger(__name__)

SECONDS = 60.0  # the longest time that an export may take; the command takes as long as it needs
LEFT_OUT = 1  # exit code of an export that names what it left out
MOST_AT_ONCE = 1  # each holds a thread of the server
MESSAGE = {1, 2}  # exit codes of a command whose last line is an error's message
# The places of a traceback, and the type of its error
_CRASH = re.compile(r"^Traceback .*\n(?P<places>(?:  .*\n)+)(?P<kind>[\w.]+)", re.MULTILINE)
_FOLDER = ".download-"  # begins the name of the folder of an export under way
_STALE_SECONDS = 3600.0  # age of a folder whose process was killed


class Downloads:
    """Makes one archive at a time."""

    def __init__(self, settings: Settings) -> None:
        self._parent = settings.data_dir
        self._places = threading.BoundedSemaphore(MOST_AT_ONCE)

    def archive(self, project_id: int, to: str) -> IO[bytes]:
        """Return a ZIP file with the submitted masks of a project, in a format of DOWNLOADS.

        Raises:
            ConfigError: If another export is being made, or this one fails or takes too long.
        """
        if not self._places.acquire(blocking=False):
            raise ConfigError("Another export is being made.", "Try again in a minute.")
        try:
            with self._folder() as folder:
                _export(project_id, to, folder / f"project-{project_id}")
                return self._packed(folder)
        finally:
            self._places.release()

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """Give a folder for an export, and delete it with those of processes that were killed."""
        folder = Path(mkdtemp(prefix=_FOLDER, dir=self._parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._delete_stale()

    def _delete_stale(self) -> None:
        for folder in self._parent.glob(f"{_FOLDER}*"):
            with suppress(FileNotFoundError):
                if folder.stat().st_mtime < time.time() - _STALE_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)

    def _packed(self, folder: Path) -> IO[bytes]:
        file: IO[bytes] = TemporaryFile(dir=self._parent)  # noqa: SIM115 - the response closes it
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.name.startswith("."):
                    archive.write(path, path.relative_to(folder))
        file.seek(0)
        return file


def _export(project_id: int, to: str, folder: Path) -> None:
    order = [*own_python(), "export", "--with-parent", str(project_id), "--to", to, str(folder)]
    # The pipe closes however this process ends, and the command, which watches it, ends too.
    watched, held = os.pipe()
    try:
        done = subprocess.run(
            order, stdin=watched, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"The export took more than {SECONDS:.0f} s.",
            f"Export with the command: {_command(project_id, to)}",
        ) from None
    finally:
        os.close(watched)
        os.close(held)
    # A crash has the exit code LEFT_OUT too, but only a complete export says what it wrote.
    if done.returncode != 0 and not (done.returncode == LEFT_OUT and done.stdout):
        raise _failure(project_id, done)


def _failure(project_id: int, done: subprocess.CompletedProcess[str]) -> ConfigError:
    """Return what a person should know; of a crash that is a number, and the log has its place."""
    lines = done.stderr.strip().splitlines()
    crash = _CRASH.search(done.stderr)
    if done.returncode in MESSAGE and lines and not crash:
        return ConfigError(f"The export failed. {lines[-1]}")
    number = secrets.token_hex(4)
    # Places and type only, as in the log's own tracebacks: a message may quote patient data.
    said = f"{crash['kind']}:\n{crash['places']}" if crash else "without a traceback"
    with logs.context(request=number):
        log.error(
            "the export of project %s ended with status %s, %s",
            *(project_id, done.returncode, said),
        )
    return ConfigError(
        f"The export failed: internal error {number}.",
        "The log of the web process says more under this number.",
    )


def _command(project_id: int, to: str) -> str:
    return f"{PROGRAM} export {project_id} --to {to} DIR"
