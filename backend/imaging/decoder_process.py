"""Decoders: processes in which scans are decoded, so that a bad file can end nothing else.

A decoder may take MEMORY and no more, is the first process that the kernel ends when memory runs
out, and ends when the process that started it is gone. It never imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import weakref
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import LifoQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import FirstlightError, ImageError
from backend.imaging import decode
from backend.imaging.pixels import Pixels, shrunk

DECODERS = 2
# Bytes beyond those of an idle decoder. The worst file of 80 megapixels takes 1.6 GB
# (docs/benchmarks.md).
MEMORY = 2 * 2**30
LARGE = 16_000_000  # pixels; of such images one is decoded at a time
SECONDS = 900.0  # for one image; the worst file took 300 on a machine with ten times its work
READY = b"ready"
# Bytes of an answer. A file may have taken its decoder over; 2,048 x 2,048 pixels are 13 MB.
MOST_ANSWER = 2**26
_START_SECONDS = 60.0
# A decoder finds modules where its parent does, and its own first argument is its end of the pipe.
PROGRAM = """
import sys
sys.path[:] = sys.argv[2:]
from backend.imaging.decoder_process import serve
serve(int(sys.argv[1]))
"""


@dataclass(frozen=True)
class Decoded:
    """What is kept of an image.

    Attributes:
        small: Shape (h, w) or (h, w, 3).
        size: Height and width of the original.
        digest: Equal for images with equal pixels.
    """

    small: npt.NDArray[np.uint8]
    size: tuple[int, int]
    digest: str


class Decoders:
    """A few decoders, each started when it is first needed. Safe to share between threads.

    Args:
        program: What a decoder runs.
        seconds: How long one image may take.
    """

    def __init__(self, program: str = PROGRAM, seconds: float = SECONDS) -> None:
        self._program = program
        self._seconds = seconds
        self._free: LifoQueue[_Decoder | None] = LifoQueue()
        for _ in range(DECODERS):
            self._free.put(None)
        self._large = threading.Lock()

    def decode(self, data: bytes, *, longest: int, max_pixels: int) -> Decoded:
        """Return an image file shrunk to `longest` pixels on its longer side.

        Raises:
            ImageError: If the image cannot be decoded, or its decoder ended or took too long.
            FirstlightError: If no decoder can be started.
        """
        decoder = self._free.get()
        try:
            if decoder and not decoder.lives:
                # When memory runs out the kernel ends idle decoders first: not this image's fault.
                decoder.end()
                decoder = None
            decoder = decoder or _Decoder(self._program)
            answer = self._ask(decoder, data, {"longest": longest, "max_pixels": max_pixels})
            small = decoder.receive(self._seconds) if "shape" in answer else b""
        except BaseException:
            if decoder:
                decoder.end()
            decoder = None
            raise
        finally:
            self._free.put(decoder)
        if "refused" in answer:
            raise ImageError(*answer["refused"])
        pixels = np.frombuffer(small, np.uint8).reshape(answer["shape"])
        height, width = answer["size"]
        return Decoded(pixels, (height, width), answer["digest"])

    def _ask(self, decoder: _Decoder, data: bytes, order: dict[str, int]) -> dict[str, Any]:
        decoder.send(json.dumps(order).encode())
        decoder.send(data)
        answer = decoder.answer(self._seconds)
        if "pixels" not in answer:
            return answer
        with self._large if answer["pixels"] > LARGE else nullcontext():
            decoder.send(READY)
            return decoder.answer(self._seconds)


class _Decoder:
    """One decoder, seen from the process that started it."""

    def __init__(self, program: str) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            try:
                # It watches its standard input, which ends with this process however that ends.
                self._process = subprocess.Popen(
                    [sys.executable, "-c", program, str(number), *sys.path],
                    stdin=subprocess.PIPE,
                    pass_fds=[number],
                )
            except OSError as error:
                self._pipe.close()
                raise _no_decoder(str(error.strerror)) from None
        self.end = weakref.finalize(self, _end, self._process, self._pipe)
        try:
            self.receive(_START_SECONDS)
        except ImageError:
            self.end()
            raise _no_decoder(f"exit code {self._process.returncode}") from None

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def send(self, message: bytes) -> None:
        with suppress(OSError):  # that it is gone is said by what it does not answer
            self._pipe.send_bytes(message)

    def answer(self, seconds: float) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.receive(seconds))
        except ValueError:
            raise ImageError(
                "The decoder gave an answer that is none.", "Save the image as a plain PNG or JPEG."
            ) from None
        return found

    def receive(self, seconds: float) -> bytes:
        """Return its next message.

        Raises:
            ImageError: If it ends or is silent for so long.
        """
        try:
            if self._pipe.poll(seconds):
                return self._pipe.recv_bytes(MOST_ANSWER)
        except (EOFError, OSError):
            raise ImageError(
                f"The decoder ended while it read the image ({self._how()}).",
                "Save the image as a plain PNG or JPEG, or shrink it.",
            ) from None
        raise ImageError(
            f"The image was not decoded within {seconds:g} s.",
            "Save it as a plain PNG or JPEG, or shrink it.",
        )

    def _how(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        return f"killed by signal {-code}" if code and code < 0 else f"exit code {code}"


def _no_decoder(why: str) -> FirstlightError:
    return FirstlightError(
        f"No decoder of images can be started ({why}).",
        "See the log, and whether this machine has memory left.",
    )


def _end(process: subprocess.Popen[bytes], pipe: Connection) -> None:
    pipe.close()
    with process:  # waits for it, and closes its standard input
        process.kill()


# -- in the decoder -------------------------------------------------------------------------------


def serve(number: int) -> None:
    """Decode what comes through a pipe until the parent is gone.

    Args:
        number: The file descriptor of this end of the pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _bound()
    with Connection(number) as pipe:
        pipe.send_bytes(READY)
        # What libraries say of a file may quote it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with suppress(EOFError, OSError):  # the parent is gone
            while True:
                order = json.loads(pipe.recv_bytes())
                _answer(pipe, pipe.recv_bytes(), **order)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


def _bound() -> None:
    """Take no more memory than MEMORY, and be the first to go when the machine has none left."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the scan
    with suppress(OSError, ValueError):  # where there is no /proc, the bound is the machine's
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        Path("/proc/self/oom_score_adj").write_text("1000")


def _answer(pipe: Connection, data: bytes, *, longest: int, max_pixels: int) -> None:
    try:
        with decode.refusing():
            image = decode.opened(data, max_pixels=max_pixels)
            pipe.send_bytes(json.dumps({"pixels": image.pixels}).encode())
            pipe.recv_bytes()
            small, answer = _kept(image, longest)
    except ImageError as error:
        pipe.send_bytes(json.dumps({"refused": [error.what, error.fix]}).encode())
        return
    pipe.send_bytes(json.dumps(answer).encode())
    pipe.send_bytes(small.tobytes())


def _kept(image: decode.Opened, longest: int) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    rows = image.load()
    digest = hashlib.sha256(repr(rows.shape).encode())

    def watch(strip: Pixels) -> None:
        digest.update(np.ascontiguousarray(strip).data)

    small = np.rint(shrunk(rows, longest, watch) * 255).astype(np.uint8)
    answer = {
        "shape": small.shape,
        "size": rows.shape[:2],
        "digest": digest.hexdigest()[:32],
    }
    return small, answer
