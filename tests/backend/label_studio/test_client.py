from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from backend.errors import NotFound, Unreachable
from backend.label_studio import client, moments
from backend.label_studio.client import LabelStudio
from backend.label_studio.queue_import import QueueItem
from backend.settings import Settings
from tests.backend.conftest import Clock, drawn
from tests.backend.fake_label_studio import TOKEN, FakeLabelStudio
from tests.backend.label_studio.conftest import opened


def test_a_project_is_read_in_one_call(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    tasks = [fake.add_task(project_id) for _ in range(3)]
    fake.annotate(tasks[0], ground_truth=True)
    fake.annotate(tasks[1], skip=True)
    info = studio.project(project_id)
    assert (info.title, info.sampling, info.model_version) == ("Lungs", "Sequential sampling", "")
    assert info.counters == {
        "task_number": 3,
        "total_annotations_number": 1,
        "skipped_annotations_number": 1,
        "ground_truth_number": 1,
    }
    assert fake.requests == [("GET", f"/api/projects/{project_id}")]


def test_tasks_come_by_id_page_after_page(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    tasks = [fake.add_task(project_id, patient=str(number)) for number in range(5)]
    fake.page_size_limit = 2
    pages = list(studio.tasks(project_id))
    assert [[task["id"] for task in page] for page in pages] == [tasks[:2], tasks[2:4], tasks[4:]]
    assert pages[0][1]["data"]["patient"] == "1"


def test_a_task_deleted_between_two_pages_hides_no_other(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    tasks = [fake.add_task(project_id) for _ in range(6)]
    fake.page_size_limit = 2
    pages = studio.tasks(project_id)
    seen = [task["id"] for task in next(pages)]
    fake.delete_task(tasks[0])
    assert seen + [task["id"] for page in pages for task in page] == tasks


def test_the_last_page_vanishing_meanwhile_is_the_end(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    tasks = [fake.add_task(project_id) for _ in range(3)]
    fake.page_size_limit = 2
    pages = studio.tasks(project_id)
    assert [task["id"] for task in next(pages)] == tasks[:2]
    fake.delete_task(tasks[2])
    assert list(pages) == []


def test_a_project_without_tasks_has_no_page_and_no_newest_change(
    studio: LabelStudio, project_id: int
) -> None:
    assert list(studio.tasks(project_id)) == []
    assert studio.newest_update(project_id) == ""


def test_only_what_changed_since_shortly_before_then_is_listed(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int, clock: Clock
) -> None:
    old, other = fake.add_task(project_id), fake.add_task(project_id)
    clock.advance(moments.OVERLAP_SECONDS + 1)
    late = fake.add_task(project_id)
    clock.advance(moments.OVERLAP_SECONDS - 1)
    new = fake.add_task(project_id)
    since = studio.newest_update(project_id)
    fake.annotate(other)
    [page] = studio.tasks(project_id, since=since)
    assert [task["id"] for task in page] == [other, late, new]
    assert old not in [task["id"] for task in page]


def test_a_single_task_is_never_asked_for(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    task = fake.add_task(project_id)
    fake.annotate(task, drawn())
    list(studio.tasks(project_id))
    list(studio.annotations(project_id, [task]))
    assert fake.calls("GET", r"/api/tasks/\d") == 0


def test_annotations_of_many_tasks_are_read_in_parts(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TASKS_WITH_MASKS", 2)
    tasks = [fake.add_task(project_id) for _ in range(5)]
    for task in tasks[1:]:
        fake.annotate(task, drawn())
    found = list(studio.annotations(project_id, tasks))
    assert [annotation["task"] for annotation in found] == tasks[1:]
    assert fake.calls("GET", "tasks/whole") == 3


def test_our_entry_is_the_one_that_holds_what_we_answered(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    fake.setup = lambda _: "ours"
    assert studio.entry(project_id, "ours")["url"] == "http://us"
    with pytest.raises(NotFound, match="0 backend entries") as caught:
        studio.entry(project_id, "another")
    assert f"connect {project_id}" in caught.value.fix
    fake.connect(project_id)
    with pytest.raises(NotFound, match="2 backend entries"):
        studio.entry(project_id, "ours")


def test_renaming_the_entry_sends_all_but_its_options(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    [entry] = fake.entries.values()
    entry["extra_params"] = {"alpha": 0.5}
    sent: list[dict[str, Any]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return fake(request)

    opened(TOKEN, handler).rename(entry, "v", {"auth_method": "NONE"})
    assert sent == [
        {
            "title": "v",
            "url": "http://us",
            "project": project_id,
            "auth_method": "NONE",
        }
    ]
    assert (entry["title"], entry["extra_params"]) == ("v", {"alpha": 0.5})


def test_a_version_is_deleted_and_the_others_stay(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    task = fake.add_task(project_id)
    for version in ("v", "w"):
        studio.import_queue(project_id, version, [QueueItem(task, [])])
    studio.delete_version(project_id, "v")
    assert studio.version_counts(project_id) == {"w": 1}


def test_an_entry_at_our_address_that_label_studio_cannot_reach_is_not_called_missing(
    studio: LabelStudio, fake: FakeLabelStudio, settings: Settings
) -> None:
    project_id = fake.add_project()
    entry = fake.connect(project_id, url=settings.public_url)
    fake.unreachable.add(settings.public_url)
    entry["state"] = "DI"
    with pytest.raises(Unreachable, match=f"cannot reach this service at {settings.public_url}"):
        studio.entry(project_id, "ours")


def test_an_entry_with_our_address_is_mended_and_keeps_its_title(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    [entry] = fake.entries.values()
    entry["title"] = "attention-unet r0003 9f3c1a"
    studio.connect({"project": project_id, "url": "http://us", "title": "Firstlight"})
    assert [e["title"] for e in fake.entries.values()] == ["attention-unet r0003 9f3c1a"]


def test_a_webhook_is_made_once_and_mended_afterwards(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    studio.ensure_webhook(project_id, "http://us/webhook", {})
    studio.ensure_webhook(project_id, "http://us/webhook", {"Authorization": "Basic eA=="})
    [hook] = fake.webhooks.values()
    assert hook["headers"] == {"Authorization": "Basic eA=="}
    assert hook["send_for_all_actions"]
    assert hook["is_active"]


def test_what_a_locked_database_made_label_studio_do_twice_is_there_once(
    studio: LabelStudio, fake: FakeLabelStudio
) -> None:
    project_id = fake.add_project()
    fake.locked = True
    studio.connect({"project": project_id, "url": "http://us", "title": "Firstlight"})
    fake.locked = True
    studio.ensure_webhook(project_id, "http://us/webhook", {})
    assert (len(fake.entries), len(fake.webhooks)) == (1, 1)


def test_connecting_again_leaves_one_of_several_entries_and_webhooks(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    fake.connect(project_id, url="http://us/")
    fake.connect(project_id, url="http://them")
    for number in (901, 902):
        fake.webhooks[number] = {"id": number, "url": "http://us/webhook", "project": project_id}
    studio.connect({"project": project_id, "url": "http://us", "title": "Firstlight"})
    studio.ensure_webhook(project_id, "http://us/webhook", {})
    assert sorted(entry["url"] for entry in fake.entries.values()) == ["http://them", "http://us"]
    assert len(fake.webhooks) == 1


def test_an_entry_and_webhooks_are_removed_by_project_and_address(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    [entry] = fake.entries.values()
    for url in ("http://us/webhook", "http://them/webhook"):
        studio.ensure_webhook(project_id, url, {})
    studio.remove_entry(entry["id"])
    assert studio.remove_webhooks(project_id, "http://us/webhook") == 1
    assert studio.remove_webhooks(project_id, "http://us/webhook") == 0
    assert [hook["url"] for hook in fake.webhooks.values()] == ["http://them/webhook"]
    with pytest.raises(NotFound):
        studio.remove_entry(entry["id"])
