"""The report on a real project: it needs no network, and says the same as the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from backend.commands.quickstart.studio import LabelStudio
from backend.web.project_page import label_panels, review_panel
from model.evaluation import dice
from tests.browser.conftest import LOWER, Reviewed, Shoot, Watch
from tests.label_studio.commands import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.studio,
    pytest.mark.timeout(1800),
]


def test_the_report_says_what_the_page_says_and_asks_nobody(
    reviewed: Reviewed, studio: LabelStudio, browser: Browser, tmp_path: Path, shoot: Shoot
) -> None:
    lab, folder = reviewed.lab, tmp_path / "report"
    run(studio, lab.backend.data, "report", str(lab.project), str(folder))
    state, written = lab.page(), json.loads((folder / "report.json").read_text())
    for part in ("minutes", "agreement", "review", "stopping", "method", "strategy"):
        assert written[part] == state[part], part
    card = written["model"]
    assert card["version"] == state["live_version"]
    of_model = card["scores"]["dice"] or {"value": None}
    assert of_model["value"] == pytest.approx(state["validation_dice"])
    assert written["data"]["labelled"] == state["labelled"]
    assert [one["labels"] for one in written["people"]] == [24, 3]
    assert {one["task"] for one in written["review"]["scans"]} >= set(reviewed.wrong)
    assert written["agreement"]["metrics"]["dice"]["mean"] == pytest.approx(known(reviewed))

    with browser.new_context(offline=True) as context:
        page = context.new_page()
        watch = Watch(page)
        page.goto((folder / "report.html").as_uri())
        check_pictures(page)
        for line in (*label_panels.minutes(state), *label_panels.agreement(state)):
            expect(page.locator("main")).to_contain_text(line)
        expect(page.locator("main")).to_contain_text(review_panel.said(state))
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.set_viewport_size({"width": 960, "height": 740})
        minutes = page.locator("section", has=page.get_by_role("heading", name="Minutes"))
        minutes.evaluate("(section) => section.scrollIntoView()")
        shoot(page, "report-labels")
        assert watch.hosts == {"file://"}
        assert watch.complaints == []


def known(reviewed: Reviewed) -> float:
    """Return the mean Dice of the two annotators, as they were told to draw."""
    masks = [reviewed.lab.scans[task].mask for task in reviewed.twice]
    truths = np.array([mask for mask in masks if mask is not None])
    return float(dice(truths, np.roll(truths, LOWER, axis=1)).mean())


def check_pictures(page: Page) -> None:
    """Every picture of the page is there."""
    widths = "() => [...document.images].map((one) => one.naturalWidth)"
    assert all(page.evaluate(widths))
