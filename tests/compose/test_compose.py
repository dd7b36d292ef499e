"""docker-compose.yml on a real engine: the main job, and a worker that is killed in the middle.

Where no registry of images can be reached, tests/compose/stand_ins.sh makes what stands in for the
public images first. The figures are in the log: --log-cli-level=INFO.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo import scans
from demo.annotator import Annotator
from demo.scans import Scan
from tests.compose.stack import Stack, need_images, until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
log = logging.getLogger(__name__)

# Given to the services by .env alone, as an admin would.
SETTINGS = {
    "LABEL_STUDIO_ORIGIN": "https://studio.example",
    "ENCODER": "pixels",
    "RECONCILE_SECONDS": "5",
    "FIRSTLIGHT_COLD_START_BUDGET": "4",
    "FIRSTLIGHT_IMAGE_SIZE": "64",
    "FIRSTLIGHT_MAX_TRAIN_SECONDS": "15",
    "FIRSTLIGHT_MIN_SECONDS_BETWEEN_ROUNDS": "0",
    "FIRSTLIGHT_PRELABEL_AFTER": "3",
    "FIRSTLIGHT_PRELABEL_MIN_DICE": "0",
}

# Run inside the container: the process itself dies, as of a fault or for want of memory. To
# `docker kill` the restart policy would not answer: that is a person's request.
KILL_THE_WORKER = """
import os, pathlib, signal
for process in pathlib.Path("/proc").glob("[0-9]*"):
    words = (process / "cmdline").read_bytes().split(b"\\0")
    if words[:4] == [b"python", b"-m", b"backend", b"worker"]:
        os.kill(int(process.name), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("compose"), SETTINGS)
    need_images()
    with stack:
        yield stack
    assert stack.left_behind() == []


@pytest.fixture(scope="module")
def annotator(stack: Stack) -> Iterator[Annotator]:
    with Annotator(stack.studio_url, stack.token) as person:
        yield person


def test_our_containers_may_do_no_more_than_they_have_to(stack: Stack) -> None:
    for service in ("web", "worker"):
        told = stack.inspect(service)
        assert told["HostConfig"]["ReadonlyRootfs"]
        assert told["HostConfig"]["CapDrop"] == ["ALL"]
        assert "no-new-privileges:true" in told["HostConfig"]["SecurityOpt"]
        assert stack.compose("exec", "-T", service, "id", "-u").strip() == "1000"


def test_the_databases_are_apart(stack: Stack) -> None:
    refused = stack.query("label_studio", "select 1")
    assert refused.returncode
    assert "permission denied" in refused.stderr
    ours = "select schema_name from information_schema.schemata"

    def schemas() -> set[str]:
        return set(stack.query("firstlight", ours).stdout.split())

    # The worker makes its own when it has started, which nobody has to wait for.
    until(lambda: {"public", "dbos"} <= schemas(), schemas, seconds=60)


def test_people_sign_in_through_a_proxy_that_speaks_tls(stack: Stack) -> None:
    def refused(origin: str) -> bool:
        with httpx.Client(base_url=stack.studio_url, trust_env=False, timeout=30) as browser:
            browser.get("/user/login/").raise_for_status()
            form = {"csrfmiddlewaretoken": browser.cookies["csrftoken"], "email": "nobody"}
            return browser.post("/user/login/", data=form, headers={"Origin": origin}).is_error

    assert not refused("https://studio.example")
    assert refused("https://elsewhere.example")


def test_a_killed_worker_comes_back_and_ends_its_round(
    stack: Stack, annotator: Annotator, tmp_path: Path
) -> None:
    begin = time.monotonic()
    project = annotator.create_project("phantoms", ["Object"])
    pool = annotator.import_scans(project, scans.phantoms(12, tmp_path))
    stack.compose("exec", "-T", "web", "python", "-m", "backend", "connect", str(project))
    cold = stack.settle(project, labels=0)
    assert cold["live_version"].startswith("cold-start r0001 ")
    queue = published(annotator, project, cold["live_version"])
    assert sorted(queue) == sorted(pool), "every scan is in the queue, once"
    log.info("the first queue after %.0f s", time.monotonic() - begin)

    labelled = [label_next(annotator, project, pool) for _ in range(5)]
    assert labelled[:4] == queue[:4]
    number = until_it_trains(stack, project)
    begin = time.monotonic()
    stack.compose("exec", "-T", "worker", "python", "-c", KILL_THE_WORKER, check=False)
    until(lambda: stack.inspect("worker")["RestartCount"] == 1, stack.told, seconds=60)
    log.info("the worker is started again after %.1f s", time.monotonic() - begin)
    check_round(stack, annotator, project, pool, labelled, number)
    log.info("its round has ended after %.0f s", time.monotonic() - begin)

    labelled.append(label_next(annotator, project, pool))
    number = until_it_trains(stack, project)
    begin = time.monotonic()
    stack.compose("kill", "-s", "KILL", "worker")
    stack.compose("up", "--detach", "--no-build", "worker")
    check_round(stack, annotator, project, pool, labelled, number)
    log.info(
        "killed and started by hand, the round has ended after %.0f s", time.monotonic() - begin
    )

    stack.compose("restart", "postgres")
    labelled.append(label_next(annotator, project, pool))
    begin = time.monotonic()
    check_round(stack, annotator, project, pool, labelled, number + 1)
    log.info("after a restart of PostgreSQL a round took %.0f s", time.monotonic() - begin)


def until_it_trains(stack: Stack, project: int) -> int:
    """Return the number of the round in which it does."""
    until(lambda: stack.page(project)["step"] == "train", stack.told, seconds=120)
    return max(stack.versions(project))


def check_round(
    stack: Stack,
    annotator: Annotator,
    project: int,
    pool: dict[int, Scan],
    labelled: list[int],
    number: int,
) -> None:
    """The round of that number ends, with every label, and one prediction for every open scan."""
    page = stack.settle(project, labels=len(labelled))
    assert not page["problem"]
    assert page["live_version"].startswith("attention-unet r0")
    assert stack.versions(project)[number], "the round that was under way came to its queue"
    assert page["labels_used"] == page["labels_in_live"] == len(labelled)
    open_scans = pool.keys() - set(labelled)
    found = Counter(published(annotator, project, page["live_version"]))
    assert {task: found[task] for task in open_scans} == dict.fromkeys(open_scans, 1)
    assert set(found.values()) == {1}
    assert annotator.project(project)["num_tasks_with_annotations"] == len(labelled)


def published(annotator: Annotator, project: int, version: str) -> list[int]:
    predictions: list[dict[str, Any]] = annotator.predictions(project, version)
    return [one["task"] for one in sorted(predictions, key=lambda one: float(one["score"]))]


def label_next(annotator: Annotator, project: int, pool: dict[int, Scan]) -> int:
    task = annotator.next_task(project)
    assert task is not None, "the queue is empty"
    mask = pool[task["id"]].mask
    assert mask is not None
    annotator.submit(task, mask)
    return int(task["id"])
