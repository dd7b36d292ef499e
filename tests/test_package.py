"""The wheel holds all that runs, its versions fit the lock, and its command starts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from backend import __version__
from backend.commands.quickstart.process import Process, bare_environment, free_port
from backend.commands.quickstart.studio import ROOT

PACKAGES = ("backend", "demo", "model")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
LOCKED = dict(
    re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)
)

EXAMPLES = ROOT / "docs" / "examples"
LOCK_OF_LABEL_STUDIO = "backend/commands/quickstart/requirements-label-studio.txt"

# What a package of the examples adds, tried with the installed package: a script, and its answer.
PLUGGED = {
    "firstlight-two-scales": (
        """
import torch
from model import networks, registry
assert registry.is_network("two-scales")
assert networks.why_not("two-scales", 2) == ""
print(networks.build("two-scales", 2)(torch.zeros(1, 3, 64, 32)).shape)
""",
        "torch.Size([1, 2, 64, 32])",
    ),
    "firstlight-simple-rules": (
        """
import numpy as np
from backend.options import parse_options
from model import active_learning, encoders
given = {"cold_start": "outermost", "acquisition": "moderate", "encoder": "histogram+pixels"}
options = parse_options(given)
points = np.arange(12, dtype=np.float32).reshape(6, 2)
labelled = np.arange(6) < 1
how = active_learning.SelectionOptions(1, options.cold_start, options.acquisition)
for uncertainty in (None, np.array([0, 0, 0.3, 0.5, 0.8, 1])):
    decision = active_learning.decide(
        points, labelled, how, coordinates=points, uncertainty=uncertainty
    )
    print(decision.strategy, decision.order.tolist(), active_learning.reasons(decision)[0])
encoder = encoders.load(options.encoder)
print(encoder.name, encoder.encode([np.zeros((8, 8), np.float32)]).shape, encoder.substituted)
""",
        "outermost [5, 1, 4, 2, 3] far out on the map\n"
        "moderate [3, 2, 4, 1, 5] uncertainty 0.50, near the median\n"
        "histogram-0.1.0+pixels (1, 288) False",
    ),
}


@pytest.mark.parametrize("written", PROJECT["dependencies"])
def test_the_lock_lies_inside_the_range_of_every_dependency(written: str) -> None:
    wanted = Requirement(written)
    assert LOCKED[wanted.name] in wanted.specifier


@pytest.mark.parametrize("written", PROJECT["dependencies"])
def test_no_dependency_is_pinned_or_unbounded_below(written: str) -> None:
    operators = {found.operator for found in Requirement(written).specifier}
    assert operators <= {"~=", ">=", "<"}
    assert operators & {"~=", ">="}


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_has_all_that_its_packages_need_on_every_python(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.9", "extra": ""}
    locked = {*_locked_for(environment), "pip"}  # every venv has pip
    missing = [
        f"{name}: {need}"
        for name in locked
        for need in map(Requirement, distribution(name).requires or ())
        if (need.marker is None or need.marker.evaluate(environment))
        and canonicalize_name(need.name) not in locked
    ]
    assert not missing


def _locked_for(environment: dict[str, str]) -> Iterator[str]:
    """Yield the names of the packages that scripts/setup --dev installs."""
    for file in ("requirements.txt", "requirements-dev.txt"):
        for line in re.findall(r"^[a-z0-9].*==[^\\\n]+", (ROOT / file).read_text(), re.MULTILINE):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                yield canonicalize_name(requirement.name)


def test_the_interpreter_of_the_tests_and_of_the_image_is_supported() -> None:
    supported = SpecifierSet(PROJECT["requires-python"])
    [image] = re.findall(r"^ARG PYTHON_IMAGE=python:([\d.]+)", DOCKERFILE, flags=re.MULTILINE)
    assert image in supported
    assert "{}.{}.{}".format(*sys.version_info) in supported


def test_the_citation_names_the_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pytest.importorskip("hatchling")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        written = archive.read(f"firstlight-{__version__}.dist-info/METADATA").decode()
    return Parser().parsestr(written)


def _run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command; return what it wrote."""
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


