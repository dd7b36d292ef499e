"""The panel When to stop: its sentences, and the curve with its forecast as the geometry of an SVG.

The worker computed the signs; see `rounds.stopping`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from backend.web.project_page.words import count
from model.stopping import LEAST_GROUPS, LEAST_POINTS, LEAST_SCANS, ROUNDS

# On a telephone the picture shrinks to half its size, and its words grow: the margins have room.
WIDTH, HEIGHT = 560, 250  # of the picture
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 28, 48  # its margins
TICKS = 4
POINTS = 100  # points of Dice in a Dice of 1

Found = Mapping[str, Any]


def with_names(found: Found | None, sources: Mapping[int, str]) -> dict[str, Any] | None:
    """Return the signs with the name of the worst source, which records do not hold.

    Args:
        found: As stored; None before the first training.
        sources: The source of each scan that has one, by task id.
    """
    if found is None:
        return None
    worst = found["worst"]
    if worst and "source_of" in worst:
        worst = {**worst, "source": sources.get(worst["source_of"], "")}
    return {**found, "worst": worst}


def sentence(state: Mapping[str, Any]) -> str:
    """Return whether labelling can stop, in one sentence."""
    found = state["stopping"]
    if found is None:
        return "When to stop: too early to tell, because no model was trained yet."
    if found["gain"] is None and not found["good_drafts"]:
        return f"When to stop: too early to tell ({_lacks(found)})."
    return f"{_expected(found)}: {_verdict(found)}."


def _lacks(found: Found) -> str:
    """Return what the forecast of the gain needs, and what is there."""
    return (
        f"that takes {LEAST_SCANS} held-out scans of {LEAST_GROUPS} groups and "
        f"{LEAST_POINTS} models with {found['batch']} labels between two of them; there are "
        f"{count(found['held_out'], 'held-out scan')} and {count(found['models'], 'such model')}"
    )


def _expected(found: Found) -> str:
    gain = found["gain"]
    if gain is None:
        return "The gain of the next labels is not known yet"
    limits = f"{_points(gain['low'])} to {_points(gain['high'])}"
    labels = count(found["batch"], "label")
    return (
        f"The next {labels} are expected to gain {_points(gain['value'])} points of Dice ({limits})"
    )


def _verdict(found: Found) -> str:
    threshold = f"your threshold of {found['enough']:g}"
    if found["stop"] and not (found["no_gain"] and found["no_change"]):
        return f"labelling can stop, because drafts reach your target of {found['draft_target']:g}"
    if found["stop"]:
        return f"labelling can stop for {threshold}"
    if found["unlabelled_clusters"]:
        clusters = count(found["unlabelled_clusters"], "large cluster")
        return f"labelling goes on, because the map has {clusters} without a label"
    if not found["no_gain"]:
        return (
            f"labelling goes on, because the gain is not yet below {threshold} for {ROUNDS} batches"
        )
    return "labelling goes on, until the masks change no more than by chance"


def lines(state: Mapping[str, Any]) -> list[str]:
    """Return the sentence, and each sign in a sentence of its own; the sentence alone if early."""
    found = state["stopping"]
    return [sentence(state), *(_signs(found) if found else ())]


def _signs(found: Found) -> Iterator[str]:
    yield _change(found)
    yield _drafts(found)
    if found["unlabelled_clusters"]:
        clusters = count(found["unlabelled_clusters"], "large cluster")
        yield f"The map has {clusters} without a label: labelling does not stop before."
    worst = " and ".join(filter(None, [_worst(found["worst"]), _worst_label(found["worst_label"])]))
    if worst:
        yield f"Lowest Dice on held-out scans: {worst}."


def _change(found: Found) -> str:
    change = found["change"]
    if change is None:
        return (
            "Change of the masks: not measured. A refinement measures it once the gain looks small."
        )
    limits = f"{_points(change['low'])} to {_points(change['high'])}"
    verdict = "no more than by chance" if found["no_change"] else "not yet settled"
    return (
        f"Change of the masks by the last batch, against a second network of the same labels: "
        f"{_points(change['value'])} points of Dice ({limits}), {verdict}."
    )


def _drafts(found: Found) -> str:
    dice = found["drafts"]
    if dice is None:
        drafts = count(found["random_drafts"], "draft")
        return (
            f"Drafts on randomly picked scans (`random_fraction`): {drafts} of {LEAST_SCANS} "
            "that are needed."
        )
    return (
        f"Dice of drafts on randomly picked scans: {dice['value']:.3f} ({dice['low']:.3f} to "
        f"{dice['high']:.3f}), target {found['draft_target']:g}."
    )


def _worst(worst: Found | None) -> str:
    if not worst or not worst["dice"]:
        return ""
    name = f"source {worst['source']}" if "source" in worst else f"cluster {worst['cluster']}"
    dice = worst["dice"]
    limits = f"{dice['low']:.2f} to {dice['high']:.2f}"
    return f"{dice['value']:.2f} ({limits}) in {name}, {count(worst['scans'], 'scan')}"


def _worst_label(worst: Found | None) -> str:
    return f"{worst['dice']:.2f} for the label {worst['label']}" if worst else ""


def _points(dice: float) -> str:
    """Return a difference of Dice in points."""
    written = f"{POINTS * dice:.1f}"
    return "0.0" if written == "-0.0" else written


# -- the picture ----------------------------------------------------------------------------------


def picture(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the curve with its forecast as coordinates of an SVG; None while there is none.

    Returns:
        `width`, `height` and the sides of the plot in it (`left`, `right`, `top`, `bottom`);
        `points` (x, y and a text for each model); `line`, the fitted curve up to the last model;
        `ahead`, the curve beyond it; `band`, the outline of its interval; `x` and `y`, the ticks
        with place and text; `now`, the x of the last model.
    """
    found = state["stopping"]
    if not found or not found["forecast"]:
        return None
    points, band = found["points"], found["forecast"]
    across = _scale([one["labels"] for one in band], LEFT, WIDTH - RIGHT)
    levels = [one[limit] for one in band for limit in ("low", "high")]
    upright = _scale([*levels, *(one["dice"] for one in points)], HEIGHT - BOTTOM, TOP, pad=0.08)
    last = points[-1]["labels"]
    place = [(across(one["labels"]), upright(one["value"]), one["labels"]) for one in band]
    upper = [(across(one["labels"]), upright(one["high"])) for one in band]
    lower = [(across(one["labels"]), upright(one["low"])) for one in band]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "points": [
            {
                "x": across(one["labels"]),
                "y": upright(one["dice"]),
                "text": f"{count(one['labels'], 'label')}: Dice {one['dice']:.3f}",
            }
            for one in points
        ],
        "line": _path([(x, y) for x, y, labels in place if labels <= last]),
        "ahead": _path([(x, y) for x, y, labels in place if labels >= last]),
        "band": _path([*upper, *reversed(lower)]),
        "now": across(last),
        "x": [{"at": across(of), "text": str(of)} for of in _few([one["labels"] for one in band])],
        "y": [{"at": upright(level), "text": f"{level:.3f}"} for level in _levels(levels)],
    }


def _scale(
    values: Sequence[float], start: float, end: float, pad: float = 0.0
) -> Callable[[float], float]:
    """Return the function that maps the range of these values, widened by a share, to pixels."""
    low, high = min(values), max(values)
    wide = (high - low) or 1e-3
    low, wide = low - pad * wide, wide * (1 + 2 * pad)
    return lambda value: round(start + (value - low) / wide * (end - start), 1)


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in places)


def _few(labels: Sequence[int]) -> list[int]:
    """Return a few of the numbers of labels, the last one among them."""
    step = -(-len(labels) // (2 * TICKS))
    return list(labels[::-1][::step][::-1])


def _levels(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [low + (high - low) * place / (TICKS - 1) for place in range(TICKS)]
