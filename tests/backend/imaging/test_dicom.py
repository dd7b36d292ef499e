from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, uid

from backend.errors import ImageError
from backend.imaging.decode import decode
from tests.backend.dicoms import PATIENT, bare, dataset, holding, packed, written

# In the service they are silenced, because they quote values.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

RNG = np.random.default_rng(0)
MANY = 10**6
CT = RNG.integers(-1000, 3000, (7, 6)).astype(np.int16)
COLOUR = RNG.integers(0, 256, (7, 6, 3), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(COLOUR).resize((40, 30)))


def read(made: Dataset) -> npt.NDArray[np.float32]:
    return decode(written(made), max_pixels=MANY)


def between(values: npt.NDArray[np.generic], low: float, high: float) -> npt.NDArray[np.float64]:
    return np.clip((values.astype(float) - low) / (high - low), 0, 1)


def test_without_a_window_the_values_are_stretched() -> None:
    found = read(dataset(CT))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, between(CT, CT.min(), CT.max()), atol=1e-6)


def test_the_window_is_taken_of_the_rescaled_values() -> None:
    made = dataset(CT, RescaleSlope=2, RescaleIntercept=-24, WindowCenter=40, WindowWidth=400)
    # The standard's linear window: from c - 0.5 - (w - 1) / 2 over w - 1.
    expected = between(CT * 2 - 24, 39.5 - 399 / 2, 39.5 + 399 / 2)
    np.testing.assert_allclose(read(made), expected, atol=1e-6)


def test_an_empty_slope_and_intercept_are_none() -> None:
    made = dataset(CT, WindowCenter=40, WindowWidth=400)
    expected = read(made)
    made.RescaleSlope, made.RescaleIntercept = None, None
    np.testing.assert_array_equal(read(made), expected)


def test_a_window_wider_than_the_values_keeps_their_contrast() -> None:
    made = dataset(CT, WindowCenter=0.5, WindowWidth=20001)
    np.testing.assert_allclose(read(made), between(CT, -10000, 10000), atol=1e-6)


def test_of_several_windows_the_first_counts() -> None:
    one = read(dataset(CT, WindowCenter=100, WindowWidth=200))
    two = read(dataset(CT, WindowCenter=[100, 900], WindowWidth=[200, 50]))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_the_other_window_functions_rise_from_0_to_1(function: str) -> None:
    ramp = np.arange(-500, 500, 10, dtype=np.int16).reshape(10, 10)
    made = dataset(ramp, WindowCenter=0, WindowWidth=200, VOILUTFunction=function)
    found = read(made).ravel()
    assert (np.diff(found) >= 0).all()
    assert found[0] == pytest.approx(0, abs=1e-3)
    assert found[50] == pytest.approx(0.5, abs=1e-3)
    assert found[-1] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowWidth": 0},
        {"VOILUTFunction": "CURVED"},
        {"WindowWidth": "nan"},
        {"WindowCenter": "nan"},
        {"WindowCenter": "inf"},
        {"RescaleSlope": "nan", "RescaleIntercept": "nan", "WindowWidth": 0},
    ],
    ids=str,
)
def test_a_window_that_makes_no_sense_is_passed_over(elements: dict[str, object]) -> None:
    made = dataset(CT, **{"WindowCenter": 5, "WindowWidth": 10} | elements)
    np.testing.assert_array_equal(read(made), read(dataset(CT)))


def lut(values: list[int], first: int = 0) -> Dataset:
    table = Dataset()
    table.LUTDescriptor = [len(values), first, 16]
    table.LUTData = np.array(values, "<u2").tobytes()
    return table


@pytest.mark.parametrize("slope", [None, 1])
def test_a_table_of_the_window_is_looked_up(slope: int | None) -> None:
    made = dataset(np.array([[0, 1], [2, 3]], np.uint16))
    made.VOILUTSequence = [lut([0, 65535, 0, 13107])]
    if slope:
        made.RescaleSlope, made.RescaleIntercept = slope, 0
    np.testing.assert_allclose(read(made), np.array([[0, 1], [0, 0.2]]), atol=1e-6)


def test_a_table_of_the_modality_is_looked_up() -> None:
    made = dataset(np.array([[0, 1], [2, 3]], np.uint16))
    made.ModalityLUTSequence = [lut([30, 20, 10, 0])]
    made.ModalityLUTSequence[0].ModalityLUTType = "US"
    np.testing.assert_allclose(read(made), between(np.array([[3, 2], [1, 0]]), 0, 3), atol=1e-6)


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 40, "WindowWidth": 400}])
def test_monochrome1_is_inverted(window: dict[str, int]) -> None:
    upright = read(dataset(CT, **window))
    inverted = read(dataset(CT, PhotometricInterpretation="MONOCHROME1", **window))
    np.testing.assert_allclose(inverted, 1 - upright, atol=1e-6)


