"""How Label Studio gets the pictures of slices: by upload, or from a folder that it serves."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from backend.errors import LabelStudioError
from backend.label_studio.task_import import TaskImport


class Serving(Protocol):
    """Makes pictures known to Label Studio.

    Attributes:
        folder: Where the pictures are written.
    """

    @property
    def folder(self) -> Path: ...  # noqa: D102

    def addresses(self, pictures: Sequence[str]) -> dict[str, str]:
        """Return the address of each picture in Label Studio, by its path in the folder."""


class Uploads:
    """Uploads each picture once; one that an interrupted import uploaded is found by its name."""

    def __init__(self, tasks: TaskImport, project: int, folder: Path) -> None:
        self.folder = folder
        self._tasks = tasks
        self._project = project
        self._known: dict[str, str] | None = None

    def addresses(self, pictures: Sequence[str]) -> dict[str, str]:
        """Return the address of each picture, after uploading those that are not there.

        Raises:
            LabelStudioError: If Label Studio refuses one, or changes its name.
        """
        if self._known is None:
            self._known = self._tasks.uploads(self._project)
        names = {picture: Path(picture).name for picture in pictures}
        new = [self.folder / picture for picture in pictures if names[picture] not in self._known]
        self._known |= self._tasks.upload(self._project, new)
        if renamed := [name for name in names.values() if name not in self._known]:
            raise LabelStudioError(
                f"Label Studio stored {renamed[0]} under another name, perhaps a shorter one.",
                "Give the file a name of at most 50 letters, digits and hyphens, or import it "
                "without --keep-names.",
            )
        return {picture: self._known[name] for picture, name in names.items()}


class LocalFiles:
    """Writes pictures below the document root of Label Studio's local storage.

    Args:
        tasks: Registers the folder.
        project: The project.
        root: Label Studio's LOCAL_FILES_DOCUMENT_ROOT, as this machine sees it.
        studio_root: The same folder, as Label Studio sees it.
    """

    def __init__(self, tasks: TaskImport, project: int, root: Path, studio_root: str) -> None:
        self._below = f"firstlight/{project}"
        self._root = root.resolve()
        self.folder = self._root / self._below
        self._tasks = tasks
        self._project = project
        self._served = f"{studio_root.rstrip('/')}/{self._below}"
        self._registered = False

    def addresses(self, pictures: Sequence[str]) -> dict[str, str]:
        """Return the address of each picture; before the first one, register the folder."""
        if not self._registered:
            self._tasks.ensure_storage(self._project, self._served)
            self._registered = True
        for picture in pictures:
            self._let_read(self.folder / picture)
        return {
            picture: f"/data/local-files/?d={quote(f'{self._below}/{picture}')}"
            for picture in pictures
        }

    def _let_read(self, picture: Path) -> None:
        """Let those read a picture and its folders who may read the root; only we write them.

        New files are closed to others, and Label Studio may run as another user.
        """
        mode = stat.S_IMODE(self._root.stat().st_mode)
        for folder in [*picture.relative_to(self._root).parents][:-1]:  # the root stays as it is
            (self._root / folder).chmod(mode & ~0o022)  # keeps the bit that hands on the group
        picture.chmod(mode & 0o644)
