"""A worker with real durable queues, beside a Label Studio that lives in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS
from dbos import _dbos as dbos_internals

from backend.label_studio import labels
from backend.rounds.services import Services
from backend.rounds.spreading import CHUNK_QUEUE
from backend.rounds.workflow import REFRESH_QUEUE, Rounds
from backend.storage.tables import Project
from backend.worker import main, recovery
from backend.worker.membership import Membership
from model import phantoms
from model.fitted import TrainConfig
from tests.backend.conftest import Clock, the
from tests.backend.fake_label_studio import CONFIG, FakeLabelStudio

POLL_SECONDS = 0.2  # how often queues are asked for work
SIZE = 32
TINY = TrainConfig(
    "attention-unet/tu-test_resnet", SIZE, classes=1, steps=2, batch_size=2, learning_rate=1e-3
)
OPTIONS = {
    "cold_start_budget": 2,
    "image_size": SIZE,
    "projection": "pca",
    "prelabel_after": 2,
    "min_seconds_between_rounds": 0,
}


class Site:
    """A worker with its durable queues, beside a Label Studio with six phantoms."""

    def __init__(
        self,
        services: Services,
        fake: FakeLabelStudio,
        clock: Clock,
        number: int,
        tasks: list[int] | None = None,
    ) -> None:
        """Given no tasks, they are made."""
        self.services, self.store, self.fake = services, services.store, fake
        self.clock, self.number = clock, number
        [self.entry] = fake.entries.values()
        self.entry["extra_params"] = dict(OPTIONS)
        self.phantoms = phantoms.generate(6, size=SIZE)
        self.tasks = tasks or [fake.add_task(number, found.image) for found in self.phantoms]
        self.rounds: Rounds

    def start(self) -> None:
        # A process has one worker; a second start in this one has to forget the first.
        registry = dbos_internals._get_or_create_dbos_registry()
        registry.instance_info_map.clear()
        self.member = Membership(self.store.workers, recovery.RELEASE)
        self.member.join(alone=True)  # whoever was stopped before this start
        self.rounds = main.launch(self.services, self.member)

    def stop(self) -> None:
        DBOS.destroy()

    def refresh(self) -> Project:
        """Make one pass and return what it left."""
        self.clock.advance(1)
        DBOS.start_workflow(self.rounds.refresh, self.number).get_result()
        self.clock.advance(1)
        return self.project

    def label(self, *rows: int, **values: Any) -> None:
        parsed = labels.parse(CONFIG)
        for row in rows:
            result = labels.regions(self.phantoms[row].mask, parsed, scores=[1.0])
            self.fake.annotate(self.tasks[row], result, **values)
        self.store.projects.request_refresh(self.number)

    @property
    def project(self) -> Project:
        return the(self.store, self.number)

    @property
    def queue(self) -> list[int]:
        return self.fake.served(self.number)

    @property
    def versions(self) -> list[str]:
        return [found.name.rpartition(" ")[0] for found in self.store.publications.all(self.number)]


def make_jobs_database(url: str) -> None:
    """Let DBOS make its tables, and our queues with them."""
    DBOS(
        config={
            "name": "firstlight",
            "system_database_url": url,
            "application_version": recovery.RELEASE,
            "log_level": "WARNING",
            "notification_listener_polling_interval_sec": POLL_SECONDS,
        }
    )
    DBOS.launch()
    for queue in (REFRESH_QUEUE, CHUNK_QUEUE):
        DBOS.register_queue(queue, worker_concurrency=1, polling_interval_sec=POLL_SECONDS)
    DBOS.destroy()


def refreshes() -> list[Any]:
    return [found for found in DBOS.list_workflows() if found.name.endswith("refresh")]


def jobs_engine() -> sa.Engine:
    engine: sa.Engine = dbos_internals._get_dbos_instance()._sys_db.engine
    return engine


def rewrite_workflow(workflow_id: str, **values: str) -> None:
    """Set columns of a workflow in the jobs database."""
    with jobs_engine().begin() as connection:
        schema = None if connection.dialect.name == "sqlite" else "dbos"
        columns: list[sa.ColumnClause[str]] = list(map(sa.column, ("workflow_uuid", *values)))
        table = sa.table("workflow_status", *columns, schema=schema)
        update = sa.update(table).where(table.c.workflow_uuid == workflow_id).values(values)
        assert connection.execute(update).rowcount == 1


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not so within {seconds:.0f} s")
        time.sleep(0.05)


def assert_each_task_once(site: Site) -> None:
    """No version may have two predictions on one task: that corrupts Label Studio's order."""
    rows = site.fake.projects[site.number].predictions
    pairs = [(row["task"], row["model_version"]) for row in rows]
    assert len(pairs) == len(set(pairs))
