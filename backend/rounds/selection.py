"""One project's selection: which scans are due, in which order, and why."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.rounds import expected_minutes
from backend.rounds.expected_minutes import ScanMinutes
from backend.rounds.maps import stability
from backend.rounds.maps.embedding_map import LostEmbeddings, Map, Maps
from backend.rounds.queue_terms import rounded_one, terms
from backend.storage import artifacts, records
from backend.storage.artifacts import ProjectFiles, Space
from backend.storage.embeddings import Place
from backend.storage.ledger import Ledger, stored_options
from backend.storage.records import FIRST_OF_SOURCE, QueueRecord
from backend.storage.store import Store
from backend.storage.tables import Project
from model import active_learning, encoders, kernels, scoring
from model.expected_minutes import MaskSummary
from model.registry import (
    USUAL_ACQUISITION,
    USUAL_COLD_START,
    is_acquisition,
    is_cold_start,
)
from model.validation import group


class Selector:
    """Decides for one project, from what the store and the embeddings say."""

    def __init__(
        self, store: Store, project: Project, files: ProjectFiles, encoder: encoders.Encoder
    ) -> None:
        self._store = store
        self._project = project
        self._files = files
        self._options = stored_options(project)
        self.encoder = encoder.name
        self._widths = encoder.widths
        self._start = _named(self._options.cold_start, is_cold_start, USUAL_COLD_START)
        self._rule = _named(self._options.acquisition, is_acquisition, USUAL_ACQUISITION)
        gone = {self._options.cold_start: self._start, self._options.acquisition: self._rule}
        self.warnings = [encoder.substitution] if encoder.substituted else []
        self.warnings += [
            f"the package with {name!r} is gone: {usual} chooses instead"
            for name, usual in gone.items()
            if name != usual
        ]

    def plan(
        self, now: Ledger, pinned: str = "", *, lost: Callable[[], bool] = lambda: False
    ) -> dict[str, Any]:
        """Return whether a round is due, whether it trains, and what of its input is not labels.

        Args:
            now: The ledger.
            pinned: The version whose model is to judge; "" when the labels of today train one.
            lost: Says whether the live queue is gone from Label Studio; asked when nothing else
                makes a round due.
        """
        # Labels are excluded; `retrain_after` decides how many changes start a round.
        fingerprint = artifacts.digest(
            [(task.id, task.url, task.group, bool(task.problem)) for task in now.tasks],
            sorted(now.skipped),
            self._project.label_config,
            self._options.deciding,
            self.encoder,
            # Absent if empty: old fingerprints stay valid.
            *filter(None, [pinned, now.sources, now.places]),
        )
        trains = not pinned and len(now.usable) >= 2
        pool = self._pool(now)
        if not pool - now.skipped - now.unreadable.keys() and trains:
            # Nothing is left to draw, and people who drew everything want the last model.
            news = self._changed(now, self._store.rounds.last(self._project.id)) != 0
            if news or self._asked_for():
                return {"due": True, "train": True, "fingerprint": fingerprint}
        due = bool(pool) and (
            not self._project.live_version
            or self._project.fingerprint != fingerprint
            or self._enough_changed(now)
            or (self._asked_for() and not pinned)
            or self._running_low(now)
            or lost()
        )
        return {"due": due, "train": trains, "fingerprint": fingerprint}

    def pool(self, now: Ledger) -> list[tuple[int, str]]:
        """Return (task id, address) of the scans that a model has to judge."""
        return [(i, now.scans[i].url) for i in sorted(self._pool(now))]

    def _pool(self, now: Ledger) -> set[int]:
        return (self._embedded.keys() & now.open) - now.usable.keys()

    def clusters(self) -> dict[int, int]:
        """Return the cluster of every embedded scan, by task id."""
        points = self._map
        return dict(zip(points.ids, points.clustering.clusters.tolist(), strict=True))

    def to_score(self, now: Ledger) -> list[int]:
        """Return the task ids that a round scores: the pool, or `score_limit` scans of it."""
        pool = self._pool(now)
        if len(pool) <= (self._options.score_limit or len(pool)):
            return sorted(pool)
        points, known = self._map, self._known_scores
        rows = scoring.to_score(
            _uncertainty(known, points),
            points.coordinates,
            points.among(now.usable),
            points.among(pool),
            limit=self._options.score_limit,
            seed=self._options.seed + self._store.rounds.last(self._project.id),
        )
        return [points.ids[row] for row in rows]

    @cached_property
    def _known_scores(self) -> dict[int, tuple[float, int]]:
        """Return the last uncertainty of each scored scan, and the round that scored it."""
        record, number = self._live_queue()
        # Records of earlier releases hold only scores of their own round.
        found = (
            (task, terms["entropy"], terms.get("scored_in", number))
            for task, terms in record.scans.items()
        )
        return {task: (score, at) for task, score, at in found if score is not None and at}

    def _live_queue(self) -> tuple[QueueRecord, int]:
        """Return the record of the live queue, an empty one without it, and its round."""
        live = self._store.publications.get(self._project.id, self._project.live_version)
        record = records.read_queue(self._files, live.round) if live else None
        return record or QueueRecord(), live.round if live else 0

    def rank(
        self,
        now: Ledger,
        scores: Mapping[int, Sequence[Any]],
        asked: Collection[int] = (),
        number: int = 0,
        *,
        model: str = "",
        labels: Sequence[str] | None = None,
    ) -> QueueRecord:
        """Return the queue of all open scans, first to be drawn first, as a round records it.

        With `second_reading`, scans that have a label and wait for their second come first: Label
        Studio gives them to somebody else than before.

        Behind the ranked pool come scans that need another annotator, those that were skipped,
        those that the model could not judge, and those that cannot be read. Of these only the
        first count as chosen; the others have no part in the selection.

        Args:
            now: The ledger.
            scores: The `MaskSummary` of each scan that this round's model could score.
            asked: The scans that it was asked to score; () for the whole pool.
            number: Of the round.
            model: The key of that model, "" for none.
            labels: The labels that the model knows; None for all.
        """
        whole = self._map
        waiting = self._pool(now) - now.skipped
        unjudged = (waiting.intersection(asked) if asked else waiting) - scores.keys()
        unjudged = unjudged if scores else set()
        points = whole.without(now.skipped | unjudged)
        closed = points.among(now.usable) | ~points.among(now.open)
        judged = {i: MaskSummary(*score) for i, score in scores.items()}
        known = {i: (score.uncertainty, number) for i, score in judged.items()}
        if scores and waiting - unjudged - scores.keys():
            known = self._known_scores | known
        uncertainty = scoring.estimated(
            _uncertainty(known, points), points.coordinates, ~closed, seed=self._options.seed
        )
        sources, places = self._sources(now, points.ids), self._places(now, points)
        expected = self._expected(now, judged, points, ~closed)
        decision = active_learning.decide(
            points.coordinates,  # the map is known: only how many there are counts
            closed,
            self._selection_options(),
            uncertainty=uncertainty if scores else None,
            coordinates=points.coordinates,
            clusters=points.clustering,
            groups=self._groups(now, points.ids),
            sources=sources,
            places=places,
            minutes=expected.minutes if expected else None,
        )
        ranked = [points.ids[row] for row in decision.order.tolist()]
        last = self._at_the_end(now, set(whole.ids), unjudged)
        said = active_learning.reasons(decision)
        if scores:
            said = _extended(said, (_age(known.get(task), number) for task in ranked))
        weighs = decision.phase == "acquisition"
        if expected is not None and weighs:
            said = _extended(said, map(expected.reason, decision.order.tolist()))
        if sources is not None:
            for place in _firsts(sources, decision.order, closed):
                said[place] = f"{FIRST_OF_SOURCE}; {said[place]}"
        again = self._second_readings(now)
        last = {task: reason for task, reason in last.items() if task not in again}
        order = [*again, *(task for task in ranked if task not in last), *last]
        reasons = dict(zip(ranked, said, strict=True))
        reasons.update(last | again)
        # Not checked: that would copy the terms of every scan.
        return QueueRecord.model_construct(
            order=order,
            reasons=[reasons[task] for task in order],
            labels=now.label_keys if labels is None else list(labels),
            model=model,
            phase=decision.phase,
            strategy=decision.strategy,
            alpha=rounded_one(decision.alpha),
            options=self._options.model_dump(),
            encoder=self.encoder,
            rules=active_learning.RULES,
            k=decision.k,
            silhouette=rounded_one(decision.silhouette),
            medoids=[points.ids[row] for row in decision.medoids],
            **self._reached(whole, now),
            **(expected.facts if expected else {}),
            warnings=[
                *points.warnings,
                *self._without_effect(now),
                *self._instability(decision.phase, len(whole.ids)),
                *(expected.warnings if expected and weighs else ()),
                *decision.warnings,
            ],
            scans=terms(
                decision,
                points.ids,
                uncertainty,
                known,
                {"source": sources, "place": places},
                expected,
            ),
        )

    def _expected(
        self,
        now: Ledger,
        judged: Mapping[int, MaskSummary],
        points: Map,
        wanted: npt.NDArray[np.bool_],
    ) -> ScanMinutes | None:
        """Return the expected minutes of the scans, None without the option `by_minutes`."""
        if not self._options.by_minutes:
            return None
        last, _ = self._live_queue()
        return expected_minutes.expect(now, last, judged, points.ids, points.coordinates, wanted)

    def _reached(self, whole: Map, now: Ledger) -> dict[str, Any]:
        """Return how much of the map has a label, as fields of the record."""
        labelled = whole.among(now.usable)
        alike = kernels.share_alike(whole.coordinates, labelled, seed=self._options.seed)
        return {
            "alike": rounded_one(alike),
            "clusters": whole.clustering.k,
            "clusters_labelled": len(np.unique(whole.clustering.clusters[labelled])),
        }

    def _at_the_end(self, now: Ledger, embedded: set[int], unjudged: set[int]) -> dict[int, str]:
        """Return open scans that come after the pool, in order, with the reason."""
        unread = {i: now.scans[i].problem for i in sorted(now.scans.keys() - embedded)}
        reasons = {i: "has a label, needs another annotator" for i in now.usable}
        reasons |= {i: "skipped: kept for the end" for i in sorted(now.skipped) if i in embedded}
        reasons |= {
            i: "could not be read when the model judged the others" for i in sorted(unjudged)
        }
        reasons |= {i: f"cannot be read: {why}" for i, why in unread.items()}
        return {task: why for task, why in reasons.items() if task in now.open}

    def _second_readings(self, now: Ledger) -> dict[int, str]:
        """Return the scans that wait for their second annotation, in order, with the reason."""
        if not self._options.second_reading:
            return {}
        readable = now.usable.keys() & now.open
        reason = "has a label; a second annotation is asked for"
        return {task: reason for task in now.usable if task in readable}

    def _instability(self, phase: str, scans: int) -> tuple[str, ...]:
        """Return what `stability` found of the map, while a choice follows from the map alone."""
        if phase != "cold-start":
            return ()
        return stability.verdict(self._files, self._options, self.encoder, scans)

    def _selection_options(self) -> active_learning.SelectionOptions:
        chosen = self._options
        return active_learning.SelectionOptions(
            cold_start_budget=chosen.cold_start_budget,
            cold_start=self._start,
            acquisition=self._rule,
            alpha=chosen.alpha,
            projection=chosen.projection,
            batch_size=chosen.batch_size,
            random_fraction=chosen.random_fraction,
            seed=chosen.seed,
        )

    def _groups(self, now: Ledger, ids: Sequence[int]) -> npt.NDArray[np.int64] | None:
        if not self._options.group_by:
            return None
        scans = [now.scans[i] for i in ids]
        return group([scan.group for scan in scans], [scan.pixels for scan in scans])

    def _places(self, now: Ledger, points: Map) -> npt.NDArray[np.float64] | None:
        """Return the place of each slice in its volume, NaN if unknown; groups are the volumes."""
        if not self._options.group_by or not now.places:
            return None
        return points.values(now.places)

    def _without_effect(self, now: Ledger) -> Iterator[str]:
        """Yield a warning for each option that names a key of the task data in vain."""
        asked = self._options
        for name, key, known, effect in (
            ("source_by", asked.source_by, now.sources, "all scans count as one source"),
            ("slice_by", asked.slice_by, now.places, "slices of a volume count as equally far"),
        ):
            if key and not known:
                yield (
                    f"{name}: no task has the key {key!r} in its data, so {effect}; correct the "
                    "option, or import tasks with this key"
                )
        if asked.slice_by and not asked.group_by:
            yield "slice_by: without group_by it does nothing; set group_by to the volume's key"

    def _sources(self, now: Ledger, ids: Sequence[int]) -> npt.NDArray[np.int64] | None:
        """Return the number of each scan's source; scans without one share a number."""
        if not self._options.source_by:
            return None
        names = [now.sources.get(i, "") for i in ids]
        numbers: npt.NDArray[np.int64] = np.unique(names, return_inverse=True)[1].astype(np.int64)
        return numbers

    @cached_property
    def _embedded(self) -> dict[int, Place]:
        """File and row of each scan's embedding, by task id, when they are first asked for."""
        return self._store.embeddings.all(self._project.id, self.encoder)

    @cached_property
    def _map(self) -> Map:
        chosen = self._options
        maps = Maps(self._files, self._embedded, self._widths)
        space = Space(self.encoder, chosen.projection, chosen.seed)
        try:
            return maps.current(space, chosen.cold_start_budget)
        except LostEmbeddings as lost:
            self._forget_lost(lost.chunk)
            raise

    def _forget_lost(self, chunk: str) -> None:
        """Forget this file of embeddings and all others that are gone, not one a round."""
        there = set(map(artifacts.file_of, self._files.names(artifacts.EMBEDDINGS)))
        lost = self._store.embeddings.chunks(self._project.id) - there
        self._store.embeddings.forget(self._project.id, {chunk, *lost})

    def _asked_for(self) -> bool:
        """Return whether a person pressed Start Training since the last round."""
        return self._project.train_requested > self._project.completed

    def _enough_changed(self, now: Ledger) -> bool:
        """Return whether as many labels came, went or changed as `retrain_after` asks for."""
        live = self._store.publications.get(self._project.id, self._project.live_version)
        changed = self._changed(now, live.round if live else 0)
        return changed is None or changed >= self._options.retrain_after

    def _changed(self, now: Ledger, number: int) -> int | None:
        """Return how many labels changed since a round; None if it left no record."""
        labels = records.read_labels(self._files, number)
        return None if labels is None else now.changed_since(labels)

    def _running_low(self, now: Ledger) -> bool:
        """Return whether fewer than a quarter of the published scans are still open."""
        live = self._store.publications.get(self._project.id, self._project.live_version)
        if live is None:
            return True
        return 4 * len(now.open.intersection(live.published)) < len(live.published)


