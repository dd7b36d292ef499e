"""The doctor at a real bedside: each thing is broken in Label Studio, seen, mended, and seen well.

Also what shares its ground: disconnect, clean, tokens, secrets, and a Label Studio behind a proxy.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import SecretStr

from backend.commands import cli, neighbours
from backend.commands.checks_installation import FAST_IMPORT
from backend.commands.quickstart.process import free_port, taken
from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import LabelStudio
from backend.label_studio import client
from backend.label_studio.personal_tokens import PersonalToken
from backend.settings import Settings
from demo import scans
from demo.annotator import Annotator
from tests.forked import Forked
from tests.label_studio.conftest import OPTIONS, Lab, page_at
from tests.label_studio.proxy import Proxy, Stub
from tests.label_studio.test_admin import ENV, personal_access_token, until

pytestmark = [pytest.mark.studio, pytest.mark.slow, pytest.mark.timeout(600)]

Findings = dict[str, dict[str, Any]]


def command(*words: str) -> None:
    """Be `python -m backend` with these words."""
    sys.argv[1:] = words
    cli.main()


class Site:
    """The commands of one installation, as an admin runs them."""

    def __init__(self, url: str, token: str, backend: Backend, env: Mapping[str, str] = ENV):
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        at = urlsplit(backend.url)
        self._env = {
            **kept,
            "LABEL_STUDIO_URL": url,
            "LABEL_STUDIO_API_KEY": token,
            "DATA_DIR": str(backend.data),
            "HOST": str(at.hostname),
            "PORT": str(at.port),
            **env,
        }
        self._secrets = [token, *(v for k, v in env.items() if "PASS" in k or "SECRET" in k)]

    def run(self, *words: object, **env: str) -> tuple[int, str]:
        """Return exit code and output; no secret is ever in it."""
        with tempfile.NamedTemporaryFile("r") as log:
            process = Forked(command, *map(str, words), env=self._env | env, log=Path(log.name))
            code, said = process.wait(120), log.read()
        assert "Traceback" not in said
        assert not [secret for secret in self._secrets if secret in said]
        return code, said

    def doctor(self, *words: object, **env: str) -> Findings:
        code, said = self.run("doctor", *words, "--json", **env)
        found = {one["name"]: one for one in json.loads(said)}
        assert code == (0 if all(one["ok"] for one in found.values()) else 1), said
        return found

    def wrong(self, *words: object, **env: str) -> set[str]:
        return {name for name, one in self.doctor(*words, **env).items() if not one["ok"]}


@pytest.fixture
def site(studio: LabelStudio, backend: Backend) -> Site:
    return Site(studio.url, studio.token, backend)


def project_with(
    annotator: Annotator, backend: Backend, folder: Path, *, number: int = 4, **options: Any
) -> Lab:
    project = annotator.create_project("examined", ["Object"])
    found = annotator.import_scans(project, scans.phantoms(number, folder))
    backend.connect(project, OPTIONS | options)
    lab = Lab(annotator, backend, project, dict(found))
    until(lambda: lab.page()["live_version"], lab.page)
    until(lambda: lab.page()["wanted"] == lab.page()["done"], lab.page)
    return lab


@pytest.fixture(scope="module")
def paused(annotator: Annotator, backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Another, paused: the worker leaves to the doctor what it would mend by itself."""
    lab = project_with(annotator, backend, tmp_path_factory.mktemp("scans"))
    backend.connect(lab.project, OPTIONS | {"paused": True})
    until(lambda: lab.page()["wanted"] == lab.page()["done"], lab.page)
    return lab


@pytest.fixture
def small(annotator: Annotator, backend: Backend, tmp_path: Path) -> Lab:
    """A project with four scans, its first queue published."""
    return project_with(annotator, backend, tmp_path / "scans")


def the_hook(lab: Lab) -> dict[str, Any]:
    hooks = lab.annotator.call("GET", "/api/webhooks/", params={"project": lab.project})
    [found] = [hook for hook in hooks if hook["url"] == f"{lab.backend.url}/webhook"]
    return dict(found)


def the_entry(lab: Lab) -> dict[str, Any]:
    [found] = lab.annotator.call("GET", "/api/ml", params={"project": lab.project})
    return dict(found)


def patch_project(lab: Lab, **values: object) -> None:
    lab.annotator.call("PATCH", f"/api/projects/{lab.project}/", json=values)


def lose_webhook(lab: Lab) -> None:
    lab.annotator.call("DELETE", f"/api/webhooks/{the_hook(lab)['id']}/")


