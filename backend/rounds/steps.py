"""The steps of a project that the page and /metrics tell apart; no network is loaded for them."""

from __future__ import annotations

from backend.storage.records import REVIEW, SELECTION_GAIN

TRAIN, REFINE = "train", "refine"
IDLE = frozenset({REFINE, REVIEW, SELECTION_GAIN})  # make way for a round at once
# A refinement trains a network and its twin; each study trains networks of its own. A study counts
# all its time, although a review may only show again what it found: recovery after the death of a
# worker takes the step for the name of the study.
TRAINING = IDLE | {TRAIN}
