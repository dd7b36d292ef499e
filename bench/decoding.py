"""Memory and seconds of the worst image of each format: python -m bench.decoding [--megapixels N].

The files are small, decode to as many pixels as MAX_IMAGE_PIXELS allows, and use the layout of
their format that takes most memory. Each file gets a new decoder, as in production. Memory is the
decoder's peak (VmHWM), which includes the memory of an idle decoder.
"""

from __future__ import annotations

import argparse
import math
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

from backend.errors import ImageError
from backend.imaging.decoder_process import PROGRAM, Decoders
from backend.settings import Settings

LONGEST = 256
BLOCK = b"\0" * 2**20


def side_of(pixels: int) -> int:
    """Return the side of a square of at most so many pixels, a multiple of 16."""
    return math.isqrt(pixels) // 16 * 16


def webp(side: int) -> bytes:
    """Return a lossless WebP."""
    return _saved(Image.new("RGB", (side, side), (9, 99, 199)), "WEBP", lossless=True, method=0)


def jpeg(side: int) -> bytes:
    """Return a progressive JPEG of four channels; its decoder keeps all coefficients."""
    return _saved(Image.new("CMYK", (side, side)), "JPEG", progressive=True)


def gif(side: int) -> bytes:
    """Return a GIF."""
    return _saved(Image.new("P", (side, side)), "GIF")


def png(side: int, colour: int = 6, bits: int = 8) -> bytes:
    """Return a PNG of one value; colour 6 is RGBA, 2 RGB and 0 grey."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    head = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    rows = _deflated(side * (1 + side * channels * bits // 8))
    chunks = [(b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def tiff(side: int, turned: int = 1) -> bytes:
    """Return a TIFF of RGBA with 16 bits, deflated in one strip."""
    body = _deflated(side * side * 8)
    entries = [(256, 4, side), (257, 4, side), (259, 3, 8), (262, 3, 2), (274, 3, turned)]
    entries += [(277, 3, 4), (278, 4, side), (279, 4, len(body)), (284, 3, 1), (338, 3, 2)]
    at = 8 + 2 + 12 * (len(entries) + 2) + 4
    rows = [(tag, struct.pack("<HHII", tag, kind, 1, value)) for tag, kind, value in entries]
    rows += [(258, struct.pack("<HHII", 258, 3, 4, at))]
    rows += [(273, struct.pack("<HHII", 273, 4, 1, at + 8))]
    directory = b"".join(row for _, row in sorted(rows))
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(rows))
    return head + directory + b"\0" * 4 + struct.pack("<4H", 16, 16, 16, 16) + body


def bmp(side: int) -> bytes:
    """Return a run-length encoded BMP."""
    runs, rest = divmod(side, 255)
    row = b"\xff\x07" * runs + bytes([rest, 7]) + b"\0\0"
    body = row * side + b"\0\1"
    palette = bytes(range(256)) * 4
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0)
    at = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", at + len(body), 0, 0, at) + head + palette + body


def dicom(side: int) -> bytes:
    """Return a DICOM file of run-length encoded YBR."""
    return _dicom(side, 3, 8, _run_lengths(side, 3), PhotometricInterpretation="YBR_FULL")


def jpeg_2000(side: int) -> bytes:
    """Return a DICOM file with a colour frame of JPEG 2000; encoding it takes a minute."""
    frame = _saved(Image.new("RGB", (side, side), (9, 99, 199)), "JPEG2000", num_resolutions=2)
    return _dicom(side, 3, 8, frame, PhotometricInterpretation="YBR_RCT")


def mammogram(side: int) -> bytes:
    """Return a DICOM file of uncompressed grey with 16 bits; two bytes a pixel."""
    return _dicom(side, 1, 16, b"", PhotometricInterpretation="MONOCHROME2")


def dicom_grey(side: int) -> bytes:
    """Return a DICOM file of run-length encoded grey with 16 bits, rescaled and windowed."""
    window = {"RescaleSlope": 2, "RescaleIntercept": -9, "WindowCenter": 40, "WindowWidth": 400}
    packed = _run_lengths(side, 2)
    return _dicom(side, 1, 16, packed, PhotometricInterpretation="MONOCHROME2", **window)


FILES: dict[str, Callable[[int], bytes]] = {
    "WebP, lossless": webp,
    "PNG, RGBA": png,
    "PNG, RGB": lambda side: png(side, colour=2),
    "PNG, grey of 16 bits": lambda side: png(side, colour=0, bits=16),
    "JPEG, progressive CMYK": jpeg,
    "TIFF, RGBA of 16 bits": tiff,
    "TIFF, the same, lying on its side": lambda side: tiff(side, turned=6),
    "GIF": gif,
    "BMP, run lengths": bmp,
    "DICOM, run lengths, YBR": dicom,
    "DICOM, run lengths, grey of 16 bits": dicom_grey,
}
SLOW: dict[str, Callable[[int], bytes]] = {"DICOM, JPEG 2000": jpeg_2000}
MAMMOGRAM = 60_000_000  # pixels


@dataclass(frozen=True)
class Cost:
    """The memory and time that decoding one file took.

    Attributes:
        peak: Peak memory in bytes.
        refusal: The reason why the file was refused; "" if it was decoded.
    """

    peak: int
    seconds: float
    refusal: str = ""


def measure(data: bytes, *, max_pixels: int) -> Cost:
    """Decode a file in a new decoder."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder, "pid")
        says = f"import os, pathlib\npathlib.Path({str(note)!r}).write_text(str(os.getpid()))\n"
        decoders = Decoders(says + PROGRAM)
        decoders.decode(png(16), longest=LONGEST, max_pixels=max_pixels)  # starts the decoder
        started, refusal = time.perf_counter(), ""
        try:
            decoders.decode(data, longest=LONGEST, max_pixels=max_pixels)
        except ImageError as error:
            refusal = str(error)
        seconds = time.perf_counter() - started
        status = Path("/proc", note.read_text(), "status")
        peak = status.read_text().partition("VmHWM:")[2].split()[0] if status.exists() else "0"
        return Cost(1024 * int(peak), seconds, refusal)