def narrow_webhook(lab: Lab) -> None:
    hook = the_hook(lab)
    body = {
        "url": hook["url"],
        "send_for_all_actions": False,
        "actions": ["ANNOTATION_CREATED"],
        "is_active": False,
        "send_payload": False,
    }
    lab.annotator.call("PATCH", f"/api/webhooks/{hook['id']}/", json=body)


def serve_another_version(lab: Lab) -> None:
    task = next(iter(lab.scans))
    body = {"task": task, "result": [], "model_version": "by hand"}
    lab.annotator.call("POST", "/api/predictions/", json=body)
    patch_project(lab, model_version="by hand")


def rename_entry(lab: Lab) -> None:
    entry = the_entry(lab)
    fields = {name: entry[name] for name in ("url", "project", "extra_params", "auth_method")}
    lab.annotator.call("PATCH", f"/api/ml/{entry['id']}", json={**fields, "title": "by hand"})
    # With the title Label Studio changed what it serves.
    patch_project(lab, model_version=lab.page()["live_version"])


def choose_sequential(lab: Lab) -> None:
    patch_project(lab, sampling="Sequential sampling")


def test_a_project_in_order_is_ok_in_every_line(small: Lab, site: Site) -> None:
    code, said = site.run("doctor", small.project)
    assert code == 0, said
    lines = [line for line in said.splitlines() if not line.startswith(" ")]
    assert all(line.startswith("ok ") for line in lines[:-2]), said
    assert lines[-2].startswith("All ")
    assert lines[-1].endswith(f"/projects/{small.project}/data and press Label All Tasks.")
    assert "Label Studio: 1.23.2 answers at" in said
    assert "legacy token is accepted" in said
    assert "pixels, encoded" in said


@pytest.mark.parametrize(
    "changes",
    [
        {
            "webhook": (lose_webhook, "does not exist"),
            "title": (rename_entry, "'by hand'"),
        },
        {
            "webhook": (narrow_webhook, "switched off; it sends no payload; it does not send"),
            "model version": (serve_another_version, "'by hand'"),
            "sampling": (choose_sequential, "Sequential sampling"),
        },
    ],
    ids=["lost", "changed"],
)
def test_what_was_changed_in_label_studio_is_seen_and_mended(
    paused: Lab, site: Site, changes: dict[str, tuple[Callable[[Lab], None], str]]
) -> None:
    for change, _ in changes.values():
        change(paused)
    found = site.doctor(paused.project)
    assert {one for one in found if not found[one]["ok"]} == changes.keys()
    for name, (_, told) in changes.items():
        assert told in found[name]["what"]
        assert found[name]["fix"]
        assert found[name]["fixable"]
    mended = site.doctor(paused.project, "--fix")
    assert mended["webhook"]["repaired"]
    # One call writes all that Label Studio serves by.
    assert any(mended[name]["repaired"] for name in changes.keys() - {"webhook"})
    assert site.wrong(paused.project) == set()


@pytest.mark.soak
def test_a_queue_that_was_deleted_is_seen_and_published_anew(small: Lab, site: Site) -> None:
    small.backend.connect(small.project, OPTIONS | {"paused": True})
    until(lambda: small.page()["wanted"] == small.page()["done"], small.page)
    lost = small.page()["live_version"]
    path = f"/api/projects/{small.project}/model-versions/"
    small.annotator.call("DELETE", path, json={"model_version": lost})
    assert "queue" in site.wrong(small.project)
    small.backend.connect(small.project, OPTIONS)
    until(lambda: small.page()["live_version"] != lost, small.page)
    until(lambda: site.wrong(small.project) == set(), lambda: site.doctor(small.project))
    assert len(small.queue()) == 4


@pytest.mark.soak
def test_an_entry_at_an_address_of_the_past_is_moved_with_its_webhook(
    small: Lab, site: Site
) -> None:
    entry = the_entry(small)
    fields = {"project": small.project, "title": entry["title"], "extra_params": OPTIONS}
    with Proxy(small.backend.url) as old:
        small.annotator.call("PATCH", f"/api/ml/{entry['id']}", json={**fields, "url": old.url})
        hook = {"project": small.project, "url": f"{old.url}/webhook"}
        small.annotator.call("POST", "/api/webhooks/", json=hook)
        assert "entry" not in site.wrong(small.project), "another address of ours will do"
    found = site.doctor(small.project)["entry"]
    assert f"does not reach this service at {old.url} (Disconnected" in found["what"]
    site.doctor(small.project, "--fix")
    assert site.wrong(small.project) == set()
    assert (the_entry(small)["url"], the_entry(small)["extra_params"]) == (
        small.backend.url,
        OPTIONS,
    )
    hooks = small.annotator.call("GET", "/api/webhooks/", params={"project": small.project})
    assert [one["url"] for one in hooks] == [f"{small.backend.url}/webhook"]


