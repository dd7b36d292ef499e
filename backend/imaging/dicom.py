"""DICOM files to pixels. Only the elements of the image are decoded, never patient data."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from pydicom import Dataset, dcmread, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi_lut,
    convert_color_space,
)
from pydicom.pixels.utils import as_pixel_options

from backend.errors import ImageError
from backend.imaging.pixels import Rows, check_size, one_channel, scaled, stretched

# pydicom's messages quote values, which may be patient data.
logging.getLogger("pydicom").propagate = False
warnings.filterwarnings("ignore", module=r"pydicom\b")

_PALETTE = [
    f"{segmented}{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for segmented, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
]
ELEMENTS = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
    *_PALETTE,
]
_STORED = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PLAIN = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)
_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
_JP2 = b"\x00\x00\x00\x0cjP  "
_READ = (*_PLAIN, *_JPEG, *_JPEG_2000, uid.RLELossless)
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_CONVERT = "Convert it, for example with gdcmconv --raw, or put a PNG of it in the task."


def read(data: bytes, *, max_pixels: int) -> Dataset:
    """Return the image elements of a DICOM file; no pixel is decoded yet.

    Raises:
        ImageError: If the file holds no image, has an unsupported compression, or is larger than
            `max_pixels`.
        Others: The errors in `backend.imaging.decode.DAMAGED`, on damaged bytes.
    """
    with _refusing():
        dataset = _read(data)
        _check(dataset, max_pixels)
        return dataset


def decode(dataset: Dataset) -> Rows:
    """Return a DICOM image as float32 in [0, 1], (h, w) if grey, else (h, w, 3).

    Of n frames the middle one, number n // 2 from 0, is decoded. Grey goes through the rescale
    slope and intercept, or the modality's table, then through the first VOI table or window: the
    window's ends become 0 and 1. Without a valid window, the lowest value becomes 0 and the
    highest 1. MONOCHROME1 is inverted. Colour is divided by the highest value of its bits. In an
    enhanced file, slope and window are the frame's. Overlays, padding and the aspect of pixels
    are ignored.

    Raises:
        Others: The errors in `backend.imaging.decode.DAMAGED`, on damaged bytes.
    """
    with _refusing(), np.errstate(all="ignore"):
        frames = int(dataset.get("NumberOfFrames") or 1)
        frame = frames // 2
        _check_frame(dataset, frame, frames)
        values = _values(dataset, frame)
        adopt_groups(dataset, frame)
        return _pixels(values, dataset)


@contextmanager
def silent() -> Iterator[None]:
    """Silence pydicom's warnings about files that it reads nevertheless."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except (BytesLengthException, InvalidDicomError):  # not subclasses of ValueError
        raise ValueError("no DICOM") from None


