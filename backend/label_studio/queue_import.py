"""A queue as the predictions that Label Studio imports: their scores, and how many go at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IMPORT_CHUNK = 500
IMPORT_NUMBERS = 10_000_000  # in the masks of one call: some 40 MB; Label Studio takes 250 MB


@dataclass(frozen=True)
class QueueItem:
    """One scan of a queue: its task, and the draft to lay on it."""

    task: int
    result: list[dict[str, Any]]


def score(position: int, number: int) -> float:
    """Return Label Studio's score of a queue position: in (0, 1), lowest served first."""
    return (position + 1) / (number + 1)


def parts(
    queue: Sequence[QueueItem], most: int | None = None
) -> Iterator[list[tuple[int, QueueItem]]]:
    """Yield the part of the queue for each call, as pairs (position in the queue, item).

    Args:
        queue: The scans in order.
        most: Scans in a part; None for IMPORT_CHUNK.
    """
    most = most or IMPORT_CHUNK
    chunk: list[tuple[int, QueueItem]] = []
    room = 0
    for position, item in enumerate(queue):
        numbers = sum(map(_numbers, item.result))
        if chunk and (len(chunk) == most or numbers > room):
            yield chunk
            chunk = []
        if not chunk:
            room = IMPORT_NUMBERS
        chunk.append((position, item))
        room -= numbers
    if chunk:
        yield chunk


def _numbers(region: Mapping[str, Any]) -> int:
    """Return how many numbers draw a region; they make up nearly all of its size."""
    value = region["value"]
    return len(value.get("rle", ())) + 2 * len(value.get("points", ()))