@pytest.mark.soak
def test_of_several_entries_that_are_ours_the_one_at_our_address_stays(
    small: Lab, site: Site
) -> None:
    with Proxy(small.backend.url) as other:
        body = {"project": small.project, "url": other.url, "title": "twice"}
        small.annotator.call("POST", "/api/ml", json=body)
        found = site.doctor(small.project)
        assert "2 backend entries lead to this service" in found["entry"]["what"]
        site.doctor(small.project, "--fix")
        until(lambda: site.wrong(small.project) == set(), lambda: site.doctor(small.project))
    assert the_entry(small)["url"] == small.backend.url
    assert the_hook(small)


def test_a_project_that_nobody_connected_is_told_the_command(
    annotator: Annotator, site: Site
) -> None:
    project = annotator.create_project("alone", ["Object"])
    found = site.doctor(project, "--fix")
    assert "no backend entry" in found["entry"]["what"]
    assert f"python -m backend connect {project}" in found["entry"]["fix"]
    assert annotator.call("GET", "/api/ml", params={"project": project}) == []


def test_images_that_may_not_be_fetched_are_said_by_task(
    annotator: Annotator, backend: Backend, site: Site
) -> None:
    project = annotator.create_project("elsewhere", ["Object"])
    task = {"data": {"image": "http://images.example/scan.png"}}
    annotator.call("POST", f"/api/projects/{project}/import", json=[task])
    backend.connect(project, OPTIONS)
    found = site.doctor(project)["image"]
    assert not found["ok"]
    assert "not allowed" in found["what"]
    assert "IMAGE_HOSTS" in found["fix"]


# -- the others are left alone --------------------------------------------------------------------


@pytest.mark.soak
def test_another_service_keeps_its_entry_and_its_webhook(small: Lab, site: Site) -> None:
    with Stub() as them:
        body = {"project": small.project, "url": them.url, "title": "theirs"}
        small.annotator.call("POST", "/api/ml", json=body)
        lose_webhook(small)
        assert site.doctor(small.project, "--fix")["webhook"]["repaired"]
        assert site.wrong(small.project) == set()
        code, said = site.run("disconnect", small.project)
        assert code == 0
        assert "Left 1 backend entry of other services alone." in said
        entry = the_entry(small)
        hooks = small.annotator.call("GET", "/api/webhooks/", params={"project": small.project})
    assert (entry["url"], entry["title"]) == (them.url, "theirs")
    assert [hook["url"] for hook in hooks] == [f"{them.url}/webhook"]


def test_disconnecting_takes_both_away_says_so_and_may_be_repeated(small: Lab, site: Site) -> None:
    folder = small.backend.data / "projects" / str(small.project)
    code, said = site.run("disconnect", small.project)
    assert code == 0
    assert "Removed the backend entry" in said
    assert "Removed 1 webhook to" in said
    assert f"stay in {folder}" in said
    for path in ("/api/ml", "/api/webhooks/"):
        assert small.annotator.call("GET", path, params={"project": small.project}) == []
    assert small.page()["gone"], "what Label Studio asked meanwhile did not take it up again"
    code, said = site.run("disconnect", small.project)
    assert code == 0
    assert "had no entry, webhook or tab of this backend" in said

    until(lambda: not small.page()["step"], small.page)
    assert (small.page()["gone"], small.page()["problem"]) == (True, "")
    code, said = site.run("disconnect", small.project, "--forget")
    assert code == 0
    assert f"Forgot project {small.project}" in said
    assert not folder.exists()
    assert site.run("disconnect", small.project, "--forget")[0] == 0

    small.backend.connect(small.project, OPTIONS)
    until(lambda: site.wrong(small.project) == set(), lambda: site.doctor(small.project))


def test_clean_removes_the_predictions_of_old_versions_and_counts_them(
    small: Lab, site: Site
) -> None:
    shown = [small.page()["live_version"]]
    for seed in (1, 2, 3):
        small.backend.connect(small.project, OPTIONS | {"seed": seed})
        until(lambda: small.page()["live_version"] not in shown, small.page)
        shown.append(small.page()["live_version"])
    until(lambda: small.page()["wanted"] == small.page()["done"], small.page)
    small.label_next()  # within the last five minutes: the worker deletes nothing by itself

    def held() -> set[str]:
        path = f"/api/projects/{small.project}/model-versions/"
        found = small.annotator.call("GET", path, params={"extended": "true"})
        return {row["model_version"] for row in found["static"]}

    small.settle(labels=1)
    live = small.page()["live_version"]
    before = held()
    code, said = site.run("clean", small.project)
    assert code == 0
    gone = before - held()
    assert gone
    assert live in held()
    assert len(held()) == 2
    assert all(f"{name}: " in said for name in gone)
    assert site.run("clean", small.project) == (
        0,
        f"Project {small.project}: 0 predictions of old versions removed.\n",
    )
    assert site.wrong(small.project) == set()


