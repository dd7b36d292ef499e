"""The panels Minutes and Agreement in a browser, of labels with known times and masks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import LabelStudio
from demo import scans
from demo.annotator import Annotator
from tests.browser.conftest import Shoot, Watch
from tests.label_studio.conftest import Lab, invited
from tests.label_studio.test_label_figures import QUIET, SCANS, figures_of, work

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.studio,
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def colleague(studio: LabelStudio, annotator: Annotator) -> Iterator[Annotator]:
    token = invited(studio, annotator, "cem@agreement.local")
    with Annotator(studio.url, token) as person:
        yield person


@pytest.fixture(scope="module")
def lab(
    annotator: Annotator,
    colleague: Annotator,
    backend: Backend,
    tmp_path_factory: pytest.TempPathFactory,
) -> Lab:
    """A project with the labels of two people."""
    project = annotator.create_project("Two readers", ["Object"])
    pool = scans.phantoms(SCANS, tmp_path_factory.mktemp("phantoms"))
    tasks = annotator.import_scans(project, pool)
    backend.connect(project, QUIET)
    found = Lab(annotator, backend, project, dict(tasks))
    found.settle(labels=0)
    work(annotator, colleague, sorted(tasks))
    figures_of(found)
    return found


def test_the_panels_show_the_known_figures(lab: Lab, page: Page, shoot: Shoot) -> None:
    watch = Watch(page)
    page.goto(lab.backend.page(lab.project))
    panels = page.locator("#labels")
    expect(panels).to_contain_text("Drafts have saved 12 min so far")
    expect(panels).to_contain_text("Dice 0.50")
    expect(panels).to_contain_text("annotator 2")
    page.wait_for_load_state("networkidle")
    panels.scroll_into_view_if_needed()
    shoot(panels, "worth")
    assert watch.complaints == []


def test_the_panels_need_no_javascript(lab: Lab, browser: Browser) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(lab.backend.page(lab.project))
        expect(page.locator("#labels")).to_contain_text("Drafts have saved 12 min so far")


@pytest.mark.parametrize("width", [390, 1280])
def test_the_panels_fit_into_their_page(lab: Lab, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(lab.backend.page(lab.project))
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.evaluate(fits)
