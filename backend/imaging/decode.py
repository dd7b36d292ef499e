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

# Every size is checked here, against a limit that can be set, before anything is allocated.
# Pillow's own limit is one for the whole process and cannot be raised for a file.
Image.MAX_IMAGE_PIXELS = None

# Endings of files that `decode` reads.
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".dcm")
DAMAGED = (  # what Pillow and pydicom raise on bytes they cannot make sense of
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
# With its preamble, or beginning with the first element of group 2 or 8 as older files do.
_DICOM = re.compile(rb"(?s:.{128}DICM)|(?s:[\x02\x08]\0.\0)|(?s:\0\x08\0.)")
_TURNED_BY_BROWSERS = (PngImageFile, JpegImageFile)  # Chromium leaves a WebP as it lies
_UPRIGHT = {  # EXIF orientation -> what turns the image upright
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
# The rest is rare, and its readers are where libtiff's holes were.
_COMPRESSIONS = (
    *("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "zstd", "jpeg"),
    *("tiff_ccitt", "group3", "group4"),
)


def pictures(folder: Path) -> list[Path]:
    """Return the files of a folder that are named as images, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)


@dataclass(frozen=True)
class Opened:
    """An image file of which no more than the header was read.

    Attributes:
        pixels: Height times width.
        load: Decodes the file.
    """

    pixels: int
    load: Callable[[], Rows]


def decode(data: bytes, *, max_pixels: int) -> Pixels:
    """Return an image file as float32 in [0, 1], (h, w) if grey, else (h, w, 3), upright.

    Eight bits, and one, are divided by their highest value. Grey of more bits, signed or float,
    is stretched from its own lowest to its own highest value, where no number and infinity are
    black and do not count; colour of 16 bits, and grey of 16 with transparency, keep their upper
    8. What is transparent becomes black, CMYK becomes RGB without a colour profile, a palette is
    resolved, and colour whose channels are all equal counts as grey. Of several pages or frames
    the first is taken. PNG and JPEG are turned by their EXIF orientation and TIFF by its own, as
    viewers do; WebP is not, since Chromium does not. DICOM has rules of its own:
    `backend.imaging.dicom.decode`.

    Raises:
        ImageError: If it is another format, damaged, or larger than `max_pixels`.
    """
    with refusing():
        return opened(data, max_pixels=max_pixels).load().whole()


def opened(data: bytes, *, max_pixels: int) -> Opened:
    """Read the header of an image file; its pixels are those that `decode` returns.

    Call this, `Opened.load` and everything that reads the rows within `refusing`.

    Raises:
        ImageError: If it is another format or larger than `max_pixels`.
        Others: What `DAMAGED` lists.
    """
    if any(re.match(magic, data) for magic, _ in _READERS):
        return _picture(data, max_pixels)
    if _DICOM.match(data):
        from backend.imaging import dicom  # only who has such files waits for pydicom

        dataset = dicom.read(data, max_pixels=max_pixels)
        return Opened(int(dataset.Rows) * int(dataset.Columns), partial(dicom.decode, dataset))
    what = "neither PNG nor JPEG nor TIFF, WebP, BMP, GIF or DICOM" if data else "empty"
    raise ImageError(f"The image is {what}.", "Put an image of one of these kinds in the task.")


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what the readers raise into an ImageError that says nothing of the file's content."""
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
            "Upload it again; if it opens elsewhere, save it as PNG.",
        ) from None


def _picture(data: bytes, max_pixels: int) -> Opened:
    if data.startswith(b"RIFF"):
        size = _webp_size(data)
        check_size(*size, max_pixels)
        # The reader allocates as it opens.
        return Opened(size[0] * size[1], lambda: _loaded(_opened(data), max_pixels))
    image = _opened(data)
    check_size(*image.size, max_pixels)
    if isinstance(image, TiffImageFile):
        _check_tiff(image, max_pixels)
    return Opened(image.width * image.height, lambda: _loaded(image, max_pixels))


def _loaded(image: ImageFile, max_pixels: int) -> Rows:
    check_size(*image.size, max_pixels)
    image.load()
    return _pixels(image)


def _opened(data: bytes) -> ImageFile:
    # The readers are called by name: no other format is tried, and none decodes yet.
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
        what = f"The TIFF is compressed as {compression}, which is not read here."
        raise ImageError(what, "Save it with LZW or deflate, or as PNG.")
    tags = ExifTags.Base
    if tags.TileWidth in image.tag_v2:  # a tile is unpacked whole, however small the image
        tile = image.tag_v2[tags.TileWidth], image.tag_v2[tags.TileLength]
        check_size(*tile, max(max_pixels, 2**20))


def _cut(image: Image.Image, turn: Image.Transpose | None, top: int, bottom: int) -> Image.Image:
    """Return some rows of what the image would be after the turn."""
    width, height = image.size
    side = width if turn in _SIDEWAYS else height
    first, last = (side - bottom, side - top) if turn in _FROM_THE_END else (top, bottom)
    box = (first, 0, last, height) if turn in _SIDEWAYS else (0, first, width, last)
    strip = image.crop(box)
    return strip if turn is None else strip.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what turns the image upright, None if it is so."""
    # EXIF alone, as in the browser the mask is drawn in; Pillow's getexif would follow XMP too.
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
    # Pillow inverts such a TIFF of 8 bits, but not of more.
    interpretation = ExifTags.Base.PhotometricInterpretation
    return isinstance(image, TiffImageFile) and image.tag_v2.get(interpretation) == 0
