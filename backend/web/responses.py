"""What the pages and probes answer, as models; /openapi.json describes the same models.

A field that was never set stays away from the JSON: `Health.problems` without the password, for
example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from flask import Response
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
)

from backend.errors import FirstlightError
from backend.storage.records import QueueDecision


class Answer(BaseModel):
    """An answer: exactly the fields of its model."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def answered(answer: BaseModel, code: int = 200) -> Response:
    """Return an answer as JSON."""
    return Response(written(answer), code, mimetype="application/json")


def written(answer: BaseModel) -> str:
    """Return the JSON of an answer."""
    return answer.model_dump_json(by_alias=True, exclude_unset=True)


# -- errors and probes ----------------------------------------------------------------------------


class Failure(Answer):
    """Why a request has no other answer."""

    error: str
    fix: str = Field(default="", description="How to put it right.")
    mend: str = Field(default="", description="As `fix`, under its name until 0.1.")
    id: str = Field(default="", description="Stands beside the traceback in the log.")

    @classmethod
    def of(cls, error: FirstlightError) -> Failure:
        """Return what one of our own errors says."""
        return cls(error=error.what, fix=error.fix, mend=error.fix)


class Health(Answer):
    """This process is up. The lists stand only in an answer to a caller with the password."""

    status: Literal["UP"]
    model_class: Literal["Firstlight"]
    problems: list[str] = []
    warnings: list[str] = []


class Ready(Answer):
    """This process can answer requests."""

    status: Literal["READY"]


class Done(Answer):
    """What an action did."""

    done: str


# -- the pages ------------------------------------------------------------------------------------


class ProjectEntry(Answer):
    """A project in the list of projects."""

    project: int
    title: str
    live_version: str | None
    step: str | None
    now: str
    problem: str
    disconnected: bool
    gone: bool = Field(description="As `disconnected`, under its name until 0.1.")
    vanished_since: float | None = Field(description="Seconds since 1970.")


class Overview(RootModel[list[ProjectEntry]]):
    """Every known project, by id."""


class NextRound(Answer):
    """Why the next round of a project waits."""

    reason: str
    labels: int = Field(description="Labels that changed since the live queue was made.")
    needed: int = Field(description="Changed labels that make a round due.")
    seconds: float | None = Field(description="Until Label Studio is read again, if that is known.")
    every: float = Field(description="Least seconds between two rounds.")


class IgnoredLabel(Answer):
    """An annotation that does not train."""

    annotation: int
    task: int
    reason: str


class QueuedScan(Answer):
    """A scan of the queue."""

    task: int
    position: int
    reason: str


class UnreadableScan(Answer):
    """A scan whose image cannot be read."""

    task: int
    problem: str


class Refinement(Answer):
    """The recipes of a refined model, and mean cross-validated Dice with the first and the best."""

    recipes: list[str]
    before: float | None = Field(alias="from")
    to: float | None


class HeldOutVolume(Answer):
    """The live model's scores on a volume: means over its classes; distances in mm."""

    volume: str
    judged: int = Field(description="How many of its slices are labelled.")
    slices: int
    scores: dict[str, float]


class LastModel(Answer):
    """The newest model that was not refused."""

    labels: int
    dice: float | None
    held_out: int | None


class Gain(Answer):
    """Dice with chosen labels minus Dice with labels of random scans, with its 95 % interval."""

    value: float
    low: float
    high: float


class SelectionGain(Answer):
    """What selection gains, or what the comparison with scans drawn at random lacks."""

    random_fraction: float
    begun: bool
    chosen: int = Field(description="Training labels of chosen scans, up to what is needed.")
    control: int = Field(description="The same of scans drawn at random.")
    held_out: int = Field(description="Groups of held-out scans.")
    repeats: int = Field(description="Finished comparisons.")
    gain: Gain | None


class SuspiciousLabel(Answer):
    """A label that looks wrong to networks that did not learn from it."""

    task: int
    suspicion: float = Field(description="From 0 to 1.")
    reason: str


class Review(Answer):
    """What the last review of the labels found, without corrected and confirmed labels."""

    reviewed: int
    suspicious: int
    scans: list[SuspiciousLabel] = Field(description="The most suspicious labels, in order.")


