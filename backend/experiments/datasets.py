"""Labelled folders for experiments: scans with their masks, in the layouts as published."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend.errors import ConfigError, ImageError
from backend.experiments import group_tables, nifti
from backend.experiments.scans import (
    Dataset,
    Masks,
    Scan,
    ScanReader,
    Spacing,
    VolumeSlice,
)
from backend.imaging import decode
from backend.imaging.pixels import Pixels, shrink
from backend.storage import artifacts
from model import validation

LEAST_RCA = 0.7  # CheXmask's authors advise against masks with a lower estimated Dice
CHEXMASK_LABELS = ("Left Lung", "Right Lung", "Heart")
GROUPS_FILE, PATIENT_COLUMNS = "groups.csv", ("group", "patient")
# Jaeger et al. 2014, "Two public chest X-ray datasets for computer-aided screening of pulmonary
# diseases": the sides of an original, and the size of its pixels. For copies of another size the
# pixel size is unknown.
MONTGOMERY_SIDES, MONTGOMERY_MM = {4020, 4892}, 0.0875


def find(folder: Path, *, max_pixels: int, patients: str | None = "") -> Dataset:
    """Return the data set of a labelled folder, in any of the known layouts.

    Args:
        folder: See docs/experiments.md for the layouts.
        max_pixels: Larger images are refused before they are decoded.
        patients: Column of groups.csv whose scans stay together; "" for `group` or `patient`,
            None to read no table. Slices of one volume always stay together.

    Raises:
        ConfigError: If the layout is unknown, an image has no mask, or groups.csv is wrong.
    """
    labels, scans = _layout(folder, max_pixels)
    if not scans:
        raise ConfigError(
            f"{folder} holds no labelled scans.",
            "Give a folder with images/ and masks/, volumes with images/ and labels/, or "
            "Montgomery, CheXmask or SynthStrip 2-D as published; docs/experiments.md shows the "
            "layouts.",
        )
    patient_of = {scan.name: scan.volume for scan in scans if scan.volume}
    table = folder / GROUPS_FILE
    if patients is not None and table.is_file():
        columns = (patients,) if patients else PATIENT_COLUMNS
        patient_of |= group_tables.values(table, columns, scans)
    return Dataset(folder.resolve().name, labels, tuple(scans), patient_of)


def _layout(folder: Path, max_pixels: int) -> tuple[tuple[str, ...], list[ScanReader]]:
    """Return the classes and scans of a folder; no scans if no layout fits."""
    table = next((path for path in sorted(folder.glob("*.csv")) if _is_chexmask(path)), None)
    if table is not None:
        return CHEXMASK_LABELS, _chexmask(folder, table, max_pixels)
    if (folder / "CXR_png").is_dir() and (folder / "ManualMask").is_dir():
        drawn = folder / "ManualMask"
        sides = {"left lung": drawn / "leftMask", "right lung": drawn / "rightMask"}
        return _pairs(folder / "CXR_png", sides, max_pixels, _montgomery_spacing)
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        drawn = folder / "masks"
        apart = {path.name: path for path in sorted(drawn.iterdir()) if path.is_dir()}
        return _pairs(folder / "images", apart or {"mask": drawn}, max_pixels)
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        return nifti.volumes(folder)
    return ("brain",), nifti.synthstrip(folder)


@dataclass(frozen=True)
class ScanFile:
    """A scan at working size, in a file that processes share.

    Attributes:
        name: Of its original file or case.
        patient: A number; scans with the same number stay together when scans are held out.
        volume: The number of its group in a project that is grouped by volume. Volumes with a
            slice of equal pixels share it.
        path: Its file; the name follows from the content.
        spacing: Height and width of a pixel in the unit of its collection.
        place: Its place in a volume, if it is a slice; the voxels are those of the working size.
    """

    name: str
    patient: int
    volume: int
    path: Path
    spacing: Spacing
    place: VolumeSlice | None = None

    def load(self) -> tuple[Pixels, Masks]:
        """Return the image, (h, w) or (h, w, 3) in [0, 1], and its masks, (c, h, w)."""
        with np.load(self.path, allow_pickle=False) as stored:
            return stored["image"].astype(np.float32) / np.float32(255), stored["masks"]


@dataclass(frozen=True)
class Collection:
    """A data set at working size.

    Attributes:
        unit: Of the spacing: "mm" if it is known for all scans, else "pixels" of the originals.
        fingerprint: Equal for equal scans, masks, names and patients.
    """

    name: str
    labels: tuple[str, ...]
    scans: tuple[ScanFile, ...]
    unit: str
    fingerprint: str


def keep(dataset: Dataset, folder: Path, *, longest: int) -> Collection:
    """Return the scans at working size, as production keeps them: 8 bits, no side above `longest`.

    Scans of one patient or with equal pixels get the same patient number.

    Raises:
        ConfigError: If a scan or a mask cannot be read, or the two differ in size.
        StorageError: If `folder` cannot be written.
    """
    shrunk = [_shrunk(scan, folder, longest) for scan in dataset.scans]
    keys = [dataset.patients.get(scan.name, "") for scan in dataset.scans]
    pixels = [small.pixels for small in shrunk]
    patients = validation.group(keys, pixels).tolist()
    # A scan that is no slice stays with its patient.
    names = [scan.volume or key for scan, key in zip(dataset.scans, keys, strict=True)]
    volumes = validation.group(names, pixels).tolist()
    known = all(small.spacing for small in shrunk)
    kept = tuple(
        ScanFile(
            scan.name,
            patient,
            volume,
            small.path,
            small.pixel(known),
            scan.place and scan.place.scaled(*small.scale),
        )
        for scan, patient, volume, small in zip(
            dataset.scans, patients, volumes, shrunk, strict=True
        )
    )
    marks = [(scan.name, scan.patient, scan.path.name, scan.spacing) for scan in kept]
    return Collection(
        name=dataset.name,
        labels=dataset.labels,
        scans=kept,
        unit="mm" if known else "pixels",
        fingerprint=artifacts.digest(dataset.labels, marks),
    )


@dataclass(frozen=True)
class _SmallScan:
    path: Path
    pixels: str
    scale: Spacing
    spacing: Spacing | None

    def pixel(self, known: bool) -> Spacing:
        height, width = self.spacing if known and self.spacing else (1.0, 1.0)
        return height * self.scale[0], width * self.scale[1]


def _shrunk(reader: ScanReader, folder: Path, longest: int) -> _SmallScan:
    scan = reader.read()
    image = np.rint(shrink(scan.image, longest) * 255).astype(np.uint8)
    masks = np.stack([_shrunk_mask(mask, longest) for mask in scan.masks])
    pixels, drawn = _digest(image), _digest(masks)
    path = folder / f"{artifacts.digest(pixels, drawn)}.npz"
    if not path.exists():
        artifacts.write(path, lambda file: np.savez(file, image=image, masks=masks))
    (height, width), (small_height, small_width) = scan.image.shape[:2], image.shape[:2]
    return _SmallScan(path, pixels, (height / small_height, width / small_width), scan.spacing)


def _shrunk_mask(mask: Masks, longest: int) -> Masks:
    """Return the pixels that a mask covers at least by half; if none, those that it touches."""
    covered = shrink(mask.astype(np.float32), longest)
    half: Masks = covered > 0.5
    return half if half.any() else covered > 0


def _digest(array: npt.NDArray[np.generic]) -> str:
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()[:32]


def _pairs(
    folder: Path,
    masks: Mapping[str, Path],
    max_pixels: int,
    spacing: Callable[[Pixels], Spacing | None] = lambda image: None,
) -> tuple[tuple[str, ...], list[ScanReader]]:
    """Return the classes, and the images of a folder, each with its mask for every class."""
    pictures = decode.pictures(folder)
    drawn = {path: [_beside(path, label) for label in masks.values()] for path in pictures}
    missing = [path.name for path, files in drawn.items() if None in files]
    if missing:
        raise ConfigError(
            f"{len(missing)} of {len(drawn)} images in {folder} have no mask, first {missing[0]}.",
            "Give each image a mask of the same name, black if there is nothing to segment.",
        )

    def read(path: Path) -> Scan:
        image = _picture(path, max_pixels)
        planes = [_mask(mask, image, max_pixels) for mask in drawn[path] if mask]
        return Scan(image, np.stack(planes), spacing(image))

    return tuple(masks), [ScanReader(path.name, partial(read, path)) for path in pictures]


def _beside(picture: Path, masks: Path) -> Path | None:
    names = (picture.name, f"{picture.stem}.png")
    return next((masks / name for name in names if (masks / name).is_file()), None)


def _picture(path: Path, max_pixels: int) -> Pixels:
    try:
        return decode.decode(path.read_bytes(), max_pixels=max_pixels)
    except (ImageError, OSError) as error:
        what = error.what if isinstance(error, ImageError) else f"{error.strerror}."
        raise ConfigError(
            f"{path} cannot be read. {what}", "Replace it, or take it out of the folder."
        ) from None


def _mask(path: Path, image: Pixels, max_pixels: int) -> Masks:
    pixels = _picture(path, max_pixels)
    _check_size(path, pixels.shape, image)
    mask: Masks = pixels > 0.5
    if pixels.any() and not mask.any():
        raise ConfigError(
            f"{path} has values up to {pixels.max() * 255:.0f}.",
            "A mask may hold only 0 and 255; make one folder of masks for each class.",
        )
    return mask


def _check_size(path: Path, shape: tuple[int, ...], image: Pixels) -> None:
    if shape != image.shape[:2]:
        raise ConfigError(
            f"{path} has a mask of shape {shape}, but its image has {image.shape[:2]}.",
            "Save the mask in grey, with the height and width of its image.",
        )


def _montgomery_spacing(image: Pixels) -> Spacing | None:
    original = set(image.shape[:2]) == MONTGOMERY_SIDES
    return (MONTGOMERY_MM, MONTGOMERY_MM) if original else None


def _is_chexmask(path: Path) -> bool:
    with group_tables.opened(path) as file:
        return set(CHEXMASK_LABELS) <= set(next(csv.reader(file), ()))


def _chexmask(folder: Path, table: Path, max_pixels: int) -> list[ScanReader]:
    """Return the rows of a CheXmask table that have an image and masks of sufficient quality."""

    def read(path: Path, row: Mapping[str, str]) -> Scan:
        image = _picture(path, max_pixels)
        shape = int(float(row["Height"])), int(float(row["Width"]))
        _check_size(table, shape, image)
        return Scan(image, np.stack([_run_lengths(row[name], shape) for name in CHEXMASK_LABELS]))

    return sorted(
        (ScanReader(path.name, partial(read, path, row)) for path, row in _trusted(folder, table)),
        key=lambda scan: scan.name,
    )


def _trusted(folder: Path, table: Path) -> Iterator[tuple[Path, Mapping[str, str]]]:
    csv.field_size_limit(2**24)  # the runs of one lung may exceed the default limit
    with group_tables.opened(table) as file:
        rows = csv.DictReader(file)
        # The identifier is the first column with a name; the name differs between sources.
        identifier = next(name for name in rows.fieldnames or () if name)
        for row in rows:
            path = _image_of(row[identifier], folder)
            if path is not None and float(row["Dice RCA (Mean)"] or 0) >= LEAST_RCA:
                yield path, row


def _image_of(identifier: str, folder: Path) -> Path | None:
    places = (folder / "images" / identifier, folder / identifier)
    named = [
        place.with_name(place.name + end) for place in places for end in ("", *decode.PICTURES)
    ]
    return next((path for path in named if path.is_file()), None)


def _run_lengths(text: str, shape: tuple[int, int]) -> Masks:
    """Return a mask from "start length" pairs, starts from 1, row by row."""
    runs = np.array(text.split(), np.int64).reshape(-1, 2)
    mask: Masks = np.zeros(shape[0] * shape[1], bool)
    for start, length in runs.tolist():
        mask[start - 1 : start - 1 + length] = True
    return mask.reshape(shape)
