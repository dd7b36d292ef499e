"""The pinned Label Studio, in an environment of its own: it pins Django and much else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
from filelock import FileLock

from backend.commands.quickstart.studio import IS_CLONE, ROOT
from backend.errors import ConfigError, ServerError
from backend.settings import cache_folder

# The wheel holds the lock of the clone beside this file.
LOCK = Path(__file__).with_name("requirements-label-studio.txt")
DOWNLOAD = "0.2 GB"


def is_installed() -> bool:
    """Return whether Label Studio need not be downloaded."""
    return _is_complete(_folder())


def environment() -> Path:
    """Return the environment that holds Label Studio; uv makes it where it is missing.

    Raises:
        ConfigError: If it is missing and there is no uv; the error says how to get Label Studio.
        ServerError: If uv could not install it.
    """
    folder = _folder()
    if _is_complete(folder):
        return folder
    if IS_CLONE:
        raise ConfigError(f"Label Studio is not installed in {folder}.", "Run scripts/setup.")
    uv = _uv()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not _is_complete(folder):
            _install(uv, folder)
    return folder


def version() -> str:
    """Return the release of Label Studio that the lock pins."""
    [found] = re.findall(r"^label-studio==(\S+)", LOCK.read_text("utf-8"), flags=re.MULTILINE)
    return str(found)


def _folder() -> Path:
    if IS_CLONE:
        return ROOT / ".venv-label-studio"
    return cache_folder() / f"label-studio-{version()}"


def _is_complete(folder: Path) -> bool:
    # scripts/setup and `_install` both leave a copy of the lock when they are done.
    return any(folder.glob(".installed-*")) and (folder / "bin" / "label-studio").exists()


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = shutil.which("uv") or (str(beside) if beside.exists() else "")
    if not found:
        raise ConfigError(
            "No Label Studio is installed here, and there is no uv to install one.",
            "Install uv (`pip install uv`) and run this command again; or run a Label Studio "
            "yourself and name it: --label-studio URL --token TOKEN.",
        )
    return found


def _install(uv: str, folder: Path) -> None:
    """Let uv install the lock; it shows its own progress."""
    click.echo(f"Installing Label Studio {version()} into {folder} ({DOWNLOAD} to download, once)")
    python = folder / "bin" / "python"
    lock = ("--no-deps", "--require-hashes", "--requirement", LOCK)  # it names every package
    commands: list[list[str | Path]] = [
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder],
        [uv, "pip", "install", "--python", python, *lock],
    ]
    for command in commands:
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
            raise ServerError(
                "uv could not install Label Studio.",
                "Its message stands above. Or name a Label Studio that runs: --label-studio URL "
                "--token TOKEN.",
            )
    shutil.copy(LOCK, folder / f".installed-{LOCK.name}")
