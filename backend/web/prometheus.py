"""Metrics for Prometheus, read from the database on request, so they cover all processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from backend.rounds.steps import TRAINING
from backend.storage import ledger
from backend.storage.records import ModelQuality, RoundRecord
from backend.storage.store import Store
from backend.storage.tables import Project
from backend.storage.workers import lively
from model.evaluation import MAIN, OTHERS

# By project: when its queue went live (seconds since 1970), and its model's quality.
Live = Mapping[int, tuple[float, ModelQuality | None]]


class Metrics:
    """The registry of one app: the database's metrics, and the webhooks of this process."""

    def __init__(self, store: Store) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(StoreCollector(store))
        self.webhooks = Counter(
            "firstlight_webhooks",
            "Webhooks received by this process since it started.",
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return every metric in Prometheus' text format."""
        return generate_latest(self._registry)


class StoreCollector(Collector):
    """Metrics of the installation and its projects, from all processes.

    Metrics name a project by its id, never by its title, which people type.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Yield the current metrics; the database counts scans and annotations.

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
        yield from _rounds({project.id: records.get(project.id, []) for project in projects})


def _installation(store: Store, projects: Sequence[Project]) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "firstlight_workers",
        "Workers that showed a sign of life within the last minute.",
        value=len(lively(store.workers)),
    )
    yield GaugeMetricFamily(
        "firstlight_trainings_running",
        "Projects that train a network for a round, or are refined or studied in idle time.",
        value=sum(project.step in TRAINING for project in projects),
    )
    yield GaugeMetricFamily(
        "firstlight_refreshes_waiting",
        "Projects with a refresh that is requested and not completed.",
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
        ("firstlight_labels", "Scans with a usable label."): labels,
        (
            "firstlight_failures_in_a_row",
            "Failed refreshes since the last successful one; 10 means 10 or more.",
        ): {project.id: project.failures for project in projects},
    }
    for (name, text), by_project in counts.items():
        yield _gauge(
            name, text, {project.id: by_project.get(project.id, 0) for project in projects}
        )


def _waiting(now: float, live: Live, projects: Sequence[Project]) -> Iterator[Metric]:
    yield _gauge(
        "firstlight_refresh_wait_seconds",
        "Age of the oldest change that the live queue does not take into account yet; the pause "
        "between rounds and the running round count. 0: no change waits.",
        {
            project.id: _age(now, project.waits_since)
            if project.requested > project.completed
            else 0.0
            for project in projects
        },
    )
    yield _gauge(
        "firstlight_queue_age_seconds",
        "How long the queue that annotators get has been live.",
        {project.id: _age(now, live[project.id][0]) for project in projects if project.id in live},
    )
    yield _gauge(
        "firstlight_project_vanished",
        "1 while Label Studio has no such project although nobody disconnected it, else 0.",
        {project.id: float(project.vanished_at > 0) for project in projects},
    )


def _age(now: float, since: float) -> float:
    """Return the seconds since a moment, 0 for none; clocks of machines differ a little."""
    return max(0.0, now - since) if since else 0.0


def _quality(
    live: Live, states: Mapping[int, Mapping[str, int]], projects: Sequence[Project]
) -> Iterator[Metric]:
    dice = GaugeMetricFamily(
        "firstlight_dice",
        "Dice of masks. held-out: the live model on held-out scans. drafts: the last five drafts "
        "against the submitted masks. drafts-changed: those of the five that people changed. "
        "Drafts on scans of patients or images that the model knew do not count.",
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
        {number: len(rounds) for number, rounds in records.items()},
    )
    yield _gauge(
        "firstlight_rounds_failed",
        "Rounds that ended with an error; a later round did their work.",
        {
            number: sum(record.error is not None for record in rounds)
            for number, rounds in records.items()
        },
    )
    seconds = SummaryMetricFamily(
        "firstlight_step_seconds",
        "Seconds that the steps of all rounds took.",
        labels=["project", "step"],
    )
    for number, rounds in records.items():
        for step, spent in sorted(_by_step(rounds).items()):
            seconds.add_metric([str(number), step], count_value=spent.count, sum_value=spent.sum)
    yield seconds


@dataclass
class _TimeSpent:
    count: int = 0
    sum: float = 0.0


def _by_step(records: Sequence[RoundRecord]) -> dict[str, _TimeSpent]:
    times: dict[str, _TimeSpent] = {}
    for record in records:
        for step, seconds in record.seconds.items():
            spent = times.setdefault(step, _TimeSpent())
            spent.count, spent.sum = spent.count + 1, spent.sum + seconds
    return times


def _gauge(name: str, text: str, by_project: Mapping[int, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=["project"])
    for project_id, value in by_project.items():
        family.add_metric([str(project_id)], value)
    return family
