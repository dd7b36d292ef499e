from __future__ import annotations

import base64
import json
import os
import pickle
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS

from backend.commands import cli
from backend.commands.connection import workers_running
from backend.errors import ConfigError, StorageError
from backend.rounds import sync
from backend.rounds.workflow import REFRESH_QUEUE
from backend.settings import Settings
from backend.storage.projects import SETTLE_SECONDS
from backend.worker import main
from tests.backend.conftest import settings_in, the
from tests.backend.site import OPTIONS, Site, jobs_engine, refreshes, rewrite_workflow, wait_for
from tests.forked import Forked

pytestmark = pytest.mark.databases


def another_project(site: Site, scans: int = 3) -> int:
    number = site.fake.add_project()
    site.fake.connect(number, dict(OPTIONS))
    for phantom in site.phantoms[:scans]:
        site.fake.add_task(number, phantom.image)
    site.store.projects.request_refresh(number)
    return number


def worker() -> None:
    """Be `python -m backend worker`."""
    vars(main)["NICE"] = 0  # the tests beside it would leave it no time
    sys.argv[1:] = ["worker"]
    cli.main()


def start(folder: Path, log: Path) -> Forked:
    env = {
        **os.environ,
        "DATA_DIR": str(folder),
        "LABEL_STUDIO_URL": "http://127.0.0.1:1",
        "LABEL_STUDIO_API_KEY": "hunter2",
    }
    log.touch()
    return Forked(worker, env=env, log=log)


def test_a_wanted_project_is_refreshed_and_then_left_alone(site: Site) -> None:
    main.enqueue_due(site.rounds)
    assert refreshes() == []  # it settles first
    site.clock.advance(SETTLE_SECONDS)
    main.enqueue_due(site.rounds)
    wait_for(lambda: site.project.completed == site.project.requested)
    assert sorted(site.queue) == site.tasks
    site.clock.advance(60)
    main.enqueue_due(site.rounds)
    assert len(refreshes()) == 1


