"""Figures for Prometheus, read from the store when asked, so that they hold across processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from backend.storage import ledger
from backend.storage.records import ModelQuality, RoundRecord
from backend.storage.store import Store
from backend.storage.tables import Project
from backend.storage.workers import lively
from model.evaluation import MAIN, OTHERS

# Since when the queue of a project is live, and the quality of its model.
Live = Mapping[int, tuple[float, ModelQuality | None]]


class Metrics:
    """The registry of one app: the store's figures, and the webhooks of this process."""

    def __init__(self, store: Store) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(StoreCollector(store))
        self.webhooks = Counter(
            "firstlight_webhooks",
            "Webhooks received by this process since it started.",
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return every figure in Prometheus' text format."""
        return generate_latest(self._registry)


class StoreCollector(Collector):
    """Figures of the installation and of its projects, whichever process made them.

    Projects go by their ids: what a person typed stays out.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Yield the figures as they stand; scans and annotations are counted, not read.

        Raises:
            StorageError: When the database does not answer.
        """
        projects = [project for project in self._store.projects.all() if not project.disconnected]
        yield from _installation(self._store, projects)
        yield from _counted(self._store, projects)
        live = self._store.publications.live()
        yield from _waiting(self._store.clock(), live, projects)
        yield from _quality(live, self._store.publications.by_state(), projects)
        yield from _others(live, projects)
        records = self._store.rounds.records()
        yield from _rounds({one.id: records.get(one.id, []) for one in projects})


def _installation(store: Store, projects: Sequence[Project]) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "firstlight_workers",
        "Workers that showed a sign of life within the last minute.",
        value=len(lively(store.workers)),
    )
    yield GaugeMetricFamily(
        "firstlight_trainings_running",
        "Projects that train a network now.",
        value=sum(project.step == "train" for project in projects),
    )
    yield GaugeMetricFamily(
        "firstlight_refreshes_waiting",
        "Projects with a refresh that is asked for and not done.",
        value=sum(project.requested > project.completed for project in projects),
    )


def _counted(store: Store, projects: Sequence[Project]) -> Iterator[Metric]:
    scans, labels = ledger.scans(store), ledger.usable_labels(store)
    counts: dict[tuple[str, str], Mapping[int, int]] = {
        ("firstlight_scans", "Scans of the project."): {n: of.all for n, of in scans.items()},
        (
            "firstlight_scans_unreadable",
            "Scans whose last fetch or decoding failed; each is tried again after a pause.",
        ): {n: of.unreadable for n, of in scans.items()},
        (
            "firstlight_scans_unseen",
            "Scans that wait for their first embedding; a change of the encoder does not count.",
        ): {n: of.unseen for n, of in scans.items()},
        ("firstlight_labels", "Scans with a label that can be used."): labels,
        (
            "firstlight_failures_in_a_row",
            "Refreshes that failed since the last one that did not; 10 stands for 10 and more.",
        ): {project.id: project.failures for project in projects},
    }
    for (name, text), by_project in counts.items():
        yield _gauge(name, text, {one.id: by_project.get(one.id, 0) for one in projects})


def _waiting(now: float, live: Live, projects: Sequence[Project]) -> Iterator[Metric]:
    yield _gauge(
        "firstlight_refresh_wait_seconds",
        "How long the oldest change waits for the queue that follows from it. The pause that is "
        "kept between rounds and a round under way count; 0: nothing waits.",
        {
            one.id: _age(now, one.waits_since) if one.requested > one.completed else 0.0
            for one in projects
        },
    )
    yield _gauge(
        "firstlight_queue_age_seconds",
        "How long the queue that annotators get has been live.",
        {one.id: _age(now, live[one.id][0]) for one in projects if one.id in live},
    )
    yield _gauge(
        "firstlight_project_vanished",
        "1 while Label Studio says that it has no such project, though nobody disconnected it.",
        {one.id: float(one.vanished_at > 0) for one in projects},
    )


def _age(now: float, since: float) -> float:
    """Return the seconds since a moment, 0 for none; clocks of machines differ a little."""
    return max(0.0, now - since) if since else 0.0


def _quality(
    live: Live, states: Mapping[int, Mapping[str, int]], projects: Sequence[Project]
) -> Iterator[Metric]:
    dice = GaugeMetricFamily(
        "firstlight_dice",
        "How good masks are: the live model's on held-out scans, and the last five drafts against "
        "what people submitted: all of them, and those that people changed. Drafts on scans of "
        "patients or images that the model knew do not count.",
        labels=["project", "kind"],
    )
    unchanged = GaugeMetricFamily(
        "firstlight_drafts_unchanged_ratio",
        "Share of the last five drafts that people submitted unchanged.",
        labels=["project"],
    )
    versions = GaugeMetricFamily(
        "firstlight_versions", "Publications of the queue, by state.", labels=["project", "state"]
    )
    for project in projects:
        _, quality = live.get(project.id, (0.0, None))
        if quality and MAIN.name in quality.validation:
            dice.add_metric([str(project.id), "held-out"], quality.validation[MAIN.name])
        for kind, value in (
            ("drafts", project.draft_dice),
            ("drafts-changed", project.changed_draft_dice),
        ):
            if value is not None:
                dice.add_metric([str(project.id), kind], value)
        if project.unchanged_drafts is not None:
            unchanged.add_metric([str(project.id)], project.unchanged_drafts)
        for state, number in states.get(project.id, {}).items():
            versions.add_metric([str(project.id), state], number)
    yield dice
    yield unchanged
    yield versions


def _others(live: Live, projects: Sequence[Project]) -> Iterator[Metric]:
    """Yield the live models' scores on held-out scans by the metrics beside the main one."""
    for metric in OTHERS:
        family = GaugeMetricFamily(
            f"firstlight_{metric.name}",
            f"{metric.heading()} of the live model on held-out scans.",
            labels=["project", "kind"],
        )
        for project in projects:
            _, quality = live.get(project.id, (0.0, None))
            if quality and metric.name in quality.validation:
                score = quality.validation[metric.name]
                family.add_metric([str(project.id), "held-out"], score)
        yield family


def _rounds(records: Mapping[int, Sequence[RoundRecord]]) -> Iterator[Metric]:
    yield _gauge(
        "firstlight_rounds",
        "Rounds since the project was connected.",
        {number: len(found) for number, found in records.items()},
    )
    yield _gauge(
        "firstlight_rounds_failed",
        "Rounds that ended with an error; what they were to do was done by a later one.",
        {number: sum(one.error is not None for one in found) for number, found in records.items()},
    )
    seconds = SummaryMetricFamily(
        "firstlight_step_seconds",
        "Seconds that the steps of all rounds took.",
        labels=["project", "step"],
    )
    for number, found in records.items():
        for step, spent in sorted(_by_step(found).items()):
            seconds.add_metric([str(number), step], count_value=spent.count, sum_value=spent.sum)
    yield seconds


@dataclass
class _Spent:
    count: int = 0
    sum: float = 0.0


def _by_step(records: Sequence[RoundRecord]) -> dict[str, _Spent]:
    found: dict[str, _Spent] = {}
    for one in records:
        for step, seconds in one.seconds.items():
            spent = found.setdefault(step, _Spent())
            spent.count, spent.sum = spent.count + 1, spent.sum + seconds
    return found


def _gauge(name: str, text: str, by_project: Mapping[int, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=["project"])
    for project_id, value in by_project.items():
        family.add_metric([str(project_id)], value)
    return family
