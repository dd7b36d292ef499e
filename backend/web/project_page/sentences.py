"""A project's status in sentences: as a whole for a terminal, in parts for the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from backend import PROGRAM
from backend.rounds.publications import resume_command
from backend.storage.tables import Project
from backend.web.project_page import (
    label_panels,
    review_panel,
    selection_gain,
    stopping_panel,
    volume_panel,
)
from backend.web.project_page.words import count, line, span
from backend.web.responses import ActionEntry

# Shown with a queue whose reasons hold scores: scores that rise down the queue look like a defect.
SCORES = (
    "Each score was computed when its scan was picked. Every pick changes the scores of the "
    "remaining scans, so scores may rise down the queue."
)
SCORED = "entropy-diversity"  # the strategy whose reasons hold a score

LISTED = 5  # lines of one list in the text; the JSON has all

STEPS = {
    "sync": "reading the project from Label Studio",
    "embed": "computing embeddings of new scans",
    "plan": "deciding what to do",
    "train": "training the network",
    "refine": "refining the drafts while nobody waits",
    "review": "reviewing labels while nobody waits",
    "selection-gain": "measuring what selection gains",
    "score": "measuring how unsure the network is of each scan",
    "select": "choosing the next scans",
    "draft": "drawing drafts",
    "publish": "sending the queue to Label Studio",
    "switch": "making the new queue live",
}

# The progress of a step in words, by the keys that a step may report.
_PROGRESS = {
    "total": "{done} of {total} scans",
    "of_minutes": "{minutes:.0f} of {of_minutes:.0f} min",
    "epochs": "epoch {epoch} of {epochs}",
    "batches": "batch {batch} of {batches}",
    "loss": "loss {loss:.2f}",
    "dice": "Dice {dice:.2f} on held-out scans",
}


# Why the next round waits; "running" needs no words beside the step that runs.
_NEXT_ROUND = {
    "disconnected": "No round starts while the project is not connected.",
    "vanished": "The next round starts when Label Studio has the project again.",
    "running": "",
    "paused": "Paused by the option `paused`: set it to false in Label Studio (Settings > Model).",
    "worker": "The next round starts as soon as the worker is free.",
    "pinned": "{pinned} is pinned: rounds follow scans and labels, but train nothing.",
    "complete": "No round is due: every scan is labelled.",
    "scans": "The next round starts when there are readable scans without a label.",
}
_TRAIN = "press Start Training in Label Studio (Settings > Model)"


def progress(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what runs now and what comes next, for the page.

    Returns:
        `now`: What runs. `then`: When the next round is due and why it waits, "" while a round
        runs. `share`: The step's progress in [0, 1], None if unknown.
    """
    done = state["progress"]
    parts = (("done", "total"), ("batch", "batches"), ("minutes", "of_minutes"))
    known = [(done[part], done[whole]) for part, whole in parts if done.get(whole)]
    share = [round(min(1.0, part / whole), 3) for part, whole in known if part is not None]
    return {
        "now": doing(state),
        "then": next_round(state),
        "share": share[0] if share else None,
    }


def text(state: Mapping[str, Any], now: float) -> str:
    """Return a project's status as one screen of sentences."""
    parts = (
        [f"{line(state['title']) or 'Untitled'} (project {state['project']})", ""],
        _problems(state),
        [f"Now: {doing(state)} {next_round(state)}".rstrip(), *_queue(state)],
        _label_lines(state),
        [
            quality(state),
            *volume_panel.volumes(state),
            f"Method: {state['method']}.",
            selection_gain.sentence(state),
        ],
        stopping_panel.lines(state),
        label_panels.minutes(state),
        label_panels.agreement(state),
        review_panel.lines(state),
        _bullets(
            f"Next to label. {SCORES}" if scored(state) else "Next to label:",
            [
                f"task {scan['task']}" + (f": {scan['reason']}" if scan["reason"] else "")
                for scan in state["next"]
            ],
            len(state["next"]),
        ),
        _bullets(
            "Scans that cannot be read; they are tried again later:",
            [f"task {scan['task']}: {scan['problem']}" for scan in state["unreadable"]],
            total=state["unreadable_count"],
        ),
        _bullets("Please note:", state["warnings"]),
        ["", freshness(state, now)],
    )
    return "\n".join(each for part in parts for each in part) + "\n"


