"""The panels Minutes and Agreement in sentences; the worker computed their figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backend.web.project_page.words import count
from model.evaluation import MAIN, METRICS, OTHERS, Metric
from model.minutes import LEAST

TOO_EARLY = (
    f"Minutes saved by drafts: too early to tell. That takes {LEAST} labels with a draft and "
    f"{LEAST} without one, by one annotator on similar scans."
)


def minutes(state: Mapping[str, Any]) -> list[str]:
    """Return what labels cost and what drafts save, in sentences; [] while no time is known."""
    found = state["minutes"]
    if found is None:
        return []
    return [
        _cost(found),
        saved(found["saved"]),
        *_drafts(found["drafts"]),
        *_forecast(found),
        _longest(found["longest"]),
    ]


def _cost(found: Mapping[str, Any]) -> str:
    said = (
        f"Minutes: {count(found['labels'], 'label')} took {time(found['total'])} in all, "
        f"{time(found['median'])} each (median)"
    )
    if found["capped"]:
        said += f"; {time(found['cut'])} of {count(found['capped'], 'label')} were taken for breaks"
    return f"{said}."


def saved(found: Mapping[str, Any] | None) -> str:
    """Return what drafts saved, with its interval, or that it is too early to tell."""
    if found is None:
        return TOO_EARLY
    total = found["total"]
    matched = (
        f"{count(found['drafted'], 'label')} with a draft against {found['plain']} similar labels "
        "without"
    )
    if total["low"] <= 0 <= total["high"]:
        limits = f"{signed(total['low'])} to {signed(total['high'])}"
        return f"Minutes saved by drafts: no clear difference yet ({limits}; {matched})."
    verb, sign = ("saved", 1) if total["low"] > 0 else ("cost", -1)
    low, high = sorted((sign * total["low"], sign * total["high"]))
    middle = time(sign * total["value"])
    return f"Drafts have {verb} {middle} so far ({time(low)} to {time(high)}; {matched})."


def _drafts(found: Mapping[str, Any]) -> Iterator[str]:
    if not found["used"]:
        return
    dice = "" if found["dice"] is None else f"; their Dice with the labels is {found['dice']:.2f}"
    regions = f"{found['regions_kept']} kept, {found['regions_changed']} changed"
    yield (
        f"{count(found['used'], 'label')} began with a draft, {found['unchanged']} of them "
        f"submitted unchanged (regions: {regions}, {found['regions_added']} drawn by hand){dice}."
    )
    if pixels := found.get("pixels"):  # earlier releases stored none
        yield _pixels(pixels)


_ORIGINS = {
    "kept": "with every region kept",
    "changed": "with a changed region",
    "drawn": "with a region drawn by hand",
}


def _pixels(found: Mapping[str, Any]) -> str:
    """Return how much of their drafts people changed, over all, by label and by origin."""
    share, labels = found["share"], found["by_label"]
    limits = f" ({share['low']:.1%} to {share['high']:.1%})" if share else ""
    whole = f"{share['value']:.1%} of the pixels of drafts were changed{limits}" if share else ""
    of_labels = ", ".join(f"{name} {value:.1%}" for name, value in labels.items())
    origins = ", ".join(
        f"{_ORIGINS[one['origin']]} {one['share']:.1%} (Dice {one['dice']:.2f}, "
        f"{count(one['labels'], 'label')})"
        for one in found["by_origin"]
        if one["share"] is not None
    )
    parts = [whole or "Changed pixels of drafts", of_labels if len(labels) > 1 else "", origins]
    return f"{'; '.join(filter(None, parts))}."


def _forecast(found: Mapping[str, Any]) -> Iterator[str]:
    expected = found["forecast"]
    if expected is not None:
        limits = f"{time(expected['low'])} to {time(expected['high'])}"
        yield (
            f"At the pace of the last labels, {count(expected['scans'], 'waiting scan')} will take "
            f"{time(expected['value'])} ({limits})."
        )


def _longest(found: Sequence[Mapping[str, Any]]) -> str:
    scans = ", ".join(f"task {one['task']} ({time(one['minutes'])})" for one in found[:3])
    return f"The longest work was on {scans}."


def agreement(state: Mapping[str, Any]) -> list[str]:
    """Return how well the annotators agree, in sentences; [] without scans drawn by two."""
    found = state["agreement"]
    if found is None:
        return []
    people = count(len(found["annotators"]), "annotator")
    scores = [_mean(metric, found["metrics"][metric.name]) for metric in METRICS.values()]
    worst = "; ".join(f"task {one['task']}, {scan_scores(one)}" for one in found["least"][:3])
    return [
        f"Agreement of {people} on {count(found['scans'], 'scan')}: {', '.join(scores)}.",
        f"Least agreement: {worst}.",
    ]


def matrix(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the matrix of annotators, [] without scans drawn by two.

    Each row has the name of the annotator and `cells`: None for a pair that shares no scan, else
    `share` (how much of the best score it is, 0 to 1), `score`, and the lines `rest` below it.
    """
    found = state["agreement"]
    if found is None:
        return []
    names = [annotator(number, state["people"]) for number in found["annotators"]]
    columns = range(len(names))
    return [
        {"name": name, "cells": [_cell(found, row, column) for column in columns]}
        for row, name in enumerate(names)
    ]


def _cell(found: Mapping[str, Any], row: int, column: int) -> dict[str, Any] | None:
    score = {name: of["matrix"][row][column] for name, of in found["metrics"].items()}
    if score[MAIN.name] is None:
        return None
    scans = count(found["common_scans"][row][column], "scan")
    rest = [_score(metric, score[metric.name]) for metric in OTHERS]
    return {
        "share": round(score[MAIN.name], 2),
        "score": f"{score[MAIN.name]:.2f}",
        "rest": [*rest, scans],
    }


def scan_scores(scan: Mapping[str, Any]) -> str:
    """Return the scores of one scan in words."""
    return ", ".join(_score(metric, scan[metric.name]) for metric in METRICS.values())


def _score(metric: Metric, score: float) -> str:
    return (
        f"{metric.title} {score:.1f} {metric.unit}"
        if metric.unit
        else f"{metric.title} {score:.2f}"
    )


def _mean(metric: Metric, found: Mapping[str, Any]) -> str:
    said, limits = _score(metric, found["mean"]), found["interval"]
    if limits is None:
        return said
    digits = 1 if metric.unit else 2
    return f"{said} ({limits[0]:.{digits}f} to {limits[1]:.{digits}f})"


def time(minutes: float) -> str:
    """Return minutes in the unit that a person would choose."""
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    if minutes < 120:
        return f"{minutes:.1f} min" if minutes < 10 else f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"


def signed(minutes: float) -> str:
    """Return minutes that may be below 0."""
    return f"-{time(-minutes)}" if minutes < 0 else time(minutes)


def annotator(number: int, people: Mapping[str, int]) -> str:
    """Return how the page names an annotator: by number, or by user if the project allows it."""
    user = people.get(str(number))
    return f"user {user}" if user else f"annotator {number}"
