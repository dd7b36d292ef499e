"""Spread the work of a step over all workers, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dbos import DBOS, SetEnqueueOptions

CHUNK_QUEUE = "chunks"
POLL_SECONDS = 0.2  # how often queues are asked for work, and chunks for their results


def parted(ids: list[int], size: int) -> list[list[int]]:
    """Return ids in chunks of a size; the last chunk may be smaller."""
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def spread(work: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Spread calls over all workers, one at a time on each; return their results in order."""
    handles = []
    for turn, given in enumerate(calls, start=1):
        # The n-th chunk has priority n, so that projects take turns and none blocks the others.
        with SetEnqueueOptions(priority=turn):
            handles.append(DBOS.enqueue_workflow(CHUNK_QUEUE, work, *given))
    try:
        return [handle.get_result(polling_interval_sec=POLL_SECONDS) for handle in handles]
    except Exception:
        # Cancel the chunks that are left; the retry queues its own.
        DBOS.cancel_workflows([handle.workflow_id for handle in handles])
        raise
