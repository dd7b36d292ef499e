"""DICOM series as volumes: slices sorted by position, with the gaps and doubles named."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array

from backend.errors import ImageError
from backend.imaging import decode, dicom, digests
from backend.imaging.dicom_headers import Header
from backend.imaging.pixels import check_size
from backend.imaging.planes import Array, Plane
from backend.imaging.volumes import SliceFile, Volume

_APART = 1e-3  # mm: slices that are nearer to each other lie at the same place
_GREY = ("MONOCHROME1", "MONOCHROME2")
_TO_RIGHT_FRONT_HEAD = np.diag([-1.0, -1.0, 1.0])  # DICOM's axes run to the left and to the back


@dataclass(frozen=True)
class Stack:
    """Images that become one volume, before they are sorted.

    Attributes:
        series: SeriesInstanceUID of its images; that of the image where it has none.
        name: Tells the stack from others of its series; "" if it is the only one.
        headers: Of its images.
        notes: What a person should know, a sentence each.
    """

    series: str
    name: str
    headers: tuple[Header, ...]
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What people know it by: its folder or file and the number of its series."""
        first = self.headers[0]
        if len({header.path for header in self.headers}) == 1:
            return first.path.stem
        return f"{first.path.parent.name}-series-{first.series_number or first.series[-6:]}"


def stacks(headers: Iterable[Header]) -> Iterator[Stack]:
    """Yield what becomes a volume each, from the images of any number of series.

    Images of one series with different sizes, orientations or spacings are apart. An image
    without a position is a volume of its own; the frames of one file stay together.
    """
    series: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        series[header.series].append(header)
    for uid in series:
        found, notes = _without_copies(series[uid])
        parts: dict[str, list[Header]] = defaultdict(list)
        for header in found:
            parts[_part(header)].append(header)
        if len(parts) > 1 and all(header.position is not None for header in found):
            notes += (
                f"A series holds images of {len(parts)} orientations or sizes; each became a "
                "volume.",
            )
        for name, members in parts.items():
            yield Stack(uid, name if len(parts) > 1 else "", tuple(members), notes)


def volume(stack: Stack, *, frame: int | None, max_pixels: int) -> Volume:
    """Return the volume of a stack.

    Args:
        stack: Its images.
        frame: Which of several images at each position (4-D), from 0.
        max_pixels: Larger slices are refused.

    Raises:
        ImageError: If several images lie at the same place, or a slice is too large.
    """
    first = stack.headers[0]
    check_size(first.shape[1], first.shape[0], max_pixels)
    if first.position is None or first.orientation is None:
        return _unplaced(stack)
    normal = np.cross(*first.orientation)
    at = {id(header): float(normal @ header.position) for header in stack.headers}
    chosen, of_several, notes = _one_a_place(stack, lambda header: at[id(header)], frame)
    places = np.array([at[id(header)] for header in chosen])
    indices, gaps = _indices(places)
    affine, spacing = _geometry(chosen, indices)
    return _made(
        stack,
        dict(zip(indices, chosen, strict=True)),
        affine,
        spacing,
        frame=frame if of_several else None,
        notes=(*stack.notes, *notes, *gaps),
    )


def _part(header: Header) -> str:
    """Return what must be equal in the images of a volume, as text."""
    if header.position is None or header.orientation is None:
        return header.sop_instance
    sides = [*header.orientation.ravel(), *(header.spacing or ())]
    rounded = " ".join(f"{side:.3f}" for side in np.round(sides, 3) + 0.0)  # not -0.000
    return f"{header.shape} {header.kind in _GREY} {rounded}"


def _without_copies(headers: Sequence[Header]) -> tuple[list[Header], tuple[str, ...]]:
    """Return the images without files that hold the same image once more."""
    first = {(header.sop_instance, header.number): header for header in reversed(headers)}
    kept = [h for h in headers if first[h.sop_instance, h.number] is h]
    copies = len(headers) - len(kept)
    note = f"Files that are copies of others: {copies}; each image is imported once."
    return kept, (note,) * bool(copies)


def _one_a_place(
    stack: Stack, place: Callable[[Header], float], frame: int | None
) -> tuple[list[Header], bool, tuple[str, ...]]:
    """Return one image for each place, sorted, and whether there were several (4-D)."""
    groups: list[list[Header]] = []
    for header in sorted(stack.headers, key=lambda h: (place(h), h.instance, h.number or 0)):
        if groups and place(header) - place(groups[-1][0]) < _APART:
            groups[-1].append(header)
        else:
            groups.append([header])
    counts = {len(group) for group in groups}
    if counts == {1}:
        return [group[0] for group in groups], False, ()
    distinct = [_distinct(group) for group in groups]
    counts, dropped = {len(group) for group in distinct}, len(stack.headers)
    dropped -= sum(len(group) for group in distinct)
    notes = (f"Slices that are there twice: {dropped}; each is imported once.",) * bool(dropped)
    if counts == {1}:
        return [group[0] for group in distinct], False, notes
    if len(counts) > 1:
        raise ImageError(
            f"{stack.title} has places with up to {max(counts)} different slices, and places with "
            f"{min(counts)}: it is mixed from several acquisitions.",
            "Export each acquisition as a series of its own.",
        )
    [count] = counts
    if frame is None or frame >= count:
        raise ImageError(
            f"{stack.title} holds {count} volumes (4-D): {count} slices lie at each place.",
            f"Choose one of them: --frame 0 to --frame {count - 1}.",
        )
    return [group[frame] for group in distinct], True, notes


