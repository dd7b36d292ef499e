"""Label Studio's times: read in any notation, and written in the one that its filters read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

OVERLAP_SECONDS = 5


def shortly_before(moment: str) -> str:
    """Return a time OVERLAP_SECONDS earlier: an earlier change may become visible later.

    Return "" for an empty or invalid time.
    """
    try:
        exact = datetime.fromisoformat(moment).astimezone(UTC)
        earlier = exact - timedelta(seconds=OVERLAP_SECONDS)
    except (ValueError, OverflowError):
        return ""
    return notation(earlier)


def moment(text: str) -> float:
    """Return a time of Label Studio's in seconds since the epoch, 0 for an invalid time."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def notation(moment: datetime) -> str:
    """Return a time in the only notation that Label Studio's filters read; others get a 500."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
