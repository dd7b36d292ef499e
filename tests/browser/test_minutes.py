"""The minutes of a label, from a browser that waits a known time to the project's page."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import LabelStudio
from demo import scans
from demo.annotator import Annotator
from tests.browser.test_annotating import label_all, press_submit
from tests.label_studio.conftest import Lab
from tests.label_studio.test_admin import until
from tests.label_studio.test_label_figures import QUIET

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.studio,
    pytest.mark.timeout(300),
]

WAITED = 4.0  # seconds that pass for everybody
SLEPT = 180.0  # seconds that pass for the page's clock alone


def test_the_minutes_of_the_page_are_those_that_passed_in_the_browser(
    annotator: Annotator,
    backend: Backend,
    studio: LabelStudio,
    owner: BrowserContext,
    page: Page,
    tmp_path: Path,
) -> None:
    project = annotator.create_project("timed", ["Object"])
    pool = annotator.import_scans(project, scans.phantoms(4, tmp_path / "phantoms"))
    backend.connect(project, QUIET)
    lab = Lab(annotator, backend, project, dict(pool))
    lab.settle(labels=0)
    labelling = owner.new_page()
    labelling.clock.install()

    short, long = (submit(labelling, studio, project, more) for more in (0.0, SLEPT))

    until(lambda: (lab.page()["minutes"] or {}).get("labels") == 2, lambda: lab.page()["minutes"])
    minutes = lab.page()["minutes"]
    assert minutes["total"] == pytest.approx((short[1] + long[1]) / 60)
    found = {one["task"]: 60 * one["minutes"] for one in minutes["longest"]}
    assert found == pytest.approx(dict([long, short]))
    page.goto(backend.page(project))
    panels = page.locator("#labels")
    expect(panels).to_contain_text(f"2 labels took {minutes['total']:.1f} min in all")


def submit(page: Page, studio: LabelStudio, project: int, more: float) -> tuple[int, float]:
    """Open the next scan, wait, and submit; return its task and its lead time in seconds.

    Label Studio counts from the moment at which the scan is loaded, which lies between the press of
    the button and the sight of the scan: the lead time has to lie between these two as well.
    """
    pressed = time.monotonic()
    task = label_all(page, studio.url, project)
    seen = time.monotonic()
    page.wait_for_timeout(1000 * WAITED)
    page.clock.fast_forward(int(1000 * more))
    least = time.monotonic() - seen + more
    saved = press_submit(page)
    most = time.monotonic() - pressed + more
    seconds = float(saved["lead_time"])
    assert least <= seconds <= most
    return task, seconds
