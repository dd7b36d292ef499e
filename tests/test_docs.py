"""The docs are complete and true: every setting, option, command and route is explained, every
link and path leads somewhere, and the picture of the house is the one that the imports draw.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import grimp
import pytest

from backend.commands.cli import cli
from backend.options import ProjectOptions
from backend.settings import Settings
from backend.storage.store import open_store
from backend.web.app import create_app
from backend.web.ml_protocol import live_drafts
from model.registry import AUTO, USUAL_ACQUISITION, USUAL_COLD_START

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob(".github/*.md")])
LEFT_OUT = {"settings", "options", "errors", "logs"}  # of the picture: everything imports them

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def rows(page: str) -> str:
    """Return the first cells of all tables of a page: what it explains."""
    text = (DOCS / page).read_text()
    return "\n".join(re.findall(r"^\| ([^|]*) \|", text, flags=re.MULTILINE))


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_explained(name: str) -> None:
    assert f"`{name.upper()}`" in rows("settings.md")


@pytest.mark.parametrize("name", ProjectOptions.model_fields)
def test_every_option_is_explained(name: str) -> None:
    assert f"`{name}`" in rows("options.md").splitlines()


@pytest.mark.parametrize("name", cli.commands)
def test_every_command_is_explained(name: str) -> None:
    assert re.search(f"`{name}[` ]", rows("commands.md"))


@pytest.mark.parametrize("name", cli.commands)
def test_every_option_of_a_command_is_explained(name: str) -> None:
    pages = "\n".join(page.read_text() for page in PAGES)
    explained = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", pages))
    shown = [one for one in cli.commands[name].params if not getattr(one, "hidden", False)]
    flags = [{*one.opts, *one.secondary_opts} for one in shown if isinstance(one, click.Option)]
    assert not [names for names in flags if not names & explained]


def test_the_docs_name_no_option_setting_or_command_that_is_gone() -> None:
    options, settings = rows("options.md"), rows("settings.md")
    assert set(re.findall(r"`(\w+)`", options)) <= set(ProjectOptions.model_fields)
    assert {name.lower() for name in re.findall(r"`(\w+)`", settings)} <= set(Settings.model_fields)
    table = (DOCS / "commands.md").read_text().partition("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)", table, flags=re.MULTILINE)) == set(cli.commands)


def test_every_route_is_explained(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'memory.sqlite'}")
    store.create()
    settings = Settings(data_dir=tmp_path)
    app = create_app(settings, store, live_drafts(settings, store))
    rules = {
        re.sub("<int[^>]*:project_id>", "<id>", str(rule)) for rule in app.url_map.iter_rules()
    }
    explained = rows("http.md")
    assert not [rule for rule in rules - {"/"} if f"`{rule}`" not in explained]
    store.close()


def test_the_defaults_that_replace_a_failed_plugin_are_named() -> None:
    defaults = f"takes its place: `{USUAL_COLD_START}`, `{USUAL_ACQUISITION}`, `{AUTO}`"
    assert defaults in (DOCS / "architecture.md").read_text()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def anchors(page: Path) -> set[str]:
    """Return what a link may put behind # to reach a heading of a page, as GitHub makes it."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield the file and the anchor of every link of a page that stays in this repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


@every_page
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = [
        (file.name, anchor)
        for file, anchor in links(page)
        if not file.exists() or (anchor and anchor not in anchors(file))
    ]
    assert broken == []


@every_page
def test_every_code_file_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"(?<![\w/.])(?:[\w-]+/)+\w+\.py\b", page.read_text())
    ours = [one for one in named if one.startswith(("tests/", "backend/")) or "/test_" in one]
    # docs/reliability.md says of its paths that they lie in tests/.
    assert [
        one for one in ours if not ((ROOT / one).exists() or (ROOT / "tests" / one).exists())
    ] == []


def house() -> set[tuple[str, str]]:
    """Return which box of the picture imports which."""
    graph = grimp.build_graph("backend", "model", cache_dir=None)
    arrows = {
        (box(module), box(imported))
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
    }
    return {(one, other) for one, other in arrows if one != other and one and other}


def box(module: str) -> str:
    """Return the box in which a module lies; nothing for those that the picture leaves out."""
    package, *names = module.split(".")
    if package == "model":
        return package
    return "" if not names or names[0] in LEFT_OUT else names[0].strip("_")


def test_the_picture_of_the_house_shows_its_imports() -> None:
    text = (DOCS / "architecture.md").read_text()
    picture = re.findall(r"```mermaid\n(.*?)```", text, flags=re.DOTALL)[0]
    assert set(re.findall(r"^ *(\w+) --> (\w+)$", picture, flags=re.MULTILINE)) == house()
