"""The queue as people meet it: whose scan comes when, with one annotator and with several.

Most projects here have no backend behind them: their queues are published as a round does it, and
what is tried is what Label Studio makes of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from backend.commands.connection import connect, disconnect
from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import LabelStudio
from backend.label_studio import queue_tab
from backend.label_studio.client import LabelStudio as Gateway
from backend.label_studio.publisher import Publisher
from backend.settings import Settings
from backend.storage.store import Store, open_store
from backend.storage.tables import Publication
from demo import scans
from demo.annotator import Annotator
from tests.label_studio.conftest import OPTIONS, Lab, invited
from tests.label_studio.test_admin import until

pytestmark = [pytest.mark.studio, pytest.mark.slow, pytest.mark.timeout(600)]

ORDER = (3, 0, 5, 1, 4, 2)  # a queue of six scans, by their number


class Person(Annotator):
    """Somebody who opens the next scan, submits it empty, or skips it."""

    def opens(self, project: int) -> int | None:
        task = self.call("GET", f"/api/projects/{project}/next", nothing=404)
        return None if task is None else int(task["id"])

    def leaves(self, task: int, *, skip: bool = False) -> None:
        body = {"result": [], "was_cancelled": skip}
        self.call("POST", f"/api/tasks/{task}/annotations/", json=body)

    def labels_next(self, project: int) -> int:
        task = self.opens(project)
        assert task is not None
        self.leaves(task)
        return task

    def labels_all(self, project: int) -> list[int]:
        """Submit one scan after the other until there is none; return them in order."""
        done: list[int] = []
        while (task := self.opens(project)) is not None:
            self.leaves(task)
            done.append(task)
        return done


@dataclass
class Room:
    """A project with six scans, and the one who publishes its queues."""

    project: int
    tasks: list[int]
    store: Store
    studio: Gateway
    publisher: Publisher
    queue: list[int] = field(default_factory=list)
    rounds: int = 0

    def publish(self, queue: Sequence[int]) -> Publication:
        """Serve the scans in this order from now on."""
        self.rounds += 1
        version = Publication(round=self.rounds, model_key="", labels=0, drafts="")
        name = self.publisher.publish(version, "cold-start", queue, {})
        self.studio.switch(self.project, name)
        self.queue = list(queue)
        published = self.store.publications.get(self.project, name)
        assert published is not None
        return published


@pytest.fixture(scope="module")
def ann(studio: LabelStudio) -> Iterator[Person]:
    """The owner of the organisation."""
    with Person(studio.url, studio.token) as person:
        yield person


@pytest.fixture(scope="module")
def ben(studio: LabelStudio, ann: Person) -> Iterator[Person]:
    """A second account, who came by an invitation."""
    with Person(studio.url, invited(studio, ann, "ben@firstlight.local")) as person:
        yield person


@pytest.fixture
def settings(studio: LabelStudio, backend: Backend, tmp_path: Path) -> Settings:
    return Settings(
        label_studio_url=studio.url,
        label_studio_api_key=SecretStr(studio.token),
        backend_url=backend.url,
        data_dir=tmp_path,
    )


@pytest.fixture
def gateway(settings: Settings) -> Iterator[Gateway]:
    gateway = Gateway(settings)
    yield gateway
    gateway.close()


@pytest.fixture
def make_room(ann: Person, settings: Settings, gateway: Gateway) -> Callable[..., Room]:
    """Make a project with a queue; what it is given are Label Studio's own project settings."""

    def make(**project_settings: Any) -> Room:
        project = ann.create_project("queue", ["Object"])
        ann.call("PATCH", f"/api/projects/{project}/", json=project_settings)
        answer = ann.call(
            "POST",
            f"/api/projects/{project}/import",
            params={"return_task_ids": "true"},
            json=[{"image": f"/data/upload/{row}.png"} for row in range(len(ORDER))],
        )
        store = open_store(settings.database)
        store.create()
        store.projects.request_refresh(project)
        publisher = Publisher(settings, store, gateway, project)
        room = Room(project, sorted(answer["task_ids"]), store, gateway, publisher)
        room.publish([room.tasks[number] for number in ORDER])
        return room

    return make


