"""What a draft process runs in tests: it loads nothing, and draws what names the process."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from backend.settings import Settings

DIES, HANGS, FAILS = 7, 8, 9  # task ids


def serve(pipe: Connection, settings: Settings) -> None:
    """Note every question, and answer with one region: this process and its token."""
    with suppress(EOFError, OSError), (settings.data_dir / "asked").open("a") as file:
        while True:
            question = json.loads(pipe.recv_bytes())
            print(json.dumps({**question, "process": os.getpid()}), file=file, flush=True)
            if question.get("task") == DIES:
                os.kill(os.getpid(), signal.SIGKILL)
            if question.get("task") == HANGS:
                signal.pause()
            answer: dict[str, Any] = {
                "regions": [{"id": str(os.getpid()), "key": settings.api_key}],
            }
            if question.get("task") == FAILS:
                answer = {"what": "The scan is no picture.", "fix": "Send another."}
            pipe.send_bytes(json.dumps(answer).encode())
