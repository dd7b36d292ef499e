"""The pages in docs/ build into a site whose links and headings are all there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backend.commands.quickstart.studio import ROOT

pytestmark = pytest.mark.slow

DOCS = ROOT / "docs"
SCRIPT = (ROOT / "scripts" / "docs").read_text()


def build(docs: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build a site as scripts/docs does."""
    [command] = re.findall(r"^\.venv/bin/python (.+)$", SCRIPT, flags=re.MULTILINE)
    for written, here in (('"$folder/', f'"{folder}/'), ('"$folder"', str(folder))):
        command = command.replace(written, here)
    command = command.replace(" docs ", f" {docs} ").replace('"', "")
    return subprocess.run(
        [sys.executable, *command.split()], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(DOCS, folder)
    assert not done.returncode, done.stderr
    return folder


def test_every_page_can_be_reached_from_the_first(site: Path) -> None:
    first = (site / "index.html").read_text()
    navigation = first[first.index('class="sidebar-tree"') :]
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    shown = {page for page in pages if page.parts[0] != "examples"} - {Path("index.html")}
    assert {Path(one) for one in re.findall(r'href="([\w/.-]+\.html)"', navigation)} >= shown


def test_the_search_knows_the_words_of_the_pages(site: Path) -> None:
    written = (site / "searchindex.js").read_text()
    index = json.loads(written.removeprefix("Search.setIndex(").rstrip().removesuffix(")"))
    found = index["terms"]["boundari"]  # stems of words
    assert "method" in {
        index["docnames"][page] for page in ([found] if isinstance(found, int) else found)
    }


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not re.findall(r'<(?:script|img)[^>]+src="(?:https?:)?//[^"]+"', page.read_text())
        assert not re.findall(r'<link[^>]+href="(?:https?:)?//[^"]+"', page.read_text())


@pytest.mark.parametrize("broken", ["[a page](nowhere.md)", "[a heading](settings.md#nothing)"])
def test_a_broken_link_fails(tmp_path: Path, broken: str) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    shutil.copy(DOCS / "conf.py", docs)
    (docs / "index.md").write_text(
        f"# Index\n\n## Look up\n\n- [Settings](settings.md)\n\n{broken}\n"
    )
    (docs / "settings.md").write_text("# Settings\n")
    assert build(docs, tmp_path / "site").returncode
    text = (docs / "index.md").read_text()
    (docs / "index.md").write_text(text.replace(broken, ""))
    done = build(docs, tmp_path / "mended")
    assert not done.returncode, done.stderr
