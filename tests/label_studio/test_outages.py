"""A real Label Studio behind a line that breaks: said once, and healed without a restart."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import LabelStudio
from demo import scans
from demo.annotator import Annotator
from tests.label_studio.conftest import OPTIONS, Lab
from tests.label_studio.proxy import Proxy
from tests.label_studio.test_admin import ENV, until

pytestmark = [pytest.mark.studio, pytest.mark.slow, pytest.mark.timeout(600)]

SLOW_SECONDS = 10.0


class Line(Proxy):
    """Passes calls on until it is broken in one of these ways: a status, "cut", "down", "slow"."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.broken: int | str = ""
        self.suffered = 0  # calls since it broke
        self._whole = threading.Event()

    def break_it(self, way: int | str) -> None:
        self.broken, self.suffered = way, 0
        self.withheld = 1000 if way == "cut" else 0
        self._whole.clear()

    def heal(self) -> None:
        self.broken, self.withheld = "", 0
        self._whole.set()

    def forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> httpx.Response:
        way = self.broken
        self.suffered += bool(way)
        if isinstance(way, int):
            return httpx.Response(way, json={"detail": "no"})
        if way == "down":
            raise ConnectionAbortedError
        if way == "slow":
            self._whole.wait(SLOW_SECONDS)
        return super().forward(method, path, headers, body)


@pytest.fixture(scope="module")
def line(studio: LabelStudio) -> Iterator[Line]:
    with Line(studio.url) as line:
        yield line


@pytest.fixture(scope="module")
def lab(
    line: Line,
    studio: LabelStudio,
    annotator: Annotator,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("behind-the-line")
    with Backend(line.url, studio.token, folder / "data", env=ENV) as backend:
        project = annotator.create_project("behind a line", ["Object"])
        found = annotator.import_scans(project, scans.phantoms(20, folder / "scans"))
        backend.connect(project, OPTIONS | {"max_train_seconds": 3})
        lab = Lab(annotator, backend, project, dict(found))
        lab.settle(labels=0)
        yield lab


def warnings(lab: Lab) -> list[str]:
    log = (lab.backend.data / "backend.log").read_text().splitlines()
    lines = [json.loads(line) for line in log if line.startswith("{")]
    return [line["message"] for line in lines if line["level"] in {"warning", "error"}]


def health(lab: Lab) -> list[str]:
    """What /health calls wrong; it answers 200, and at once."""
    answer = httpx.get(f"{lab.backend.url}/health", timeout=2)
    assert answer.status_code == 200
    return list(answer.json()["problems"])


SOAKED = [pytest.param(way, marks=pytest.mark.soak) for way in (500, 429, "cut")]


@pytest.mark.parametrize("way", ["down", 401, *SOAKED])
def test_a_broken_line_is_said_once_and_heals_and_no_label_is_lost(
    lab: Lab, line: Line, way: int | str
) -> None:
    known, before = len(lab.submitted), len(warnings(lab))
    line.break_it(way)
    lab.label_next()
    until(lambda: bool(health(lab)), lambda: lab.page())
    told = lab.page()["problem"]
    suffered = line.suffered
    until(lambda: line.suffered > 2 * suffered, lambda: line.suffered)
    line.heal()
    assert lab.settle(labels=known + 1)["labels_used"] == known + 1
    assert health(lab) == []
    assert sum(told in said for said in warnings(lab)[before:]) == 1


def test_a_slow_label_studio_is_waited_for_and_is_no_problem(lab: Lab, line: Line) -> None:
    known, before = len(lab.submitted), len(warnings(lab))
    line.break_it("slow")
    lab.label_next()
    until(lambda: line.suffered >= 3, lambda: line.suffered)
    started = time.monotonic()
    assert health(lab) == []
    assert time.monotonic() - started < SLOW_SECONDS / 2
    line.heal()
    lab.settle(labels=known + 1)
    assert warnings(lab)[before:] == []
