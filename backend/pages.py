"""What a project is doing, what it used and what it asks next: for people, and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, jsonify, request

from backend import artifacts, ledger
from backend.ledger import Ledger
from backend.settings import Settings
from backend.store import Project, Store, Version
from backend.versions import resume_command

RECENT_DRAFTS = 5
NEXT_SHOWN = 10
LISTED = 5  # lines of one list on the page; the JSON has all

_STEPS = {
    "sync": "reading the project from Label Studio",
    "embed": "looking at scans that are new",
    "plan": "deciding what has to be done",
    "train": "training the network",
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


def status(store: Store, settings: Settings, project_id: int) -> dict[str, Any]:
    """Return what `GET /projects/<id>?format=json` answers.

    Raises:
        NotFound: If the project is not known here.
    """
    project = store.known(project_id)
    now = ledger.read(store, project_id)
    live = store.version(project_id, project.live_version) if project.live_version else None
    return {
        "project": project.id,
        "title": project.title,
        **_activity(project, store.clock()),
        "pinned": store.pinned(project_id) or None,
        **_labels(now, live),
        **_quality(store, project_id, live),
        "next": _next(settings, project_id, live, now),
        "unreadable": [{"task": t, "problem": why} for t, why in now.unreadable.items()],
        "warnings": project.warnings,
        "problem": project.problem,
        "mend": project.mend,
        "options_problem": project.options_problem,
        "round": store.last_round(project_id),
    }


def _activity(project: Project, now: float) -> dict[str, Any]:
    return {
        "step": project.step or None,
        "step_seconds": round(now - project.step_at, 1) if project.step else None,
        "progress": project.progress,
        "wanted": project.wanted,
        "done": project.done,
        "synced_at": project.full_synced_at or None,
    }


def _labels(now: Ledger, live: Version | None) -> dict[str, Any]:
    return {
        "live_version": live.name if live else None,
        "labels_in_live": live.labels if live else 0,
        "labels_used": len(now.usable),
        "labels_ignored": [
            {"annotation": found.id, "task": found.task_id, "reason": now.ignored[found.id]}
            for found in now.annotations
            if found.id in now.ignored
        ],
        "scans": len(now.tasks),
        "labelled": len(now.usable),
        "complete": now.complete,
    }


def _quality(store: Store, project_id: int, live: Version | None) -> dict[str, Any]:
    recent = [score.dice for score in store.draft_scores(project_id)[-RECENT_DRAFTS:]]
    model = store.model(project_id, live.model_key) if live and live.model_key else None
    return {
        "prequential_dice": statistics.fmean(recent) if recent else None,
        "validation_dice": model.quality.get("validation_dice") if model else None,
        "calibration_error": model.quality.get("calibration_error") if model else None,
    }


def _next(
    settings: Settings, project_id: int, live: Version | None, now: Ledger
) -> list[dict[str, Any]]:
    if live is None:
        return []
    reasons = _reasons(settings, project_id, live.round)
    waiting = [task for task in live.published if task in now.open and task not in now.usable]
    return [
        {"task": task, "position": position, "reason": reasons.get(task, "")}
        for position, task in enumerate(waiting[:NEXT_SHOWN], start=1)
    ]


def _reasons(settings: Settings, project_id: int, number: int) -> Mapping[int, str]:
    path = artifacts.round_file(settings.project_folder(project_id), number)
    found = artifacts.read_json(path) or {}
    return dict(zip(found.get("order", []), found.get("reasons", []), strict=False))


# -- as text ------------------------------------------------------------------------------------


def text(state: Mapping[str, Any], now: float) -> str:
    """Return a project's status as one screen of sentences."""
    parts = (
        [f"{_line(state['title']) or 'Untitled'} (project {state['project']})", ""],
        _troubles(state),
        [f"Now: {_now(state)}", *_queue(state)],
        _label_lines(state),
        [_quality_line(state)],
        _bullets(
            "Next to label:",
            [
                f"task {one['task']}" + (f": {one['reason']}" if one["reason"] else "")
                for one in state["next"]
            ],
            NEXT_SHOWN,
        ),
        _bullets(
            "Scans that cannot be read; they are tried again later:",
            [f"task {one['task']}: {one['problem']}" for one in state["unreadable"]],
        ),
        _bullets("Please note:", state["warnings"]),
        ["", _freshness(state, now)],
    )
    return "\n".join(line for part in parts for line in part) + "\n"


def _troubles(state: Mapping[str, Any]) -> Iterator[str]:
    if state["problem"]:
        yield f"Problem: {_line(state['problem'])} {_line(state['mend'])}".rstrip()
    if state["options_problem"]:
        yield (
            f"Options: {_line(state['options_problem'])} Until then the last good ones stay in use."
        )


def _now(state: Mapping[str, Any]) -> str:
    if state["step"] is None:
        return "idle."
    doing = _STEPS.get(state["step"], state["step"])
    so_far = f"for {_span(state['step_seconds'])}"
    return f"{', '.join([doing, *_progress(state['progress']), so_far])}."


def _progress(done: Mapping[str, Any]) -> Iterator[str]:
    """Say how far a step is."""
    for name, words in _PROGRESS.items():
        if name in done:
            yield words.format_map(done)
    if "seconds_left" in done:
        yield f"about {_span(done['seconds_left'])} left"


def _queue(state: Mapping[str, Any]) -> Iterator[str]:
    labels = _count(state["labels_in_live"], "labelled scan")
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
    yield f"Labels: {state['labelled']} of {_count(state['scans'], 'scan')} labelled and used."
    if state["complete"]:
        yield "Every scan is labelled: nothing is left to draw, training has stopped."
    ignored = [
        f"annotation {one['annotation']} on task {one['task']}: {one['reason']}"
        for one in state["labels_ignored"]
    ]
    yield from _bullets("Annotations that are not used:", ignored)


def _quality_line(state: Mapping[str, Any]) -> str:
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


def _freshness(state: Mapping[str, Any], now: float) -> str:
    waiting = state["wanted"] - state["done"]
    news = (
        f"{_count(waiting, 'change')} in Label Studio still to be looked at"
        if waiting > 0
        else "every change that Label Studio reported has been looked at"
    )
    synced = state["synced_at"]
    read = f"{_span(now - synced)} ago" if synced else "not yet"
    when = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"As of {when}: {news}. All scans were last listed: {read}."


def overview(projects: Iterable[Project]) -> str:
    """Return one line for each known project."""
    lines = [
        f"{project.id}  {_line(project.title) or 'Untitled'}  "
        f"{_line(project.problem) or project.live_version or 'no queue yet'}"
        for project in projects
    ]
    return "\n".join(lines or ["No project is connected yet."]) + "\n"


def _bullets(head: str, lines: Sequence[str], most: int = LISTED) -> Iterator[str]:
    if lines:
        yield head
    for line in lines[:most]:
        yield f"  - {_line(line)}"
    if len(lines) > most:
        yield f"  and {len(lines) - most} more (?format=json lists them)"


def _line(words: str) -> str:
    return " ".join(words.split())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def routes(store: Store, settings: Settings) -> Blueprint:
    """Return GET /projects and GET /projects/<id>."""
    blueprint = Blueprint("pages", __name__)

    @blueprint.get("/projects")
    def projects() -> Response:
        return Response(overview(store.projects()), mimetype="text/plain")

    @blueprint.get("/projects/<int:project_id>")
    def project(project_id: int) -> Response:
        state = status(store, settings, project_id)
        if request.args.get("format") == "json":
            return jsonify(state)
        return Response(text(state, store.clock()), mimetype="text/plain")

    return blueprint
