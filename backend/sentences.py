"""What a project is doing, said in sentences: for a terminal, and in parts for the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from backend.store import Project
from backend.versions import resume_command

LISTED = 5  # lines of one list on the page; the JSON has all

STEPS = {
    "sync": "reading the project from Label Studio",
    "embed": "looking at scans that are new",
    "plan": "deciding what has to be done",
    "train": "training the network",
    "score": "asking the network how unsure it is of each scan",
    "select": "choosing the next scans",
    "draft": "drawing drafts",
    "publish": "handing the queue to Label Studio",
    "switch": "making the new queue live",
}

# How far a step is, in words, where it says so.
_PROGRESS = {
    "total": "{done} of {total} scans",
    "epochs": "epoch {epoch} of {epochs}",
    "batches": "batch {batch} of {batches}",
    "loss": "loss {loss:.2f}",
    "dice": "Dice {dice:.2f} on held-out scans",
}


def progress(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what runs now as a sentence, and how far it is as a share of 1, None if unknown."""
    done = state["progress"]
    parts = (("done", "total"), ("batch", "batches"))
    known = [(done[part], done[whole]) for part, whole in parts if done.get(whole)]
    share = [round(min(1.0, part / whole), 3) for part, whole in known if part is not None]
    return {"now": doing(state), "share": share[0] if share else None}


def text(state: Mapping[str, Any], now: float) -> str:
    """Return a project's status as one screen of sentences."""
    parts = (
        [f"{_line(state['title']) or 'Untitled'} (project {state['project']})", ""],
        _troubles(state),
        [f"Now: {doing(state)}", *_queue(state)],
        _label_lines(state),
        [quality(state)],
        _bullets(
            "Next to label:",
            [
                f"task {one['task']}" + (f": {one['reason']}" if one["reason"] else "")
                for one in state["next"]
            ],
            len(state["next"]),
        ),
        _bullets(
            "Scans that cannot be read; they are tried again later:",
            [f"task {one['task']}: {one['problem']}" for one in state["unreadable"]],
            total=state["unreadable_count"],
        ),
        _bullets("Please note:", state["warnings"]),
        ["", freshness(state, now)],
    )
    return "\n".join(line for part in parts for line in part) + "\n"


def _troubles(state: Mapping[str, Any]) -> Iterator[str]:
    if state["gone"]:
        connect = f"python -m backend connect {state['project']}"
        yield f"This project is not connected. Connect it again: {connect}"
    if state["problem"]:
        yield f"Problem: {_line(state['problem'])} {_line(state['mend'])}".rstrip()
    if refusal := refused(state["project"], state["events_refused_since"]):
        yield f"Events: {refusal}"
    if state["options_problem"]:
        yield (
            f"Options: {_line(state['options_problem'])} Until then the last good ones stay in use."
        )


def refused(project_id: int, since: float | None) -> str:
    """Return that Label Studio's events are refused and how to end it, "" if they are not.

    Args:
        project_id: The project that the events name.
        since: When the first of them was refused, in seconds since 1970; 0 or None if none was.
    """
    if not since:
        return ""
    when = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"Label Studio's events for project {project_id} are refused since {when}: its webhook "
        f"lacks the right secret. Run `python -m backend doctor {project_id} --fix`."
    )


def doing(state: Mapping[str, Any]) -> str:
    """Return what runs now and for how long."""
    if state["step"] is None:
        return "idle."
    step = STEPS.get(state["step"], state["step"])
    so_far = f"for {span(state['step_seconds'])}"
    return f"{', '.join([step, *_progress(state['progress']), so_far])}."


def _progress(done: Mapping[str, Any]) -> Iterator[str]:
    """Say how far a step is."""
    for name, words in _PROGRESS.items():
        if name in done:
            yield words.format_map(done)
    if "seconds_left" in done:
        yield f"about {span(done['seconds_left'])} left"


def _queue(state: Mapping[str, Any]) -> Iterator[str]:
    labels = count(state["labels_in_live"], "labelled scan")
    if state["live_version"] is None:
        yield "Queue: none has been published yet."
    elif state["pinned"]:
        yield f"Queue: {state['live_version']} is live."
    else:
        yield f"Queue: {state['live_version']} is live; it was made from {labels}."
    if state["pinned"]:
        yield f"Pinned: {state['pinned']} gives the queue, and nothing is trained, until:"
        yield f"  {resume_command(state['project'])}"


def _label_lines(state: Mapping[str, Any]) -> Iterator[str]:
    yield f"Labels: {state['labelled']} of {count(state['scans'], 'scan')} labelled and used."
    if state["complete"]:
        yield "Every scan is labelled: nothing is left to draw, training has stopped."
    ignored = [
        f"annotation {one['annotation']} on task {one['task']}: {one['reason']}"
        for one in state["labels_ignored"]
    ]
    total = state["labels_ignored_count"]
    yield from _bullets("Annotations that are not used:", ignored, total=total)


def quality(state: Mapping[str, Any]) -> str:
    """Return what is known of the live model's quality."""
    drafts, held_out = state["prequential_dice"], state["validation_dice"]
    off = state["calibration_error"]
    known = [
        f"the last drafts matched what people then drew with Dice {drafts:.2f}"
        if drafts is not None
        else "",
        f"Dice on scans held out from training is {held_out:.2f}" if held_out is not None else "",
        f"its probabilities are off by {off:.2f} there, on average" if off is not None else "",
    ]
    said = "; ".join(filter(None, known))
    return f"Quality: {said or 'not known yet'}."


def freshness(state: Mapping[str, Any], now: float) -> str:
    """Return how old all of this is."""
    waiting = state["wanted"] - state["done"]
    news = (
        f"{count(waiting, 'change')} in Label Studio still to be looked at"
        if waiting > 0
        else "every change that Label Studio reported has been looked at"
    )
    synced = state["synced_at"]
    read = f"{span(now - synced)} ago" if synced else "not yet"
    when = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"As of {when}: {news}. All scans were last listed: {read}."


def overview(projects: Iterable[Project]) -> str:
    """Return one line for each known project."""
    lines = [
        f"{project.id}  {_line(project.title) or 'Untitled'}  "
        f"{_line(project.problem) or _standing(project)}"
        for project in projects
    ]
    return "\n".join(lines or ["No project is connected yet."]) + "\n"


def _standing(project: Project) -> str:
    return "not connected" if project.gone else project.live_version or "no queue yet"


def _bullets(
    head: str, lines: Sequence[str], most: int = LISTED, total: int | None = None
) -> Iterator[str]:
    """Say the first of some lines. `total` is their number where not all of them came along."""
    total = len(lines) if total is None else total
    if lines:
        yield head
    for line in lines[:most]:
        yield f"  - {_line(line)}"
    if total > most:
        listed = "them" if total == len(lines) else f"the first {len(lines)}"
        yield f"  and {total - most} more (?format=json lists {listed})"


def _line(words: str) -> str:
    return " ".join(words.split())


def count(number: int, noun: str) -> str:
    """Return a number of things, in words that fit it."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def span(seconds: float) -> str:
    """Return seconds in the unit that a person would choose."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
