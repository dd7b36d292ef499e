"""Planted faults: the doctor finds each, says how to fix it, and mends it where the API can."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from filelock import FileLock
from pydantic import SecretStr

from backend.commands import advice, doctor
from backend.commands.findings import Finding
from backend.rounds.services import Services
from backend.settings import Settings
from backend.storage.store import Store
from tests.backend.commands.conftest import US, served
from tests.backend.fake_label_studio import CONFIG, FakeLabelStudio

LEGACY_OFF = (
    "Authentication token no longer valid: legacy token authentication has been disabled for this "
    "organization"
)
PRIVATE = (403, "URL resolves to a reserved network address (block: 127.0.0.0/8)")


class Patient:
    """A project in order with its service, in which a fault is planted."""

    def __init__(self, services: Services, fake: FakeLabelStudio, number: int, folder: Path):
        self.services, self.fake, self.number, self.folder = services, fake, number, folder
        self.served = services.settings
        self.works = True
        self.patch = pytest.MonkeyPatch()
        self.others: dict[str, httpx.MockTransport] = {}

    @property
    def store(self) -> Store:
        return self.services.store

    @property
    def entry(self) -> dict[str, Any]:
        [found] = self.fake.entries.values()
        return found

    @property
    def hook(self) -> dict[str, Any]:
        [found] = self.fake.webhooks.values()
        return found

    def set(self, **settings: object) -> None:
        """Change the settings of the command, and not those of the web process."""
        changed = self.services.settings.model_copy(update=settings)
        self.services = replace(self.services, settings=changed)

    def answers(self, address: str, body: object) -> None:
        """Let another server answer at an address."""

        def answer(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, json=body)

        self.others[address] = httpx.MockTransport(answer)

    def is_silent(self, address: str) -> None:
        """Let nothing answer at an address."""

        def refuse(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused")

        self.others[address] = httpx.MockTransport(refuse)

    def examined(self, *, fix: bool = False) -> dict[str, Finding]:
        settings = self.services.settings
        with ExitStack() as around:
            if self.works:
                lock = FileLock(self.folder / "firstlight.sqlite.worker.lock")
                around.enter_context(lock)
            app = served(self.served, self.store)
            web = httpx.Client(transport=app._transport, mounts=self.others)
            around.enter_context(web)
            findings = list(
                doctor.examine(
                    settings, self.number, build=lambda *_: self.services, web=web, fix=fix
                )
            )
        return {finding.name: finding for finding in findings}


@pytest.fixture
def patient(
    services: Services, fake: FakeLabelStudio, number: int, tmp_path: Path
) -> Iterator[Patient]:
    patient = Patient(services, fake, number, tmp_path)
    yield patient
    patient.patch.undo()


@dataclass(frozen=True)
class Fault:
    """How something is broken, which check finds it, and what the doctor says."""

    check: str
    said: str
    plant: Callable[[Patient], object]


def file_for_data(patient: Patient) -> None:
    (patient.folder / "file").touch()
    patient.set(data_dir=patient.folder / "file")


def elsewhere_without_database(patient: Patient) -> None:
    patient.set(data_dir=patient.folder / "new", database_url="")


def sqlite_too_old(patient: Patient) -> None:
    patient.patch.setattr("backend.worker.jobs_database.SQLITE", (3, 40, 1))
    patient.patch.setattr("backend.worker.jobs_database.PYTHON", (3, 12))


def move_label_studio(patient: Patient) -> None:
    patient.fake.fail("GET", "api/version", httpx.ConnectError, times=9)
    patient.answers("http://127.0.0.1:8081", {"release": "1.23.2"})


def lose_weights(patient: Patient) -> None:
    lost = patient.folder / "lost.pt"
    patient.set(encoder="radimagenet-resnet50", encoder_weights=lost)


def old_address(patient: Patient) -> None:
    patient.services.studio.entries(patient.number)
    patient.entry.update(url="http://old")
    patient.hook.update(url="http://old/webhook")
    patient.fake.unreachable = {"http://old"}


def image_elsewhere(patient: Patient, address: str) -> None:
    for task in patient.fake.projects[patient.number].tasks.values():
        task["data"]["image"] = address


def local_files_off(patient: Patient) -> None:
    image_elsewhere(patient, "/data/local-files/?d=scans/a.png")
    patient.fake.local_files = False


def project(patient: Patient) -> Any:
    return patient.fake.projects[patient.number]


FOUND = {
    "data-folder-is-a-file": Fault("data folder", "cannot be written", file_for_data),
    "data-folder-of-nobody": Fault("database", "no database yet", elsewhere_without_database),
    "sqlite-too-old": Fault("jobs database", "SQLite 3.42", sqlite_too_old),
    "no-worker": Fault("worker", "No worker runs", lambda p: setattr(p, "works", False)),
    "no-web-process": Fault("web process", "does not answer", lambda p: p.is_silent(US)),
    "port-of-another-service": Fault(
        "web process", "Another service", lambda p: p.answers(US, {"model_class": "SAM"})
    ),
    "secret-of-another-installation": Fault(
        "web access",
        "WEBHOOK_SECRET",
        lambda p: setattr(
            p, "served", p.served.model_copy(update={"webhook_secret": SecretStr("other")})
        ),
    ),
    "label-studio-at-another-port": Fault(
        "Label Studio", "Set LABEL_STUDIO_URL=http://127.0.0.1:8081", move_label_studio
    ),
    "no-label-studio": Fault(
        "Label Studio",
        "did not answer",
        lambda p: p.fake.fail("GET", "api/version", httpx.ConnectError, times=9),
    ),
    "no-token": Fault("token", "is not set", lambda p: p.set(label_studio_api_key=SecretStr(""))),
    "wrong-token": Fault(
        "token",
        "Invalid token",
        lambda p: p.fake.fail("GET", "whoami", 401, detail="Invalid token."),
    ),
    "legacy-tokens-switched-off": Fault(
        "token",
        "personal access token",
        lambda p: p.fake.fail("GET", "whoami", 401, detail=LEGACY_OFF),
    ),
    "private-backends-blocked": Fault(
        "backend address",
        "ML_BLOCK_LOCAL_IP=false",
        lambda p: p.fake.banned.update(ml=PRIVATE),
    ),
    "private-webhooks-blocked": Fault(
        "webhook address",
        "SSRF_PROTECTION_ENABLED=false",
        lambda p: p.fake.banned.update(webhooks=PRIVATE),
    ),
    "host-without-a-dot": Fault(
        "webhook address",
        "BACKEND_URL",
        lambda p: p.fake.banned.update(webhooks=(400, "Enter a valid URL.")),
    ),
    "slow-import": Fault(
        "import", "fflag_fix_back_4620", lambda p: setattr(p.fake, "fast_import", False)
    ),
    "weights-lost": Fault("encoder", "lost.pt", lose_weights),
    "unknown-project": Fault("project", "404", lambda p: setattr(p, "number", 999)),
    "nothing-to-draw-on": Fault(
        "labels",
        "Image",
        lambda p: setattr(project(p), "label_config", CONFIG.replace("Image", "Text")),
    ),
    "not-connected": Fault("entry", "connect", lambda p: p.fake.entries.clear()),
    "unknown-option": Fault(
        "options", "alhpa", lambda p: p.entry.update(extra_params={"alhpa": 1})
    ),
    "image-on-a-foreign-host": Fault(
        "image", "IMAGE_HOSTS", lambda p: image_elsewhere(p, "http://elsewhere/a.png")
    ),
    "local-files-switched-off": Fault("image", "LOCAL_FILES_SERVING_ENABLED=true", local_files_off),
    "rounds-in-trouble": Fault(
        "rounds", "Glue it", lambda p: p.store.projects.update(p.number, problem="x", fix="Glue it")
    ),
}

MENDED = {
    "entry-at-an-old-address": Fault("entry", "http://old", old_address),
    "second-entry": Fault(
        "entry", "2 backend entries", lambda p: p.fake.connect(p.number, url="http://us")
    ),
    "webhook-deleted": Fault("webhook", "does not exist", lambda p: p.fake.webhooks.clear()),
    "webhook-switched-off": Fault(
        "webhook", "switched off", lambda p: p.hook.update(is_active=False)
    ),
    "webhook-tells-too-little": Fault(
        "webhook",
        "does not send",
        lambda p: p.hook.update(send_for_all_actions=False, actions=["ANNOTATION_CREATED"]),
    ),
    "password-in-the-webhook": Fault(
        "webhook",
        "every account can read it",
        lambda p: p.hook.update(headers={"Authorization": "Basic x"}),
    ),
    "events-refused": Fault(
        "webhook",
        "refuses its events",
        lambda p: p.store.projects.update(p.number, webhook_refused_at=1.0),
    ),
    "another-model-version": Fault(
        "model version", "'by hand'", lambda p: setattr(project(p), "model_version", "by hand")
    ),
    "entry-renamed": Fault("title", "'by hand'", lambda p: p.entry.update(title="by hand")),
    "another-sampling": Fault(
        "sampling",
        "Sequential sampling",
        lambda p: setattr(project(p), "sampling", "Sequential sampling"),
    ),
}


def test_there_are_at_least_twenty() -> None:
    assert len(FOUND | MENDED) == len(FOUND) + len(MENDED) >= 20


@pytest.mark.parametrize("fault", FOUND.values(), ids=FOUND)
def test_a_fault_is_found_with_its_fix_and_is_the_next_step(
    patient: Patient, fault: Fault, settings: Settings
) -> None:
    assert all(finding.ok for finding in patient.examined().values())
    fault.plant(patient)
    found = patient.examined(fix=True)
    finding = found[fault.check]
    assert not finding.ok
    assert fault.said in f"{finding.what} {finding.fix}"
    assert finding.fix
    step = advice.next_step(settings, list(found.values()), patient.number, fix=True)
    assert step == f"Next ({finding.name}): {finding.fix}"


@pytest.mark.parametrize("fault", MENDED.values(), ids=MENDED)
def test_a_fault_that_the_api_can_mend_is_found_and_mended(
    patient: Patient, fault: Fault, settings: Settings
) -> None:
    fault.plant(patient)
    found = patient.examined()
    assert not found[fault.check].ok
    assert fault.said in f"{found[fault.check].what} {found[fault.check].fix}"
    step = advice.next_step(settings, list(found.values()), patient.number, fix=False)
    assert step.endswith(f"doctor {patient.number} --fix`.")
    assert patient.examined(fix=True)[fault.check].repaired
    assert [finding.what for finding in patient.examined().values() if not finding.ok] == []


def test_a_queue_that_was_deleted_is_asked_for_anew(patient: Patient) -> None:
    project(patient).predictions.clear()
    patient.examined(fix=True)
    known = patient.store.projects.get(patient.number)
    assert known is not None
    assert known.requested > known.completed


def test_missing_variables_come_as_lines_for_every_way_to_start(patient: Patient) -> None:
    patient.fake.banned = {"ml": PRIVATE, "webhooks": PRIVATE}
    patient.fake.fast_import = False
    found = patient.examined()
    variables = advice.missing_variables(found.values())
    flag = "fflag_fix_back_4620_memory_efficient_predictions_import_08012025_short"
    assert variables == {
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        flag: "true",
    }
    lines = advice.lines_to_paste(variables).splitlines()
    assert f"export ML_BLOCK_LOCAL_IP=false SSRF_PROTECTION_ENABLED=false {flag}=true" in lines
    assert f"-e ML_BLOCK_LOCAL_IP=false -e SSRF_PROTECTION_ENABLED=false -e {flag}=true" in lines
    assert '  ML_BLOCK_LOCAL_IP: "false"' in lines
    assert f'Environment="{flag}=true"' in lines
    [row] = [row for row in json.loads(doctor.document(found.values())) if row["name"] == "import"]
    assert row["variables"] == {flag: "true"}


def test_nothing_is_pasted_where_nothing_lacks(patient: Patient) -> None:
    assert advice.lines_to_paste(advice.missing_variables(patient.examined().values())) == ""


def test_in_order_the_next_step_is_to_connect_a_project_or_to_label(
    patient: Patient, settings: Settings
) -> None:
    found = list(patient.examined().values())
    assert "connect ID" in advice.next_step(settings, found, None, fix=False)
    step = advice.next_step(settings, found, patient.number, fix=False)
    assert f"/projects/{patient.number}/data and press Label All Tasks" in step
