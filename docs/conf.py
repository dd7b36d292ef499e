"""The site of these pages (scripts/docs): Sphinx reads them as the plain Markdown that they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "Firstlight"
extensions = ["myst_parser"]
exclude_patterns = ["examples"]  # packages with pages of their own, for GitHub
root_doc = "index"
myst_heading_anchors = 4  # as GitHub makes them

html_theme = "furo"
html_title = project
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False

highlight_language = "none"  # of blocks that name none
# Pygments draws no Mermaid, and a script that does would come from another server: show the source.
suppress_warnings = ["misc.highlighting_failure"]


def setup(app: Sphinx) -> None:
    """Let Sphinx call us before it reads a page."""
    app.connect("source-read", _prepare)


def _prepare(app: Sphinx, page: str, source: list[str]) -> None:
    here = Path(app.srcdir, page).parent
    source[0] = re.sub(
        r"\[([^\]]+)\]\(([^)#:]+)\)",
        lambda link: link[1] if _is_outside(app, here / link[2]) else link[0],
        source[0],
    )
    source[0] += _navigation(page, source[0])


def _is_outside(app: Sphinx, target: Path) -> bool:
    """Return whether a link leads to what is in the repository and not in the site."""
    site = Path(app.srcdir).resolve()
    shown = target.resolve().is_relative_to(site) and target.is_file()
    return target.exists() and not shown


def _navigation(page: str, text: str) -> str:
    """Make the navigation out of lists of links, which are plain Markdown and stand there once."""
    if page == root_doc:
        _, *parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
        return "".join(
            _tree(links, caption) for caption, links in zip(parts[::2], parts[1::2], strict=True)
        )
    return _tree(text) if page in {"benchmarks", "decisions/README"} else ""


def _tree(text: str, caption: str = "") -> str:
    """Return a hidden tree of the pages with which the lines of a list or a table begin."""
    pages = re.findall(r"^[-|] \[.+?\]\(([^#)]+)\.md\)", text, flags=re.MULTILINE)
    option = f":caption: {caption}\n" if caption else ""
    return "\n".join(["\n```{toctree}", f":hidden:\n{option}", *pages, "```\n"])
