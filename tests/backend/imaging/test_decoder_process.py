from __future__ import annotations

import hashlib
import os
import re
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from backend.errors import FirstlightError, ImageError
from backend.imaging import decoder_process
from backend.imaging.decode import decode
from backend.imaging.decoder_process import MEMORY, PROGRAM, Decoders
from backend.imaging.pixels import shrink
from backend.settings import Settings
from bench import decoding as bench
from tests.backend.fake_label_studio import png

pytestmark = pytest.mark.server

MANY = 10**6
SCAN = png(np.random.default_rng(0).random((30, 40)))
# What a file may do to its decoder, by its content.
HARMED = f"""
import ctypes, os, signal, time
from backend.imaging import decode

real = decode.opened
def opened(data, **limits):
    if data == b"kills": os.kill(os.getpid(), signal.SIGKILL)
    if data == b"crashes": ctypes.string_at(0)
    if data == b"ends": os._exit(7)
    if data == b"hangs": time.sleep(600)
    if data == b"fills": bytearray({2 * MEMORY})
    return real(data, **limits)
decode.opened = opened
{PROGRAM}
"""


def read(decoders: Decoders, data: bytes = SCAN) -> decoder_process.DecodedImage:
    return decoders.decode(data, longest=20, max_pixels=MANY)


def own(folder: Path, seconds: float = 60) -> Decoders:
    """Return decoders that files can harm; each leaves a file named by its process id."""
    return Decoders(program(folder), seconds)


def program(folder: Path) -> str:
    note = f"import os\nopen(os.path.join({str(folder)!r}, str(os.getpid())), 'w').close()\n"
    return note + HARMED


def ids(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir())


def is_running(process: int) -> bool:
    return Path("/proc", str(process)).exists()


def test_what_comes_back_is_what_decoding_here_gives(decoders: Decoders) -> None:
    found, pixels = read(decoders), decode(SCAN, max_pixels=MANY)
    np.testing.assert_array_equal(found.small, np.rint(shrink(pixels, 20) * 255))
    assert found.size == (30, 40)
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    assert found.digest == digest[:32]


def test_a_refusal_comes_back_as_it_was_said(decoders: Decoders) -> None:
    with pytest.raises(ImageError, match=r"40 x 30 pixels, more than the 1199 allowed. Shrink"):
        decoders.decode(SCAN, longest=20, max_pixels=1199)
    with pytest.raises(ImageError, match="damaged"):
        read(decoders, SCAN[:-40])
    assert read(decoders).size == (30, 40)


@pytest.mark.parametrize(
    ("harm", "how"),
    [
        (b"kills", "killed by signal 9"),
        (b"crashes", "killed by signal 11"),
        (b"ends", "exit code 7"),
        (b"fills", "more memory than a decoder may take"),
    ],
)
def test_a_file_that_ends_its_decoder_is_refused_and_the_next_is_read(
    tmp_path: Path, harm: bytes, how: str
) -> None:
    decoders = own(tmp_path)
    with pytest.raises(ImageError, match=how):
        read(decoders, harm)
    assert read(decoders).size == (30, 40)


def test_a_file_that_takes_too_long_is_refused_and_its_decoder_ended(tmp_path: Path) -> None:
    slow = own(tmp_path, 0.2)
    with pytest.raises(ImageError, match=r"not decoded within 0\.2 s"):
        read(slow, b"hangs")
    [process] = ids(tmp_path)
    assert not is_running(process)


def test_a_lone_reader_starts_one_decoder_and_many_readers_no_more_than_two(
    tmp_path: Path,
) -> None:
    decoders = own(tmp_path)
    for _ in range(3):
        read(decoders)
    assert len(ids(tmp_path)) == 1
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(lambda _: read(decoders), range(40)))) == 40
    assert len(ids(tmp_path)) <= 2


def test_of_large_images_one_is_decoded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_process, "LARGE", 30 * 40 - 1)
    decoders = Decoders()
    with decoders._large:
        waiting = threading.Thread(target=read, args=(decoders,))
        waiting.start()
        small = png(np.zeros((10, 10)))
        assert read(decoders, small).size == (10, 10), "small ones go on beside it"
        assert waiting.is_alive()
    waiting.join(30)
    assert not waiting.is_alive()


def test_a_decoder_is_bounded_goes_first_and_holds_no_torch(tmp_path: Path) -> None:
    decoders = own(tmp_path)
    read(decoders)
    [process] = ids(tmp_path)
    proc = Path("/proc", str(process))
    assert (proc / "oom_score_adj").read_text().strip() == "1000"
    limit = re.search(r"Max address space\s+(\d+)", (proc / "limits").read_text())
    assert limit is not None
    assert MEMORY < int(limit[1]) < MEMORY + 2**30
    assert "torch" not in (proc / "maps").read_text()


def test_a_decoder_ends_when_nobody_needs_it_any_more(tmp_path: Path) -> None:
    decoders = own(tmp_path)
    read(decoders)
    [process] = ids(tmp_path)
    assert is_running(process)
    del decoders
    assert not is_running(process)


PARENT = """
import sys, threading
from pathlib import Path
from backend.imaging.decoder_process import Decoders
decoders, limits = Decoders(sys.argv[1]), {"longest": 9, "max_pixels": 10**6}
hangs = threading.Thread(target=decoders.decode, args=(b"hangs",), kwargs=limits, daemon=True)
hangs.start()
decoders.decode(Path(sys.argv[2]).read_bytes(), **limits)
print("read", flush=True)
hangs.join()
"""


def test_no_decoder_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    notes, scan = tmp_path / "notes", tmp_path / "scan"
    notes.mkdir()
    scan.write_bytes(SCAN)
    command = [sys.executable, "-c", PARENT, program(notes), str(scan)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"read\n"
        while len(ids(notes)) < 2:  # until the test's time is over
            time.sleep(0.05)
        decoders = [os.pidfd_open(process) for process in ids(notes)]
        parent.kill()
    for decoder in decoders:
        assert select.select([decoder], [], [], 30)[0], "it lives on"
        os.close(decoder)


def test_a_decoder_that_cannot_start_is_no_fault_of_the_scan() -> None:
    with pytest.raises(FirstlightError, match=r"No decoder .* \(exit code 3\)") as caught:
        read(Decoders("raise SystemExit(3)"))
    assert not isinstance(caught.value, ImageError)


@pytest.mark.slow
@pytest.mark.parametrize("name", bench.FILES)
def test_the_worst_file_of_each_format_stays_within_the_bound(name: str) -> None:
    most = Settings.model_fields["max_image_pixels"].default
    data = bench.FILES[name](bench.side_of(most))
    assert len(data) < 5_000_000, "small files that decode large"
    found = bench.measure(data, max_pixels=most)
    assert found.refusal == ""
    assert 0 < found.peak < MEMORY


@pytest.mark.slow
def test_a_mammogram_of_60_megapixels_takes_less_than_half_of_the_bound() -> None:
    data = bench.mammogram(bench.side_of(bench.MAMMOGRAM))
    most = Settings.model_fields["max_image_pixels"].default
    found = bench.measure(data, max_pixels=most)
    assert found.refusal == ""
    assert 0 < found.peak < MEMORY / 2


def test_an_idle_decoder_that_was_killed_blames_no_image() -> None:
    decoders = Decoders()
    image = png(np.zeros((4, 4)))
    decoders.decode(image, longest=4, max_pixels=100)
    idle = decoders._free.queue[-1]
    assert idle is not None
    idle._process.kill()
    idle._process.wait()
    assert decoders.decode(image, longest=4, max_pixels=100).size == (4, 4)
