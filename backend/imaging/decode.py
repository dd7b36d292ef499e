"""Image files to pixels: PNG, JPEG, TIFF, WebP, BMP, GIF and DICOM, within limits.

The kind of a file follows from its first bytes, never from its name.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from backend.errors import ImageError
from backend.imaging.pixels import Pixels, Rows, check_size, from_bytes, one_channel, stretched

# This module checks every size against a configurable limit before it allocates memory. Pillow's
# own limit applies to the whole process and cannot be raised for one file.
Image.MAX_IMAGE_PIXELS = None

# Endings of files that `decode` reads.
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".dcm")
DAMAGED = (  # errors that Pillow and pydicom raise on damaged bytes
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_READERS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (rb"\x89PNG\r\n\x1a\n", PngImageFile),
    (rb"\xff\xd8\xff", JpegImageFile),
    (rb"II[*+]\0|MM\0[*+]", TiffImageFile),
    (rb"(?s:RIFF....WEBP)", WebPImageFile),
    (rb"GIF8[79]a", GifImageFile),
    (rb"BM", BmpImageFile),
)
# A DICOM file has a preamble, or (older files) begins with the first element of group 2 or 8.
DICOM = re.compile(rb"(?s:.{128}DICM)|(?s:[\x02\x08]\0.\0)|(?s:\0\x08\0.)")
_TURNED_BY_BROWSERS = (PngImageFile, JpegImageFile)  # Chromium does not turn a WebP
_UPRIGHT = {  # EXIF orientation -> the turn that makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {  # rows of the upright image are columns of the file's
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
}
_FROM_THE_END = {  # the first row of the upright image is the last row or column of the file's
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
}
# Other compressions are rare, and libtiff's security holes were in their readers.
_COMPRESSIONS = (
    *("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "zstd", "jpeg"),
    *("tiff_ccitt", "group3", "group4"),
)


def pictures(folder: Path) -> list[Path]:
    """Return the files of a folder whose names end like an image's, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)


@dataclass(frozen=True)
class OpenImage:
    """An image file of which only the header was read.

    Attributes:
        pixels: Height times width.
        load: Decodes the file.
    """

    pixels: int
    load: Callable[[], Rows]


def decode(data: bytes, *, max_pixels: int) -> Pixels:
    """Return an image file as float32 in [0, 1], (h, w) if grey, else (h, w, 3), upright.

    - 1 and 8 bits: divided by the highest possible value.
    - Grey of more bits, signed or float: its lowest value becomes 0, its highest 1. NaN and
      infinity become black and do not count.
    - Colour of 16 bits, and grey of 16 bits with transparency: the upper 8 bits.
    - Transparent pixels become black. CMYK becomes RGB without a colour profile. A palette is
      resolved. Colour with three equal channels becomes grey.
    - Of several pages or frames, the first.
    - PNG and JPEG are turned by their EXIF orientation and TIFF by its own, as viewers do; WebP is
      not turned, because Chromium does not turn it.
    - DICOM: see `backend.imaging.dicom.decode`.

    Raises:
        ImageError: If the format is unknown, or the image is damaged or larger than `max_pixels`.
    """
    with refusing():
        return opened(data, max_pixels=max_pixels).load().whole()


def opened(data: bytes, *, max_pixels: int) -> OpenImage:
    """Read the header of an image file; loading it gives the pixels that `decode` returns.

    Call this, `OpenImage.load` and all code that reads the rows within `refusing`.

    Raises:
        ImageError: If the format is unknown, or the image is larger than `max_pixels`.
        Others: The errors in `DAMAGED`.
    """
    if any(re.match(magic, data) for magic, _ in _READERS):
        return _picture(data, max_pixels)
    if DICOM.match(data):
        from backend.imaging import dicom  # pydicom is slow to import, and needed only here

        dataset = dicom.read(data, max_pixels=max_pixels)
        return OpenImage(int(dataset.Rows) * int(dataset.Columns), partial(dicom.decode, dataset))
    what = "neither PNG nor JPEG nor TIFF, WebP, BMP, GIF or DICOM" if data else "empty"
    raise ImageError(f"The image is {what}.", "Put an image in one of these formats in the task.")


