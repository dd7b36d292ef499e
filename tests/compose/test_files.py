"""What docker-compose.yml and .env.example name is what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from backend.decoder_process import MEMORY
from backend.settings import ProjectOptions, Settings
from demo.studio import ROOT

COMPOSE = (ROOT / "docker-compose.yml").read_text()
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


def test_only_what_cannot_have_a_default_has_to_be_written() -> None:
    needed = set(re.findall(r"\$\{(\w+):\?", COMPOSE))
    assert needed == set(re.findall(r"^([A-Z_]+)=", EXAMPLE, flags=re.MULTILINE))


def test_defaults_shown_are_the_defaults() -> None:
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
    taken = r'--volumes-from "\$\(docker compose ps -aq (\S+)\)%s" postgres:16 tar -C (\S+) -%s - '
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
