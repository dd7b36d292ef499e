"""A simulated project, from its first labels to the notice that labelling can stop.

Its page is opened in a browser here, because no other test comes so far.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from click.testing import CliRunner
from dbos import DBOS
from playwright.sync_api import Browser, Locator, expect
from pydantic import SecretStr
from torch import Tensor, nn
from werkzeug.serving import make_server

from backend.commands.cli import cli
from backend.rounds.idle import refinement
from backend.rounds.services import Services
from backend.settings import Settings
from backend.web.app import create_app
from backend.web.project_page import stopping_panel, views
from backend.worker.notices import Notifier
from model import phantoms, plugins
from tests import chromium
from tests.backend.conftest import Clock
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.site import OPTIONS, SIZE, TINY, Site
from tests.browser.conftest import WIDE, Shoot, shoot
from tests.model.plugs import plug
from tests.servers import running

__all__ = ["shoot"]  # a fixture of the tests in a browser

# Tests marked `browser` share a process with the event loop of Playwright, beside which DBOS starts
# no worker. So this one is not marked; it starts a browser of its own after all rounds.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

HELD_OUT, BATCH, MOST = 20, 10, 80
SECRET = "https://hooks.example/secret"


class Finished(nn.Module):
    """A network that draws fair masks of phantoms from the start, and learns nothing.

    Which labels it sees and how a processor rounds changes nothing, so labelling can stop for sure.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes, h, w) of images (n, 3, h, w)."""
        height, width = images.shape[-2:]
        y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
        grey = nn.functional.avg_pool2d(images[:, :1], 3, stride=1, padding=1)
        logits: Tensor = 3 - grey - 4 * grey.abs() + x.abs() - 5 * x**2 - 6 * y**2
        return logits + 0 * self.bias[:, None, None]


@pytest.fixture
def site(
    services: Services,
    fake: FakeLabelStudio,
    clock: Clock,
    project_id: int,
    jobs: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """A worker with a network that cannot get better; some phantoms are ground truth."""
    plug(monkeypatch, plugins.NETWORKS, __name__, "Finished")
    config = replace(TINY, network="Finished")
    monkeypatch.setattr("backend.rounds.models.learner.train_config", lambda *_: config)
    series = phantoms.generate(HELD_OUT + MOST + 20, size=SIZE)
    tasks = [fake.add_task(project_id, one.image) for one in series]
    site = Site(services, fake, clock, project_id, tasks)
    site.phantoms = series
    site.entry["extra_params"] = {
        **OPTIONS,
        "cold_start_budget": BATCH,
        "batch_size": BATCH,
        "retrain_after": BATCH,
        "refine": True,
        "max_refine_seconds": 1.0,
        "enough": 2.0,
    }
    site.start()
    yield site
    site.stop()


def test_a_project_ends_with_one_notice_which_page_and_report_explain(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shoot: Shoot,
) -> None:
    known = site.services.settings.model_copy(update={"notify_url": SecretStr(SECRET)})
    assert notices(site, known).count("can-stop") == 1
    state = views.status(site.store, site.services.artifacts, site.number)
    said = stopping_panel.lines(state)
    assert said[0].startswith("The next 10 labels are expected to gain")
    assert any("Lowest Dice on held-out scans" in line for line in said)

    monkeypatch.setattr("backend.rounds.services.build", lambda settings, store: site.services)
    monkeypatch.setattr("backend.commands.report.command.load_settings", lambda: known)
    CliRunner().invoke(
        cli, ["report", str(site.number), str(tmp_path / "r")], catch_exceptions=False
    )
    html = (tmp_path / "r" / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 4, "the scans on which the model fails"

    with chromium.running() as browser:
        check_page(site, state, browser, shoot)


def notices(site: Site, known: Settings) -> list[str]:
    """Label all scans; return the events of which a person was told on the way."""
    events: list[str] = []

    def receive(request: httpx.Request) -> httpx.Response:
        events.append(json.loads(request.content)["event"])
        return httpx.Response(200)

    site.label(*range(HELD_OUT), ground_truth=True, seconds=60.0)
    with httpx.Client(transport=httpx.MockTransport(receive)) as client:
        notifier = Notifier(known, site.store, client)
        for first in range(HELD_OUT, HELD_OUT + MOST, BATCH):
            site.label(*range(first, first + BATCH), seconds=60.0)
            site.refresh()
            if first >= HELD_OUT + 4 * BATCH and refinement.due(site.store):
                DBOS.start_workflow(site.rounds.refine, site.number).get_result()
            notifier.look()
    return events


def check_page(site: Site, state: dict[str, Any], browser: Browser, shoot: Shoot) -> None:
    """The panel tells the signs, with and without JavaScript."""
    app = create_app(site.services.settings, site.store, lambda project, task: [])
    server = make_server("127.0.0.1", 0, app, threaded=True)
    address = f"http://127.0.0.1:{server.port}/projects/{site.number}"
    with running(server):
        for script in (True, False):
            with browser.new_context(viewport=WIDE, java_script_enabled=script) as context:
                page = context.new_page()
                page.goto(address)
                panel = page.locator("#stopping")
                check_panel(panel, state)
                if script:
                    shoot(panel, "stopping")


def check_panel(panel: Locator, state: dict[str, Any]) -> None:
    for line in stopping_panel.lines(state):
        expect(panel).to_contain_text(line.replace("`", ""))  # shown as code
    curve = panel.get_by_role("img")
    expect(curve).to_be_visible()
    expect(curve.locator("circle")).to_have_count(len(state["stopping"]["points"]))
    for part in (".fit.ahead", ".band"):
        box = curve.locator(part).bounding_box()
        assert box is not None
        assert box["width"] > 0, part
