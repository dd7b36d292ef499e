"""The folder of a quickstart: who uses it, what was imported, and how to go on without it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from backend.commands.quickstart.process import free_port, taken
from backend.commands.quickstart.studio import IS_CLONE, ROOT
from backend.errors import ConfigError
from backend.settings import cache_folder

_LOCK = "quickstart.lock"
_PROJECTS = "quickstart.json"
_VARIABLES = "quickstart.env"

Kind = Literal["images", "volumes"]  # what the files of a folder are imported as
_WHY: dict[Kind, str] = {
    "images": "it holds no DICOM or NIfTI file any more",
    "volumes": "it holds DICOM or NIfTI files now",
}


def demo_folder() -> Path:
    """Return the folder that every demo replaces."""
    return ROOT / ".demo" if IS_CLONE else cache_folder() / "demo"


@contextmanager
def emptied(keep: Path | None) -> Iterator[Path]:
    """An empty folder that no other demo uses: `keep`, which must be new or empty, or .demo.

    Raises:
        ConfigError: If `keep` holds something, or another demo uses the folder.
    """
    folder = (keep or demo_folder()).resolve()
    if keep and folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty.", "Name a new folder with --keep.")
    with held(folder):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()
        yield folder


@contextmanager
def held(folder: Path) -> Iterator[Path]:
    """A folder that no other quickstart uses meanwhile; made when missing.

    Raises:
        ConfigError: If another one uses it.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"Another quickstart or demo runs in {folder}.", "Give this one --keep NEW_FOLDER."
        ) from None
    try:
        yield folder
    finally:
        lock.release()


@dataclass(frozen=True)
class Memory:
    """What earlier runs left in a state folder.

    Attributes:
        label_studio: Address of a Label Studio that was there; "" for one of our own.
        projects: The project of each folder.
        kinds: What the files of each folder were imported as.
        port: Where the service listened: its entry in Label Studio holds this address.
        studio_port: Where a Label Studio of our own listened: manifests hold this address.
    """

    label_studio: str
    projects: Mapping[str, int]
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    port: int | None = None
    studio_port: int | None = None

    @classmethod
    def read(cls, state: Path, label_studio: str) -> Memory:
        """Return the memory of a state folder.

        Args:
            state: The folder.
            label_studio: The Label Studio of this run; "" for one of our own.

        Raises:
            ConfigError: If the folder belongs to another Label Studio: ids of projects would
                mean other projects.
        """
        path = state / _PROJECTS
        if path.exists():
            memory = cls(**json.loads(path.read_text("utf-8")))
        else:
            ours = not label_studio and (state / "firstlight.sqlite").exists()
            memory = cls("a Label Studio of yours" if ours else label_studio, {})
        if memory.label_studio != label_studio:
            raise ConfigError(
                f"{state} belongs to {memory.label_studio or 'a Label Studio of its own'}.",
                "Name another folder with --keep.",
            )
        return memory

    def with_ports(self, asked: int | None, studio_asked: int | None) -> Memory:
        """Return this memory with the ports of this run.

        Args:
            asked: Of the service; None for the port of the last run, or else a free one.
            studio_asked: The same of Label Studio.
        """
        return replace(
            self,
            port=asked or _free(self.port),
            studio_port=studio_asked or _free(self.studio_port),
        )

    def with_project(self, folder: Path, project: int, kind: Kind) -> Memory:
        """Return this memory with one more project."""
        return replace(
            self,
            projects={**self.projects, str(folder): project},
            kinds={**self.kinds, str(folder): kind},
        )

    def require_kind(self, folder: Path, kind: Kind) -> None:
        """Raise if the files of a folder were imported as another kind: all would come again.

        Raises:
            ConfigError: Says why the kind is another one now.
        """
        known = self.kinds.get(str(folder), kind)
        if known != kind:
            raise ConfigError(
                f"{folder} was imported as {known}, but would be imported as {kind} now, because "
                f"{_WHY[kind]}: each scan would become a task a second time.",
                "Restore its earlier files and name another folder for the others, or begin a new "
                "project with --keep NEW_FOLDER.",
            )

    def write(self, state: Path) -> None:
        """Keep this memory for the next run."""
        path = state / _PROJECTS
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self), indent=2), "utf-8")
        new.replace(path)


def _free(last: int | None) -> int:
    return last if last and not taken(last) else free_port()


def write_variables(state: Path, variables: Mapping[str, str]) -> Path:
    """Write variables as lines for a shell, for this user's eyes only; return the file."""
    path = state / _VARIABLES
    path.unlink(missing_ok=True)
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(lines)
    return path
