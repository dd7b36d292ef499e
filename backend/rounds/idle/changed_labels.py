"""How many labels must change before a study of a project's labels is worth repeating."""

from __future__ import annotations

LEAST, SHARE = 5, 0.2  # labels, and the share of those that the last study looked at


def are_enough(changed: int, known: int) -> bool:
    """Return whether a study is to be repeated.

    Args:
        changed: Number of labels that are new, corrected or deleted since the last study.
        known: Number of labels that it looked at.
    """
    return changed >= max(LEAST, SHARE * known)
