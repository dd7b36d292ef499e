from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from filelock import FileLock
from pydantic import SecretStr

from backend.commands import checks_installation, doctor
from backend.commands.findings import Finding
from backend.rounds.services import Services
from backend.settings import Settings
from tests.backend.fake_label_studio import FakeLabelStudio

PRIVATE = (403, "URL resolves to a reserved network address (block: 127.0.0.0/8)")


def examined(
    services: Services, web: httpx.Client, project: int | None, *, fix: bool = False
) -> dict[str, Finding]:
    """Look at everything, with a worker beside it."""
    with FileLock(services.settings.data_dir / "firstlight.sqlite.worker.lock"):
        found = doctor.examine(
            services.settings, project, build=lambda *_: services, web=web, fix=fix
        )
        return {one.name: one for one in found}


def test_everything_is_looked_at_and_said_in_lines_and_as_json(
    services: Services, web: httpx.Client, number: int
) -> None:
    found = examined(services, web, number)
    assert [one.what for one in found.values() if not one.ok] == []
    assert set(found) >= {"database", "worker", "token", "encoder", "webhook", "queue", "image"}
    assert doctor.summary(list(found.values())) == f"All {len(found)} checks are ok."
    rows = json.loads(doctor.document(found.values()))
    assert [row["name"] for row in rows] == list(found)


def test_without_a_project_only_the_installation_is_looked_at(
    services: Services, web: httpx.Client
) -> None:
    found = examined(services, web, None)
    assert "encoder" in found
    assert not {"project", "click model"} & set(found)


def test_a_fix_is_told_as_such_and_nothing_is_fixed_unasked(
    services: Services, web: httpx.Client, fake: FakeLabelStudio, number: int
) -> None:
    fake.webhooks.clear()
    assert not examined(services, web, number)["webhook"].ok
    assert fake.webhooks == {}
    finding = examined(services, web, number, fix=True)["webhook"]
    assert finding.ok
    assert doctor.line(finding).startswith("fixed  webhook: ")
    assert "it does not exist" in finding.what


def test_a_fix_that_fails_is_told_with_its_reason(
    services: Services, web: httpx.Client, fake: FakeLabelStudio, number: int
) -> None:
    fake.webhooks.clear()
    fake.banned = {"webhooks": PRIVATE}
    finding = examined(services, web, number, fix=True)["webhook"]
    assert not finding.ok
    assert "could not be repaired" in finding.what
    assert "reserved network address" in finding.what


def test_a_file_that_may_not_be_read_is_a_finding_and_the_others_go_on(
    settings: Settings, services: Services, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise PermissionError(13, "Permission denied", "/data/encoders")

    monkeypatch.setattr(checks_installation, "database", refuse)
    found = {f.name: f for f in doctor.examine(settings, None, build=lambda *_: services, web=web)}
    assert found["database"].what == "/data/encoders cannot be used (Permission denied)."
    assert "Let this user read and write" in found["database"].fix
    assert "web process" in found


def test_what_rests_on_something_wrong_is_not_asked(
    services: Services, web: httpx.Client, fake: FakeLabelStudio, number: int
) -> None:
    fake.fail("GET", "whoami", 401, detail="Invalid token.")
    found = examined(services, web, number)
    assert {name for name, one in found.items() if not one.ok} == {"token", "project"}
    assert "backend address" not in found
    fake.fail("GET", "api/version", httpx.ConnectError)
    found = examined(services, web, number)
    assert {name for name, one in found.items() if not one.ok} == {"Label Studio", "project"}
    assert "LABEL_STUDIO_URL" in found["Label Studio"].fix


def test_no_token_and_no_database_still_leave_the_rest_to_be_looked_at(
    settings: Settings, services: Services, tmp_path: Path
) -> None:
    empty = settings.model_copy(
        update={"data_dir": tmp_path / "new", "label_studio_api_key": SecretStr("")}
    )

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no")

    with httpx.Client(transport=httpx.MockTransport(refuse)) as web:
        found = list(doctor.examine(empty, 1, build=lambda *_: services, web=web))
    wrong = [one.name for one in found if not one.ok]
    assert wrong == ["database", "worker", "web process", "token", "project"]
    assert "5 of 10 checks are wrong: database, worker" in doctor.summary(found)
    assert doctor.line(found[2]).startswith("WRONG  database: There is no database yet")
