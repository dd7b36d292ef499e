"""The publications of a project: list them, go back to one, and decide which weights stay.

A person goes back by pinning a publication. The command only writes that request into the
database. The next round publishes the queue of the pinned model under a new name, without training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from backend import PROGRAM
from backend.errors import ConfigError, UnsupportedLabelConfig
from backend.label_studio import labels
from backend.rounds import stop_curve
from backend.storage import artifacts, ledger
from backend.storage.artifacts import ProjectFiles, weights_name
from backend.storage.ledger import DraftQuality, Ledger, stored_options
from backend.storage.publications import COMMAND, Author
from backend.storage.store import Store
from backend.storage.tables import DraftScore, Model, Project, Publication
from model.evaluation import MAIN

KEPT_MODELS = 5
KEPT_LIVE_MODELS = 30
LEFTOVER_SECONDS = 24 * 3600
LISTED = 10  # publications that an error names; the command `versions` lists all

# States of weights that keep a publication from being published again.
_OBSTACLES = {"gone": "its weights are gone", "other labels": "it was trained for other labels"}
_HEAD = ("version", "state", "since (UTC)", "labels", MAIN.title, "weights")


@dataclass(frozen=True)
class ProjectPublications:
    """The publications of one project. Make a new object for every request: it reads once."""

    store: Store
    project: Project
    files: ProjectFiles
    ledger: Ledger | None = None  # read when it is needed, if not given

    # -- going back -----------------------------------------------------------------------------

    def pinned(self) -> Publication | None:
        """Return the publication that a person pinned; None while rounds train.

        Raises:
            ConfigError: When its model cannot be used any more.
        """
        name = self.store.publications.pinned(self.project.id)
        if not name:
            return None
        version = self.store.publications.get(self.project.id, name)
        why = self.obstacle(version)
        if why:
            raise ConfigError(
                f"The pinned version {name} cannot be published: {why}.",
                f"Go back to another one or train again: {resume_command(self.project.id)}",
            )
        return version

    def pin(self, name: str, author: Author = COMMAND) -> str:
        """Pin a publication until `resume`; return a sentence for the person.

        Args:
            name: The publication.
            author: Who asks for it.

        Raises:
            ConfigError: When the publication is unknown, was never live, or its model cannot be
                used; or when the project is not connected.
        """
        self._check_connected()
        why = self.obstacle(self.store.publications.get(self.project.id, name))
        if why:
            what = f"{name} cannot be published: {why}." if name else "No version is named."
            raise ConfigError(what, self._choice())
        self._request(name, author)
        return (
            f"Project {self.project.id} goes back to {name} with its next round.{self._paused()} "
            f"It trains nothing until: {resume_command(self.project.id)}"
        )

    def resume(self, author: Author = COMMAND) -> str:
        """Let rounds train again; return a sentence for the person.

        Raises:
            ConfigError: When nothing is pinned, or the project is not connected.
        """
        self._check_connected()
        if not self.store.publications.pinned(self.project.id):
            raise ConfigError(
                f"Nothing is pinned in project {self.project.id}.",
                f"Its rounds train; {PROGRAM} versions {self.project.id} lists them.",
            )
        self._request("", author)
        return f"Project {self.project.id} trains again with its next round.{self._paused()}"

    def _check_connected(self) -> None:
        """Raise if the project is disconnected: a refresh request would reconnect it."""
        if self.project.disconnected:
            raise ConfigError(
                f"Project {self.project.id} is not connected: no round will follow.",
                f"Connect it first: {PROGRAM} connect {self.project.id}",
            )

    def _request(self, name: str, author: Author) -> None:
        self.store.publications.pin(self.project.id, name, author)
        self.store.projects.request_refresh(self.project.id)

    def _paused(self) -> str:
        paused = stored_options(self.project).paused
        return " It is paused: that round waits for `paused` to be false." if paused else ""

    def _choice(self) -> str:
        names = [version.name for version in self._newest_first if not self.obstacle(version)]
        if not names:
            return "There is none to go back to yet."
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        return f"Choose one of: {', '.join(names[:LISTED])}{more}."

    def obstacle(self, version: Publication | None) -> str:
        """Return why a publication cannot be pinned, or "" if it can."""
        if version is None:
            return f"project {self.project.id} has no such version"
        if not version.live_at:
            return "it was never live"
        return _OBSTACLES.get(self._weights(version), "")

    def _weights(self, version: Publication) -> str:
        """Return the state of the weights of a publication's model."""
        if not version.model_key:
            return "not needed"  # a cold start has no model
        model = self._models.get(version.model_key)
        if model is None or not self._has_weights(model):
            return "gone"
        return "there" if model.classes == self._classes else "other labels"

    def _has_weights(self, model: Model) -> bool:
        return weights_name(model.key) in self._weights_there

    # -- the list -------------------------------------------------------------------------------

    def table(self) -> str:
        """Return every publication as a line of text, newest first."""
        if not self._newest_first:
            return f"Project {self.project.id} has published nothing yet."
        pinned = self.store.publications.pinned(self.project.id)
        rows = [_HEAD, *(self._row(version, pinned) for version in self._newest_first)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        if pinned:
            lines += ["", f"{pinned} is pinned until: {resume_command(self.project.id)}"]
        return "\n".join(lines)

    def _row(self, version: Publication, pinned: str) -> tuple[str, ...]:
        model = self._models.get(version.model_key)
        since = datetime.fromtimestamp(version.live_at or version.created_at, UTC)
        return (
            version.name,
            f"{_state(version)}{', pinned' if version.name == pinned else ''}",
            since.strftime("%Y-%m-%d %H:%M"),
            str(version.labels),
            self._quality(model),
            self._weights(version),
        )

    def _quality(self, model: Model | None) -> str:
        """Return the Dice on held-out scans; without such scans, the Dice of the drafts."""
        if model and MAIN.name in model.quality.validation:
            return f"{model.quality.validation[MAIN.name]:.2f} held out"
        drafts = self._drafts.get(model.key) if model else None
        if drafts is None:
            return "-"
        return f"{drafts.dice:.2f} drafts, {drafts.unchanged} of {drafts.compared} unchanged"

    # -- retention ------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Delete the weights that no rule keeps, and the half-written files of killed processes."""
        kept = {weights_name(key) for key in self.kept()}
        for name in self._weights_there - kept:
            self.files.remove(name)
        for path in self.files.leftovers():
            with suppress(FileNotFoundError):  # its writer has finished and renamed it
                if self.store.clock() - path.stat().st_mtime > LEFTOVER_SECONDS:
                    path.unlink()

    def kept(self) -> set[str]:
        """Return the keys of the models whose weights stay.

        These are the last 5 models, refused ones included; among the last 30 those that were ever
        live; the best one; the last two of the stop curve, whose masks are compared; and the models
        of the publications that are live, were live just before, are pinned or are about to go
        live.
        """
        newest = list(self._models.values())
        shown = sorted((version for version in self._newest_first if version.live_at), key=_live_at)
        pinned = self.store.publications.pinned(self.project.id)
        needed = [
            version
            for version in self._newest_first
            if version.state in {"publishing", "ready", "live"} or version.name == pinned
        ]
        was_live = {version.model_key for version in shown}
        return {
            self._best(),
            *self._compared(),
            *(model.key for model in newest[:KEPT_MODELS]),
            *(model.key for model in newest[:KEPT_LIVE_MODELS] if model.key in was_live),
            *(version.model_key for version in [*shown[-2:], *needed]),
        }

    def _compared(self) -> list[str]:
        """Return the keys of the last two models of the stop curve."""
        newest = next(iter(self._models.values()), None)
        classes = newest.classes if newest else []
        measured = self.store.publications.measured(self.project.id)
        return stop_curve.keys(measured, classes, stored_options(self.project).batch_size)[-2:]

    def _best(self) -> str:
        """Return the key of the model with the highest validation Dice; "" if none was measured.

        While no model has a validation Dice, the Dice of the drafts decides. Ties go to the newest
        model. Refused models, models for other classes than the newest, and Dice that cannot be
        compared with today's are left out.
        """
        newest = list(self._models.values())
        fit = [
            model
            for model in newest
            if model.accepted and model.classes == newest[0].classes and self._has_weights(model)
        ]
        least = self.store.publications.least_rules(self.project.id)
        held_out = {
            model.key: model.quality.validation[MAIN.name]
            for model in fit
            if MAIN.name in model.quality.validation and model.quality.rules >= least
        }
        drafts = {m.key: self._drafts[m.key].dice or 0.0 for m in fit if m.key in self._drafts}
        scores = held_out or drafts
        return max(scores, key=lambda key: scores[key], default="")

    # -- read once and kept ---------------------------------------------------------------------

    @cached_property
    def _newest_first(self) -> Sequence[Publication]:
        return self.store.publications.all(self.project.id)[::-1]

    @cached_property
    def _models(self) -> Mapping[str, Model]:
        """Every model by its key, newest first."""
        return {
            model.key: model for model in reversed(self.store.publications.models(self.project.id))
        }

    @cached_property
    def _weights_there(self) -> frozenset[str]:
        return frozenset(self.files.names(artifacts.MODELS))

    @cached_property
    def _classes(self) -> list[str]:
        """The classes of today; none while the labelling interface is unsupported."""
        try:
            return list(labels.parse(self.project.label_config).labels)
        except UnsupportedLabelConfig:
            return []

    @cached_property
    def _drafts(self) -> Mapping[str, DraftQuality]:
        """The quality of each model's drafts against the submitted annotations, by model key."""
        key_of = {version.name: version.model_key for version in self._newest_first}
        by_key: dict[str, list[DraftScore]] = {}
        now = self.ledger or ledger.read(self.store, self.project.id)
        for score in ledger.quality_drafts(self.store, self.project.id, now):
            by_key.setdefault(key_of.get(score.version, ""), []).append(score)
        return {key: DraftQuality.of(scores) for key, scores in by_key.items()}


def resume_command(project_id: int) -> str:
    """Return the command that ends a pin."""
    return f"{PROGRAM} rollback {project_id} --resume"


def _state(version: Publication) -> str:
    """Return the state in a person's words: removed before it was ever live is "abandoned"."""
    return "abandoned" if version.state == "removed" and not version.live_at else version.state


def _live_at(version: Publication) -> float:
    return version.live_at