@contextmanager
def refusing() -> Iterator[None]:
    """Turn the readers' errors into an ImageError that quotes nothing of the file's content."""
    try:
        yield
    except MemoryError:
        raise ImageError(
            "The image needs more memory than a decoder may take.",
            "Save it as a plain PNG or JPEG, or shrink it.",
        ) from None
    except DAMAGED:
        raise ImageError(
            "The image is damaged, cut short, or of a rare kind.",
            "Upload it again. If it opens in other programs, save it as PNG.",
        ) from None


def _picture(data: bytes, max_pixels: int) -> OpenImage:
    if data.startswith(b"RIFF"):
        size = _webp_size(data)
        check_size(*size, max_pixels)
        # Check the size first: this reader allocates memory when it opens a file.
        return OpenImage(size[0] * size[1], lambda: _loaded(_opened(data), max_pixels))
    image = _opened(data)
    check_size(*image.size, max_pixels)
    if isinstance(image, TiffImageFile):
        _check_tiff(image, max_pixels)
    return OpenImage(image.width * image.height, lambda: _loaded(image, max_pixels))


def _loaded(image: ImageFile, max_pixels: int) -> Rows:
    check_size(*image.size, max_pixels)
    image.load()
    return _pixels(image)


def _opened(data: bytes) -> ImageFile:
    # Call the reader directly: Pillow then tries no other format. Opening decodes nothing yet.
    reader = next(reader for magic, reader in _READERS if re.match(magic, data))
    return reader(BytesIO(data))


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a WebP by its first chunk: lossy, lossless or extended."""
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", body[1:5])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        low, high, low_height, high_height = struct.unpack("<HBHB", body[4:10])
        return (low | high << 16) + 1, (low_height | high_height << 16) + 1
    raise ValueError("no chunk of a WebP image")


def _check_tiff(image: TiffImageFile, max_pixels: int) -> None:
    compression = image.info["compression"]
    if compression not in _COMPRESSIONS:
        what = f"The TIFF is compressed as {compression}, which is not supported."
        raise ImageError(what, "Save it with LZW or deflate, or as PNG.")
    tags = ExifTags.Base
    if tags.TileWidth in image.tag_v2:  # a whole tile is unpacked, even for a small image
        tile = image.tag_v2[tags.TileWidth], image.tag_v2[tags.TileLength]
        check_size(*tile, max(max_pixels, 2**20))


def _cut(image: Image.Image, turn: Image.Transpose | None, top: int, bottom: int) -> Image.Image:
    """Return some rows of the turned image."""
    width, height = image.size
    side = width if turn in _SIDEWAYS else height
    first, last = (side - bottom, side - top) if turn in _FROM_THE_END else (top, bottom)
    box = (first, 0, last, height) if turn in _SIDEWAYS else (0, first, width, last)
    strip = image.crop(box)
    return strip if turn is None else strip.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return the turn that makes the image upright, None if it is upright."""
    # Read EXIF only, like the browser in which masks are drawn; Pillow's getexif reads XMP too.
    if not isinstance(image, _TURNED_BY_BROWSERS):
        return None
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        return _UPRIGHT.get(exif.get(ExifTags.Base.Orientation, 1))
    except DAMAGED:
        return None


def _pixels(image: Image.Image) -> Rows:
    turn = _turn(image)
    width, height = image.size[::-1] if turn in _SIDEWAYS else image.size
    cut = partial(_cut, image, turn)
    if image.mode == "F" or image.mode.startswith("I"):
        values = Rows((height, width), lambda top, bottom: np.asarray(cut(top, bottom)))
        return stretched(values, inverted=_low_is_white(image))
    see_through = image.has_transparency_data
    shape = (height, width) if image.mode == "L" and not see_through else (height, width, 3)

    def read(top: int, bottom: int) -> Pixels:
        strip = cut(top, bottom)
        if see_through:
            black = Image.new("RGBA", strip.size, (0, 0, 0, 255))
            strip = Image.alpha_composite(black, strip.convert("RGBA"))
        return from_bytes(np.asarray(strip if len(shape) == 2 else strip.convert("RGB")))

    return one_channel(Rows(shape, read))


def _low_is_white(image: Image.Image) -> bool:
    # Pillow inverts such a TIFF of 8 bits, but not one of more bits.
    interpretation = ExifTags.Base.PhotometricInterpretation
    return isinstance(image, TiffImageFile) and image.tag_v2.get(interpretation) == 0
