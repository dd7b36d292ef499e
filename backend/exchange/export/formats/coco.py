"""COCO: one JSON file with the masks as compressed run lengths, as pycocotools reads them.

An annotation is one class on one image: regions of a class are united, as training reads them.
`iscrowd` is 0 for all, because readers leave crowds out of training and scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from backend.exchange.export.cases import Case
from backend.exchange.export.files import Files
from backend.exchange.export.formats.format import Context, Note, Written
from backend.exchange.export.masks import Drawn

NAME = "annotations.json"


class Coco:
    """Writes annotations.json; an image's id is its task's id, of slabs one a page."""

    by_volume, by_scan = False, True
    one_class = False

    def __init__(self, context: Context) -> None:
        self._context = context

    def write(self, case: Case, drawn: Sequence[Drawn], validation: bool, files: Files) -> Note:
        """Return the image of a case with its annotations; the file is written at the end."""
        [only] = drawn
        regions = [
            _region(only, category, plane)
            for category, plane in enumerate(only.classes(), start=1)
            if plane.any()
        ]
        height, width = only.size
        scan = only.scan
        image = {"id": scan.number, "file_name": scan.image, "height": height, "width": width}
        place = {"volume": scan.volume, "slice": scan.index} if scan.volume else {}
        return {"image": {**image, **place}, "regions": regions}

    def finish(self, cases: Iterable[Written], files: Files) -> list[str]:
        """Write the file, one case after the other."""
        files.write(NAME, lambda file: self._write(file, cases))
        return []

    def _write(self, file: IO[bytes], cases: Iterable[Written]) -> None:
        categories = [
            {"id": number, "name": name, "supercategory": ""}
            for number, name in enumerate(self._context.classes, start=1)
        ]
        head = {"info": {"description": self._context.title}, "licenses": []}
        file.write(json.dumps({**head, "categories": categories})[:-1].encode())
        for key, rows in (("images", _images(cases)), ("annotations", _annotations(cases))):
            file.write(f', "{key}": ['.encode())
            for number, row in enumerate(rows):
                file.write(b",\n" if number else b"\n")
                file.write(json.dumps(row, ensure_ascii=False).encode())
            file.write(b"]")
        file.write(b"}\n")


def _images(cases: Iterable[Written]) -> Iterator[dict[str, Any]]:
    for case in cases:
        yield {**case.note["image"], "split": "validation" if case.validation else "training"}


def _annotations(cases: Iterable[Written]) -> Iterator[dict[str, Any]]:
    number = 0
    for case in cases:
        for region in case.note["regions"]:
            number += 1
            yield {"id": number, **region}


def _region(drawn: Drawn, category: int, plane: npt.NDArray[np.bool_]) -> dict[str, Any]:
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(plane, np.uint8))
    return {
        "image_id": drawn.scan.number,
        "category_id": category,
        "iscrowd": 0,
        "area": int(coco.area(rle)),
        "bbox": coco.toBbox(rle).tolist(),
        "segmentation": {"size": list(plane.shape), "counts": rle["counts"].decode("ascii")},
        "origin": drawn.origin,
    }
