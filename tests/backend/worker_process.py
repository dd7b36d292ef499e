"""`python -m backend worker` with a fuse, and with networks as small as the tests'."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tests.label_studio.fuse import Fuse, put_in

FUSE, STEPS = "CREW_FUSE", "CREW_STEPS"


def main(*words: str) -> None:
    """Work until killed; words follow those of the command."""
    put_in(Fuse(Path(os.environ[FUSE])))
    # After the fuse: it wraps the steps of a round while they are defined.
    from backend.commands.cli import cli
    from backend.rounds import erasing
    from backend.rounds.models import learner
    from backend.worker import main as worker
    from tests.backend.site import TINY

    config = replace(TINY, steps=int(os.environ[STEPS]))
    vars(learner)["train_config"] = lambda *_: config
    vars(worker)["NICE"] = 0  # the tests beside it would leave it no time
    vars(erasing)["TURN_SECONDS"] = 1.0
    cli(["worker", *words])


if __name__ == "__main__":
    main("--with-parent")