def _problems(state: Mapping[str, Any]) -> Iterator[str]:
    if state["disconnected"]:
        connect = f"{PROGRAM} connect {state['project']}"
        yield f"This project is not connected. Connect it again: {connect}"
    if state["problem"]:
        yield f"Problem: {line(state['problem'])} {line(state['fix'])}".rstrip()
    if refusal := refused(state["project"], state["events_refused_since"]):
        yield f"Events: {refusal}"
    if state["options_problem"]:
        yield (
            f"Options: {line(state['options_problem'])} "
            "The last valid options stay in use until this is corrected."
        )


def refused(project_id: int, since: float | None) -> str:
    """Return that Label Studio's events are refused, and the fix; "" if they are accepted.

    Args:
        project_id: The project that the events name.
        since: When the first of them was refused, in seconds since 1970; 0 or None for none.
    """
    if not since:
        return ""
    when = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"Label Studio's events for project {project_id} are refused since {when}: its webhook "
        f"lacks the right secret. Run `{PROGRAM} doctor {project_id} --fix`."
    )


def doing(state: Mapping[str, Any]) -> str:
    """Return what runs now and for how long."""
    if state["step"] is None:
        return "idle."
    step = STEPS.get(state["step"], state["step"])
    so_far = f"for {span(state['step_seconds'])}"
    return f"{', '.join([step, *_progress(state['progress']), so_far])}."


def next_round(state: Mapping[str, Any]) -> str:
    """Return when the next round is due and why it waits; "" while a round runs."""
    due = state["next_round"]
    reason, seconds = due["reason"], due["seconds"]
    if reason == "problem":
        again = f"in {span(seconds)}" if seconds is not None else "soon"
        return f"Waits: {line(state['problem']).rstrip('.')}; tried again {again}."
    if reason == "asked":
        when = f"in {span(seconds)}" if seconds is not None else "as soon as the worker is free"
        return f"Start Training was pressed: the round starts {when}."
    if reason == "spacing":
        often = f"rounds start at most every {span(due['every'])}"
        what = "Next round" if due["needed"] == 1 else "Next check of Label Studio"
        return f"{what} in {span(seconds)} ({often})."
    if reason == "labels":
        return _labels_due(due["labels"], due["needed"])
    return _NEXT_ROUND[reason].format_map(state)


def _labels_due(labels: int, needed: int) -> str:
    if labels >= needed:
        return "The next round starts with the next check of Label Studio."
    if needed == 1:
        return f"The next round starts with the next label, or now: {_TRAIN}."
    return (
        f"{labels} of {needed} new or changed labels; next round at {needed} labels, "
        f"or now: {_TRAIN}."
    )


def _progress(done: Mapping[str, Any]) -> Iterator[str]:
    """Yield the progress of a step, in words."""
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
        yield f"Pinned: the queue comes from {state['pinned']}, and no model is trained, until:"
        yield f"  {resume_command(state['project'])}"


def _label_lines(state: Mapping[str, Any]) -> Iterator[str]:
    yield f"Labels: {state['labelled']} of {count(state['scans'], 'scan')} labelled and used."
    if state["alike"] is not None:
        alike = f"{state['alike']:.0%} of the scans look like a labelled scan"
        yield f"Coverage: {alike}; {reached(state)}."
    if state["complete"]:
        yield complete(state)
    ignored = [
        f"annotation {label['annotation']} on task {label['task']}: {label['reason']}"
        for label in state["labels_ignored"]
    ]
    total = state["labels_ignored_count"]
    yield from _bullets("Annotations that are not used:", ignored, total=total)


def reached(state: Mapping[str, Any]) -> str:
    """Return how many clusters, and sources if scans have any, have a labelled scan."""
    counted = [f"{state['clusters_labelled']} of {count(state['clusters'], 'cluster')}"]
    if state["sources"]:
        counted.append(f"{state['sources_labelled']} of {count(state['sources'], 'source')}")
    return f"{' and '.join(counted)} with a label"


def scored(state: Mapping[str, Any]) -> bool:
    """Return whether the reasons of the queue hold a score."""
    return bool(state["strategy"] == SCORED)