# -- order and locks ------------------------------------------------------------------------------


def test_one_annotator_gets_every_scan_in_the_order_of_the_queue(
    make_room: Callable[..., Room], ann: Person
) -> None:
    room = make_room()
    assert ann.labels_all(room.project) == room.queue


def test_the_button_and_the_route_give_the_same_scan(
    make_room: Callable[..., Room], ann: Person
) -> None:
    room = make_room()
    by_button = ann.next_task(room.project)
    assert by_button is not None
    assert by_button["id"] == ann.opens(room.project) == room.queue[0]


def test_several_annotators_share_the_queue_in_its_order_and_no_scan_is_given_twice(
    make_room: Callable[..., Room], ann: Person, ben: Person
) -> None:
    room = make_room()
    first, second, third, fourth, *_ = room.queue
    assert ann.opens(room.project) == first
    assert ben.opens(room.project) == second, "the first one is taken"
    ben.leaves(second)
    assert ben.opens(room.project) == third
    ann.leaves(first)
    assert ann.opens(room.project) == fourth
    ann.leaves(fourth)
    ben.leaves(third)
    assert [*ben.labels_all(room.project), *ann.labels_all(room.project)] == room.queue[4:]


def test_a_scan_that_is_open_stays_its_annotators_when_the_queue_is_reordered(
    make_room: Callable[..., Room], ann: Person, ben: Person
) -> None:
    room = make_room()
    mine = room.queue[0]
    assert ann.opens(room.project) == mine
    room.publish(room.queue[::-1])  # now it is the last one
    assert ann.opens(room.project) == mine
    assert ben.opens(room.project) == room.queue[0], "the new order holds for everybody else"
    ann.leaves(mine)
    assert ann.opens(room.project) == room.queue[1]


def test_a_scan_deleted_while_a_round_runs_does_not_keep_the_others_from_being_published(
    make_room: Callable[..., Room], ann: Person
) -> None:
    room = make_room()
    gone, *rest = room.queue[::-1]
    newest = room.studio.newest_update(room.project)
    room.store.projects.update(room.project, seen={"newest_update": newest})  # as after a sync
    ann.call("DELETE", f"/api/tasks/{gone}/")
    version = room.publish([gone, *rest])
    assert version.published == rest
    assert room.studio.version_count(room.project, version.name) == len(rest)
    assert ann.labels_all(room.project) == rest


# -- skips ----------------------------------------------------------------------------------------


def test_requeue_for_others_gives_a_skipped_scan_to_somebody_else(
    make_room: Callable[..., Room], ann: Person, ben: Person
) -> None:
    room = make_room(skip_queue="REQUEUE_FOR_OTHERS")
    skipped, *rest = room.queue
    assert ann.opens(room.project) == skipped
    ann.leaves(skipped, skip=True)
    assert ann.labels_all(room.project) == rest
    assert ben.opens(room.project) == skipped
    ben.leaves(skipped, skip=True)
    assert ben.opens(room.project) is ann.opens(room.project) is None


def test_a_skipped_scan_that_a_round_puts_last_is_served_last(
    make_room: Callable[..., Room], ann: Person, ben: Person
) -> None:
    room = make_room(skip_queue="REQUEUE_FOR_OTHERS")
    skipped, *rest = room.queue
    ann.leaves(skipped, skip=True)
    room.publish([*rest, skipped])
    assert ben.labels_all(room.project) == [*rest, skipped]


def test_requeue_for_me_brings_a_skipped_scan_back_to_the_same_person_at_the_end(
    make_room: Callable[..., Room], ann: Person, ben: Person
) -> None:
    room = make_room(skip_queue="REQUEUE_FOR_ME")
    skipped, second, *rest = room.queue
    assert ann.opens(room.project) == skipped
    ann.leaves(skipped, skip=True)
    assert ben.opens(room.project) == second, "nobody else gets it"
    ben.leaves(second)
    for task in rest:
        assert ann.opens(room.project) == task
        ann.leaves(task)
    assert ben.opens(room.project) is None
    assert ann.opens(room.project) == skipped


