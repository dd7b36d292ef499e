"""Label Studio's times: read in any notation, and written in the one that its filters read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

OVERLAP_SECONDS = 5


def shortly_before(moment: str) -> str:
    """Return a time some seconds earlier: a change stamped earlier may become visible later.

    "" stands for no time, and for what is none.
    """
    try:
        exact = datetime.fromisoformat(moment).astimezone(UTC)
        earlier = exact - timedelta(seconds=OVERLAP_SECONDS)
    except (ValueError, OverflowError):
        return ""
    return notation(earlier)


def moment(text: str) -> float:
    """Return a time of Label Studio's in seconds since the epoch, 0 for what is no time."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def notation(moment: datetime) -> str:
    """Return a time in the only notation that Label Studio's filters read; others get a 500."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
