"""PNG: one file for each class of a scan, named like its picture; 255 is the class, 0 is not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from PIL import Image

from backend.exchange.export.cases import Case, fit_name
from backend.exchange.export.files import Files
from backend.exchange.export.formats.format import Context, Note, Written
from backend.exchange.export.masks import Drawn


class Png:
    """Writes masks/CLASS/NAME.png."""

    by_volume, by_scan = False, True
    one_class = False

    def __init__(self, context: Context) -> None:
        self._folders = folders(context.classes)

    def write(self, case: Case, drawn: Sequence[Drawn], validation: bool, files: Files) -> Note:
        """Write the masks of a case, empty ones too."""
        [only] = drawn
        for folder, plane in zip(self._folders, only.classes(), strict=True):
            picture = Image.fromarray(plane.astype(np.uint8) * 255)
            files.write(f"masks/{folder}/{case.name}.png", partial(picture.save, format="PNG"))
        return {}

    def finish(self, cases: Iterable[Written], files: Files) -> list[str]:
        """Write nothing more: index.csv lists the scans."""
        return []


def folders(classes: Sequence[str]) -> list[str]:
    """Return a folder for each class, by its name where a file system accepts that."""
    named = [fit_name(name) for name in classes]
    lowered = [name.lower() for name in named]
    return [
        name if name and lowered.count(name.lower()) == 1 else f"class-{number}"
        for number, name in enumerate(named, start=1)
    ]
