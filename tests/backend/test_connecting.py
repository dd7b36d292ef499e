from __future__ import annotations

import httpx
import pytest
from pydantic import SecretStr

from backend.connecting import connect
from backend.errors import (
    ConfigError,
    NotFound,
    OptionsError,
    Unreachable,
    UnsupportedLabelConfig,
)
from backend.gateway import LabelStudio
from backend.settings import Settings
from tests.backend.fake_label_studio import FakeLabelStudio

PRIVATE = "URL resolves to a reserved network address (block: 127.0.0.0/8)"
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


def test_webhooks_carry_the_credentials_that_label_studio_leaves_out(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    guarded = Settings(
        data_dir=settings.data_dir, basic_auth_user="us", basic_auth_pass=SecretStr("hunter2")
    )
    connect(guarded, studio, fresh, "")
    [entry], [hook] = fake.entries.values(), fake.webhooks.values()
    assert (entry["auth_method"], entry["basic_auth_user"]) == ("BASIC_AUTH", "us")
    assert hook["headers"] == {"Authorization": "Basic dXM6aHVudGVyMg=="}


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
    ("status", "detail", "mend"),
    [(403, PRIVATE, "SSRF_PROTECTION_ENABLED=false"), (400, CANNOT, "BACKEND_URL")],
)
def test_what_stands_between_the_two_is_explained(
    settings: Settings,
    studio: LabelStudio,
    fake: FakeLabelStudio,
    fresh: int,
    status: int,
    detail: str,
    mend: str,
) -> None:
    fake.fail("POST", "/api/ml", status, detail=detail)
    with pytest.raises(ConfigError) as caught:
        connect(settings, studio, fresh, "")
    assert mend in caught.value.mend
    assert "127.0.0.1:9090" in caught.value.what


def test_a_label_studio_that_is_down_is_not_taken_for_a_backend_that_is(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    fake.fail("POST", "/api/ml", httpx.ConnectError)
    with pytest.raises(Unreachable, match="Label Studio at"):
        connect(settings, studio, fresh, "")