def main() -> None:
    """Print a row for each file."""
    default = Settings.model_fields["max_image_pixels"].default
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=int, default=default // 10**6)
    pixels = parser.parse_args().megapixels * 10**6
    print("| file | size in MB | peak GB | seconds | refused |\n|---|---|---|---|---|")
    files = [(name, pixels, build) for name, build in (FILES | SLOW).items()]
    files.append(("DICOM, uncompressed, of 60 megapixels", MAMMOGRAM, mammogram))
    for name, size, build in files:
        data = build(side_of(size))
        cost = measure(data, max_pixels=pixels)
        row = f"{len(data) / 1e6:.2f} | {cost.peak / 1e9:.2f} | {cost.seconds:.1f}"
        print(f"| {name} | {row} | {cost.refusal} |", flush=True)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _deflated(number: int) -> bytes:
    """Return so many zero bytes, deflated."""
    pack = zlib.compressobj(1)
    blocks, rest = divmod(number, len(BLOCK))
    return b"".join(pack.compress(BLOCK) for _ in range(blocks)) + (
        pack.compress(BLOCK[:rest]) + pack.flush()
    )


def _dicom(side: int, channels: int, bits: int, frame: bytes, **elements: Any) -> bytes:
    """Return a DICOM file of one compressed frame; without a frame, of uncompressed zeros."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = _syntax(frame)
    made.SOPClassUID, made.SOPInstanceUID = uid.SecondaryCaptureImageStorage, "1.2.3"
    made.Rows = made.Columns = side
    made.SamplesPerPixel, made.PixelRepresentation = channels, 0
    made.BitsAllocated = made.BitsStored = bits
    made.HighBit = bits - 1
    if channels == 3:
        made.PlanarConfiguration = 0
    for name, value in elements.items():
        setattr(made, name, value)
    made.PixelData = encapsulate([frame]) if frame else bytes(side * side * bits // 8)
    made["PixelData"].is_undefined_length = bool(frame)
    file = BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _syntax(frame: bytes) -> uid.UID:
    if not frame:
        return uid.ExplicitVRLittleEndian
    return uid.JPEG2000Lossless if frame.startswith(b"\0\0\0\x0cjP") else uid.RLELossless


def _run_lengths(side: int, segments: int) -> bytes:
    """Return a frame whose segments unpack to one byte per pixel; `side` is a multiple of 16."""
    segment = b"\x81\x05" * (side * side // 128)
    starts = [64 + row * len(segment) for row in range(segments)]
    head = struct.pack("<16I", segments, *starts, *[0] * (15 - segments))
    return head + segment * segments


if __name__ == "__main__":
    main()
