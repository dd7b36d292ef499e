"""A dataset of nnU-Net v2: images, labels, dataset.json and the split.

Source: https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md and
ignore_label.md, manual_data_splits.md beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from backend.errors import ConfigError, ExportError
from backend.exchange.export.cases import Case
from backend.exchange.export.files import Files
from backend.exchange.export.formats.format import Context, Note, Written
from backend.exchange.export.formats.label_volume import (
    numbered,
    packed,
    put_together,
    write_nifti,
)
from backend.exchange.export.masks import Drawn
from backend.exchange.export.source_grids import grid_of, nifti_of
from backend.imaging.manifest import Volume

IMAGES, LABELS = "imagesTr", "labelsTr"
VOLUME, PICTURE = ".nii.gz", ".png"
BACKGROUND, IGNORE = "background", "ignore"


class NnUnet:
    """Writes the folder of a dataset: 3-D from volumes, 2-D from single scans."""

    by_volume, by_scan = True, True
    one_class = True

    def __init__(self, context: Context) -> None:
        self._classes = context.classes
        self._title = context.title
        self._picture = context.picture
        reserved = {BACKGROUND, IGNORE} & set(context.classes)
        if reserved:
            raise ConfigError(
                f"A class is called {min(reserved)!r}, which nnU-Net keeps for itself.",
                "Rename it in the labelling interface, or export in another format.",
            )

    def write(self, case: Case, drawn: Sequence[Drawn], validation: bool, files: Files) -> Note:
        """Write image and labels of a case."""
        if case.volume is not None:
            return self._write_volume(case, case.volume, drawn, files)
        [only] = drawn
        picture = self._picture(case.scans[0])
        labels = numbered(only, len(self._classes))
        if picture.shape[:2] != labels.shape:
            raise ExportError(
                f"its picture has {picture.shape[0]} x {picture.shape[1]} pixels now, but it was "
                f"drawn at {labels.shape[0]} x {labels.shape[1]} (height x width)",
                "Put the former picture back.",
            )
        _write_png(_image_name(case.name, PICTURE), picture, files)
        _write_png(f"{LABELS}/{case.name}{PICTURE}", labels, files)
        return {"ending": PICTURE, "channels": 1 if picture.ndim == 2 else 3}

    def _write_volume(
        self, case: Case, volume: Volume, drawn: Sequence[Drawn], files: Files
    ) -> Note:
        ignore = len(self._classes) + 1
        grid = put_together(volume, drawn, len(self._classes), ignore)
        _write_image(case, volume, files)
        write_nifti(f"{LABELS}/{case.name}{VOLUME}", grid, volume, files)
        return {"ending": VOLUME, "channels": 1, "ignores": bool((grid == ignore).any())}

    def finish(self, cases: Iterable[Written], files: Files) -> list[str]:
        """Write dataset.json, and splits_final.json if scans are held out."""
        channels = max((int(case.note["channels"]) for case in cases), default=1)
        endings = {str(case.note["ending"]) for case in cases}
        if PICTURE in endings:
            for case in cases:
                _set_channels(_image_name(case.name, PICTURE), channels, files)
        files.write_json("dataset.json", self._dataset(cases, channels, endings))
        return _write_split(cases, files)

    def _dataset(
        self, cases: Iterable[Written], channels: int, endings: set[str]
    ) -> dict[str, Any]:
        labels = {BACKGROUND: 0}
        labels |= {name: number for number, name in enumerate(self._classes, start=1)}
        if any(case.note.get("ignores") for case in cases):
            labels[IGNORE] = len(labels)
        names = ("red", "green", "blue") if channels == 3 else ("image",)
        return {
            "name": self._title,
            "channel_names": {str(number): name for number, name in enumerate(names)},
            "labels": labels,
            "numTraining": sum(1 for _ in cases),
            "file_ending": min(endings, default=VOLUME),
        }


def _write_split(cases: Iterable[Written], files: Files) -> list[str]:
    sides: dict[bool, list[str]] = {False: [], True: []}
    for case in cases:
        sides[case.validation].append(case.name)
    if not all(sides.values()):
        return ["No scans are held out yet, so nnU-Net makes a split of its own."]
    files.write_json("splits_final.json", [{"train": sides[False], "val": sides[True]}])
    return [
        "Copy splits_final.json into nnU-Net's folder of the preprocessed dataset; its only fold "
        "(-f 0) is the project's own split."
    ]


def _write_image(case: Case, volume: Volume, files: Files) -> None:
    name = _image_name(case.name, VOLUME)
    if volume.kind == "nifti":
        data = _nifti_bytes(volume)
        files.write(name, lambda file: file.write(data))
    else:
        write_nifti(name, grid_of(volume), volume, files)


def _image_name(case: str, ending: str) -> str:
    return f"{IMAGES}/{case}_0000{ending}"


def _write_png(name: str, values: npt.NDArray[Any], files: Files) -> None:
    files.write(name, partial(Image.fromarray(values).save, format="PNG"))


def _set_channels(name: str, channels: int, files: Files) -> None:
    """Turn a grey picture into colour, or back: all images of a dataset have the same channels."""
    mode = "RGB" if channels == 3 else "L"
    with Image.open(files.path(name)) as image:  # reads the header alone
        if image.mode == mode:
            return
        turned = np.asarray(image.convert(mode))
    _write_png(name, turned, files)


def _nifti_bytes(volume: Volume) -> bytes:
    """Return the source as .nii.gz; of a source with several frames, the imported one."""
    image = nifti_of(volume)
    if volume.frame is not None:
        frame = image.slicer[..., volume.frame]
        return packed(frame.to_bytes())
    data = Path(image.get_filename()).read_bytes()
    return data if data.startswith(b"\x1f\x8b") else packed(data)
