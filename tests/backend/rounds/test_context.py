from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from backend.rounds.context import LoadedEncoders, SharedContexts
from backend.rounds.services import Services
from backend.storage.store import Store
from tests.backend.site import Site


@pytest.fixture
def contexts(services: Services) -> SharedContexts:
    return SharedContexts(services, LoadedEncoders(services.settings))


def test_the_steps_of_a_workflow_share_ledger_and_selector_but_not_the_projects_row(
    contexts: SharedContexts, services: Services, project_id: int
) -> None:
    with contexts.shared():
        first = contexts.of(project_id)
        services.store.projects.update(project_id, title="changed between two steps")
        second = contexts.of(project_id)
        assert second.ledger is first.ledger
        assert second.selector is first.selector
        assert second.project.title == "changed between two steps"


def test_after_a_change_of_the_scans_the_next_step_reads_anew(
    contexts: SharedContexts, services: Services, project_id: int
) -> None:
    row = {"id": 7, "url": "/data/upload/1/7.png", "updated_at": "2027-01-01T00:00:00Z"}
    with contexts.shared():
        assert contexts.of(project_id).ledger.scans == {}
        services.store.scans.save(project_id, [row])
        contexts.read_again()
        assert list(contexts.of(project_id).ledger.scans) == [7]


def test_nothing_is_kept_when_a_workflow_ends(contexts: SharedContexts, project_id: int) -> None:
    with contexts.shared():
        first = contexts.of(project_id)
    assert contexts.of(project_id).ledger is not first.ledger
    assert contexts.of(project_id).ledger is not contexts.of(project_id).ledger


def test_a_round_reads_the_ledger_and_the_embeddings_once(site: Site) -> None:
    site.refresh()
    site.label(0, 1)
    with read_as_a_whole(site.store) as tables:
        assert site.refresh().problem == ""
    assert sorted(tables) == ["embeddings", "tasks"]


@contextmanager
def read_as_a_whole(store: Store) -> Iterator[list[str]]:
    """Yield the tables of whose rows a query reads those of all scans, one entry a query."""
    columns = {"tasks": "SELECT tasks.id, tasks.url,", "embeddings": "SELECT embeddings.task_id,"}
    found: list[str] = []

    def note(
        connection: object, cursor: object, statement: str, parameters: object, *more: object
    ) -> None:
        narrow = " IN (" in statement
        found.extend(
            n for n, start in columns.items() if statement.startswith(start) and not narrow
        )

    sa.event.listen(store.engine, "before_cursor_execute", note)
    yield found
    sa.event.remove(store.engine, "before_cursor_execute", note)
