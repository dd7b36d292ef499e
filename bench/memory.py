"""Measure a process: its peak of anonymous memory, and its processor seconds (Linux)."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType

SECONDS = 0.05


class Peak:
    """A context that watches this process; `bytes` is the peak.

    Memory-mapped files do not count: the system takes their pages back when it needs them.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, anonymous("self"))
            if self._ended.wait(SECONDS):
                return


def anonymous(process: int | str) -> int:
    """Return the bytes of anonymous memory that a process holds, by its id or "self"."""
    status = Path(f"/proc/{process}/status")
    for line in status.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{status} has no RssAnon: this needs Linux 4.5 or newer")


def processor_seconds(process: int | str) -> float:
    """Return the processor time that a process took so far, by its id or "self"."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    user, system = int(fields[11]), int(fields[12])
    return (user + system) / os.sysconf("SC_CLK_TCK")
