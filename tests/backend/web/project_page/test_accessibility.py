"""The page for people who see little, use no mouse, or hear it read: every panel filled."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest

from backend.rounds.idle import review_list
from backend.settings import Settings
from backend.storage import ledger
from backend.storage.records import REVIEW, LabelRecord, ReviewedScan, ReviewRecord
from backend.storage.store import Store
from backend.web import project_page
from backend.web.app import create_app
from tests.backend.web.project_page.test_label_panels import AGREEMENT, MINUTES
from tests.backend.web.project_page.test_stopping_panel import found
from tests.backend.web.project_page.test_views import add_tasks, annotate, publish

STYLE = (Path(project_page.__file__).parent / "static" / "page.css").read_text()
TEXT, GRAPHICS = 4.5, 3.0  # least contrasts of WCAG 2.2, level AA (1.4.3 and 1.4.11)
BEHIND_NO_TEXT = {"line", "accent", "mark"}  # of bars, gaps between boxes, and dots
MATRIX = 0.28  # the largest share of the accent in a cell of the matrix of annotators

Colour = tuple[float, float, float]


def colours(scheme: str) -> dict[str, Colour]:
    """Return the colours of the page by name, in [0, 1]; those of `dark` override the others."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    declared = light if scheme == "light" else light + dark
    return {name: parsed(value) for name, value in re.findall(r"--(\w[\w-]*): #(\w+);", declared)}


def parsed(digits: str) -> Colour:
    long = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    red, green, blue = (int(long[at : at + 2], 16) / 255 for at in (0, 2, 4))
    return red, green, blue


def contrast(one: Colour, other: Colour) -> float:
    """Return the contrast of two colours as WCAG 2.2 defines it, from 1 to 21."""
    lights = sorted(map(luminance, (one, other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(colour: Colour) -> float:
    linear = [of / 12.92 if of <= 0.04045 else ((of + 0.055) / 1.055) ** 2.4 for of in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_of_text_stands_out_from_every_ground(scheme: str) -> None:
    known = colours(scheme)
    assert re.search(rf"var\(--accent\) calc\(var\(--share, 0\) \* {MATRIX:.0%}\)", STYLE)
    cell = zip(known["accent"], known["card"], strict=True)
    red, green, blue = (MATRIX * accent + (1 - MATRIX) * card for accent, card in cell)
    known["cell"] = red, green, blue
    texts = set(re.findall(r"(?<![\w-])(?:color|text \{[^}]*fill): var\(--([\w-]+)\)", STYLE))
    grounds = set(re.findall(r"background: var\(--([\w-]+)\)", STYLE)) - BEHIND_NO_TEXT
    assert texts >= {"ink", "quiet", "accent", "good", "bad"}
    assert grounds >= {"paper", "card", "soft", "bad-soft"}
    least = {pair: TEXT for pair in product(texts, grounds)}
    assert re.search(r"\.matrix small \{[^}]*color: inherit", STYLE), "cells hold only ink"
    least |= {("ink", "cell"): TEXT, ("mark", "card"): GRAPHICS, ("accent", "line"): GRAPHICS}
    weak = {pair: contrast(known[pair[0]], known[pair[1]]) for pair in least}
    assert not {pair: of for pair, of in weak.items() if of < least[pair]}


class Reader(HTMLParser):
    """Notes the ids, the pictures, the headers of tables, the landmarks and what can be pressed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.landmarks: list[str] = []
        self.silent: list[str] = []  # tags that lack what a screen reader says of them
        self.controls: list[tuple[str, str]] = []  # the name that is given, the words that are seen
        self.inside = ""  # the control that is being read
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [str(given["id"])] if "id" in given else []
        lacks = {"img": "alt", "th": "scope", "section": "aria-labelledby"}.get(tag)
        if lacks and lacks not in given:
            self.silent.append(self.get_starttag_text() or tag)
        if tag in {"section", "nav"} or given.get("role") == "region":
            self.landmarks.append(str(given.get("aria-labelledby") or given.get("aria-label")))
        if tag in {"a", "button"}:
            self.controls.append((str(given.get("aria-label") or ""), ""))
            self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag in {"a", "button"}:
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside and data.strip():
            name, seen = self.controls[-1]
            self.controls[-1] = (name, f"{seen} {data.strip()}".strip())


@pytest.fixture
def html(store: Store, tmp_path: Path) -> str:
    """The page of a project of which every panel has something to show."""
    add_tasks(store, 1, 2, 3, 4)
    annotate(store, 1)
    annotate(store, 2)
    annotate(store, 3, problem="Its mask is damaged.")
    publish(store, 3, 4, labels=2)
    store.scans.update(3, 4, problem="The file is no picture.")
    store.projects.update(3, problem="The token was refused.", options={"review": True})
    store.projects.update(3, warnings=["The option `alpha` has no effect."])
    store.annotators.save_figures(
        3, LabelRecord(minutes=MINUTES, agreement=AGREEMENT, stopping=found())
    )
    now = ledger.read(store, 3)
    scan = ReviewedScan(
        task=1,
        label=review_list.label_of(now, 1),
        annotations=[101],
        score=0.9,
        share=0.9,
        reason="missing",
        about="Lung",
        file="reviews/key-0.json",
    )
    store.studies.save(3, REVIEW, "v1", ReviewRecord(scans=[scan]).written())
    client = create_app(Settings(data_dir=tmp_path), store, lambda *_: []).test_client()
    return client.get("/projects/3", headers={"Accept": "text/html"}).text


def test_a_screen_reader_finds_a_name_for_everything(html: str) -> None:
    page = Reader(html)
    assert "confirm-1" in page.ids
    assert page.silent == []
    for names in (page.ids, page.landmarks):
        assert [name for name, times in Counter(names).items() if times > 1] == []


def test_what_can_be_pressed_is_called_what_it_shows(html: str) -> None:
    controls = [one for one in Reader(html).controls if one != ("", "")]
    assert ("This label is right: task 1", "This label is right") in controls
    assert not [(name, seen) for name, seen in controls if name and seen not in name]