def test_of_several_frames_the_middle_one_is_read() -> None:
    frames = RNG.integers(0, 4000, (5, 7, 6)).astype(np.uint16)
    np.testing.assert_array_equal(read(dataset(frames)), read(dataset(frames[2])))
    made = dataset(frames)
    made.compress(uid.RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal(read(made), read(dataset(frames[2])))


def test_an_enhanced_files_window_is_that_of_the_frame() -> None:
    def group(center: float) -> Dataset:
        window, one = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = center, 100
        one.FrameVOILUTSequence = [window]
        return one

    frames = RNG.integers(0, 400, (3, 7, 6)).astype(np.uint16)
    shared, rescale = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, 0
    shared.PixelValueTransformationSequence = [rescale]
    made = dataset(frames, SharedFunctionalGroupsSequence=[shared])
    made.PerFrameFunctionalGroupsSequence = [group(10), group(400), group(90)]
    alone = dataset(frames[1], WindowCenter=400, WindowWidth=100)
    alone.RescaleSlope, alone.RescaleIntercept = 2, 0
    np.testing.assert_array_equal(read(made), read(alone))


def test_colour_is_divided_by_its_highest_value() -> None:
    np.testing.assert_allclose(read(dataset(COLOUR)), COLOUR / 255, atol=1e-6)
    wide = dataset(COLOUR.astype(np.uint16) * 16, BitsStored=12, HighBit=11)
    np.testing.assert_allclose(read(wide), COLOUR * 16.0 / 4095, atol=1e-6)


def test_luminance_and_chrominance_become_colour() -> None:
    made = dataset(np.full((2, 2, 3), 128, np.uint8), PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(read(made), np.full((2, 2), 128 / 255), atol=1e-6)


def test_a_palette_is_resolved() -> None:
    made = dataset(np.array([[0, 1]], np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for colour, table in (("Red", [0, 65535]), ("Green", [65535, 0]), ("Blue", [0, 0])):
        setattr(made, f"{colour}PaletteColorLookupTableDescriptor", [2, 0, 16])
        data = np.array(table, "<u2").tobytes()
        setattr(made, f"{colour}PaletteColorLookupTableData", data)
    np.testing.assert_allclose(read(made), [[[0, 1, 0], [1, 0, 0]]], atol=1e-6)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_preamble_and_header_is_read(implicit: bool) -> None:
    found = decode(bare(dataset(CT), implicit=implicit), max_pixels=MANY)
    np.testing.assert_array_equal(found, read(dataset(CT)))


def test_what_pillow_and_run_lengths_compress_is_read() -> None:
    lossy = packed(SMOOTH, "JPEG", uid.JPEGBaseline8Bit, interpretation="YBR_FULL_422", quality=98)
    assert np.abs(read(lossy) - SMOOTH / 255).mean() < 0.03
    options = {"no_jp2": True, "mct": 1, "interpretation": "YBR_RCT"}
    exact = packed(SMOOTH, "JPEG2000", uid.JPEG2000Lossless, **options)
    np.testing.assert_allclose(read(exact), SMOOTH / 255, atol=1e-6)
    grey = RNG.integers(0, 4000, (30, 40)).astype(np.uint16)
    exact = packed(grey, "JPEG2000", uid.JPEG2000Lossless, no_jp2=True)
    np.testing.assert_array_equal(read(exact), read(dataset(grey)))
    for values in (CT, COLOUR):
        made = dataset(values)
        made.compress(uid.RLELossless, generate_instance_uid=False)
        np.testing.assert_array_equal(read(made), read(dataset(values)))


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (uid.JPEGLSLossless, "JPEG-LS Lossless"),
        (uid.JPEGLosslessSV1, "JPEG Lossless"),
        (uid.MPEG4HP41, "MPEG-4"),
        (uid.HTJ2KLossless, "High-Throughput JPEG 2000"),
        (uid.DeflatedExplicitVRLittleEndian, "Deflated"),
        ("1.2.3.4.5", "in an unknown way"),
    ],
)
def test_another_transfer_syntax_is_named_with_a_mend(syntax: str, name: str) -> None:
    made = dataset(CT)
    if syntax != uid.DeflatedExplicitVRLittleEndian:
        made = holding(CT, b"whatever", uid.JPEGBaseline8Bit)
    data = written(made)
    old = made.file_meta.TransferSyntaxUID
    at = data.index(b"\x02\x00\x10\x00UI")
    length = len(old) + len(old) % 2
    even = syntax.encode() + b"\0" * (len(syntax) % 2)
    element = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(even)) + even
    data = data[:at] + element + data[at + 8 + length :]
    with pytest.raises(ImageError, match=rf"stored as .*{name}.*Convert it"):
        decode(data, max_pixels=MANY)


def test_jpeg_of_12_bits_is_named_too() -> None:
    made = holding(CT.astype(np.uint16), b"\xff\xd8", uid.JPEGExtended12Bit)
    made.BitsStored, made.HighBit = 12, 11
    with pytest.raises(ImageError, match=r"JPEG Extended.* with 12 bits"):
        read(made)


def test_a_file_without_an_image_is_refused() -> None:
    made = dataset(CT)
    del made.PixelData
    with pytest.raises(ImageError, match="holds no image"):
        read(made)


def test_another_colour_space_is_refused() -> None:
    with pytest.raises(ImageError, match="colour space"):
        read(dataset(COLOUR, PhotometricInterpretation="HSV"))


# ---- limits


def test_a_huge_image_is_refused_before_it_is_decoded() -> None:
    data = written(dataset(CT, Rows=30_000, Columns=30_000))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="30000 x 30000 pixels"):
            decode(data, max_pixels=100_000_000)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("kind", "syntax"), [("JPEG", "4.50"), ("JPEG2000", "4.90")])