@pytest.mark.seconds
def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert held - ours == {LOCK_OF_LABEL_STUDIO}
    assert ours <= held
    # What is read at run time and is no code.
    data = {name for name in ours if not name.endswith(".py")}
    assert {Path(name).parent.as_posix() for name in data} == {
        "backend/commands/report/templates",
        "backend/experiments/templates",
        "backend/web/project_page/static",
        "backend/web/project_page/templates",
    }
    assert "backend/storage/migrations/env.py" in held
    assert "backend/storage/migrations/versions/0001_first_release.py" in held


@pytest.mark.seconds
def test_the_wheel_holds_the_lock_of_label_studio(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = archive.read(LOCK_OF_LABEL_STUDIO)
    assert held == (ROOT / "requirements-label-studio.txt").read_bytes()


@pytest.mark.seconds
def test_the_wheel_tells_what_it_is_and_needs(metadata: Message) -> None:
    assert metadata["Name"] == "firstlight"
    assert metadata["Version"] == __version__
    assert SpecifierSet(metadata["Requires-Python"]) == SpecifierSet(PROJECT["requires-python"])
    needed = {str(Requirement(line)) for line in metadata.get_all("Requires-Dist", [])}
    assert needed == {str(Requirement(line)) for line in PROJECT["dependencies"]}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel, on top of the packages of the tests."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", venv)  # pip is among the packages
    [packages] = venv.glob("lib/python*/site-packages")
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib"))
    _pip_install(venv / "bin", wheel)
    return venv / "bin"


def _pip_install(programs: Path, package: Path) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    pip = (programs / "python", "-P", "-m", "pip", "install", "--no-build-isolation")
    _run(*pip, *options, package)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A working folder with a package `backend` that is not ours."""
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "expected"),
    [("--version", f"firstlight, version {__version__}"), ("--help", "Usage: firstlight ")],
)
def test_the_installed_command_answers(
    installed: Path, elsewhere: Path, argument: str, expected: str
) -> None:
    assert expected in _run(installed / "firstlight", argument, cwd=elsewhere)


@pytest.mark.slow
def test_the_installed_quickstart_without_uv_says_how_to_get_a_label_studio(
    installed: Path, elsewhere: Path
) -> None:
    environment = {"PATH": "", "HOME": str(elsewhere), "DATA_DIR": str(elsewhere / "data")}
    run = subprocess.run(
        [installed / "firstlight", "quickstart", "--scans", "3", "--no-browser"],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "pip install uv" in run.stderr
    assert "--label-studio URL --token TOKEN" in run.stderr


@pytest.mark.slow
def test_the_installed_service_serves_its_page_from_any_folder(
    installed: Path, elsewhere: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = bare_environment() | {
        "LABEL_STUDIO_API_KEY": "unused",
        "DATA_DIR": str(elsewhere / "data"),
        "PORT": str(port),
    }
    log = elsewhere / "log"
    process = Process([installed / "firstlight", "start"], log=log, env=environment, cwd=elsewhere)
    try:
        page = _wait_for(process, f"{url}/projects")
        assert "No project is connected yet. Connect one: <code>firstlight connect " in page
        files = re.findall(r"/static/[^\"]+", page)
        assert len(files) >= 2, "icon and style"
        assert all(httpx.get(url + name).status_code == 200 for name in files)
    finally:
        process.stop(seconds=10)


def _wait_for(process: Process, url: str) -> str:
    while True:
        process.check("The installed service")
        try:
            page = httpx.get(url, headers={"Accept": "text/html"}, timeout=10)
            return page.raise_for_status().text
        except httpx.HTTPError:
            time.sleep(0.2)  # the test's timeout bounds the wait


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("example", PLUGGED)
def test_the_example_packages_add_what_they_name(
    installed: Path, tmp_path: Path, elsewhere: Path, example: str
) -> None:
    source = shutil.copytree(EXAMPLES / example, tmp_path / "source")  # a build writes into it
    _pip_install(installed, source)
    script, answer = PLUGGED[example]
    assert _run(installed / "python", "-P", "-c", script, cwd=elsewhere) == f"{answer}\n"


def test_every_example_package_is_tried() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == set(PLUGGED)