def test_ignore_skipped_counts_a_skip_as_done_and_the_scan_is_published_no_more(
    make_room: Callable[..., Room], ann: Person, ben: Person
) -> None:
    room = make_room(skip_queue="IGNORE_SKIPPED")
    skipped, *rest = room.queue
    assert ann.opens(room.project) == skipped
    ann.leaves(skipped, skip=True)
    assert ben.opens(room.project) == rest[0]
    assert room.publish(room.queue).published == rest
    assert ben.labels_all(room.project) == rest
    assert ann.opens(room.project) is None


# -- overlap --------------------------------------------------------------------------------------


def test_with_overlap_one_annotator_alone_still_gets_the_order_of_the_queue(
    make_room: Callable[..., Room], ann: Person
) -> None:
    room = make_room(maximum_annotations=2)
    assert ann.labels_all(room.project) == room.queue


def test_with_overlap_those_who_keep_pace_draw_the_same_scans_in_the_order_of_the_queue(
    make_room: Callable[..., Room], ann: Person, ben: Person
) -> None:
    room = make_room(maximum_annotations=2)
    for task in room.queue:
        assert ann.opens(room.project) == ben.opens(room.project) == task
        ann.leaves(task)
        ben.leaves(task)
    assert ann.opens(room.project) is ben.opens(room.project) is None


def test_with_overlap_a_second_annotator_first_gets_what_was_begun(
    make_room: Callable[..., Room], ann: Person, ben: Person
) -> None:
    room = make_room(maximum_annotations=2)
    begun, rest = room.queue[:3], room.queue[3:]
    for task in begun:
        assert ann.opens(room.project) == task
        ann.leaves(task)
    assert set(room.publish([*rest, *begun]).published) == set(room.tasks), "one of two is open"
    found = [ben.labels_next(room.project) for _ in begun]
    assert sorted(found) == sorted(begun), "in Label Studio's order, which is none"
    assert ben.opens(room.project) == ann.opens(room.project) == rest[0]
    assert room.publish([*begun, *rest]).published == rest, "two of two is done"


# -- the Data Manager's tab -----------------------------------------------------------------------


def tabs_of(person: Annotator, project: int) -> list[dict[str, Any]]:
    return list(person.call("GET", "/api/dm/views/", params={"project": project}))


def test_the_tab_lists_the_queue_in_its_order_and_follows_the_next_one(
    make_room: Callable[..., Room], ann: Person, gateway: Gateway
) -> None:
    room = make_room()
    queue_tab.ensure(gateway, room.project)
    queue_tab.ensure(gateway, room.project)
    default, ours = tabs_of(ann, room.project)
    assert (default["data"]["title"], ours["data"]["title"]) == ("Default", "Firstlight queue")

    def listed() -> list[int]:
        query = {"view": ours["id"], "project": room.project, "page_size": 100}
        return [task["id"] for task in ann.call("GET", "/api/tasks", params=query)["tasks"]]

    assert listed() == room.queue
    last = room.queue[0]
    ann.leaves(last)
    room.publish(room.queue[:0:-1])
    assert listed() == [*room.queue, last], "what is drawn is behind what is asked for"


def test_label_all_tasks_and_as_displayed_both_follow_the_queue_on_the_tab_but_only_one_has_locks(
    make_room: Callable[..., Room], ann: Person, ben: Person, gateway: Gateway
) -> None:
    room = make_room()
    queue_tab.ensure(gateway, room.project)
    tab = tabs_of(ann, room.project)[-1]

    def press(person: Person, **shown: Any) -> int:
        answer = person.call(
            "POST",
            "/api/dm/actions",
            params={"id": "next_task", "tabID": tab["id"], "project": room.project},
            json={"project": str(room.project), **shown},
        )
        return int(answer["id"])

    displayed = {"ordering": tab["data"]["ordering"]}
    assert press(ann, **displayed) == press(ben, **displayed) == room.queue[0]
    assert [press(ann), press(ben)] == room.queue[:2]


