from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from backend.commands import checks_project
from backend.errors import FirstlightError
from backend.label_studio.client import QUEUE
from backend.label_studio.credentials import SECRET_HEADER
from backend.rounds.services import Services
from backend.storage.records import REVIEW
from backend.storage.store import Store
from tests.backend.commands.conftest import US, mended, only, pixels
from tests.backend.conftest import the
from tests.backend.fake_label_studio import FakeLabelStudio


def test_a_project_in_order_has_nothing_wrong(services: Services, number: int) -> None:
    asked = [
        *checks_project.of_project(services, number, pixels),
        *checks_project.of_queue(services, number),
    ]
    assert [name for name, check in asked if not check().ok] == []


def test_our_entry_is_told_from_others(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    fake.answers["http://them"] = "their model"
    fake.connect(number, url="http://them")
    assert checks_project.entry(services, number).ok


def test_no_entry_at_all_is_for_connect(services: Services, fake: FakeLabelStudio) -> None:
    finding = checks_project.entry(services, fake.add_project())
    assert "no backend entry" in finding.what
    assert "backend connect 1" in finding.fix
    assert finding.repair is None


def test_an_entry_whose_address_is_of_the_past_is_moved(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    title = only(fake)["title"]
    [entry], [hook] = fake.entries.values(), fake.webhooks.values()
    services.studio.entries(number)
    entry |= {"url": "http://old", "extra_params": {"alpha": 0.5}}
    hook["url"] = "http://old/webhook"
    fake.unreachable = {"http://old"}
    assert mended(lambda: checks_project.entry(services, number)).ok
    assert (entry["url"], entry["title"], entry["extra_params"]) == (US, title, {"alpha": 0.5})
    assert fake.webhooks == {}, "the old webhook goes, and the check of webhooks makes a new one"
    assert mended(lambda: checks_project.webhook(services, number)).ok


def test_an_entry_that_never_reached_us_is_registered_again(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    [entry] = fake.entries.values()
    entry["model_version"] = ""
    fake.unreachable = {US}
    finding = checks_project.entry(services, number)
    assert "does not reach this service" in finding.what
    fake.unreachable = set()
    assert finding.repair
    finding.repair()
    assert checks_project.entry(services, number).ok


def test_another_service_at_our_address_is_not_taken_over(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    fake.answers[US] = "another installation"
    finding = checks_project.entry(services, number)
    assert "'another installation'" in finding.what
    assert "DATA_DIR" in finding.fix
    assert finding.repair is None


def test_of_several_entries_that_are_ours_only_the_one_at_our_address_stays(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    fake.connect(number, url="http://also-us")
    services.studio.ensure_webhook(number, "http://also-us/webhook", {})
    services.studio.ensure_webhook(number, "http://them/webhook", {})
    fake.answers["http://them"] = "their model"
    fake.connect(number, url="http://them")
    assert mended(lambda: checks_project.entry(services, number)).ok
    assert {e["url"] for e in fake.entries.values()} == {US, "http://them"}
    assert {h["url"] for h in fake.webhooks.values()} == {f"{US}/webhook", "http://them/webhook"}


def test_of_several_entries_none_is_removed_when_none_is_at_our_address(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    [entry] = fake.entries.values()
    entry["url"] = "http://us-1"
    fake.connect(number, url="http://us-2")
    assert checks_project.entry(services, number).repair is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"is_active": False}, "switched off"),
        ({"send_payload": False}, "sends no payload"),
        (
            {"send_for_all_actions": False, "actions": ["ANNOTATION_CREATED"]},
            "does not send ANNOTATIONS_DELETED, ANNOTATION_UPDATED, PROJECT_UPDATED",
        ),
        ({"url": "http://them/webhook"}, "does not exist"),
        ({"headers": {}}, f"header {SECRET_HEADER} is missing"),
        ({"headers": {SECRET_HEADER: "hunter3"}}, f"header {SECRET_HEADER} is wrong"),
    ],
)
def test_whatever_is_wrong_with_the_webhook_is_told_and_mended(
    services: Services, fake: FakeLabelStudio, number: int, change: dict[str, Any], told: str
) -> None:
    settings = services.settings.model_copy(update={"webhook_secret": SecretStr("hunter2")})
    guarded = replace(services, settings=settings)
    services.studio.ensure_webhook(number, f"{US}/webhook", {SECRET_HEADER: "hunter2"})
    assert checks_project.webhook(guarded, number).ok
    [hook] = fake.webhooks.values()
    hook |= change
    finding = checks_project.webhook(guarded, number)
    assert told in finding.what
    assert "hunter" not in str(finding)
    assert mended(lambda: checks_project.webhook(guarded, number)).ok
    theirs = [one for one in fake.webhooks.values() if one["url"] == "http://them/webhook"]
    assert len(theirs) == ("url" in change), "what leads to another address is another's"


def test_a_password_in_a_webhook_is_told_taken_out_and_to_be_changed(
    services: Services, store: Store, fake: FakeLabelStudio, number: int
) -> None:
    access = {"basic_auth_user": "us", "basic_auth_pass": SecretStr("hunter2")}
    guarded = replace(services, settings=services.settings.model_copy(update=access))
    [hook] = fake.webhooks.values()
    hook["headers"] = {"Authorization": "Basic dXM6aHVudGVyMg=="}
    finding = checks_project.webhook(guarded, number)
    assert f"header {SECRET_HEADER} is missing" in finding.what
    assert "every account can read it" in finding.what
    assert "change BASIC_AUTH_PASS" in finding.fix
    assert "dXM6" not in str(finding)
    assert mended(lambda: checks_project.webhook(guarded, number)).ok
    [hook] = fake.webhooks.values()
    assert hook["headers"] == {SECRET_HEADER: store.installation.webhook_secret}


def test_refused_events_are_told_until_the_webhook_is_written_anew(
    services: Services, store: Store, number: int
) -> None:
    store.projects.update(number, webhook_refused_at=1_800_000_000.0)
    finding = checks_project.webhook(services, number)
    assert "refuses its events" in finding.what
    assert mended(lambda: checks_project.webhook(services, number)).ok
    assert not the(store, number).webhook_refused_at


def test_a_webhook_that_tells_of_every_event_by_name_will_do(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    [hook] = fake.webhooks.values()
    hook |= {
        "send_for_all_actions": False,
        "actions": [*checks_project.EVENTS, "LABEL_LINK_CREATED"],
    }
    assert checks_project.webhook(services, number).ok


def test_bad_options_are_told(services: Services, fake: FakeLabelStudio, number: int) -> None:
    [entry] = fake.entries.values()
    entry["extra_params"] = {"alhpa": 1}
    with pytest.raises(FirstlightError, match="alhpa: unknown option"):
        checks_project.options(services, number)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model version", {"model_version": "Firstlight"}),
        ("sampling", {"sampling": "Sequential sampling"}),
    ],
)
def test_what_label_studio_serves_is_compared_and_mended(
    services: Services, fake: FakeLabelStudio, number: int, name: str, change: dict[str, str]
) -> None:
    check = dict(checks_project.of_queue(services, number))[name]
    for key, value in change.items():
        setattr(fake.projects[number], key, value)
    assert mended(check).ok
    assert fake.projects[number].sampling == QUEUE


@pytest.mark.parametrize("name", ["model version", "title", "sampling"])
def test_a_round_that_is_just_switching_is_no_fault(
    services: Services, fake: FakeLabelStudio, store: Store, number: int, name: str
) -> None:
    check = dict(checks_project.of_queue(services, number))[name]
    store.projects.update(number, step="switch", live_version="cold-start r0002 0a1b2c")
    fake.projects[number].sampling = "Sequential sampling"
    assert check().ok
    store.projects.update(number, step="")
    assert not check().ok


def test_an_entry_is_ours_by_the_version_before_as_well_as_by_the_next(
    services: Services, store: Store, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = services.studio.entries

    def live_meanwhile(project_id: int) -> Any:
        found = asked(project_id)
        store.projects.update(project_id, live_version="cold-start r0002 0a1b2c")
        return found

    monkeypatch.setattr(services.studio, "entries", live_meanwhile)
    assert checks_project.entry(services, number).ok


def test_a_title_that_is_not_the_live_version_is_mended(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    [entry] = fake.entries.values()
    entry["title"] = "Firstlight"
    assert mended(lambda: checks_project.title(services, number)).ok
    assert entry["title"] == fake.projects[number].model_version


def test_before_the_first_queue_nothing_of_it_is_missed(
    services: Services, fake: FakeLabelStudio, store: Store, project_id: int
) -> None:
    assert [
        name for name, check in checks_project.of_queue(services, project_id) if not check().ok
    ] == []
    assert fake.projects[project_id].sampling == "Sequential sampling"


def test_a_queue_that_somebody_deleted_is_asked_for_anew(
    services: Services, fake: FakeLabelStudio, store: Store, number: int
) -> None:
    fake.projects[number].predictions = []
    store.projects.update(number, fingerprint="as it was")
    finding = checks_project.queue(services, number)
    assert "0 are left" in finding.what
    assert finding.repair
    finding.repair()
    project = the(store, number)
    assert (project.fingerprint, project.requested > project.completed) == ("", True)


def test_suspicions_of_an_early_release_are_no_predictions_of_the_queue(
    services: Services, fake: FakeLabelStudio, store: Store, number: int
) -> None:
    live = fake.projects[number].model_version
    early = {
        "task": 1,
        "label": "0f3c",
        "annotations": [1],
        "score": 0.4,
        "share": 0.2,
        "reason": "both",
        "about": "Lung",
        "other": "",
        "page": 0,
        "file": "reviews/0a1b-0.json",
    }
    assert checks_project.queue(services, number).ok
    store.studies.save(number, REVIEW, live, {"scans": [early], "published": 1})
    assert not checks_project.queue(services, number).ok, "a prediction of the queue is missing"


def test_one_readable_image_among_the_first_is_enough(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    tasks = list(fake.projects[number].tasks.values())
    tasks[0]["data"]["image"] = "http://elsewhere/a.png"
    finding = checks_project.image(services, number, pixels)
    assert f"Task {tasks[1]['id']}: 16 x 16 pixels" in finding.what
    for task in tasks:
        task["data"]["image"] = "http://elsewhere/a.png"
    with pytest.raises(FirstlightError, match="not allowed") as caught:
        checks_project.image(services, number, pixels)
    assert f"Task {tasks[0]['id']}" in caught.value.what


def test_an_image_is_fetched_anew_and_not_kept(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    assert checks_project.image(services, number, pixels).ok
    fake.files.clear()
    with pytest.raises(FirstlightError, match="404"):
        checks_project.image(services, number, pixels)


def test_a_project_without_tasks_has_no_image_to_try(services: Services, project_id: int) -> None:
    assert "no tasks" in checks_project.image(services, project_id, pixels).what


def test_what_rounds_stumble_over_is_told(store: Store, number: int) -> None:
    assert checks_project.rounds(store, number).ok
    assert not checks_project.rounds(store, 99).ok
    store.projects.enter(number, "train")
    assert "train" in checks_project.rounds(store, number).what
    store.projects.update(number, problem="It broke.", fix="Glue it.")
    finding = checks_project.rounds(store, number)
    assert (finding.ok, finding.what, finding.fix) == (False, "It broke.", "Glue it.")
    store.projects.update(number, disconnected=True)
    assert f"connect {number}" in checks_project.rounds(store, number).fix