def _distinct(headers: Sequence[Header]) -> list[Header]:
    """Return images at one place without those whose pixels are equal to an earlier one's."""
    if len(headers) == 1:
        return list(headers)
    seen: dict[str, Header] = {}
    for header in headers:
        values = np.ascontiguousarray(_read(header))
        seen.setdefault(hashlib.sha256(values.tobytes()).hexdigest(), header)
    return list(seen.values())


def _indices(places: Array) -> tuple[list[int], tuple[str, ...]]:
    """Return the index of each place in a regular grid that has an index for missing slices."""
    if len(places) < 2:
        return [0], ()
    steps = np.diff(places)
    ratios = steps / np.median(steps)
    whole = np.rint(ratios)
    if np.abs(ratios - whole).max() > 0.1 or whole.min() < 1:
        note = (
            f"Slices lie {steps.min():.2f} to {steps.max():.2f} mm apart; the volume's spacing is "
            "their mean, so its millimetres across slices are not exact."
        )
        return list(range(len(places))), (note,)
    indices = [0, *np.cumsum(whole).astype(int).tolist()]
    missing = indices[-1] + 1 - len(indices)
    if not missing:
        return indices, ()
    return indices, (
        f"Slices missing between others: {missing}; their places in the volume stay empty.",
    )


def _geometry(
    headers: Sequence[Header], indices: Sequence[int]
) -> tuple[Array, tuple[float, float, float]]:
    """Return affine and spacing by the first and the last slice, also if the gantry was tilted."""
    first, last = headers[0], headers[-1]
    start, end = np.asarray(first.position), np.asarray(last.position)
    row, column = np.asarray(first.orientation)
    down, across = first.spacing or (1.0, 1.0)
    if len(headers) > 1:
        step = (end - start) / indices[-1]
    else:
        step = np.cross(row, column) * (first.thickness or 1.0)
    affine = np.eye(4)
    affine[:3] = _TO_RIGHT_FRONT_HEAD @ np.stack([row * across, column * down, step, start], 1)
    return affine, (across, down, float(np.linalg.norm(step)))


def _unplaced(stack: Stack) -> Volume:
    """Return images of which no place is known: shown as they are stored, in their order."""
    headers = sorted(stack.headers, key=lambda header: (header.instance, header.number or 0))
    down, across = headers[0].spacing or (1.0, 1.0)
    affine = np.diag([-across, -down, 1.0, 1.0])
    return _made(stack, dict(enumerate(headers)), affine, (across, down, 1.0))


def _made(
    stack: Stack,
    headers: dict[int, Header],
    affine: Array,
    spacing: tuple[float, float, float],
    *,
    frame: int | None = None,
    notes: tuple[str, ...] = (),
) -> Volume:
    first = next(iter(headers.values()))
    shape = (first.shape[1], first.shape[0], max(headers) + 1)
    paths = sorted({header.path for header in headers.values()})
    unit = first.sop_instance if first.position is None else stack.series
    identity = "/".join([unit, stack.name, "" if frame is None else str(frame)])
    missing = "says no spacing of pixels; 1 mm stands for it."
    return Volume(
        kind="dicom",
        source=paths[0] if len(paths) == 1 else paths[0].parent,
        title=stack.title,
        identity=identity,
        digest=digests.of_files(paths),
        shape=shape,
        affine=affine,
        spacing=spacing,
        has_spacing=first.spacing is not None,
        frame=frame,
        plane=Plane.facing(affine, shape, spacing, 2),
        read=lambda index: _read(headers[index]),
        present=tuple(headers),
        windowed=first.kind in _GREY,
        inverted=first.kind == "MONOCHROME1",
        files={
            index: SliceFile(header.path, header.sop_instance, header.number)
            for index, header in headers.items()
        },
        tags=first.kept,
        notes=notes + (f"{stack.title} {missing}",) * (first.spacing is None),
    )


def _read(header: Header) -> Array:
    """Return a slice in the grid's order: (columns, rows), or (columns, rows, 3) uint8."""
    try:
        with dicom.silent():
            dataset = dcmread(header.path, specific_tags=dicom.ELEMENTS)
            values = pixel_array(dataset, index=header.number)
            return _converted(values, dataset, header).swapaxes(0, 1)
    except (NotImplementedError, *decode.DAMAGED) as error:
        raise _unreadable(header.path, error) from None


def _converted(values: Array, dataset: Dataset, header: Header) -> Array:
    """Return rescaled float32 values, or the upper 8 bits of colours."""
    if header.kind in _GREY:
        dicom.adopt_groups(dataset, header.number or 0)
        dicom.drop_invalid_rescale(dataset)
        rescaled: Array = apply_modality_lut(values, dataset).astype(np.float32)
        return rescaled
    bits = int(dataset.BitsStored)
    if header.kind == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
        bits = 8 * values.dtype.itemsize
    colour: Array = (values >> max(0, bits - 8)).astype(np.uint8)
    return colour


def _unreadable(path: Path, error: Exception) -> ImageError:
    known = isinstance(error, NotImplementedError | RuntimeError)
    why = "its compression is not supported" if known else "it is damaged"
    return ImageError(
        f"The pixels of {path.name} cannot be read: {why}.",
        f"Convert it, for example with `gdcmconv --raw {path.name} OUT.dcm`, or export it again.",
    )
