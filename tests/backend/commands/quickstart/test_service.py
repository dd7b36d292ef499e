from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import pytest

from backend.commands.quickstart.run import own_variables
from backend.commands.quickstart.service import Backend, Status, wait_until_settled
from backend.errors import ServerError
from backend.settings import Settings, load_settings


def _status(*, step: str | None = None, labels: int = 0, requested: int = 1, **more: Any) -> Status:
    return Status.read(
        {
            "step": step,
            "live_version": "attention-unet r0001 9f3c1a",
            "validation_dice": None,
            "prequential_dice": 0.5,
            "requested": requested,
            "completed": 1,
            "next": [{"task": 7, "position": 1, "reason": "uncertain"}],
            "labels_in_live": labels,
            "problem": None,
            "progress": {},
            **more,
        }
    )


@pytest.mark.parametrize(
    ("status", "settled"),
    [
        (_status(labels=5), True),
        (_status(labels=6), True),
        (_status(labels=4), False),
        (_status(labels=5, step="train"), False),
        (_status(labels=5, requested=2), False),
    ],
)
def test_a_queue_is_settled_when_idle_and_aware_of_the_labels(
    status: Status, settled: bool
) -> None:
    assert status.settled(5) is settled


def _waited(statuses: Iterator[Status], seconds: float = 1000) -> Status:
    ticks = count()
    return wait_until_settled(
        lambda: next(statuses),
        5,
        seconds,
        clock=lambda: float(next(ticks)),
        sleep=lambda _: None,
    )


def test_waiting_ends_with_the_first_settled_status_despite_a_passing_problem() -> None:
    troubled = _status(problem="Label Studio does not answer")
    statuses = chain(repeat(troubled, 20), repeat(_status(), 9), [_status(labels=5)])
    assert _waited(statuses).labels_in_live == 5


def test_waiting_ends_with_the_problem_that_stays() -> None:
    with pytest.raises(ServerError, match="no brush in the labelling interface"):
        _waited(repeat(_status(problem="no brush in the labelling interface")))


def test_waiting_ends_at_the_deadline() -> None:
    with pytest.raises(ServerError, match="No new queue after 100 s"):
        _waited(repeat(_status(step="train")), seconds=100)


def test_embedded_scans_are_told_while_they_are_embedded() -> None:
    progress = {"done": 64, "total": 138}
    assert _status(step="embed", progress=progress).embedded == 64
    assert _status(step="score", progress=progress).embedded is None


def test_a_service_that_listens_everywhere_is_watched_on_loopback(tmp_path: Path) -> None:
    env = {"HOST": "::", "WEBHOOK_SECRET": "x"}
    backend = Backend("http://studio", "token", tmp_path, port=9191, env=env)
    assert backend.url == "http://127.0.0.1:9191"
    assert backend.variables == {
        **env,
        "DATA_DIR": str(tmp_path),
        "LABEL_STUDIO_API_KEY": "token",
        "LABEL_STUDIO_URL": "http://studio",
        "PORT": "9191",
    }


# Variables that name one installation: a second one of the same shell must not take them.
OF_ONE_INSTALLATION = {
    "ARTIFACTS_URL": "s3://bucket/prefix",
    "BACKEND_URL": "http://elsewhere.test",
    "BASIC_AUTH_PASS": "hunter2",
    "BASIC_AUTH_USER": "reader",
    "DATABASE_URL": "sqlite:////elsewhere.sqlite",
    "IMPORTS_DIR": "/",
    "LABEL_STUDIO_PUBLIC_URL": "http://studio.test",
    "NOTIFY_URL": "http://chat.test/hook",
    "PAGES_URL": "http://pages.test",
    "TRUSTED_PROXIES": "10.0.0.0/8,fd00::/8",
    "TRUSTED_USER_HEADER": "X-Forwarded-User",
    "WEBHOOK_SECRET": "a secret of its own",
}


def test_a_private_service_takes_nothing_of_another_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in OF_ONE_INSTALLATION.items():
        monkeypatch.setenv(name, value)
    private = Backend("http://studio", "token", tmp_path, port=9191)
    assert not private.variables.keys() & OF_ONE_INSTALLATION.keys()
    asked = Backend("http://studio", "token", tmp_path, env=own_variables(load_settings()))
    assert asked.variables.items() >= OF_ONE_INSTALLATION.items()


def test_a_variable_that_is_not_set_is_not_passed_on() -> None:
    assert own_variables(Settings()).keys() == {"HOST"}
