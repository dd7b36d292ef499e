from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from filelock import FileLock
from pydantic import SecretStr

from backend.commands.connection import connect, disconnect, forget, workers_running
from backend.errors import (
    ConfigError,
    LabelStudioError,
    NotFound,
    OptionsError,
    Unreachable,
    UnsupportedLabelConfig,
)
from backend.label_studio import labels
from backend.label_studio.client import LabelStudio
from backend.label_studio.credentials import SECRET_HEADER
from backend.settings import Settings
from backend.storage.store import Store
from backend.web.ml_protocol import Answers, OneAtATime
from backend.web.refresh_requests import RefreshRequests
from tests.backend.conftest import the
from tests.backend.fake_label_studio import CONFIG, FakeLabelStudio

PRIVATE = "URL resolves to a reserved network address (block: 127.0.0.0/8)"
DENIED = (
    "Able to connect to ML Server, but authentication parameters were either not provided or are "
    "incorrect."
)
CANNOT = "Can't connect to ML backend http://127.0.0.1:9090, health check failed."


@pytest.fixture
def fresh(fake: FakeLabelStudio) -> int:
    """A project that nobody connected."""
    return fake.add_project()


def test_a_project_gets_an_entry_and_a_webhook(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    said = connect(settings, studio, fresh, "")
    [entry], [hook] = fake.entries.values(), fake.webhooks.values()
    assert (entry["url"], entry["auth_method"]) == ("http://127.0.0.1:9090", "NONE")
    assert (hook["url"], hook["headers"]) == ("http://127.0.0.1:9090/webhook", {})
    assert "Lungs" in said


def test_connecting_twice_leaves_one_entry_and_one_webhook(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    connect(settings, studio, fresh, "")
    connect(settings, studio, fresh, '{"alpha": 0.5}')
    [entry] = fake.entries.values()
    assert entry["extra_params"] == {"alpha": 0.5}
    assert len(fake.webhooks) == 1


def test_connecting_again_without_options_keeps_those_that_are_there(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    connect(settings, studio, fresh, '{"alpha": 0.5}')
    connect(settings, studio, fresh, "")
    [entry] = fake.entries.values()
    assert entry["extra_params"] == {"alpha": 0.5}


def rewound(fake: FakeLabelStudio, studio: LabelStudio, times: int) -> list[int]:
    """Let changes of an entry bring its earlier options back, as one under way does.

    Return the number of changes for which that still holds.
    """
    left = [times]
    stored = studio.connect

    def stale(fields: Mapping[str, Any]) -> None:
        before = {key: entry.get("extra_params") for key, entry in fake.entries.items()}
        stored(fields)
        if left[0]:
            left[0] -= 1
            for key, value in before.items():
                fake.entries[key]["extra_params"] = value

    studio.connect = stale  # type: ignore[method-assign]
    return left


def test_options_that_another_change_took_back_are_stored_once_more(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    connect(settings, studio, fresh, '{"alpha": 0.5}')
    rewound(fake, studio, 1)
    connect(settings, studio, fresh, '{"alpha": 0.7}')
    [entry] = fake.entries.values()
    assert entry["extra_params"] == {"alpha": 0.7}


def test_options_that_label_studio_never_keeps_are_an_error(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    connect(settings, studio, fresh, '{"alpha": 0.5}')
    fake.webhooks.clear()
    left = rewound(fake, studio, 99)
    with pytest.raises(LabelStudioError, match="does not keep its options"):
        connect(settings, studio, fresh, '{"alpha": 0.7}')
    assert left == [96]
    assert len(fake.webhooks) == 1


def test_clicks_are_added_only_when_asked_for_and_once(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    before = fake.projects[fresh].label_config
    connect(settings, studio, fresh, "")
    assert fake.projects[fresh].label_config == before
    assert "is_interactive" not in next(iter(fake.entries.values()))
    connect(settings, studio, fresh, "", clicks=True)
    with_tags = fake.projects[fresh].label_config
    assert labels.parse(with_tags).prompts == ("firstlight-clicks", "firstlight-boxes")
    assert labels.parse(with_tags).tools == labels.parse(before).tools
    assert next(iter(fake.entries.values()))["is_interactive"] is True
    connect(settings, studio, fresh, "", clicks=True)
    assert fake.projects[fresh].label_config == with_tags
    connect(settings, studio, fresh, "")
    assert next(iter(fake.entries.values()))["is_interactive"] is True


def test_clicks_need_a_brush(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    fake.projects[fresh].label_config = CONFIG.replace("Brush", "Polygon")
    with pytest.raises(UnsupportedLabelConfig, match="no brush draws a label"):
        connect(settings, studio, fresh, "", clicks=True)
    assert not fake.entries


def test_options_of_the_environment_are_not_written_into_label_studio(
    settings: Settings,
    studio: LabelStudio,
    fake: FakeLabelStudio,
    fresh: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FIRSTLIGHT_SEED", "7")
    connect(settings, studio, fresh, '{"alpha": 0.5}')
    [entry] = fake.entries.values()
    assert entry["extra_params"] == {"alpha": 0.5}


def test_no_password_lies_in_a_webhook_but_a_secret_of_its_own(
    settings: Settings, store: Store, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    access = {"basic_auth_user": "us", "basic_auth_pass": SecretStr("hunter2")}
    store.projects.request_refresh(fresh)
    store.projects.update(
        fresh, webhook_refused_at=1.0
    )  # by the webhook that Label Studio makes at first
    connect(settings.model_copy(update=access), studio, fresh, "")
    assert not the(store, fresh).webhook_refused_at
    [entry], [hook] = fake.entries.values(), fake.webhooks.values()
    assert (entry["auth_method"], entry["basic_auth_user"]) == ("BASIC_AUTH", "us")
    assert hook["headers"] == {SECRET_HEADER: store.installation.webhook_secret}


def test_without_the_database_that_keeps_the_secret_nothing_is_connected(
    studio: LabelStudio, fake: FakeLabelStudio, fresh: int, tmp_path: Path
) -> None:
    access = {"basic_auth_user": "us", "basic_auth_pass": SecretStr("hunter2")}
    elsewhere = Settings(data_dir=tmp_path / "elsewhere").model_copy(update=access)
    with pytest.raises(ConfigError, match="There is no database yet"):
        connect(elsewhere, studio, fresh, "")
    assert (fake.entries, fake.webhooks) == ({}, {})


def test_webhooks_carry_the_secret_that_is_asked_of_them(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    guarded = settings.model_copy(update={"webhook_secret": SecretStr("hunter2")})
    connect(guarded, studio, fresh, "")
    [hook] = fake.webhooks.values()
    assert hook["headers"] == {SECRET_HEADER: "hunter2"}


def test_bad_options_are_refused_before_anything_is_asked(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    with pytest.raises(OptionsError, match="alhpa"):
        connect(settings, studio, fresh, '{"alhpa": 0.5}')
    assert fake.requests == []


def test_a_project_whose_labels_cannot_be_served_is_not_connected(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio
) -> None:
    number = fake.add_project("<View/>")
    with pytest.raises(UnsupportedLabelConfig):
        connect(settings, studio, number, "")
    assert fake.entries == {}


def test_a_project_that_does_not_exist_is_said(settings: Settings, studio: LabelStudio) -> None:
    with pytest.raises(NotFound, match="No Project"):
        connect(settings, studio, 99, "")


@pytest.mark.parametrize(
    ("status", "detail", "fix"),
    [
        (403, PRIVATE, "SSRF_PROTECTION_ENABLED=false"),
        (400, CANNOT, "BACKEND_URL"),
        (400, "Enter a valid URL.", "a name with a dot"),
        (400, DENIED, "the same BASIC_AUTH_USER"),
    ],
)
def test_what_stands_between_the_two_is_explained(
    settings: Settings,
    studio: LabelStudio,
    fake: FakeLabelStudio,
    fresh: int,
    status: int,
    detail: str,
    fix: str,
) -> None:
    fake.fail("POST", "/api/ml", status, detail=detail)
    with pytest.raises(ConfigError) as caught:
        connect(settings, studio, fresh, "")
    assert fix in caught.value.fix
    assert "127.0.0.1:9090" in caught.value.what


def test_a_label_studio_that_is_down_is_not_taken_for_a_backend_that_is(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    fake.fail("POST", "/api/ml", httpx.ConnectError)
    with pytest.raises(Unreachable, match="Label Studio at"):
        connect(settings, studio, fresh, "")


# -- and out again --------------------------------------------------------------------------------


@pytest.fixture
def known(settings: Settings, studio: LabelStudio, store: Store, fresh: int) -> int:
    """A project that is connected, and that this installation works on."""
    connect(settings, studio, fresh, "")
    store.projects.request_refresh(fresh)
    return fresh


def test_disconnecting_removes_the_entry_and_the_webhook_left_behind(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, store: Store, known: int
) -> None:
    said = list(disconnect(settings, studio, store, known))
    assert fake.entries == {}
    assert fake.webhooks == {}
    assert "Removed the backend entry" in said[1]
    assert "Removed 1 webhook to http://127.0.0.1:9090/webhook." in said
    assert the(store, known).disconnected, "the worker passes over it"
    assert list(disconnect(settings, studio, store, known)) == []


def test_the_questions_that_label_studio_asks_meanwhile_do_not_take_the_project_up_again(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, store: Store, known: int
) -> None:
    answers = Answers(store, RefreshRequests(store), OneAtATime(lambda *_: []))

    def setup(project_id: int) -> str:
        config = fake.projects[project_id].label_config
        told = {"project": f"{project_id}.17", "schema": config, "hostname": "", "extra_params": {}}
        return str(answers.setup(told)["model_version"])

    fake.setup = setup
    store.projects.update(known, completed=1)
    list(disconnect(settings, studio, store, known))
    assert fake.entries == {}
    project = the(store, known)
    assert (project.disconnected, project.requested, project.problem) == (True, 1, "")
    connect(settings, studio, known, "")
    assert [seen.project_id for seen in store.projects.sightings()] == [known], (
        "the worker takes it up"
    )


def test_a_disconnection_cut_short_leaves_the_project_served_until_it_is_tried_again(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, store: Store, known: int
) -> None:
    fake.fail("GET", "/api/ml", httpx.ConnectError, times=9)
    with pytest.raises(Unreachable):
        list(disconnect(settings, studio, store, known))
    assert not the(store, known).disconnected
    fake.heal()
    list(disconnect(settings, studio, store, known))
    assert the(store, known).disconnected


def test_what_other_services_put_there_stays(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, store: Store, known: int
) -> None:
    fake.answers["http://them"] = "their model"
    fake.connect(known, url="http://them")
    studio.ensure_webhook(known, "http://them/webhook", {})
    said = list(disconnect(settings, studio, store, known))
    assert [entry["url"] for entry in fake.entries.values()] == ["http://them"]
    assert [hook["url"] for hook in fake.webhooks.values()] == ["http://them/webhook"]
    assert said[-1] == "Left 1 backend entry of other services alone."


def test_an_entry_of_ours_at_another_address_goes_too(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, store: Store, known: int
) -> None:
    fake.connect(known, url="http://also-us")
    studio.ensure_webhook(known, "http://also-us/webhook", {})
    list(disconnect(settings, studio, store, known))
    assert (fake.entries, fake.webhooks) == ({}, {})


def test_without_a_database_our_entry_is_known_by_its_address(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, known: int
) -> None:
    fake.connect(known, url="http://perhaps-us")
    list(disconnect(settings, studio, None, known))
    assert [entry["url"] for entry in fake.entries.values()] == ["http://perhaps-us"]


def test_a_webhook_of_the_whole_organisation_is_not_the_projects(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, store: Store, known: int
) -> None:
    [hook] = fake.webhooks.values()
    hook["project"] = None
    list(disconnect(settings, studio, store, known))
    assert len(fake.webhooks) == 1


def test_a_project_that_label_studio_deleted_can_be_disconnected_and_forgotten(
    settings: Settings, studio: LabelStudio, store: Store
) -> None:
    store.projects.request_refresh(99)
    settings.project_folder(99).mkdir(parents=True)
    [said] = disconnect(settings, studio, store, 99)
    assert "no project 99" in said
    assert forget(settings, store, 99)
    assert not settings.project_folder(99).exists()
    assert store.projects.get(99) is None


def test_without_a_database_forget_deletes_the_folder(settings: Settings) -> None:
    settings.project_folder(5).mkdir(parents=True)
    assert "Forgot project 5" in forget(settings, None, 5)
    assert not settings.project_folder(5).exists()


def test_forget_deletes_what_lies_in_a_shared_folder_too(
    settings: Settings, tmp_path: Path
) -> None:
    there = settings.model_copy(update={"artifacts_url": str(tmp_path / "shared")})
    kept = [tmp_path / "shared" / "projects" / "5", settings.project_folder(5)]
    for folder in kept:
        folder.mkdir(parents=True)
    assert "Forgot project 5" in forget(there, None, 5)
    assert not [folder for folder in kept if folder.exists()]


def test_another_service_at_our_address_keeps_its_entry_webhook_and_options(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, store: Store, known: int
) -> None:
    [entry] = fake.entries.values()
    fake.answers[entry["url"]] = "SAM-1"
    entry["extra_params"] = {"theirs": 1}
    [entry] = studio.entries(known)
    before = dict(entry)
    with pytest.raises(ConfigError, match=r"another service.*'SAM-1'"):
        connect(settings, studio, known, '{"alpha": 0.5}')
    said = list(disconnect(settings, studio, store, known))
    assert said[-1] == "Left 1 backend entry of other services alone."
    assert studio.entries(known) == [before]
    assert len(fake.webhooks) == 1


def test_an_address_with_a_slash_at_its_end_is_the_same_entry(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, known: int
) -> None:
    [entry] = fake.entries.values()
    entry["url"] = settings.public_url + "/"
    connect(settings, studio, known, "")
    assert len(fake.entries) == 1


def test_a_forgotten_project_leaves_no_file_and_no_row(
    settings: Settings, store: Store, known: int
) -> None:
    file = settings.project_folder(known) / "models" / "key"
    file.parent.mkdir(parents=True)
    file.touch()
    store.projects.request_refresh(known + 1)
    assert "Forgot project" in forget(settings, store, known)
    assert not settings.project_folder(known).exists()
    assert [project.id for project in store.projects.all()] == [known + 1]
    assert forget(settings, store, known), "and may be forgotten twice"


def test_nothing_is_forgotten_under_the_hands_of_a_worker(
    settings: Settings, store: Store, known: int
) -> None:
    store.projects.enter(known, "train")
    with FileLock(settings.data_dir / "firstlight.sqlite.worker.lock"):
        assert workers_running(settings)
        with pytest.raises(ConfigError, match="busy with project") as caught:
            forget(settings, store, known)
        assert "Run the same command again" in caught.value.fix
        store.projects.enter(known, "")
        forget(settings, store, known)
    store.projects.request_refresh(known)
    store.projects.enter(known, "train")  # as a worker that was killed leaves it
    assert not workers_running(settings)
    assert forget(settings, store, known)
