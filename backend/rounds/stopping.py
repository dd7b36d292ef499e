"""Decide whether labelling can stop, and store the signs for it and the forecast for the page."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.rounds import stop_curve
from backend.rounds.context import RoundContext
from backend.storage import ledger
from backend.storage.tables import Model
from model import resampling, stopping
from model.evaluation import MAIN
from model.resampling import Interval
from model.stopping import CONFIDENCE, ROUNDS, Curve, Forecast, Point

log = logging.getLogger(__name__)

POINT = 0.01  # of Dice: the unit of the option `enough`
LEAST_OF_GROUP = 3  # held-out scans: a group with fewer is not called the worst
RECENT = 100  # drafts of randomly picked scans that count


def store_stop_signs(here: RoundContext) -> None:
    """Store the signs, and since when they say that labelling can stop.

    Once they said so, that moment stays while a sign is in doubt again by chance: people are told
    once. A large cluster without a label ends it, and so do other classes and other thresholds.

    The signs are for the page alone. So an error is logged and ends no round.
    """
    try:
        _judge(here)
    except Exception:
        log.exception("the signs that labelling can stop could not be updated")


def _judge(here: RoundContext) -> None:
    signs = Signs(here).written()
    stored = here.store.annotators.figures(here.id)
    here.store.annotators.save_figures(here.id, stored.changed(stopping=signs))
    asked = ("classes", "enough", "draft_target")
    before = stored.stopping or {}
    others = any(before[name] != signs[name] for name in asked if name in before)
    since = 0.0 if others or signs["unlabelled_clusters"] else here.project.can_stop_since
    if signs["stop"] and not since:
        since = here.store.clock()
    here.store.projects.update(here.id, can_stop_since=since)


@dataclass(frozen=True)
class Signs:
    """The three signs of one project, and what forbids to stop."""

    here: RoundContext

    def written(self) -> dict[str, Any]:
        """Return everything as the page's JSON has it; Dice from 0 to 1."""
        options = self.here.options
        return {
            "stop": self.stop,
            "classes": list(self.here.config.labels),
            "batch": options.batch_size,
            "enough": options.enough,
            "draft_target": options.draft_target,
            "gain": _interval(self._forecast.gain if self._forecast else None),
            "no_gain": self.no_gain,
            "change": _interval(self._changes[-1] if self._changes else None),
            "no_change": self.no_change,
            "drafts": _interval(self._drafts_dice),
            "random_drafts": len(self._random_drafts),
            "good_drafts": self.good_drafts,
            "unlabelled_clusters": self.unlabelled_clusters,
            "models": len(self.curve.labels),
            "held_out": self._held_out,
            "points": _points(self.curve),
            "forecast": _band(self._forecast),
            "worst": self._worst_group(),
            "worst_label": self._worst_label(),
        }

    @property
    def stop(self) -> bool:
        """Whether labelling can stop."""
        return stopping.can_stop(
            no_gain=self.no_gain,
            no_change=self.no_change,
            good_drafts=self.good_drafts,
            unlabelled=self.unlabelled_clusters,
        )

    # -- no more gain -----------------------------------------------------------------------------

    @cached_property
    def models(self) -> list[Model]:
        """The models of the curve, oldest first."""
        here, stored = self.here, self.here.store.publications
        measured = stored.measured(here.id)
        keys = stop_curve.keys(measured, here.config.labels, here.options.batch_size)
        return stored.some_models(here.id, keys)

    @cached_property
    def curve(self) -> Curve:
        """Held-out Dice over labels."""
        groups = self.here.ledger.groups
        points = [
            Point(model.labels, {i: dice for i, dice in _dice(model).items() if i in groups})
            for model in self.models
        ]
        return stopping.curve(points, groups)

    @cached_property
    def no_gain(self) -> bool:
        """Whether the next batch gains less than enough, now and a batch ago."""
        options = self.here.options
        enough = POINT * options.enough
        return stopping.no_more_gain(self.curve, options.batch_size, enough, seed=options.seed)

    @property
    def gains_little(self) -> bool:
        """Whether the next batch gains less than enough, by the newest model alone."""
        expected = self._forecast
        return expected is not None and expected.gain.high < POINT * self.here.options.enough

    @cached_property
    def _forecast(self) -> Forecast | None:
        options = self.here.options
        return stopping.forecast(self.curve, options.batch_size, seed=options.seed)

    @property
    def _held_out(self) -> int:
        return len(_dice(self.models[-1])) if self.models else 0

    # -- no more change ---------------------------------------------------------------------------

    @property
    def no_change(self) -> bool:
        """Whether the last batches changed the masks no more than chance does."""
        return len(self._changes) == ROUNDS and all(map(stopping.is_unchanged, self._changes))

    @cached_property
    def _changes(self) -> list[Interval | None]:
        """The change by each of the last batches, oldest first; None if it was not measured."""
        return [
            stopping.change(
                model.quality.agreement_before,
                model.quality.agreement_twin,
                seed=self.here.options.seed,
            )
            for model in self.models[-ROUNDS:]
        ]

    # -- good drafts ------------------------------------------------------------------------------

    @property
    def good_drafts(self) -> bool:
        """Whether the Dice of drafts on randomly picked scans reaches the target."""
        found = self._drafts_dice
        return found is not None and found.low >= self.here.options.draft_target

    @cached_property
    def _drafts_dice(self) -> Interval | None:
        return stopping.drafts(self._random_drafts, seed=self.here.options.seed)

    @cached_property
    def _random_drafts(self) -> list[float]:
        here = self.here
        scores = ledger.quality_drafts(here.store, here.id, here.ledger)
        return [score.dice for score in scores if score.control][-RECENT:]

    # -- groups -----------------------------------------------------------------------------------

    @cached_property
    def unlabelled_clusters(self) -> int:
        """Number of large clusters of the map in which no scan has a label.

        Scans that people skipped, or that cannot be read, get no label and do not count.
        """
        now, scans = self.here.ledger, len(self._clusters)
        tasks = np.fromiter(self._clusters.keys(), np.int64, scans)
        clusters = np.fromiter(self._clusters.values(), np.int64, scans)
        left = ~np.isin(tasks, [*now.skipped, *now.unreadable])
        labelled = np.isin(tasks, [*now.usable])
        return len(stopping.unlabelled_clusters(clusters[left], labelled[left]))

    @cached_property
    def _clusters(self) -> dict[int, int]:
        return self.here.selector.clusters()

    def _worst_group(self) -> dict[str, Any] | None:
        """Return the group of held-out scans with the lowest Dice; None without groups.

        Groups are sources if the scans have any, else clusters of the map. A source is told by one
        of its scans, because its name is task data.
        """
        if not self.models:
            return None
        dice, sources = _dice(self.models[-1]), self.here.ledger.sources
        group_of: Mapping[int, Any] = sources or self._clusters
        members: dict[Any, list[int]] = {}
        for task in dice:
            if task in group_of:
                members.setdefault(group_of[task], []).append(task)
        known = {name: of for name, of in members.items() if len(of) >= LEAST_OF_GROUP}
        if len(known) < 2:
            return None
        name = min(known, key=lambda group: np.mean([dice[task] for task in known[group]]))
        scores = [dice[task] for task in known[name]]
        mean = resampling.mean(scores, seed=self.here.options.seed, confidence=CONFIDENCE)
        told = {"source_of": known[name][0]} if sources else {"cluster": int(name)}
        return {**told, "scans": len(scores), "dice": _interval(mean)}

    def _worst_label(self) -> dict[str, Any] | None:
        """Return the label with the lowest Dice; None with fewer than two labels."""
        scores = self.models[-1].quality.by_label.get(MAIN.name, {}) if self.models else {}
        if len(scores) < 2:
            return None
        name = min(scores, key=lambda label: scores[label])
        return {"label": name, "dice": scores[name]}


def _dice(model: Model) -> dict[int, float]:
    return model.quality.held_out_dice


def _points(curve: Curve) -> list[dict[str, Any]]:
    means: npt.NDArray[np.float64] = curve.scores.mean(axis=1) if len(curve.labels) else np.zeros(0)
    return [
        {"labels": labels, "dice": dice}
        for labels, dice in zip(curve.labels.tolist(), means.tolist(), strict=True)
    ]


def _band(forecast: Forecast | None) -> Sequence[dict[str, Any]]:
    if forecast is None:
        return []
    pairs = zip(forecast.labels, forecast.band, strict=True)
    return [{"labels": labels, **interval._asdict()} for labels, interval in pairs]


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return interval._asdict() if interval else None
