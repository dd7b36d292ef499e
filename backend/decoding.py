"""Image files to pixels: PNG, JPEG, TIFF, WebP, BMP, GIF and DICOM, within limits.

The kind of a file follows from its first bytes, never from its name.
"""

from __future__ import annotations

import re
import struct
import zlib
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
from backend.pixels import Pixels, check_size, from_bytes, stretched

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
# The rest is rare, and its readers are where libtiff's holes were.
_COMPRESSIONS = (
    *("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "zstd", "jpeg"),
    *("tiff_ccitt", "group3", "group4"),
)


def pictures(folder: Path) -> list[Path]:
    """Return the files of a folder that are named as images, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)


def decode(data: bytes, *, max_pixels: int) -> Pixels:
    """Return an image file as float32 in [0, 1], (h, w) if grey, else (h, w, 3), upright.

    Eight bits, and one, are divided by their highest value. Grey of more bits, signed or float,
    is stretched from its own lowest to its own highest value, where no number and infinity are
    black and do not count; colour of 16 bits, and grey of 16 with transparency, keep their upper
    8. What is transparent becomes black, CMYK becomes RGB without a colour profile, a palette is
    resolved, and colour whose channels are all equal counts as grey. Of several pages or frames
    the first is taken. PNG and JPEG are turned by their EXIF orientation and TIFF by its own, as
    viewers do; WebP is not, since Chromium does not. DICOM has rules of its own:
    `backend.dicom.decode`.

    Raises:
        ImageError: If it is another format, damaged, or larger than `max_pixels`.
    """
    try:
        if any(re.match(magic, data) for magic, _ in _READERS):
            return _picture(data, max_pixels)
        if _DICOM.match(data):
            from backend import dicom  # only who has such files waits for pydicom

            return dicom.decode(data, max_pixels=max_pixels)
    except MemoryError:
        raise ImageError(
            "There is not enough memory to decode the image.",
            "Shrink it, give this machine more memory, or lower MAX_IMAGE_PIXELS.",
        ) from None
    except DAMAGED:
        raise ImageError(
            "The image is damaged, cut short, or of a rare kind.",
            "Upload it again; if it opens elsewhere, save it as PNG.",
        ) from None
    what = "neither PNG nor JPEG nor TIFF, WebP, BMP, GIF or DICOM" if data else "empty"
    raise ImageError(f"The image is {what}.", "Put an image of one of these kinds in the task.")


def _picture(data: bytes, max_pixels: int) -> Pixels:
    with _opened(data, max_pixels) as image:
        check_size(*image.size, max_pixels)
        if isinstance(image, TiffImageFile):
            _check_tiff(image, max_pixels)
        image.load()
        return _pixels(_upright(image))


def _opened(data: bytes, max_pixels: int) -> ImageFile:
    # The readers are called by name: no other format is tried, and none decodes yet.
    if data.startswith(b"RIFF"):
        check_size(*_webp_size(data), max_pixels)  # its reader allocates as it opens
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


def _upright(image: Image.Image) -> Image.Image:
    # EXIF alone, as in the browser the mask is drawn in; Pillow's getexif would follow XMP too.
    if not isinstance(image, _TURNED_BY_BROWSERS):
        return image
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        turn = _UPRIGHT.get(exif.get(ExifTags.Base.Orientation, 1))
    except DAMAGED:
        return image
    return image if turn is None else image.transpose(turn)


def _pixels(image: Image.Image) -> Pixels:
    if image.mode == "F" or image.mode.startswith("I"):
        return stretched(np.asarray(image), inverted=_low_is_white(image))
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    if image.mode != "L":
        image = image.convert("RGB")
    return from_bytes(np.asarray(image))


def _low_is_white(image: Image.Image) -> bool:
    # Pillow inverts such a TIFF of 8 bits, but not of more.
    interpretation = ExifTags.Base.PhotometricInterpretation
    return isinstance(image, TiffImageFile) and image.tag_v2.get(interpretation) == 0
