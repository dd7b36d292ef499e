"""What a project's rounds left behind: its versions, its learning curve, and the audit record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from backend.errors import NotFound
from backend.rounds.publications import ProjectPublications
from backend.storage import ledger, records
from backend.storage.artifacts import ProjectFiles, round_name
from backend.storage.ledger import DraftQuality, Ledger
from backend.storage.records import QueueRecord
from backend.storage.store import Store
from backend.storage.tables import DraftScore, Model, Project, Publication, Round
from backend.web.responses import (
    ActionEntry,
    AuditHead,
    ComparedDraft,
    RoundEntry,
    VersionRecord,
    written,
)
from model.evaluation import METRICS


@dataclass(frozen=True)
class History:
    """The rounds of one project, from its store and its files; made anew for every question.

    Whoever has read the ledger already hands it over: that of a large project takes long to read.
    """

    store: Store
    project: Project
    files: ProjectFiles
    ledger: Ledger | None = None

    @property
    def lived(self) -> int:
        """How many versions were ever live."""
        return len(self._lived)

    def versions(self, most: int | None = None) -> list[dict[str, Any]]:
        """Return the versions that were ever live, newest first, as the page lists them.

        Args:
            most: How many of the newest; the live and the pinned one come along. All when None.
        """
        known = ProjectPublications(self.store, self.project, self.files)
        pinned = self.store.publications.pinned(self.project.id)
        return [
            {
                "name": found.name,
                "round": found.round,
                "state": found.state,
                "pinned": found.name == pinned,
                "live_at": found.live_at,
                "labels": found.labels,
                "phase": "model" if found.model_key else "cold start",
                "went_back": self._went_back(found),
                **self._quality(found),
                "seconds": self._seconds(found.round),
                "can_go_back": not self.project.disconnected
                and found.name != pinned
                and found.state != "live"
                and not known.obstacle(found),
            }
            for place, found in enumerate(self._lived)
            if most is None or place < most or found.state == "live" or found.name == pinned
        ]

    @property
    def actions(self) -> Sequence[ActionEntry]:
        """What people asked for, oldest first."""
        return [
            ActionEntry(
                at=found.at,
                action=found.name,
                version=found.version or None,
                task=found.task_id or None,
                origin=found.origin,
                person=found.person or None,
            )
            for found in self.store.publications.actions(self.project.id)
        ]

    def curve(self) -> dict[str, Any]:
        """Return quality over labels: of models on held-out scans, and of the drafts people met.

        `models` holds one entry a trained model, refused ones included, with its score by every
        metric; `drafts` one a compared draft, at the number of labels that it came after.
        """
        names = {found.model_key: found.name for found in self._versions if found.live_at}
        return {
            "models": [
                {
                    "labels": model.labels,
                    "version": names.get(model.key, ""),
                    "accepted": model.accepted,
                    **_held_out(model),
                }
                for model in self.store.publications.models(self.project.id)
            ],
            "drafts": self._drafts(),
        }

    def audit(self, chosen: int | None = None) -> Iterator[str]:
        """Return the record of every round as one JSON document, piece by piece.

        Each round says what it decided and from what, what became of it, and for every ranked scan
        its terms and position. A record may be long: no more than one is in memory at a time.

        Args:
            chosen: The number of the only round to tell about; all when None.

        Raises:
            NotFound: When there is no such round.
            StorageError: When the database or the artifacts do not answer; at once, for what is
                sent already could not be taken back.
        """
        if chosen is not None and chosen not in self._rounds:
            raise NotFound(
                f"Project {self.project.id} has no round {chosen}.",
                "Ask without a round: the record of all of them says which there are.",
            )
        wanted = [one for one in self._rounds.values() if chosen in {None, one.number}]
        _ = self._versions, self._models, self._scores, self._telling
        self.files.paths([round_name(one.number) for one in wanted])
        return self._pieces(wanted)

    def _pieces(self, wanted: Sequence[Round]) -> Iterator[str]:
        head = AuditHead(project=self.project.id, title=self.project.title, actions=self.actions)
        yield written(head)[:-1] + ', "rounds": ['
        for place, one in enumerate(wanted):
            yield (", " if place else "") + written(self._record(one))
        yield "]}\n"

    # -- one round ------------------------------------------------------------------------------

    def _record(self, one: Round) -> RoundEntry:
        made = [found for found in self._versions if found.round == one.number]
        # As it came with all the others: what is sent needs no more answers from elsewhere.
        selected = records.read_queue(ProjectFiles(self.files.folder), one.number) or QueueRecord()
        return RoundEntry.model_validate(
            {
                **selected.model_dump(exclude=_PER_SCAN, exclude_unset=True),
                "round": one.number,
                "workflow": one.workflow,
                "started_at": one.started_at,
                "ended_at": one.ended_at or None,
                "seconds": one.record.seconds,
                "error": one.record.error,
                "pinned": any(self._went_back(found) for found in made),
                "versions": [self._version(found) for found in made],
                "scans": _scans(selected),
            }
        )

    def _version(self, found: Publication) -> VersionRecord:
        model = self._models.get(found.model_key)
        return VersionRecord(
            name=found.name,
            state=found.state,
            labels=found.labels,
            model=found.model_key or None,
            trained_on=model.trained_on if model else [],
            quality=model.quality.written() if model else {},
            accepted=model.accepted if model else None,
            drafts=[self._draft(score) for score in self._scores.get(found.name, [])],
            published=len(found.published),
            created_at=found.created_at,
            live_at=found.live_at or None,
        )

    def _draft(self, score: DraftScore) -> ComparedDraft:
        return ComparedDraft(
            task=score.task_id,
            dice=score.dice,
            unchanged=score.unchanged,
            counts=score.task_id in self._telling,
        )

    def _went_back(self, found: Publication) -> bool:
        """Return whether a version was made while a rollback held: two labels always train."""
        one = self._rounds.get(found.round)
        if one is None or not one.ended_at:
            return False
        model = self._models.get(found.model_key)
        if model is not None and model.quality.refined_from:
            return False  # a refinement has no step "train"
        return "train" not in one.record.seconds and found.labels >= 2

    def _quality(self, found: Publication) -> dict[str, Any]:
        model = self._models.get(found.model_key)
        scores = self._scores.get(found.name, [])
        drafts = DraftQuality.of([score for score in scores if score.task_id in self._telling])
        return {
            **_held_out(model),
            "draft_dice": drafts.dice,
            "drafts_compared": drafts.compared,
            "drafts_unchanged": drafts.unchanged,
            "changed_draft_dice": drafts.changed_dice,
        }

    def _drafts(self) -> list[dict[str, Any]]:
        labels = {found.name: found.labels for found in self._versions}
        return [
            {
                "labels": labels.get(name, 0) + place,
                "dice": score.dice,
                "unchanged": score.unchanged,
                "task": score.task_id,
            }
            for name, scores in self._scores.items()
            for place, score in enumerate(scores, start=1)
            if score.task_id in self._telling
        ]

    def _seconds(self, number: int) -> float | None:
        one = self._rounds.get(number)
        return one.ended_at - one.started_at if one and one.ended_at else None

    # -- what is read once ----------------------------------------------------------------------

    @cached_property
    def _versions(self) -> Sequence[Publication]:
        return self.store.publications.all(self.project.id)

    @cached_property
    def _lived(self) -> Sequence[Publication]:
        """The versions that were ever live, newest first."""
        lived = [found for found in self._versions if found.live_at]
        return sorted(lived, key=lambda one: -one.live_at)

    @cached_property
    def _rounds(self) -> Mapping[int, Round]:
        return {one.number: one for one in self.store.rounds.all(self.project.id)}

    @cached_property
    def _models(self) -> Mapping[str, Model]:
        return {model.key: model for model in self.store.publications.models(self.project.id)}

    @cached_property
    def _scores(self) -> Mapping[str, list[DraftScore]]:
        """The compared drafts of each version, oldest first."""
        found: dict[str, list[DraftScore]] = {}
        for score in self.store.labels.draft_scores(self.project.id):
            found.setdefault(score.version, []).append(score)
        return found

    @cached_property
    def _telling(self) -> frozenset[int]:
        """Tasks whose compared draft tells how good its model is; see `quality_drafts`."""
        now = self.ledger or ledger.read(self.store, self.project.id)
        scores = ledger.quality_drafts(self.store, self.project.id, now)
        return frozenset(score.task_id for score in scores)


_PER_SCAN = {"order", "reasons", "scans"}


def _scans(selected: QueueRecord) -> list[dict[str, Any]]:
    """Return the ranked scans in their order, each with its terms."""
    reasons = selected.reason_of
    return [
        {
            "task": task,
            "position": position,
            "reason": reasons.get(task, ""),
            **selected.scans.get(task, {}),
        }
        for position, task in enumerate(selected.order, start=1)
    ]


def _held_out(model: Model | None) -> dict[str, float | None]:
    """Return a model's mean scores on held-out scans, by metric; None where it has none."""
    known = model.quality.validation if model else {}
    return {name: known.get(name) for name in METRICS}
