from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from tests import postgresql

LOCAL = "local"
HEAVY = {"torch", "torchvision", "onnxruntime", "timm", "segmentation_models_pytorch", "umap"}

# A worker refines models and reviews labels whenever nothing waits. A test of anything else would
# not know what runs; the tests of the two turn them on.
os.environ.setdefault("FIRSTLIGHT_REFINE", "false")
os.environ.setdefault("FIRSTLIGHT_REVIEW", "false")

# How long an example takes is the machine's affair: nothing here fails by the clock.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("quick", settings.get_profile("untimed"), max_examples=20)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgresql",
        default="",
        help="address of a server on which every test of the service gets a database of its own, "
        "instead of SQLite: postgresql+psycopg://user:password@host/postgres, or `local` for one "
        "that the run starts itself",
    )
    parser.addoption(
        "--quick",
        action="store_true",
        help=f"skip what imports one of {', '.join(sorted(HEAVY))}, which takes many seconds",
    )


class SkipHeavy(MetaPathFinder):
    """Skips the test, or the whole file of tests, that imports a heavy package."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        """Skip on a heavy package; leave every other one to the next finder."""
        if name.partition(".")[0] in HEAVY:
            pytest.skip(f"imports {name}", allow_module_level=True)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--quick"):
        sys.meta_path.insert(0, SkipHeavy())
        settings.load_profile("quick")


@pytest.fixture(scope="session")
def postgresql_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The server that was named, else one of the run's own."""
    named = request.config.getoption("--postgresql")
    if named not in {"", LOCAL}:
        yield named
        return
    with postgresql.running() as url:
        yield url


@pytest.fixture(scope="session")
def lite0_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of encoders with EfficientNet-Lite0, converted once for all processes of the run."""
    from model import encoders  # with torch, which most tests do without

    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = shared / "encoders" / "not" / "there" / "yet"
    with FileLock(shared / "encoders.lock"):
        encoders.load("efficientnet-lite0", cache_dir=folder)
    return folder
