from __future__ import annotations

import struct
import tracemalloc
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, TiffImagePlugin

from backend.errors import ImageError
from backend.imaging.decode import PICTURES, decode, pictures

QUICK = settings(max_examples=150)
MANY = 10**6
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (7, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def read(image: Image.Image, format: str = "PNG", **options: Any) -> np.ndarray[Any, Any]:
    return decode(encoded(image, format, **options), max_pixels=MANY)


def test_eight_bit_grey_is_divided_by_255() -> None:
    found = read(Image.fromarray(GREY))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, GREY / 255, rtol=1e-6)


def test_colour_keeps_its_three_channels() -> None:
    np.testing.assert_allclose(read(Image.fromarray(COLOUR)), COLOUR / 255, rtol=1e-6)


def test_grey_kept_as_colour_becomes_one_channel() -> None:
    image = Image.fromarray(np.repeat(GREY[..., None], 3, axis=2))
    np.testing.assert_allclose(read(image), GREY / 255, rtol=1e-6)


def test_sixteen_bit_grey_is_stretched_from_its_lowest_to_its_highest_value() -> None:
    values = RNG.integers(500, 4096, (7, 5), dtype=np.uint16)
    found = read(Image.fromarray(values))
    low, high = int(values.min()), int(values.max())
    np.testing.assert_allclose(found, (values - low) / (high - low), rtol=1e-6)
    assert found.dtype == np.float32
    assert (float(found.min()), float(found.max())) == (0, 1)


def test_sixteen_bit_grey_of_one_value_is_black() -> None:
    assert not read(Image.fromarray(np.full((3, 4), 900, dtype=np.uint16))).any()


def test_black_and_white_is_zero_and_one() -> None:
    np.testing.assert_array_equal(read(Image.fromarray(GREY > 99)), GREY > 99)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_is_resolved(bits: int) -> None:
    image = Image.fromarray(GREY >> (8 - bits))
    image.putpalette(RNG.integers(0, 256, 3 * 2**bits).tolist())
    expected = np.asarray(image.convert("RGB")) / 255
    np.testing.assert_allclose(read(image, bits=bits), expected, rtol=1e-6)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_transparent_becomes_black(mode: str) -> None:
    image = Image.fromarray(COLOUR).convert(mode)
    alpha = np.where(GREY > 99, 255, 0).astype(np.uint8)
    image.putalpha(Image.fromarray(alpha))
    opaque = np.asarray(image.convert("L" if mode == "LA" else "RGB")) / 255
    shown = (alpha > 0) if mode == "LA" else (alpha > 0)[..., None]
    np.testing.assert_allclose(read(image), opaque * shown, rtol=1e-6)


def test_a_transparent_palette_entry_becomes_black() -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([200, 100, 50, 10, 20, 30])
    found = read(image, transparency=0)
    np.testing.assert_allclose(found[0] * 255, [[0, 0, 0], [10, 20, 30]], atol=1e-4)


@pytest.mark.parametrize(("mode", "shape"), [("L", (40, 30)), ("RGB", (40, 30, 3))])
def test_a_jpeg_is_close_to_what_was_saved(mode: str, shape: tuple[int, ...]) -> None:
    smooth = Image.fromarray(COLOUR).convert(mode).resize((30, 40), Image.Resampling.BICUBIC)
    found = read(smooth, "JPEG", quality=98, subsampling=0)
    assert found.shape == shape
    assert np.abs(found - np.asarray(smooth) / 255).mean() < 0.02


def test_a_cmyk_jpeg_becomes_colour() -> None:
    cmyk = Image.fromarray(COLOUR).resize((30, 40)).convert("CMYK")
    found = read(cmyk, "JPEG", quality=98)
    assert found.shape == (40, 30, 3)
    assert np.abs(found - np.asarray(cmyk.convert("RGB")) / 255).mean() < 0.05


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_exif_orientation_is_turned_upright(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(GREY), format, exif=exif)
    with Image.open(BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image)) / 255
    np.testing.assert_allclose(decode(data, max_pixels=MANY), expected, rtol=1e-6)


