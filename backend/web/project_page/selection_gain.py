"""What selection gains in a project, as figures and in a sentence; the worker measures it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from backend.storage.ledger import stored_options
from backend.storage.records import SELECTION_GAIN, SelectionGainRecord
from backend.storage.store import Store
from backend.storage.tables import Project
from backend.web.project_page.words import count
from model.selection_gain import LEAST_HELD_OUT, LEAST_LABELS, REPEATS, is_enough

_EARLY = "What selection gains here: too early to tell."
_NO_CONTROLS = (
    "No scan is drawn at random. Set the option `random_fraction` to 0.1: then every tenth scan is "
    "drawn at random, and the others are compared with these."
)
_NOT_BEGUN = "The comparison runs while nobody waits, and has not begun yet."


def figures(store: Store, project: Project) -> dict[str, Any]:
    """Return what the study of a project found, or what it lacks.

    Returns:
        `random_fraction`: The option. `begun`: Whether the study ever ran. `chosen`, `control`:
        Number of training labels of each arm, counted up to what the study needs. `held_out`:
        Number of groups of held-out scans. `repeats`: Number of finished repeats. `gain`: Its
        `value`, `low` and `high` in Dice, None before the last repeat.
    """
    record = store.studies.record(project.id, SELECTION_GAIN)
    found = SelectionGainRecord.model_validate(record)
    return {
        "random_fraction": stored_options(project).random_fraction,
        "begun": bool(record),
        "chosen": len(found.chosen),
        "control": len(found.control),
        "held_out": found.groups,
        "repeats": len(found.differences),
        "gain": found.gain,
    }


def sentence(state: Mapping[str, Any]) -> str:
    """Return what selection gains with its interval, or why it is too early to tell."""
    found = state["selection_gain"]
    if found["gain"] is not None:
        return _result(found)
    if not found["random_fraction"]:
        return f"{_EARLY} {_NO_CONTROLS}"
    if not found["begun"]:
        return f"{_EARLY} {_NOT_BEGUN}"
    if not is_enough(found["chosen"], found["control"], found["held_out"]):
        return f"{_EARLY} There are only {' and '.join(_missing(found))}."
    return f"{_EARLY} {found['repeats']} of {REPEATS} comparisons are made."


def _missing(found: Mapping[str, Any]) -> Iterator[str]:
    needed = {
        "control": (LEAST_LABELS, "training labels of scans drawn at random"),
        "chosen": (LEAST_LABELS, "training labels of chosen scans"),
        "held_out": (LEAST_HELD_OUT, "held-out groups of scans"),
    }
    for name, (least, words) in needed.items():
        if found[name] < least:
            yield f"{found[name]} of {least} {words}"


def _result(found: Mapping[str, Any]) -> str:
    low, value, high = (100 * found["gain"][name] for name in ("low", "value", "high"))
    each = count(found["control"] // 2, "label")
    compared = (
        f"networks of {each} of chosen scans against networks of as many labels of scans drawn at "
        f"random, {REPEATS} times, on {count(found['held_out'], 'held-out group')}"
    )
    if low <= 0 <= high:
        limits = f"{low:+.1f} to {high:+.1f} points of Dice"
        return f"What selection gains here: no clear difference yet ({limits}; {compared})."
    verb, (least, most) = ("gains", (low, high)) if low > 0 else ("loses", (-high, -low))
    return (
        f"Selection {verb} {abs(value):.1f} points of Dice here ({least:.1f} to {most:.1f}; "
        f"{compared})."
    )
