"""What docker-compose.yml, .env.example and the Dockerfile name is what there is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from packaging.utils import canonicalize_name

from backend import __version__
from backend.commands.quickstart.studio import ROOT
from backend.imaging.decoder_process import MEMORY
from backend.options import ProjectOptions
from backend.settings import Settings

COMPOSE = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]

SETTINGS = {name.upper() for name in Settings.model_fields}
OPTIONS = {f"FIRSTLIGHT_{name.upper()}" for name in ProjectOptions.model_fields}
OF_THE_IMAGE = {"HOST", "PORT", "DATA_DIR"}  # fixed where everything else depends on them
OF_THE_FILE = {"LABEL_STUDIO_URL", "BACKEND_URL"}


@pytest.mark.parametrize("service", ["web", "worker"])
def test_every_setting_and_option_reaches_our_services(service: str) -> None:
    assert SERVICES[service]["environment"].keys() | OF_THE_IMAGE >= SETTINGS | OPTIONS


def test_every_setting_and_option_can_be_given_by_env_and_is_shown_there() -> None:
    read = set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE))
    assert read >= (SETTINGS | OPTIONS) - OF_THE_IMAGE - OF_THE_FILE
    assert read == set(re.findall(r"^#?([A-Z_]+)=", EXAMPLE, flags=re.MULTILINE))


def test_the_lines_that_mount_the_folder_of_imports_name_our_services_and_that_folder() -> None:
    shown, folder = re.findall(r"((?:^#  .*\n)+)#IMPORTS_DIR=(.+)$", EXAMPLE, flags=re.MULTILINE)[0]
    lines = yaml.safe_load(re.sub("^#", "", shown, flags=re.MULTILINE))
    ours = {name for name, one in SERVICES.items() if one["image"] == "firstlight"}
    assert lines["services"] == {name: {"volumes": [f"{folder}:{folder}"]} for name in ours}


def test_every_image_is_named_by_its_full_release() -> None:
    named = re.findall(r"(?:_IMAGE:-|_IMAGE=)([\w./-]+:[\w.-]+)", COMPOSE + DOCKERFILE + EXAMPLE)
    used = re.findall(r"^ +image: (.+)$", COMPOSE, flags=re.MULTILINE)
    assert len(named) == 9
    assert len(set(named)) == 3
    assert all(re.search(r":\d+\.\d+", name) for name in named)
    assert {image for image in used if ":-" not in image} == {"firstlight"}


@pytest.mark.parametrize("index", ["", "https://index.example/cpu"])
def test_the_image_installs_every_package_of_the_lock_by_its_hashes(
    tmp_path: Path, index: str
) -> None:
    [script] = re.findall(r"^RUN (set -eu;.*?)\n\n", DOCKERFILE, flags=re.MULTILINE | re.DOTALL)
    asked = tmp_path / "asked"
    pip = f'pip() {{ for last; do :; done; echo "$@" >>{asked}; cat "$last" >>{asked}; }}\n'
    for written, here in (("/tmp/", f"{tmp_path}/"), ("/app", str(ROOT)), ("pip check;", "")):  # noqa: S108
        script = script.replace(written, here)
    environment = {"PATH": os.defpath, "TORCH_INDEX": index}
    subprocess.run(["sh", "-c", pip + script], env=environment, check=True)
    lines = [line for line in asked.read_text().splitlines() if not line.startswith("#")]
    locked = re.findall(
        r"^([a-z0-9-]+==\S+)", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE
    )
    pinned = [line for line in lines if "==" in line]
    bare = [line.split()[0] for line in pinned if "--hash=sha256:" not in line]
    if index:
        left_out = [name for name in locked if name.startswith(("nvidia-", "cuda-", "triton"))]
        assert [name.split("==")[0] for name in bare] == ["torch", "torchvision"]
        assert sorted(line.split()[0] for line in pinned) == sorted(set(locked) - set(left_out))
    else:
        assert bare == []
        assert [line.split()[0] for line in pinned] == locked
    assert any(line.startswith("install") and "--require-hashes" in line for line in lines)


def test_the_image_stands_on_its_base_alone_and_takes_only_what_the_build_may_see() -> None:
    stages = dict(re.findall(r"^FROM (\S+)(?: AS (\w+))?$", DOCKERFILE, flags=re.MULTILINE))
    assert stages.keys() == {"$PYTHON_IMAGE", "packages"}
    let_in = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE))
    copied = re.findall(r"^COPY (?!--from)(.+) /app/\S*$", DOCKERFILE, flags=re.MULTILINE)
    assert {name for line in copied for name in line.split()} == let_in


def test_the_image_says_what_it_is() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="(.*)"', DOCKERFILE))
    assert labels["version"] == __version__
    assert labels["licenses"] == "Apache-2.0"
    assert (labels["revision"], labels["base.name"]) == ("$REVISION", "$PYTHON_IMAGE")


def test_the_image_runs_as_its_own_user_and_is_asked_as_the_web_service_is() -> None:
    assert re.findall(r"^USER (\w+)$", DOCKERFILE, flags=re.MULTILINE) == ["firstlight"]
    assert re.search(r"^RUN ", DOCKERFILE.partition("\nUSER ")[2], flags=re.MULTILINE) is None
    [check] = re.findall(r"^HEALTHCHECK .*\n +CMD (\[.+\])$", DOCKERFILE, flags=re.MULTILINE)
    [_, *asked] = SERVICES["web"]["healthcheck"]["test"]
    assert json.loads(check.replace("'", '\\"')) == asked
    assert SERVICES["worker"]["healthcheck"]["test"][-2:] == ["worker", "--alive"]


def test_the_image_is_asked_at_the_port_that_it_is_started_with() -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    [check] = re.findall(r"^HEALTHCHECK .*\n +CMD (\[.+\])$", DOCKERFILE, flags=re.MULTILINE)
    order = [sys.executable, *json.loads(check)[1:]]
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        asked = subprocess.run(order, env={"PORT": str(server.server_port)}, check=False)
        server.shutdown()
    assert asked.returncode == 0
    gone = subprocess.run(
        order, env={"PORT": str(server.server_port)}, check=False, capture_output=True
    )
    assert gone.returncode


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_sbom_of_the_image_is_valid_and_lists_every_package(tmp_path: Path) -> None:
    [command] = re.findall(
        r"^RUN (/sbom/bin/cyclonedx-py .*?)\n\n", DOCKERFILE, flags=re.DOTALL | re.M
    )
    programs = Path(sys.executable).parent
    for written, here in (
        ("/sbom/bin/cyclonedx-py", f"{sys.executable} -m cyclonedx_py"),
        ("/app/pyproject.toml", str(ROOT / "pyproject.toml")),
        ("/app/", f"{tmp_path}/"),
    ):
        command = command.replace(written, here)
    assert " --validate " in command, "the tool fails unless the result fits CycloneDX's schema"
    environment = {"PATH": f"{programs}:{os.defpath}"}
    subprocess.run(["sh", "-euc", command], env=environment, check=True)
    read = json.loads((tmp_path / "sbom.cdx.json").read_text())
    assert read["metadata"]["component"]["name"] == "firstlight"
    listed = {(canonicalize_name(one["name"]), one["version"]) for one in read["components"]}
    assert listed == {(canonicalize_name(one.name), one.version) for one in distributions()}
    assert all(one["purl"].startswith("pkg:pypi/") for one in read["components"])


@pytest.mark.parametrize("file", sorted(ROOT.glob("requirements*.txt")), ids=lambda file: file.name)
def test_every_requirement_carries_a_version_and_hashes(file: Path) -> None:
    joined = file.read_text().replace("\\\n", "")
    lines = [line for line in joined.splitlines() if not line.startswith(("#", "-r "))]
    assert lines
    assert all(re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:[0-9a-f]{64}$", line) for line in lines)


def test_only_what_cannot_have_a_default_has_to_be_written() -> None:
    needed = set(re.findall(r"\$\{(\w+):\?", COMPOSE))
    assert needed == set(re.findall(r"^([A-Z_]+)=", EXAMPLE, flags=re.MULTILINE))


def test_defaults_shown_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRSTLIGHT_REFINE", "FIRSTLIGHT_REVIEW"):  # set for all tests
        monkeypatch.delenv(name)
    shown = dict(re.findall(r"^#(FIRSTLIGHT_\w+)=(.+)$", EXAMPLE, flags=re.MULTILINE))
    lower = {name.removeprefix("FIRSTLIGHT_").lower(): value for name, value in shown.items()}
    assert ProjectOptions(**lower) == ProjectOptions()


def test_the_memory_of_our_services_is_limited_so_that_a_machine_of_8_gb_stays_whole() -> None:
    limits = {}
    for name in ("web", "worker"):
        found = re.fullmatch(r"\$\{[A-Z]+_MEMORY:-(\d+)g\}", SERVICES[name]["mem_limit"])
        assert found is not None
        limits[name] = int(found[1]) * 2**30
    assert sum(limits.values()) <= 5 * 2**30, "3 GB are Label Studio's, PostgreSQL's, the system's"
    # A decoder at its bound ends before the others of its container: it has to fit in.
    assert all(limit >= MEMORY for limit in limits.values())
    assert limits["worker"] >= MEMORY + 2**30


@pytest.mark.seconds
@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is missing")
@pytest.mark.parametrize("more", [[], ["docker-compose.gpu.yml"], ["tests/compose/override.yml"]])
def test_the_files_are_valid_together(more: list[str]) -> None:
    files = [part for name in ["docker-compose.yml", *more] for part in ("--file", name)]
    needed = {name: "unused" for name in re.findall(r"\$\{(\w+):\?", COMPOSE)}
    done = subprocess.run(
        ["docker-compose", *files, "config", "--quiet"],
        cwd=ROOT,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"} | needed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ({}, "http://localhost:8080"),
        ({"LABEL_STUDIO_PUBLIC_URL": "https://host"}, "https://host"),
        (
            {
                "LABEL_STUDIO_PUBLIC_URL": "https://host/label",
                "LABEL_STUDIO_ORIGIN": "https://host",
            },
            "https://host",
        ),
    ],
)
def test_label_studio_takes_forms_from_its_public_address(
    given: dict[str, str], origin: str
) -> None:
    environment = SERVICES["label-studio"]["environment"]
    written = environment["LABEL_STUDIO_CSRF_TRUSTED_ORIGINS"]
    filled = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: given.get(found[1]) or found[2], written)
    assert origin in filled.split(",")
    # Django starts with no origin that lacks its scheme.
    assert all(re.match("https?://", one) for one in filled.split(","))


def commands_of(section: str) -> str:
    [found] = re.findall(
        rf"^### {section}\n.*?^```\n(.*?)^```", OPERATIONS, re.DOTALL | re.MULTILINE
    )
    return str(found).replace("\\\n    ", "")


def test_a_backup_and_a_restore_know_the_volumes_by_the_containers_that_mount_them() -> None:
    mounted = {
        (name, volume.split(":")[1])
        for name in ("label-studio", "web")
        for volume in SERVICES[name]["volumes"]
    }
    taken = (
        r'--volumes-from "\$\(docker compose ps -aq (\S+)\)%s" postgres:16.14 tar -C (\S+) -%s - '
    )
    assert set(re.findall(taken % (":ro", "cf"), commands_of("Backup"))) == mounted
    assert set(re.findall(taken % ("", "xpf"), commands_of("Restore"))) == mounted
    # A volume by a name that is not there would be made, and be empty.
    assert not re.search(r"docker run [^\n]*(-v|--volume) ", OPERATIONS)


def test_a_restore_fills_databases_and_volumes_before_anything_uses_them() -> None:
    steps = ["up -d postgres databases", "pg_restore", "up --no-start", "--volumes-from", "up -d\n"]
    commands = commands_of("Restore")
    places = [commands.index(step) for step in steps]
    assert places == sorted(places)
    assert commands.endswith(steps[-1])