def complete(state: Mapping[str, Any]) -> str:
    """Return that every scan is labelled, and how good the last model is."""
    model = state["last_model"]
    done = "Every scan is labelled: nothing is left to draw."
    if model is None:
        return f"{done} No model was trained: that takes two labels."
    trained = f"{done} The last model was trained on {count(model['labels'], 'label')}"
    if model["dice"] is not None:
        scans = count(model["held_out"] or 0, "held-out scan")
        return f"{trained}, Dice {model['dice']:.2f} on {scans}."
    if state["prequential_dice"] is not None:
        return f"{trained}; the last drafts had Dice {state['prequential_dice']:.2f}."
    return f"{trained}; its quality is not known, because no scan is held out."


def quality(state: Mapping[str, Any]) -> str:
    """Return what is known of the live model's quality."""
    drafts, held_out = state["prequential_dice"], state["validation_dice"]
    off = state["calibration_error"]
    known = [
        f"the last drafts had Dice {drafts:.2f} against the submitted masks ({unchanged(state)})"
        if drafts is not None
        else "",
        f"Dice on scans held out from training is {held_out:.2f}" if held_out is not None else "",
        f"the model's probabilities are off by {off:.2f} there, on average"
        if off is not None
        else "",
        refined(state),
    ]
    said = "; ".join(filter(None, known))
    return f"Quality: {said or 'not known yet'}."


def refined(state: Mapping[str, Any]) -> str:
    """Return how a refinement changed the live model, or its training; "" if it did not."""
    found = state["refinement"]
    if found is None:
        recipe = state["recipe"]
        found_better = f"trained with the recipe {recipe}, which a refinement found better"
        return found_better if recipe else ""
    networks = count(len(found["recipes"]), "network")
    said = f"the model is refined ({networks}: {', '.join(found['recipes'])})"
    if found["from"] is None:
        return said
    return (
        f"{said}; cross-validated Dice after equal steps is {found['to']:.2f} with the best recipe "
        f"and {found['from']:.2f} with that of a round"
    )


def no_queue(state: Mapping[str, Any]) -> str:
    """Return why the queue is empty, or that the first one is being made."""
    if state["live_version"]:
        return "No scan is waiting."
    if state["disconnected"]:
        return "There is no queue, because the project is not connected."
    if state["problem"]:
        return "There is no queue yet, because of the problem above."
    if not state["scans"]:
        return "There is no queue yet, because no scan is known yet."
    return "The first queue is being made. The line above the figures says how far it is."


def unchanged(drafts: Mapping[str, Any]) -> str:
    """Return how many of the compared drafts people did not change, and the others' Dice."""
    share = f"{drafts['drafts_unchanged']} of {drafts['drafts_compared']} submitted unchanged"
    others = drafts["changed_draft_dice"]
    return share if others is None else f"{share}, Dice {others:.2f} for the changed"


_DONE = {
    "rollback": "went back to {version}",
    "resume": "let rounds train again",
    "confirm": "found the label of task {task} right",
}


def action(entry: ActionEntry) -> str:
    """Return what a person asked for, when, and who it was."""
    when = datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    done = _DONE[entry.action].format(version=entry.version, task=entry.task)
    means = "with a command" if entry.origin == "command" else "on this page"
    return f"{when}: {entry.person or 'a person'} {done} {means}."


def freshness(state: Mapping[str, Any], now: float) -> str:
    """Return how current the status is."""
    waiting = state["requested"] - state["completed"]
    news = (
        f"{count(waiting, 'change')} in Label Studio still to be read"
        if waiting > 0
        else "every change that Label Studio reported has been read"
    )
    synced = state["synced_at"]
    read = f"{span(now - synced)} ago" if synced else "not yet"
    when = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"As of {when}: {news}. All labels were last read: {read}."


def overview(projects: Iterable[Project]) -> str:
    """Return one line for each known project."""
    lines = [
        f"{project.id}  {line(project.title) or 'Untitled'}  "
        f"{line(project.problem) or _standing(project)}"
        for project in projects
    ]
    return "\n".join(lines or ["No project is connected yet."]) + "\n"


def _standing(project: Project) -> str:
    return "not connected" if project.disconnected else project.live_version or "no queue yet"


def _bullets(
    head: str, lines: Sequence[str], most: int = LISTED, total: int | None = None
) -> Iterator[str]:
    """Yield a heading and the first lines. `total`: their number, if `lines` holds only some."""
    total = len(lines) if total is None else total
    if lines:
        yield head
    for each in lines[:most]:
        yield f"  - {line(each)}"
    if total > most:
        listed = "them" if total == len(lines) else f"the first {len(lines)}"
        yield f"  and {total - most} more (?format=json lists {listed})"
