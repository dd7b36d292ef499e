"""Choose one by one the scan that adds most to a coverage in which small modes count too.

Greedy coverage counts scans, so a mode of a few scans waits until large modes are covered finely.
Here each scan is weighted by the number of its look-alikes (`Coverage.temper`). A rule of ours;
docs/method.md has the formula and what it finds in drawn pools.
"""

from __future__ import annotations

from model.cold_start.coverage import cover_greedily, coverage_of
from model.cold_start.strategy import FARTHEST, LIKE, Choice, Pool, Strategy, Words


def choose(pool: Pool) -> Choice:
    """Return the greedy cover, then the rest by distance to the cover, farthest first."""
    coverage = coverage_of(pool)
    coverage.temper()
    return cover_greedily(pool, coverage)


STRATEGY = Strategy(
    choose,
    Words(opening=LIKE, later=LIKE, beyond=FARTHEST),
)