# -- secrets, tokens, addresses -------------------------------------------------------------------


def test_the_secret_of_webhooks_is_installed_and_asked_for(
    studio: LabelStudio, annotator: Annotator, tmp_path: Path
) -> None:
    # The timer is off: what is noticed was told by a webhook.
    env = ENV | {
        "BASIC_AUTH_USER": "studio",
        "BASIC_AUTH_PASS": "pass-word-9",
        "WEBHOOK_SECRET": "secret-word-9",
        "RECONCILE_SECONDS": "600",
    }
    with Backend(studio.url, studio.token, tmp_path / "data", env=env) as guarded:
        site = Site(studio.url, studio.token, guarded, env)
        assert httpx.get(f"{guarded.url}/projects", timeout=10).status_code == 401
        project = annotator.create_project("guarded", ["Object"])
        annotator.import_scans(project, scans.phantoms(4, tmp_path / "scans"))
        guarded.connect(project, OPTIONS)
        auth = ("studio", "pass-word-9")

        def page() -> dict[str, Any]:
            address = f"{guarded.page(project)}?format=json"
            return page_at(address, auth=auth)

        def noticed() -> bool:
            before = page()["wanted"]
            task = annotator.next_task(project)
            assert task is not None
            annotator.skip(task)
            until(lambda: page()["wanted"] != before, page, seconds=10)
            return True

        until(lambda: bool(page()["live_version"]) and page()["wanted"] == page()["done"], page)
        assert site.wrong(project) == set()
        assert noticed()

        refused = httpx.post(f"{guarded.url}/webhook", json={}, auth=auth, timeout=10)
        assert refused.status_code == 401
        assert "X-Webhook-Secret" in refused.json()["error"]

        [hook] = annotator.call("GET", "/api/webhooks/", params={"project": project})
        body = {"url": hook["url"], "headers": {"X-Webhook-Secret": "old"}}
        annotator.call("PATCH", f"/api/webhooks/{hook['id']}/", json=body)
        told = site.doctor(project)["webhook"]["what"]
        assert "Authorization" not in told, "no password belongs into a webhook"
        assert "its header X-Webhook-Secret is wrong" in told
        assert site.doctor(project, "--fix")["webhook"]["repaired"]
        assert noticed()

        assert "web access" in site.wrong(WEBHOOK_SECRET="another")


@pytest.mark.soak
def test_legacy_tokens_that_are_off_are_said_with_the_way_out(
    tmp_path: Path,
) -> None:
    with (
        LabelStudio(tmp_path / "studio") as studio,
        Annotator(studio.url, studio.token) as person,
        Backend(studio.url, studio.token, tmp_path / "data", env=ENV) as backend,
    ):
        personal = personal_access_token(studio)
        body = {
            "api_tokens_enabled": True,
            "legacy_api_tokens_enabled": False,
        }
        person.call("POST", "/api/jwt/settings", json=body)
        found = Site(studio.url, studio.token, backend).doctor()["token"]
        assert "legacy token authentication has been disabled" in found["what"]
        assert "personal access token" in found["fix"]
        found = Site(studio.url, personal, backend).doctor()["token"]
        assert found["ok"]
        assert found["what"] == "The personal access token is accepted."

        revoked = {"refresh": personal}
        authorisation = {"Authorization": f"Bearer {exchanged(studio, personal)}"}
        httpx.post(
            f"{studio.url}/api/token/blacklist/", json=revoked, headers=authorisation, timeout=30
        ).raise_for_status()
        found = Site(studio.url, personal, backend).doctor()["token"]
        assert "Token is blacklisted" in found["what"]


def exchanged(studio: LabelStudio, personal: str) -> str:
    """The short-lived token that a personal access token stands for."""
    body = {"refresh": personal}
    answer = httpx.post(f"{studio.url}/api/token/refresh/", json=body, timeout=30)
    return str(answer.raise_for_status().json()["access"])