def _named(name: str, is_known: Callable[[str], bool], usual: str) -> str:
    """Return the name of a strategy; the usual one if its package is not installed any more."""
    return name if is_known(name) else usual


def _extended(reasons: Iterable[str], endings: Iterable[str]) -> list[str]:
    return [reason + ending for reason, ending in zip(reasons, endings, strict=True)]


def _uncertainty(known: Mapping[int, tuple[float, int]], points: Map) -> npt.NDArray[np.float64]:
    """Return the last uncertainty of each scan of a map, NaN if no model scored it, shape (n,)."""
    return points.values({task: uncertainty for task, (uncertainty, _) in known.items()})


def _firsts(
    sources: npt.NDArray[np.int64], order: npt.NDArray[Any], closed: npt.NDArray[np.bool_]
) -> list[int]:
    """Return the places in the order of the first scans of sources without a closed scan."""
    names, places = np.unique(sources[order], return_index=True)
    untouched: list[int] = places[~np.isin(names, sources[closed])].tolist()
    return untouched


def _age(known: tuple[float, int] | None, number: int) -> str:
    """Return what a reason adds about an uncertainty that is not of this round."""
    if known is None:
        return "; uncertainty estimated from scans that look alike"
    return "" if known[1] == number else f"; scored in round {known[1]}"