def test_a_frame_that_is_larger_than_its_header_says_is_refused(kind: str, syntax: str) -> None:
    frame = BytesIO()
    Image.new("L", (4000, 4000)).save(frame, kind)
    made = holding(np.zeros((8, 8), np.uint8), frame.getvalue(), f"1.2.840.10008.1.2.{syntax}")
    with pytest.raises(ImageError, match="damaged"):
        read(made)


@pytest.mark.timeout(20)
def test_a_jpeg_2000_box_without_a_length_is_not_stepped_over_for_ever() -> None:
    frame = BytesIO()
    Image.fromarray(SMOOTH[..., 0]).save(frame, "JPEG2000")
    data = frame.getvalue()
    at = data.index(b"jp2h") - 4
    stuck = data[:at] + b"\0\0\0\0" + data[at + 4 :]
    assert read(holding(SMOOTH[..., 0], data, uid.JPEG2000Lossless)).shape == (30, 40)
    with pytest.raises(ImageError, match="damaged"):
        read(holding(SMOOTH[..., 0], stuck, uid.JPEG2000Lossless))


def test_run_lengths_that_unpack_to_more_than_the_header_says_are_refused() -> None:
    bomb = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 500_000  # 64 MB
    made = holding(np.zeros((8, 8), np.uint8), bomb, uid.RLELossless)
    data = written(made)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="damaged"):
            decode(data, max_pixels=MANY)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_frames_that_are_not_there_are_refused() -> None:
    with pytest.raises(ImageError, match="damaged"):
        read(dataset(CT, NumberOfFrames=2**31 - 1))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(share: float) -> None:
    data = written(dataset(CT))
    with pytest.raises(ImageError):
        decode(data[: int(len(data) * share)], max_pixels=MANY)


WHOLE = [
    written(dataset(CT, WindowCenter=40, WindowWidth=400, RescaleSlope=1, RescaleIntercept=-24)),
    written(dataset(COLOUR)),
    written(dataset(RNG.integers(0, 99, (3, 7, 6)).astype(np.uint16))),
    written(packed(SMOOTH, "JPEG", uid.JPEGBaseline8Bit, interpretation="YBR_FULL_422")),
    written(packed(SMOOTH[..., 0], "JPEG2000", uid.JPEG2000Lossless)),
    bare(dataset(CT), implicit=True),
    bare(dataset(CT), implicit=False),
]
with_runs = dataset(CT)
with_runs.compress(uid.RLELossless, generate_instance_uid=False)
WHOLE.append(written(with_runs))


@pytest.mark.seconds
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=4)), min_size=1, max_size=5),
)
@settings(max_examples=400)
def test_a_mutated_file_is_decoded_or_refused(data: bytes, cuts: list[tuple[int, bytes]]) -> None:
    for at, new in cuts:
        at %= len(data) + 1
        data = data[:at] + new + data[at + len(new) :]
    with suppress(ImageError):  # anything else that is raised fails the test
        found = decode(data, max_pixels=10_000)
        assert found.dtype == np.float32
        assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize("data", WHOLE)
def test_an_image_is_the_same_in_strips_of_any_height(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decode(data, max_pixels=MANY)
    for pixels in (1, 13):
        monkeypatch.setattr("backend.imaging.pixels.STRIP", pixels)
        np.testing.assert_array_equal(decode(data, max_pixels=MANY), whole)


@given(
    st.sampled_from([b"\0" * 128 + b"DICM", b"\x08\0\x05\0", b"\2\0\0\0"]),
    st.binary(max_size=400),
)
@settings(max_examples=150)
def test_random_bytes_are_refused(magic: bytes, data: bytes) -> None:
    with pytest.raises(ImageError):
        decode(magic + data, max_pixels=10_000)


# ---- privacy


SPILL = """
import logging, sys
from pathlib import Path
from backend import logs
from backend.imaging.decode import decode
from backend.errors import ImageError
logs.configure("DEBUG")
try:
    decode(Path(sys.argv[1]).read_bytes(), max_pixels=10**6)
except ImageError as error:
    print(error)
"""


def test_no_value_of_a_file_reaches_a_log_or_an_error(tmp_path: Path) -> None:
    data = written(dataset(CT, WindowCenter="1234567", WindowWidth=9, NumberOfFrames="1234567"))
    data = data.replace(b"1234567", b"Doe^Jan").replace(PATIENT.encode(), b"Doe^Jan\xff")
    (tmp_path / "scan.dcm").write_bytes(data)
    said = subprocess.run(
        [sys.executable, "-c", SPILL, tmp_path / "scan.dcm"], capture_output=True, check=True
    )
    assert b"damaged" in said.stdout
    assert b"Doe" not in said.stdout + said.stderr
    assert b"4711" not in said.stdout + said.stderr
