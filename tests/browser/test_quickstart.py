"""Quickstart in a terminal: its bars, and the addresses and the login that it ends with."""

from __future__ import annotations

import html
import os
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from backend.commands.quickstart.process import bare_environment
from backend.commands.quickstart.studio import ROOT
from tests.browser.conftest import WIDE, Shoot, sign_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.studio,
    pytest.mark.timeout(600),
]

ROWS, COLUMNS = 40, 100
LAST = "Ctrl-C stops everything."
ENCODER = "efficientnet-lite0"  # `auto` would ask the network for weights
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"  # the cursor
# Label Studio's database is made by the first run after scripts/setup, with a bar of its own.
WAITS = [
    "Starting Label Studio",
    "Starting Firstlight",
    "Importing the scans",
    "Connecting the project",
    "Ordering the scans",
]
PAGE = """<!doctype html><meta charset="utf-8">
<style>
pre {{ background: #1c2128; color: #d5dbe3; font: 15px/1.6 "DejaVu Sans Mono", monospace;
      display: inline-block; margin: 0; padding: 24px 28px; }}
</style>
<pre>{screen}</pre>"""


@contextmanager
def quickstart(home: Path) -> Iterator[str]:
    """Run quickstart in a terminal; yield what it wrote there until the queue was ready."""
    outer, inner = os.openpty()
    termios.tcsetwinsize(inner, (ROWS, COLUMNS))
    keep = ("--keep", str(home / "firstlight" / ".demo"))  # as scripts/demo in a clone
    process = subprocess.Popen(
        [sys.executable, "-m", "backend", "quickstart", "--scans", "30", "--no-browser", *keep],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        cwd=ROOT,
        env=bare_environment() | {"HOME": str(home), "ENCODER": ENCODER},
    )
    os.close(inner)
    with process, os.fdopen(outer, "rb", buffering=0) as terminal:
        try:
            yield written(terminal.fileno())
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    assert process.returncode == 0


def written(terminal: int) -> str:
    """Return what a terminal is sent, up to the last line of quickstart."""
    found = b""
    while LAST.encode() not in found:
        try:
            found += os.read(terminal, 4096)
        except OSError:  # Linux raises it when the program has ended
            pytest.fail(f"quickstart ended: {found.decode()}")
    return found.decode()


def screen(text: str) -> list[str]:
    """Return the lines that stand in the terminal: a bar is written over the one before."""
    shown = text.replace(HIDE, "").replace(SHOW, "").replace("\r\n", "\n")
    return [line.rpartition("\r")[2].rstrip() for line in shown.split("\n")]


def test_the_terminal_shows_every_wait_and_then_a_login_that_works(
    browser: Browser, tmp_path: Path, shoot: Shoot
) -> None:
    with quickstart(tmp_path) as text, browser.new_context(viewport=WIDE) as context:
        lines = screen(text.replace(str(tmp_path), "~"))
        said = "\n".join(lines)
        assert "\x1b" not in said
        assert text.rindex(SHOW) > text.rindex(HIDE)
        assert max(map(len, lines)) < COLUMNS  # a longer line would not be one line there
        bars = re.findall(r"^(.+?)  \[[#-]{36}\]  (?:\d+ s|30/30  .+)$", said, flags=re.MULTILINE)
        assert [bar for bar in bars if bar in WAITS] == WAITS
        assert "Doctor        . ~/firstlight/.demo/quickstart.env && " in said

        [address] = re.findall(r"^Label Studio  (\S+)$", said, flags=re.MULTILINE)
        [(email, password)] = re.findall(r"login (\S+), password (\S+)", said)
        page = context.new_page()
        sign_in(page, address, email, password)
        expect(page).to_have_url(re.compile(re.escape(address)))
        # The first page of a Label Studio that has just started takes its time.
        expect(page.get_by_role("button", name="Label All Tasks")).to_be_visible(timeout=60_000)

    with browser.new_context(viewport=WIDE, device_scale_factor=2) as context:
        page = context.new_page()
        page.set_content(PAGE.format(screen=html.escape(said)))
        shoot(page.locator("pre"), "quickstart")
