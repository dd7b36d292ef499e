"""The facts of a report: what the page's JSON answers, without anything that names a person.

Everything is chosen by name here, so that a new field of the page cannot slip in: titles,
addresses, names of sources, messages of errors and users of Label Studio stay out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import Any

from pydantic import Field

from backend import __version__
from backend.label_studio.moments import moment
from backend.rounds.services import Services
from backend.storage import ledger
from backend.storage.ledger import Ledger, stored_options
from backend.storage.tables import Model, Project
from backend.web.project_page.history import History
from backend.web.project_page.status import status
from backend.web.responses import Answer, Curve
from model import resampling
from model.evaluation import METRICS
from model.stopping import CONFIDENCE

PACKAGES = (
    "torch",
    "segmentation-models-pytorch",
    "numpy",
    "scikit-learn",
    "onnxruntime",
    "label-studio-sdk",
    "dbos",
)
# Options whose value names a key of the task data: the report says only whether they are set.
KEYS_OF_TASKS = ("group_by", "slice_by", "source_by")


class DataFacts(Answer):
    """The scans of a project."""

    scans: int
    labelled: int
    waiting: int
    unreadable: int
    ignored_labels: int
    sources: list[dict[str, int]] = Field(description="Scans and labelled scans of each source.")
    clusters: int | None
    clusters_labelled: int | None
    like_a_labelled_scan: float | None


class ModelCard(Answer):
    """The live model."""

    version: str
    labels: int
    classes: list[str]
    recipes: list[str]
    trained_at: str
    train_seconds: float | None
    held_out: int | None
    scores: dict[str, dict[str, float] | None] = Field(description="By metric, with 90 % limits.")
    by_label: dict[str, dict[str, float]]
    calibration_error: float | None
    temperature: float


class Report(Answer):
    """The report of a project, as JSON."""

    project: int
    made_at: str
    data: DataFacts
    people: list[dict[str, int]] = Field(description="Number of labels of each annotator.")
    label_weeks: list[dict[str, Any]] = Field(description="Labels of each week.")
    curve: Curve
    method: str
    strategy: str | None
    options: dict[str, Any]
    model: ModelCard | None
    minutes: dict[str, Any] | None
    agreement: dict[str, Any] | None
    review: dict[str, Any] | None
    stopping: dict[str, Any] | None
    rounds: int
    software: dict[str, str]


def read(services: Services, project_id: int) -> Report:
    """Return the facts of a project.

    Raises:
        NotFound: If the database does not know the project.
    """
    store = services.store
    project = store.projects.known(project_id)
    now = ledger.read(store, project_id)
    state = status(store, services.artifacts, project_id, now)
    history = History(store, project, services.files(project_id), now)
    method = stored_options(project).method if _keys_used(project) else state["method"]
    return Report(
        project=project_id,
        made_at=_day(store.clock()),
        data=_data(state, now),
        people=_people(now),
        label_weeks=_weeks(now),
        curve=Curve.model_validate(history.curve()),
        method=method,
        strategy=state["strategy"],
        options=_options(project),
        model=_card(services, project),
        minutes=state["minutes"],
        agreement=state["agreement"],
        review=state["review"],
        stopping=_stopping(state["stopping"], _source_numbers(now)),
        rounds=state["round"],
        software=_software(),
    )


def _data(state: Mapping[str, Any], now: Ledger) -> DataFacts:
    numbers = _source_numbers(now)
    scans = Counter(numbers.values())
    labelled = Counter(numbers[task] for task in now.usable if task in numbers)
    return DataFacts(
        scans=state["scans"],
        labelled=state["labelled"],
        waiting=state["scans_waiting"],
        unreadable=state["unreadable_count"],
        ignored_labels=state["labels_ignored_count"],
        sources=[
            {"source": number, "scans": scans[number], "labelled": labelled[number]}
            for number in sorted(scans)
        ],
        clusters=state["clusters"],
        clusters_labelled=state["clusters_labelled"],
        like_a_labelled_scan=state["alike"],
    )


def _source_numbers(now: Ledger) -> dict[int, int]:
    """Return the number of the source of each scan that has one, in the order of the scans."""
    names = dict.fromkeys(now.sources.values())
    numbers = {name: number for number, name in enumerate(names, 1)}
    return {task: numbers[name] for task, name in now.sources.items()}


def _people(now: Ledger) -> list[dict[str, int]]:
    counts = Counter(label.annotator for of_scan in now.usable.values() for label in of_scan)
    return [{"annotator": number, "labels": counts[number]} for number in sorted(counts)]


def _weeks(now: Ledger) -> list[dict[str, Any]]:
    """Return the new labels of each week and all labels by its end; weeks begin on Monday."""
    days = [
        datetime.fromtimestamp(moment(label.created_at), UTC).date()
        for of_scan in now.usable.values()
        for label in of_scan
    ]
    weeks = Counter(day - timedelta(days=day.weekday()) for day in days)
    total, told = 0, []
    for week, count in sorted(weeks.items()):
        total += count
        told.append({"week": week.isoformat(), "labels": count, "total": total})
    return told


def _options(project: Project) -> dict[str, Any]:
    options = stored_options(project).model_dump()
    return options | {name: bool(options[name]) for name in KEYS_OF_TASKS}


def _keys_used(project: Project) -> bool:
    """Return whether the method in words would name a key of the task data."""
    options = stored_options(project)
    return any(getattr(options, name) for name in KEYS_OF_TASKS)


def _stopping(found: dict[str, Any] | None, numbers: Mapping[int, int]) -> dict[str, Any] | None:
    """Return the signs with the number of the worst source instead of its name."""
    worst = found["worst"] if found else None
    if found is None or not worst or "source" not in worst:
        return found
    number = numbers.get(worst["source_of"], 0)
    return {**found, "worst": {**worst, "source": str(number)}}


def live_model(services: Services, project: Project) -> tuple[str, Model] | None:
    """Return the live version and its model; None before the first model."""
    live = services.store.publications.get(project.id, project.live_version)
    model = services.store.publications.model(project.id, live.model_key) if live else None
    return (live.name, model) if live and model else None


def _card(services: Services, project: Project) -> ModelCard | None:
    found = live_model(services, project)
    if found is None:
        return None
    version, model = found
    quality = model.quality
    return ModelCard(
        version=version,
        labels=model.labels,
        classes=model.classes,
        recipes=quality.recipes or ["quick"],
        trained_at=_day(model.created_at),
        train_seconds=quality.train_seconds,
        held_out=quality.validation_scans,
        scores={name: _score(list(quality.held_out.get(name, {}).values())) for name in METRICS},
        by_label=quality.by_label,
        calibration_error=quality.calibration_error,
        temperature=quality.temperature,
    )


def _score(scores: Sequence[float]) -> dict[str, float] | None:
    interval = resampling.mean(scores, confidence=CONFIDENCE)
    return interval._asdict() if interval else None


def _software() -> dict[str, str]:
    return {"firstlight": __version__, **{name: metadata.version(name) for name in PACKAGES}}


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