def test_connect_makes_the_tab_once_and_disconnect_removes_what_nobody_changed(
    lab: Lab, settings: Settings, gateway: Gateway
) -> None:
    connect(settings, gateway, lab.project, "")
    default, ours = tabs_of(lab.annotator, lab.project)
    data = {**ours["data"], "ordering": ["-tasks:predictions_score"]}
    path = f"/api/dm/views/{ours['id']}/"
    lab.annotator.call("PATCH", path, json={"project": lab.project, "data": data})
    connect(settings, gateway, lab.project, "")
    found = tabs_of(lab.annotator, lab.project)
    assert [tab["id"] for tab in found] == [default["id"], ours["id"]]
    assert found[1]["data"]["ordering"] == ["-tasks:predictions_score"]
    assert "somebody changed it" in " ".join(disconnect(settings, gateway, None, lab.project))

    lab.annotator.call("DELETE", path)
    connect(settings, gateway, lab.project, "")
    assert len(tabs_of(lab.annotator, lab.project)) == 2
    assert "Removed the Data Manager's tab" in " ".join(
        disconnect(settings, gateway, None, lab.project)
    )
    assert [tab["id"] for tab in tabs_of(lab.annotator, lab.project)] == [default["id"]]


# -- a backend behind it --------------------------------------------------------------------------


def test_scans_imported_while_people_label_join_the_queue_and_no_task_data_is_written(
    lab: Lab, tmp_path: Path
) -> None:
    lab.settle(labels=0)

    def data() -> dict[int, Any]:
        query = {"project": lab.project, "page_size": 100, "include": "id,data"}
        listed = lab.annotator.call("GET", "/api/tasks", params=query)["tasks"]
        return {task["id"]: task["data"] for task in listed}

    before = data()
    opened = lab.annotator.next_task(lab.project)
    assert opened is not None
    more = lab.annotator.import_scans(lab.project, scans.phantoms(3, tmp_path / "more", seed=5))
    until(lambda: set(more) <= set(lab.queue()), lab.page)
    assert lab.label_next() == opened["id"], "the scan that is open stays open"
    assert {task: found for task, found in data().items() if task in before} == before


def test_beyond_the_horizon_a_scan_gets_its_draft_when_it_is_opened(
    annotator: Annotator, backend: Backend, tmp_path: Path
) -> None:
    options = OPTIONS | {"horizon": 3}
    project = annotator.create_project("horizon", ["Object"])
    pool = annotator.import_scans(project, scans.phantoms(9, tmp_path / "scans"))
    backend.connect(project, options)
    lab = Lab(annotator, backend, project, dict(pool))
    lab.settle(labels=0)
    while len(lab.submitted) < 4:
        lab.label_next()
    live = str(lab.settle(labels=4)["live_version"])
    backend.connect(project, options | {"paused": True})  # so that this queue is served to its end
    until(lambda: lab.page()["wanted"] == lab.page()["done"], lab.page)

    published = lab.queue()
    assert len(published) == 3
    assert [lab.label_next() for _ in published] == published, "they come first, in their order"
    beyond = annotator.next_task(project)
    assert beyond is not None
    [draft] = beyond["predictions"]
    assert draft["model_version"] == live
    assert draft["result"], "a mask, made when the scan was opened"
    check_versions(lab, live)


def check_versions(lab: Lab, live: str) -> None:
    """The live version is in Label Studio's own list, and in what our /versions tells it."""
    path = f"/api/projects/{lab.project}/model-versions/"
    held = lab.annotator.call("GET", path, params={"extended": "true"})["static"]
    assert live in [row["model_version"] for row in held]
    [entry] = lab.annotator.call("GET", "/api/ml", params={"project": lab.project})
    assert entry["title"] == live
    told = lab.annotator.call("GET", f"/api/ml/{entry['id']}/versions")
    assert live in told["versions"], json.dumps(told)