class ProjectStatus(Answer):
    """What a project is doing, what it used and what it asks next. Moments: seconds since 1970."""

    project: int
    title: str
    disconnected: bool
    gone: bool = Field(description="As `disconnected`, under its name until 0.1.")
    vanished_since: float | None
    pinned: str | None
    live_version: str | None
    labels_in_live: int
    labels_used: int
    labels_ignored: list[IgnoredLabel]
    labels_ignored_count: int
    labels_changed: int
    scans: int
    scans_waiting: int
    labelled: int
    complete: bool
    prequential_dice: float | None
    drafts_compared: int
    drafts_unchanged: int
    changed_draft_dice: float | None
    validation_dice: float | None
    calibration_error: float | None
    volumes: list[HeldOutVolume] = Field(description="Held-out volumes, as far as labelled.")
    minutes: dict[str, Any] | None = Field(description="What labels cost, and what drafts save.")
    agreement: dict[str, Any] | None = Field(description="How well annotators agree.")
    selection_gain: SelectionGain
    people: dict[str, int] = Field(description="Label Studio's users, with `show_people`.")
    stopping: dict[str, Any] | None = Field(
        description="Whether labelling can stop, with the signs and the forecast."
    )
    review: Review | None = Field(description="Null before the first review.")
    refinement: Refinement | None
    recipe: str
    last_model: LastModel | None
    method: str
    strategy: str | None
    alike: float | None
    clusters: int | None
    clusters_labelled: int | None
    sources: int
    sources_labelled: int
    next: list[QueuedScan]
    unreadable: list[UnreadableScan]
    unreadable_count: int
    warnings: list[str]
    problem: str
    fix: str
    options_problem: str
    events_refused_since: float | None
    round: int
    digest: str = Field(description="Changes with every field above it.")
    next_round: NextRound
    step: str | None
    step_seconds: float | None
    progress: dict[str, Any]
    requested: int
    completed: int
    mend: str = Field(description="As `fix`, under its name until 0.1.")
    wanted: int = Field(description="As `requested`, under its name until 0.1.")
    done: int = Field(description="As `completed`, under its name until 0.1.")
    synced_at: float | None
    now: str
    then: str
    share: float | None = Field(description="Progress of the step, from 0 to 1.")
    freshness: str


class CurveModel(Answer):
    """A trained model, with its mean score on held-out scans by every metric."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | None] = Field(init=False)
    labels: int
    version: str
    accepted: bool


class CurveDraft(Answer):
    """A draft that was compared with the submitted mask."""

    labels: int
    dice: float
    unchanged: bool
    task: int


class Curve(Answer):
    """Quality over labels."""

    models: list[CurveModel]
    drafts: list[CurveDraft]


class ProjectMap(Answer):
    """The points of the map as columns, one entry a scan in each of them."""

    states: list[str]
    task: list[int]
    x: list[float]
    y: list[float]
    cluster: list[int] = Field(description="-1 for none.")
    state: list[int] = Field(description="A place in `states`.")
    rank: list[int] = Field(description="The position in the queue, 0 for none.")
    why: list[str]
    placed: int = Field(description="Scans that have a place on the map.")
    curve: Curve
    task_url: str


# -- the audit record -----------------------------------------------------------------------------


class ComparedDraft(Answer):
    """A draft of a version against the mask that a person submitted."""

    task: int
    dice: float
    unchanged: bool
    counts: bool = Field(description="Whether it tells how good its model is.")


class VersionRecord(Answer):
    """One attempt to publish a queue."""

    name: str
    state: str
    labels: int
    model: str | None
    trained_on: list[int]
    quality: dict[str, Any]
    accepted: bool | None
    drafts: list[ComparedDraft]
    published: int
    created_at: float
    live_at: float | None


class RoundEntry(QueueDecision):
    """One round: what it decided and from what, and what became of it."""

    round: int
    workflow: str
    started_at: float
    ended_at: float | None
    seconds: dict[str, float]
    error: str | None
    pinned: bool
    versions: list[VersionRecord]
    scans: list[dict[str, Any]] = Field(
        description="Each ranked scan, first to last: task, position, reason and its terms."
    )


class ActionEntry(Answer):
    """A change that a person asked for."""

    at: float = Field(description="Seconds since 1970.")
    action: str = Field(description="`rollback`, `resume` or `confirm`.")
    version: str | None = Field(description="The version that the person went back to.")
    task: int | None = Field(description="The scan whose label the person found right.")
    origin: str = Field(description="`page` or `command`.")
    person: str | None = Field(description="The name from TRUSTED_USER_HEADER, if there was one.")


class AuditHead(Answer):
    """The beginning of a project's audit record."""

    project: int
    title: str
    actions: Sequence[ActionEntry] = Field(description="What people asked for, oldest first.")


class AuditRecord(AuditHead):
    """The audit record of a project: every round, first to last."""

    rounds: list[RoundEntry]