@pytest.mark.parametrize("image", [Image.fromarray(GREY.astype(np.uint16)), Image.new("1", (5, 7))])
def test_every_depth_can_be_turned(image: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read(image, exif=exif).shape == (5, 7)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow tells of the EXIF it cannot read
@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff", b"rubbish" * 9])
def test_an_image_whose_exif_is_broken_is_left_as_it_lies(exif: bytes) -> None:
    np.testing.assert_allclose(read(Image.fromarray(GREY), exif=exif), GREY / 255, rtol=1e-6)


def test_only_exif_turns_an_image_as_in_a_browser() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    assert read(Image.fromarray(GREY), "JPEG", xmp=xmp).shape == GREY.shape


@pytest.mark.parametrize("image_format", ["PPM", "ICO", "JPEG2000", "TGA"])
def test_other_formats_are_refused(image_format: str) -> None:
    with pytest.raises(ImageError, match="neither PNG nor JPEG nor TIFF"):
        decode(encoded(Image.fromarray(GREY), image_format), max_pixels=MANY)


def test_no_bytes_and_no_image_are_refused() -> None:
    with pytest.raises(ImageError, match="The image is empty"):
        decode(b"", max_pixels=MANY)
    with pytest.raises(ImageError, match="neither PNG nor JPEG"):
        decode(b"<html>Log in</html>", max_pixels=MANY)


def test_only_files_named_as_images_are_pictures(tmp_path: Path) -> None:
    for name in ("b.DCM", "a.tif", "notes.txt", "c.png"):
        (tmp_path / name).touch()
    assert [path.name for path in pictures(tmp_path)] == ["a.tif", "b.DCM", "c.png"]
    assert {".png", ".webp", ".bmp", ".dcm"} <= set(PICTURES)


# ---- the other kinds


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
@pytest.mark.parametrize("image_format", ["TIFF", "BMP", "WEBP", "GIF"])
def test_every_kind_shows_what_was_saved(image_format: str, mode: str) -> None:
    image = Image.fromarray(COLOUR).convert(mode)
    if image_format == "WEBP":
        image = image.convert("RGB")
    if image_format == "GIF" and mode == "RGB":
        image = image.quantize(64)
    options = {"lossless": True} if image_format == "WEBP" else {}
    expected = np.asarray(image.convert("RGB")) / 255
    found = read(image, image_format, **options)
    if found.ndim == 2:
        found = np.repeat(found[..., None], 3, axis=2)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_is_read_however_it_is_compressed(compression: str, bits: int) -> None:
    values = RNG.integers(0, 2**bits, (300, 70)).astype(f"u{bits // 8}")
    found = read(Image.fromarray(values), "TIFF", compression=compression)
    low, high = (0, 255) if bits == 8 else (int(values.min()), int(values.max()))
    np.testing.assert_allclose(found, (values - float(low)) / (high - low), atol=1e-6)


def test_a_tiff_of_another_compression_is_refused_by_name() -> None:
    with pytest.raises(ImageError, match=r"compressed as lzma.*LZW"):
        read(Image.fromarray(GREY), "TIFF", compression="lzma")


def test_of_several_pages_the_first_is_read() -> None:
    first, second = Image.fromarray(GREY), Image.new("L", (9, 9))
    data = encoded(first, "TIFF", save_all=True, append_images=[second])
    np.testing.assert_allclose(decode(data, max_pixels=MANY), GREY / 255, rtol=1e-6)


def test_a_float_tiff_is_stretched_and_what_is_no_number_is_black() -> None:
    values = np.array([[np.nan, -2.0], [0.0, 2.0]], np.float32)
    found = read(Image.fromarray(values), "TIFF")
    np.testing.assert_allclose(found, np.array([[0, 0], [0.5, 1]]))


def tiff(tags: dict[int, tuple[int, int]], body: bytes) -> bytes:
    """Return a little-endian TIFF of one page: tag -> (type, value)."""
    entries = b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items())
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0" * 4 + body


