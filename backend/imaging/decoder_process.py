"""Decode scans in separate processes (decoders), so that a bad file can only kill its decoder.

A decoder may use MEMORY bytes at most, is the first process that the kernel kills when memory runs
out, and ends together with the process that started it. It never imports torch.
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
# Bytes on top of an idle decoder's. The worst file of 80 megapixels takes 1.6 GB
# (docs/benchmarks.md).
MEMORY = 2 * 2**30
LARGE = 16_000_000  # pixels; larger images are decoded one at a time
SECONDS = 900.0  # for one image; the worst file took 300 s on a machine with ten times its work
READY = b"ready"
# Bytes of an answer: a malicious file may control its decoder. 2,048 x 2,048 pixels are 13 MB.
MOST_ANSWER = 2**26
_START_SECONDS = 60.0
# Arguments: the decoder's end of the pipe, then the parent's sys.path.
PROGRAM = """
import sys
sys.path[:] = sys.argv[2:]
from backend.imaging.decoder_process import serve
serve(int(sys.argv[1]))
"""


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image at working size.

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
        program: Python source that a decoder runs.
        seconds: Longest time for one image.
    """

    def __init__(self, program: str = PROGRAM, seconds: float = SECONDS) -> None:
        self._program = program
        self._seconds = seconds
        self._free: LifoQueue[_Decoder | None] = LifoQueue()
        for _ in range(DECODERS):
            self._free.put(None)
        self._large = threading.Lock()

    def decode(self, data: bytes, *, longest: int, max_pixels: int) -> DecodedImage:
        """Return an image file shrunk to `longest` pixels on its longer side.

        Raises:
            ImageError: If the image cannot be decoded, or its decoder ended or took too long.
            FirstlightError: If no decoder can be started.
        """
        decoder = self._free.get()
        try:
            if decoder and not decoder.lives:
                # The kernel may have killed the idle decoder for memory: do not blame this image.
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
        return DecodedImage(pixels, (height, width), answer["digest"])

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
                # A decoder ends with its standard input, which closes whenever this process ends.
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
        with suppress(OSError):  # a dead decoder shows when it does not answer
            self._pipe.send_bytes(message)

    def answer(self, seconds: float) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self.receive(seconds))
        except ValueError:
            raise ImageError(
                "The decoder's answer is not valid JSON.", "Save the image as a plain PNG or JPEG."
            ) from None
        return content

    def receive(self, seconds: float) -> bytes:
        """Return the decoder's next message.

        Raises:
            ImageError: If the decoder ends, or sends nothing for so many seconds.
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
        "Look at the log, and check that this machine has free memory.",
    )


def _end(process: subprocess.Popen[bytes], pipe: Connection) -> None:
    pipe.close()
    with process:  # waits for the process, and closes its standard input
        process.kill()


# -- in the decoder -------------------------------------------------------------------------------


def serve(number: int) -> None:
    """Decode the images that come through a pipe until the parent ends.

    Args:
        number: The file descriptor of this end of the pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _bound()
    with Connection(number) as pipe:
        pipe.send_bytes(READY)
        # Discard standard error: messages of libraries may quote the file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with suppress(EOFError, OSError):  # the parent has ended
            while True:
                order = json.loads(pipe.recv_bytes())
                _answer(pipe, pipe.recv_bytes(), **order)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


def _bound() -> None:
    """Limit this process to MEMORY, and let the kernel kill it first when memory runs out."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the scan
    with suppress(OSError, ValueError):  # without /proc only the machine's memory is the limit
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


def _kept(image: decode.OpenImage, longest: int) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
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