def test_an_access_token_that_label_studio_no_longer_takes_is_exchanged_anew(
    studio: LabelStudio,
) -> None:
    token = SecretStr(personal_access_token(studio))
    settings = Settings(label_studio_url=studio.url, label_studio_api_key=token)
    with closing(client.LabelStudio(settings)) as api:
        api.check_token()
        signing = api._api.token
        assert isinstance(signing, PersonalToken)
        refused = f"{signing.access[:-6]}AAAAAA"  # not yet over by our clock
        signing.access = refused
        api.check_token()
        assert signing.access != refused


@pytest.mark.soak
def test_blocked_addresses_are_seen_before_anything_is_stored(tmp_path: Path) -> None:
    def wrong(number: int, **env: str) -> set[str]:
        with (
            LabelStudio(tmp_path / f"studio-{number}", env=env) as studio,
            Backend(studio.url, studio.token, tmp_path / f"data-{number}", env=ENV) as backend,
        ):
            found = Site(studio.url, studio.token, backend).doctor()
            refused = {name for name in both if not found[name]["ok"]}
            assert all("SSRF_PROTECTION_ENABLED=false" in found[name]["fix"] for name in refused)
            return refused

    both = {"backend address", "webhook address"}
    assert wrong(1, ML_BLOCK_LOCAL_IP="true", SSRF_PROTECTION_ENABLED="true") == both
    assert wrong(2, SSRF_PROTECTION_ENABLED="true") == {"webhook address"}


def test_a_label_studio_at_another_port_is_found_with_the_variables_that_it_lacks(
    tmp_path: Path,
) -> None:
    port = next(port for port in neighbours.PORTS if not taken(port))
    env = {
        "ML_BLOCK_LOCAL_IP": "true",
        "SSRF_PROTECTION_ENABLED": "true",
        FAST_IMPORT: "false",
    }
    with (
        LabelStudio(tmp_path / "studio", port=port, env=env) as studio,
        Annotator(studio.url, studio.token) as person,
        Backend(studio.url, studio.token, tmp_path / "data", env=ENV) as backend,
    ):
        person.create_project("any", ["Object"])
        site = Site(studio.url, studio.token, backend)
        found = site.doctor(LABEL_STUDIO_URL=f"http://127.0.0.1:{free_port()}")["Label Studio"]
        code, said = site.run("doctor")
    # Another one may answer at a port before.
    assert found["fix"].startswith("Set LABEL_STUDIO_URL=http://127.0.0.1:80")
    assert code == 1
    pairs = f"ML_BLOCK_LOCAL_IP=false SSRF_PROTECTION_ENABLED=false {FAST_IMPORT}=true"
    assert f"\nexport {pairs}\n" in said
    assert said.splitlines()[-1].startswith("Next (")


def test_local_files_that_are_not_served_are_said_with_the_variables(
    annotator: Annotator, backend: Backend, site: Site
) -> None:
    project = annotator.create_project("local files", ["Object"])
    task = {"data": {"image": "/data/local-files/?d=scans/a.png"}}
    annotator.call("POST", f"/api/projects/{project}/import", json=[task])
    backend.connect(project, OPTIONS)
    found = site.doctor(project)["image"]
    assert "LOCAL_FILES_SERVING_ENABLED=true" in found["fix"]
    assert found["variables"]["LOCAL_FILES_SERVING_ENABLED"] == "true"


def test_a_label_studio_below_a_path_of_a_proxy_works_with_a_personal_token(
    tmp_path: Path,
) -> None:
    with Proxy(prefix="/ls") as proxy:
        env = {"LABEL_STUDIO_HOST": proxy.url}
        with LabelStudio(tmp_path / "studio", env=env) as studio:
            proxy.target = studio.url
            token = personal_access_token(studio)
            with (
                Annotator(studio.url, studio.token) as person,
                Backend(proxy.url, token, tmp_path / "data", env=ENV) as backend,
            ):
                site = Site(proxy.url, token, backend)
                project = person.create_project("below a path", ["Object"])
                pool = person.import_scans(project, scans.phantoms(4, tmp_path / "scans"))
                backend.connect(project, OPTIONS)
                lab = Lab(person, backend, project, dict(pool))
                assert len(lab.settle(labels=0)["next"]) == 4
                assert lab.page()["unreadable"] == []
                before = lab.page()["wanted"]
                lab.label_next()
                until(lambda: lab.page()["wanted"] != before, lab.page, seconds=4)
                until(lambda: lab.page()["wanted"] == lab.page()["done"], lab.page)
                assert site.wrong(project) == set()
    assert all(path.startswith("/ls/") for path in proxy.paths)
    assert any("/data/upload/" in path for path in proxy.paths)