def grey_tiff(width: int, height: int, **more: tuple[int, int]) -> dict[int, tuple[int, int]]:
    other = {int(tag[1:]): value for tag, value in more.items()}
    size = {256: (4, width), 257: (4, height)}
    return size | {258: (3, 8), 259: (3, 1), 262: (3, 1), 277: (3, 1)} | other


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_lowest_value_is_white_is_inverted(bits: int) -> None:
    tags = grey_tiff(2, 1, t258=(3, bits), t262=(3, 0), t273=(4, 0), t279=(4, bits // 4))
    at = len(tiff(tags, b""))
    body = np.array([0, 255], f"<u{bits // 8}").tobytes()
    np.testing.assert_array_equal(
        decode(tiff(tags | {273: (4, at)}, body), max_pixels=MANY), [[1, 0]]
    )


def test_tiles_are_read_where_they_lie() -> None:
    tags = grey_tiff(16, 16, t322=(4, 16), t323=(4, 16), t324=(4, 0), t325=(4, 256))
    at = len(tiff(tags, b""))
    values = RNG.integers(0, 256, (16, 16), dtype=np.uint8)
    found = decode(tiff(tags | {324: (4, at)}, values.tobytes()), max_pixels=MANY)
    np.testing.assert_allclose(found, values / 255, rtol=1e-6)


def test_a_tile_that_is_larger_than_any_image_may_be_is_refused() -> None:
    tags = grey_tiff(5, 5, t322=(4, 2**16), t323=(4, 2**16), t324=(4, 300), t325=(4, 99))
    deflated = tiff(tags | {259: (3, 8)}, zlib.compress(b"\0" * 10**5))
    with pytest.raises(ImageError, match="65536 x 65536"):
        decode(deflated, max_pixels=MANY)


@pytest.mark.parametrize("adobe", [True, False])
def test_a_cmyk_jpeg_is_read_as_browsers_do_with_or_without_adobes_marker(adobe: bool) -> None:
    ink = Image.new("CMYK", (16, 16), (0, 200, 200, 0))  # red
    data = encoded(ink, "JPEG", quality=98)
    marker = data.index(b"\xff\xee")
    assert data[marker + 4 : marker + 9] == b"Adobe"
    if not adobe:
        (length,) = struct.unpack(">H", data[marker + 2 : marker + 4])
        data = data[:marker] + data[marker + 2 + length :]
    red, green, blue = decode(data, max_pixels=MANY)[8, 8]
    assert red > 0.9
    assert max(green, blue) < 0.3


def test_a_webp_is_left_as_it_lies_since_browsers_do_not_turn_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read(Image.fromarray(COLOUR), "WEBP", exif=exif, lossless=True).shape == COLOUR.shape


def test_a_tiff_is_turned_by_its_own_orientation() -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[0x0112] = 6
    found = read(Image.fromarray(GREY), "TIFF", tiffinfo=info)
    np.testing.assert_allclose(found, np.rot90(GREY, -1) / 255, rtol=1e-6)


@pytest.mark.parametrize("image_format", ["TIFF", "WEBP"])
def test_what_is_transparent_is_black_in_every_kind(image_format: str) -> None:
    assert not read(Image.new("RGBA", (4, 4), (200, 100, 50, 0)), image_format).any()


# ---- limits


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_image_is_refused(format: str, share: float) -> None:
    data = encoded(Image.fromarray(COLOUR).resize((90, 90)), format)
    with pytest.raises(ImageError, match=r"damaged|neither"):
        decode(data[: int(len(data) * share)], max_pixels=MANY)


def header_only_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


HUGE = 30_000


def huge(kind: str) -> bytes:
    """Return a small file whose header says 30,000 x 30,000 pixels."""
    if kind == "png":
        return header_only_png(HUGE, HUGE)
    if kind == "jpeg":
        small = encoded(Image.fromarray(GREY), "JPEG")
        at = small.index(b"\xff\xc0") + 5
        return small[:at] + struct.pack(">HH", HUGE, HUGE) + small[at + 4 :]
    if kind == "tiff":
        tags = grey_tiff(HUGE, HUGE, t273=(4, 8), t279=(4, HUGE * HUGE), t278=(4, HUGE))
        return tiff(tags | {259: (3, 8)}, zlib.compress(b"\0" * 99))
    if kind == "bmp":
        small = encoded(Image.fromarray(GREY), "BMP")
        return small[:18] + struct.pack("<II", HUGE, HUGE) + small[26:]
    if kind == "gif":
        small = encoded(Image.fromarray(GREY), "GIF")
        return small[:6] + struct.pack("<HH", HUGE, HUGE) + small[10:]
    side = struct.pack("<I", HUGE - 1)[:3]
    chunk = b"VP8X" + struct.pack("<I", 10) + b"\0" * 4 + side + side
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp", "bmp", "gif"])
def test_a_huge_image_is_refused_before_it_is_decoded(kind: str) -> None:
    data = huge(kind)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="30000 x 30000 pixels, more than the 100000000"):
            decode(data, max_pixels=100_000_000)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("options", [{}, {"lossless": True}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_size_of_a_webp_is_known_from_every_kind_of_header(
    options: dict[str, bool], mode: str
) -> None:
    exif = Image.Exif()
    exif[0x010E] = "makes the header an extended one"
    for more in ({}, {"exif": exif}):
        data = encoded(Image.new(mode, (37, 23), 9), "WEBP", **options, **more)
        with pytest.raises(ImageError, match="37 x 23 pixels"):
            decode(data, max_pixels=37 * 23 - 1)


@pytest.mark.parametrize("side", [10_000, 60_000, 2**31 - 1])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(ImageError, match=f"has {side} x {side} pixels, more than the 1000000"):
        decode(header_only_png(side, side), max_pixels=MANY)


def test_the_limit_itself_is_still_allowed() -> None:
    data = encoded(Image.fromarray(GREY))
    assert decode(data, max_pixels=GREY.size).shape == GREY.shape
    with pytest.raises(ImageError, match="MAX_IMAGE_PIXELS"):
        decode(data, max_pixels=GREY.size - 1)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="damaged"):
        decode(header_only_png(*size), max_pixels=MANY)


TURNED = Image.Exif()
TURNED[0x0112] = 6
WHOLE = [
    encoded(Image.fromarray(COLOUR)),
    encoded(Image.fromarray(GREY.astype(np.uint16) * 7), exif=TURNED),
    encoded(Image.fromarray(COLOUR).convert("P"), transparency=3),
    encoded(Image.fromarray(COLOUR).convert("RGBA"), dpi=(9, 9), icc_profile=b"x" * 50),
    encoded(Image.fromarray(COLOUR), "JPEG", exif=TURNED),
    encoded(Image.fromarray(COLOUR), "JPEG", progressive=True),
    encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
    *(encoded(Image.fromarray(COLOUR), kind) for kind in ("TIFF", "BMP", "WEBP", "GIF")),
    encoded(Image.fromarray(COLOUR), "TIFF", compression="tiff_lzw"),
    encoded(Image.fromarray(COLOUR).resize((64, 64)), "TIFF", compression="jpeg"),
    encoded(Image.fromarray(GREY.astype(np.uint16)), "TIFF", compression="tiff_adobe_deflate"),
    encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
    encoded(Image.fromarray(GREY > 99), "TIFF", compression="group4"),
    encoded(Image.fromarray(COLOUR).convert("RGBA"), "WEBP", lossless=True),
    encoded(Image.fromarray(COLOUR).quantize(9), "BMP"),
]


def with_crcs(data: bytes) -> bytes:
    """Return a PNG whose chunks carry the checksums of what they now hold."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        (length,) = struct.unpack(">I", out[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(out):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(bytes(out[at + 4 : end])))
        at = end + 4
    return bytes(out)


@pytest.mark.seconds
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow tells of the EXIF it cannot read
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), min_size=1, max_size=5),
    st.booleans(),
)
@settings(QUICK, max_examples=400)
def test_a_mutated_image_is_decoded_or_refused(
    data: bytes, cuts: list[tuple[int, bytes]], fix: bool
) -> None:
    for at, new in cuts:
        at %= len(data) + 1
        data = data[:at] + new + data[at + len(new) :]
    with suppress(ImageError):  # anything else that is raised fails the test
        found = decode(with_crcs(data) if fix else data, max_pixels=10_000)
        assert found.dtype == np.float32
        assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow tells of the EXIF it cannot read
@given(
    st.sampled_from(
        [
            *(b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0"),
            *(b"BM", b"GIF89a", b"RIFF\x99\0\0\0WEBPVP8 ", b"RIFF\x99\0\0\0WEBPVP8X"),
        ]
    ),
    st.binary(max_size=400),
)
@QUICK
def test_random_bytes_are_refused(magic: bytes, data: bytes) -> None:
    with pytest.raises(ImageError):
        decode(magic + data, max_pixels=10_000)


# ---- strips


def turned(image: Image.Image, turn: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turn
    return encoded(image, exif=exif)


ODD = [
    *(turned(Image.fromarray(COLOUR), turn) for turn in range(1, 9)),
    turned(Image.fromarray(GREY.astype(np.uint16)), 6),
    encoded(Image.fromarray(np.dstack([GREY] * 3))),
    encoded(Image.fromarray(np.where(GREY > 99, np.nan, GREY).astype(np.float32)), "TIFF"),
    encoded(Image.new("RGBA", (5, 7), (200, 100, 50, 9))),
    encoded(Image.fromarray(GREY).convert("P"), transparency=bytes(GREY.ravel())),
    encoded(Image.fromarray(COLOUR).convert("CMYK"), "TIFF"),
]


@pytest.mark.parametrize("data", [*WHOLE, *ODD])
def test_an_image_is_the_same_in_strips_of_any_height(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decode(data, max_pixels=MANY)
    for pixels in (1, 13):
        monkeypatch.setattr("backend.imaging.pixels.STRIP", pixels)
        np.testing.assert_array_equal(decode(data, max_pixels=MANY), whole)
