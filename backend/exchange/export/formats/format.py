"""What a format of an export is: how it writes one case, and what it writes at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from backend.exchange.export.cases import Case, Scan
from backend.exchange.export.files import Files
from backend.exchange.export.masks import Drawn

Note = dict[str, Any]  # JSON that a format keeps of a case until the end


@dataclass(frozen=True)
class Context:
    """What formats know of an export.

    Attributes:
        title: Of the project.
        classes: In the order of the labelling interface.
        picture: Fetches the picture of a scan, uint8, shape (h, w) or (h, w, 3). Raises ImageError.
    """

    title: str
    classes: tuple[str, ...]
    picture: Callable[[Scan], npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Written:
    """A case that was written: its name, its side, and what the format noted of it."""

    name: str
    validation: bool
    note: Note


class Format(Protocol):
    """Writes cases in one format; made anew for every export.

    Attributes:
        by_volume: Whether a case is a whole volume, in projects that have volumes.
        by_scan: Whether a case can be a single scan.
        one_class: Whether a pixel can have one class only.
    """

    by_volume: bool
    by_scan: bool
    one_class: bool

    def write(self, case: Case, drawn: Sequence[Drawn], validation: bool, files: Files) -> Note:
        """Write a case and return its note.

        Args:
            case: The scan or volume.
            drawn: The masks of its scans; scans without an entry are unlabelled.
            validation: Whether it is held out from training.
            files: Writes the files.

        Raises:
            ExportError: If the case cannot be written; the others go on.
        """
        ...

    def finish(self, cases: Iterable[Written], files: Files) -> list[str]:
        """Write what belongs to all cases, and return what a person should know.

        Args:
            cases: All cases by name; they may be read several times.
            files: Writes the files.
        """
        ...
