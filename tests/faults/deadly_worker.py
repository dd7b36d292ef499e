"""A worker to which a scan of SIZE is deadly, in its decoder or in its encoder, or a training.

`DEADLY` in the environment says which: `decoder`, `encoder` or `training`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.backend import worker_process

SIZE = (33, 17)  # height and width; no other scan of the tests has it
DECODER = f"""
import os, signal
from backend.imaging import decode
real = decode.opened
def opened(data, **limits):
    found = real(data, **limits)
    if found.pixels == {SIZE[0] * SIZE[1]}:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
decode.opened = opened
"""


def main() -> None:
    """Work until killed."""
    {"decoder": _in_decoders, "encoder": _in_the_encoder, "training": _in_training}[
        os.environ["DEADLY"]
    ]()
    worker_process.main()


def _in_decoders() -> None:
    from backend.imaging import decoder_process
    from backend.rounds import services

    real = services.build

    def build(*given: Any) -> services.Services:
        return replace(
            real(*given), decoders=decoder_process.Decoders(DECODER + decoder_process.PROGRAM)
        )

    vars(services)["build"] = build


def _in_the_encoder() -> None:
    from model import encoders

    real = encoders.load

    def load(*given: Any, **named: Any) -> encoders.Encoder:
        found = real(*given, **named)
        encode = found.encode

        def deadly(images: Sequence[Any]) -> Any:
            if any(image.shape[:2] == SIZE for image in images):
                os.kill(os.getpid(), signal.SIGKILL)
            return encode(images)

        object.__setattr__(found, "encode", deadly)
        return found

    vars(encoders)["load"] = load


def _in_training() -> None:
    from model import training

    def deadly(*_: Any, **__: Any) -> training.Fitted:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it is dead")

    vars(training)["fit"] = deadly