def test_a_project_has_one_refresh_and_a_hint_meanwhile_makes_one_more(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on, real = threading.Event(), threading.Event(), sync.sync

    def slow(*given: Any) -> Any:
        began.set()
        go_on.wait(30)
        return real(*given)

    monkeypatch.setattr("backend.rounds.workflow.sync.sync", slow)
    site.clock.advance(SETTLE_SECONDS)
    main.enqueue_due(site.rounds)
    assert began.wait(30)
    site.store.projects.request_refresh(site.number)
    for _ in range(3):
        main.enqueue_due(site.rounds)
    assert len(refreshes()) == 1
    go_on.set()
    wait_for(lambda: site.project.completed == 1)
    wait_for(lambda: refreshes()[0].status == "SUCCESS")
    main.enqueue_due(site.rounds)
    wait_for(lambda: site.project.completed == 2)
    assert len(refreshes()) == 2


def test_a_project_that_fails_for_ever_and_one_that_never_rests_starve_no_other(
    site: Site,
) -> None:
    failing, restless = site.number, another_project(site)
    others = [another_project(site) for _ in range(3)]
    site.fake.fail("GET", rf"/api/projects/{failing}$", 500, times=10_000)

    def everybody_was_served() -> bool:
        site.clock.advance(2)
        site.store.projects.request_refresh(failing)
        site.store.projects.request_refresh(restless)
        main.enqueue_due(site.rounds)
        served = all(the(site.store, number).live_version for number in [restless, *others])
        return served and the(site.store, failing).failures > 0

    wait_for(everybody_was_served)


def test_a_project_with_very_many_new_scans_lets_the_others_in_between(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.rounds.workflow.SHARE", 2)
    other = another_project(site)
    site.clock.advance(SETTLE_SECONDS)
    site.refresh()
    assert len(site.store.embeddings.all(site.number, "pixels")) == 2
    assert site.project.live_version == "", "a part of the pool is no pool"
    assert site.project.requested > site.project.completed
    DBOS.start_workflow(site.rounds.refresh, other).get_result()
    assert len(site.store.embeddings.all(other, "pixels")) == 2, "the first one waits for its turn"
    site.store.projects.update(other, disconnected=True)
    site.refresh()
    assert len(site.store.embeddings.all(site.number, "pixels")) == 6, "nobody else waits"
    assert sorted(site.queue) == site.tasks


def test_a_database_that_does_not_answer_is_no_end_of_the_worker(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked() -> list[int]:
        raise StorageError("The database did not answer.")

    monkeypatch.setattr(site.store.projects, "due", locked)
    assert "did not answer" in main.enqueue_due(site.rounds)


def test_a_pickled_row_in_the_jobs_database_runs_no_code(site: Site, tmp_path: Path) -> None:
    site.refresh()
    mark = tmp_path / "code ran"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (mark,)

    handle = DBOS.enqueue_workflow(REFRESH_QUEUE, site.rounds.refresh, 10**6)
    pickled = base64.b64encode(pickle.dumps(Payload())).decode()
    rewrite_workflow(
        handle.workflow_id,
        inputs=pickled,
        output=pickled,
        serialization="py_pickle",
        status="PENDING",
        executor_id=site.member.name,
    )
    site.stop()
    site.start()
    wait_for(
        lambda: [w.workflow_id for w in DBOS.list_workflows(status="ERROR")] == [handle.workflow_id]
    )
    assert not mark.exists()
    assert site.refresh().problem == ""


def test_every_value_in_the_jobs_database_is_json(site: Site) -> None:
    site.refresh()
    site.label(0, 1)
    site.refresh()
    with jobs_engine().connect() as connection:
        schema = "" if connection.dialect.name == "sqlite" else "dbos."
        for table, columns in (
            ("workflow_status", "inputs, output, error"),
            ("operation_outputs", "output, error"),
        ):
            rows = connection.execute(sa.text(f"SELECT {columns} FROM {schema}{table}"))  # noqa: S608
            for value in (value for row in rows for value in row if value is not None):
                json.loads(value)


def test_on_sqlite_a_second_worker_is_refused_until_the_first_is_gone(
    tmp_path: Path,
) -> None:
    alone = settings_in(tmp_path)
    with ExitStack() as first:
        main.lock_database(alone, first)
        with ExitStack() as second, pytest.raises(ConfigError, match="Another worker") as caught:
            main.lock_database(alone, second)
        assert str(tmp_path) in caught.value.what
        assert caught.value.fix
    with ExitStack() as third:
        main.lock_database(alone, third)


def test_on_another_database_workers_may_be_many(settings: Settings, tmp_path: Path) -> None:
    shared = settings.model_copy(update={"database_url": "postgresql://db/firstlight"})
    with ExitStack() as first, ExitStack() as second:
        main.lock_database(shared, first)
        main.lock_database(shared, second)
    assert not list(tmp_path.glob("*.lock"))


def test_two_folders_with_one_sqlite_database_have_room_for_one_worker(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.sqlite'}"
    one, other = (settings_in(tmp_path / name, url) for name in ("one", "other"))
    with ExitStack() as first, ExitStack() as second:
        main.lock_database(one, first)
        with pytest.raises(ConfigError, match="Another worker already uses"):
            main.lock_database(other, second)
        assert workers_running(other) == 1
    assert workers_running(other) == 0


@pytest.mark.slow
def test_a_worker_holds_its_folder_and_ends_at_once_when_told_to(tmp_path: Path) -> None:
    said, refused = tmp_path / "said", tmp_path / "refused"
    first = start(tmp_path, said)
    try:
        wait_for(lambda: "worker started" in said.read_text() or first.poll() is not None)
        assert first.poll() is None, said.read_text()
        second = start(tmp_path, refused)
        assert second.wait(60) == 2
        assert "Another worker already uses" in refused.read_text().splitlines()[-1]
        first.terminate()
        assert first.wait(5) == 0
    finally:
        first.kill()
        first.wait()
