"""YOLO segmentation: a text file for each image, with the outlines of its regions.

A line is `class x1 y1 x2 y2 ...`, with x and y as shares of width and height. Each connected part
of a class is a line; a part with holes is cut across them, because an outline has no holes.
Source: https://docs.ultralytics.com/datasets/segment/.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from backend.exchange.export.cases import Case
from backend.exchange.export.files import Files
from backend.exchange.export.formats.format import Context, Note, Written
from backend.exchange.export.masks import Drawn
from backend.label_studio.labels.shapes.polygon import draw

TOLERANCE = 0.5  # pixels between an outline and its mask
SIDES = {False: "train", True: "val"}


class Yolo:
    """Writes labels/train and labels/val, and data.yaml; the images belong into images/."""

    by_volume, by_scan = False, True
    one_class = False

    def __init__(self, context: Context) -> None:
        self._classes = context.classes

    def write(self, case: Case, drawn: Sequence[Drawn], validation: bool, files: Files) -> Note:
        """Write the outlines of a case; an image without a region gets an empty file."""
        [only] = drawn
        lines = [
            " ".join(
                [str(number), *(f"{share / 100:.6f}" for xy in value["points"] for share in xy)]
            )
            for number, plane in enumerate(only.classes())
            for value in draw(plane, TOLERANCE)
        ]
        text = "".join(f"{line}\n" for line in lines)
        name = f"labels/{SIDES[validation]}/{case.name}.txt"
        files.write(name, lambda file: file.write(text.encode()))
        return {}

    def finish(self, cases: Iterable[Written], files: Files) -> list[str]:
        """Write data.yaml."""
        names = "".join(
            f"  {number}: {json.dumps(name, ensure_ascii=False)}\n"
            for number, name in enumerate(self._classes)
        )
        held_out = any(case.validation for case in cases)
        folders = f"train: images/train\nval: images/{SIDES[held_out]}\n"
        files.write("data.yaml", lambda file: file.write(f"{folders}names:\n{names}".encode()))
        said = ["Put the images into images/train and images/val, named like the text files."]
        return said if held_out else [*said, "No scans are held out yet: val is train."]
