"""Figures for Prometheus, read from the store when asked, so that they hold across processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from backend import ledger
from backend.store import Project, Store


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
    """Figures of the projects, whichever process made them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the figures as they stand.

        Raises:
            StorageError: When the database does not answer.
        """
        projects = self._store.projects()
        yield GaugeMetricFamily(
            "firstlight_trainings_running",
            "Projects that train a network now.",
            value=sum(project.step == "train" for project in projects),
        )
        yield GaugeMetricFamily(
            "firstlight_refreshes_waiting",
            "Projects with a refresh that is asked for and not done.",
            value=sum(project.wanted > project.done for project in projects),
        )
        yield from _per_project(self._store, projects)


def _per_project(store: Store, projects: Iterable[Project]) -> Iterator[GaugeMetricFamily]:
    families = [
        GaugeMetricFamily(name, text, labels=["project"])
        for name, text in (
            ("firstlight_labels", "Scans with a label that can be used."),
            ("firstlight_scans", "Scans of the project."),
            ("firstlight_rounds", "Rounds since the project was connected."),
        )
    ]
    for project in projects:
        now = ledger.read(store, project.id)
        values = (len(now.usable), len(now.tasks), store.last_round(project.id))
        for family, value in zip(families, values, strict=True):
            family.add_metric([str(project.id)], value)
    yield from families
