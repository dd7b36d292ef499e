"""NIfTI: a label volume for each volume, in the grid of its source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from backend.errors import ExportError
from backend.exchange.export.cases import Case
from backend.exchange.export.files import Files
from backend.exchange.export.formats.format import Context, Note, Written
from backend.exchange.export.formats.label_volume import put_together, write_nifti
from backend.exchange.export.masks import Drawn

UNLABELLED = 0  # a viewer shows nothing there; index.csv lists the slices that are labelled


class Nifti:
    """Writes CASE.nii.gz, and the numbers of the classes in labels.json."""

    by_volume, by_scan = True, False
    one_class = True

    def __init__(self, context: Context) -> None:
        self._classes = context.classes

    def write(self, case: Case, drawn: Sequence[Drawn], validation: bool, files: Files) -> Note:
        """Write the label volume of a case."""
        if case.volume is None:
            raise ExportError("it is no volume.")
        grid = put_together(case.volume, drawn, len(self._classes), UNLABELLED)
        write_nifti(f"{case.name}.nii.gz", grid, case.volume, files)
        return {}

    def finish(self, cases: Iterable[Written], files: Files) -> list[str]:
        """Write the numbers of the classes."""
        numbers = {name: number for number, name in enumerate(self._classes, start=1)}
        files.write_json("labels.json", {"background": 0, **numbers})
        return []