def _values(dataset: Dataset, frame: int) -> Rows:
    """Return the stored values of one frame; YBR becomes RGB, strip by strip."""
    options = as_pixel_options(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    # `_check_frame` asked Pillow for the frame's size, so no other library may decode it.
    options["decoding_plugin"] = "pillow" if syntax in (*_JPEG, *_JPEG_2000) else ""
    values, properties = get_decoder(syntax).as_array(dataset, index=frame, raw=True, **options)
    if properties["photometric_interpretation"] in ("YBR_FULL", "YBR_FULL_422"):
        return Rows.of(values).map(lambda strip: convert_color_space(strip, "YBR_FULL", "RGB"))
    return Rows.of(values)


def _read(data: bytes) -> Dataset:
    syntax = _transfer_syntax(data)
    if syntax and syntax not in _READ:  # check before dcmread, which would unpack a deflated file
        name = syntax.name if syntax.name != str(syntax) else "in an unknown way"
        raise ImageError(f"The DICOM image is stored as {name}, which is not supported.", _CONVERT)
    dataset = dcmread(BytesIO(data), force=True, specific_tags=ELEMENTS)
    if not syntax:
        # A file without a header is uncompressed, and pydicom has detected its byte order.
        implicit, little = dataset.original_encoding
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = _PLAIN[0 if implicit else 1 if little else 2]
    return dataset


def _transfer_syntax(data: bytes) -> uid.UID | None:
    file = BytesIO(data)
    read_preamble(file, force=True)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    name = meta.get("TransferSyntaxUID")
    return uid.UID(name) if name else None


def _check(dataset: Dataset, max_pixels: int) -> None:
    if not any(name in dataset for name in _STORED) or not dataset.get("Rows"):
        what = "The DICOM file holds no image."
        raise ImageError(what, "Put a file with pixel data in the task.")
    check_size(int(dataset.Columns), int(dataset.Rows), max_pixels)
    if dataset.PhotometricInterpretation not in (*_GREY, *_COLOUR, "PALETTE COLOR"):
        what = "The DICOM image is in a colour space that is not supported."
        raise ImageError(what, _CONVERT)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == uid.JPEGExtended12Bit and dataset.BitsStored != 8:
        what = f"The DICOM image is stored as {syntax.name} with {dataset.BitsStored:d} bits."
        raise ImageError(f"{what} Only 8 bits are supported.", _CONVERT)


def _check_frame(dataset: Dataset, frame: int, frames: int) -> None:
    """Refuse a compressed frame that would unpack to more than the header says."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in _PLAIN:
        return
    offsets = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    packed = get_frame(
        dataset.PixelData,
        frame,
        number_of_frames=frames,
        extended_offsets=offsets if all(offsets) else None,
    )
    if syntax == uid.RLELossless:
        _check_runs(packed, int(dataset.Rows) * int(dataset.Columns))
        return
    _check_boxes(packed)
    reader = JpegImageFile if syntax in _JPEG else Jpeg2KImageFile
    with reader(BytesIO(packed)) as image:
        if image.size != (dataset.Columns, dataset.Rows):
            raise ValueError("the frame has another size than the header says")


def _check_boxes(packed: bytes) -> None:
    """Refuse JPEG 2000 boxes without a length: pydicom would loop over them for ever."""
    at = 12 if packed.startswith(_JP2) else len(packed)
    while at < len(packed) and packed[at + 4 : at + 8] != b"jp2c":
        length = int.from_bytes(packed[at : at + 4], "big")
        if length < 8:
            raise ValueError("a box without a length")
        at += length


def _check_runs(packed: bytes, pixels: int) -> None:
    number, *starts = np.frombuffer(packed[:64], "<u4").tolist()
    ends = [*starts[1:number], len(packed)]
    for start, end in zip(starts[:number], ends, strict=True):
        if _unpacked(packed[start:end], pixels) > pixels + 1:  # rows of odd length may be padded
            raise ValueError("the frame unpacks to more than the header says")


def _unpacked(segment: bytes, most: int) -> int:
    """Return the unpacked size of a run-length segment in bytes; stop counting above `most`."""
    at, total = 0, 0
    while at < len(segment) and total <= most + 1:
        head = segment[at]
        if head > 128:
            at, total = at + 2, total + 257 - head
        elif head < 128:
            at, total = at + head + 2, total + head + 1
        else:
            at += 1
    return total


def adopt_groups(dataset: Dataset, frame: int) -> None:
    """Copy slope and window from an enhanced file's shared groups, then from this frame's."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    each = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for groups in [*shared[:1], *each[frame : frame + 1]]:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in groups.get(name) or []:
                dataset.update(item)


def _pixels(values: Rows, dataset: Dataset) -> Rows:
    interpretation = dataset.PhotometricInterpretation
    if interpretation in _GREY:
        return _quiet(_grey(values, dataset, inverted=interpretation == "MONOCHROME1"))
    bits = int(dataset.BitsStored)
    if interpretation == "PALETTE COLOR":
        bits = 8 * apply_color_lut(values.read(0, 1), dataset).dtype.itemsize
        values = values.map(lambda strip: apply_color_lut(strip, dataset))
    shape = (*values.shape[:2], 3)
    colour = values.map(lambda strip: scaled(strip[..., :3], 0, 2**bits - 1), shape)
    return one_channel(_quiet(colour))


def _quiet(image: Rows) -> Rows:
    """Silence warnings about odd values; they come up only when the rows are read."""

    def read(top: int, bottom: int) -> npt.NDArray[Any]:
        with np.errstate(all="ignore"):
            return image.read(top, bottom)

    return Rows(image.shape, read)


def _grey(values: Rows, dataset: Dataset, *, inverted: bool) -> Rows:
    drop_invalid_rescale(dataset)
    values = values.map(lambda strip: apply_modality_lut(strip, dataset))
    try:
        shown, low, high = _windowed(values, dataset)
    except ValueError:  # a width of 0, or an unknown function
        return stretched(values, inverted=inverted)
    if low == high:
        return stretched(shown, inverted=inverted)
    return shown.map(lambda strip: scaled(strip, low, high, inverted=inverted))


def drop_invalid_rescale(dataset: Dataset) -> None:
    """Delete a rescale slope or intercept that is no number."""
    for name in ("RescaleSlope", "RescaleIntercept"):
        if not _is_number(dataset.get(name, 0)):  # present, but empty or "nan"
            del dataset[name]


def _is_number(value: object) -> bool:
    return value not in (None, "") and bool(np.isfinite(float(value)))  # type: ignore[arg-type]


def _windowed(values: Rows, dataset: Dataset) -> tuple[Rows, float, float]:
    """Return the values after the window, and the values that its lower and upper end become."""
    if dataset.get("VOILUTSequence"):
        # Tables need integers, and rescaled values are floats.
        shown = values.map(lambda strip: apply_voi_lut(np.rint(strip).astype(np.int64), dataset))
        shown.read(0, 1)  # raises here if the table is invalid
        return shown, 0, 2 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
    window = [dataset.get(name) for name in ("WindowCenter", "WindowWidth")]
    if None in window or not np.isfinite(np.hstack(window).astype(np.float64)).all():
        return values, 0, 0
    low, high = apply_voi_lut(np.array([-1e30, 1e30]), dataset).tolist()
    return values.map(lambda strip: apply_voi_lut(strip, dataset)), low, high
