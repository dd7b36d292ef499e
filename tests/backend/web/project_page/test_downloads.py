"""The page's exports; a small program stands for the command."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from backend.errors import ConfigError
from backend.exchange.export.format_names import DOWNLOADS
from backend.settings import Settings, own_python
from backend.web.project_page import downloads
from backend.web.project_page.downloads import Downloads
from tests.backend.web.project_page.test_views import OURS, client, known, store

__all__ = ["client", "known", "store"]

ROOT = Path(__file__).parents[4]
WRITES = """
import pathlib, sys
folder = pathlib.Path(sys.argv[-1])
(folder / "masks").mkdir(parents=True)
(folder / "masks" / "a.png").write_text(" ".join(sys.argv[1:-1]))
(folder / ".firstlight.sqlite").write_text("")
"""
CRASHES = f"{WRITES}said = 'Doe^Jane in /home/jane'\nraise KeyError(said)"
FAILS = """
import sys
print("a warning", file=sys.stderr)
print("There is no manifest.json.", file=sys.stderr)
sys.exit(2)
"""

Program = Callable[[str], None]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    def use(source: str) -> None:
        monkeypatch.setattr(downloads, "own_python", lambda: [sys.executable, "-c", source])

    return use


def test_a_download_is_what_the_command_writes(
    client: FlaskClient, known: Settings, program: Program
) -> None:
    program(WRITES)
    response = client.post("/projects/3/export", data={"to": "png"}, headers=OURS)
    assert response.status_code == 200
    assert response.headers["Content-Disposition"] == "attachment; filename=project-3-png.zip"
    with zipfile.ZipFile(BytesIO(response.data)) as archive:
        [name] = archive.namelist()
        assert (name, archive.read(name)) == (
            "project-3/masks/a.png",
            b"export --with-parent 3 --to png",
        )
    assert not list(known.data_dir.glob(".download-*")), "no scan stays behind"
    response.close()


def test_the_page_offers_the_formats_and_the_command(client: FlaskClient) -> None:
    assert "dicomseg" not in DOWNLOADS, "its files name the patients"
    page = client.get("/projects/3", headers=OURS).text
    assert all(f'<option value="{name}">' in page for name in DOWNLOADS)
    assert "export 3 --to nnunet DIR" in page


def test_a_failed_export_says_why_on_the_page_and_to_scripts(
    client: FlaskClient, program: Program
) -> None:
    program(FAILS)
    response = client.post("/projects/3/export", data={"to": "nifti"}, headers=OURS)
    assert response.status_code == 409
    assert "The export failed. There is no manifest.json." in response.text
    asked = {"Accept": "application/json"}
    response = client.post("/projects/3/export", data={"to": "exe"}, headers=asked)
    assert response.status_code == 400
    assert response.get_json()["error"].startswith("to is 'exe': expected one of png, coco")


def test_what_an_export_left_out_does_not_stop_its_download(
    known: Settings, program: Program
) -> None:
    program(f"{WRITES}\nprint('1 times something was left out')\nsys.exit(1)")
    with Downloads(known).archive(3, "png") as file, zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["project-3/masks/a.png"]


def test_a_crash_is_a_number_on_the_page_and_its_place_in_the_log(
    client: FlaskClient, program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    program(CRASHES)
    response = client.post("/projects/3/export", data={"to": "png"}, headers=OURS)
    assert response.status_code == 409, "the files of a crashed export are no download"
    found = re.search(r"The export failed: internal error ([0-9a-f]{8})\.", response.text)
    assert found
    assert "jane" not in response.text.lower()
    [record] = caplog.records
    assert record.getMessage().startswith("the export of project 3 ended with status 1, KeyError")
    assert 'File "<string>", line' in record.getMessage()
    assert "jane" not in record.getMessage().lower()


def test_a_killed_export_is_a_number_too(known: Settings, program: Program) -> None:
    program("import os, sys; print('/home/jane', file=sys.stderr); os.kill(os.getpid(), 9)")
    with pytest.raises(ConfigError, match="internal error"):
        Downloads(known).archive(3, "png")


def test_an_export_that_takes_too_long_names_the_command(
    known: Settings, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "SECONDS", 0.1)
    program("import time; time.sleep(60)")
    with pytest.raises(ConfigError, match="export 3 --to coco DIR"):
        Downloads(known).archive(3, "coco")


def test_one_export_is_made_at_a_time(known: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow(project: int, to: str, folder: Path) -> None:
        begun.set()
        ended.wait(10)

    monkeypatch.setattr(downloads, "_export", slow)
    both = Downloads(known)
    first = threading.Thread(target=lambda: both.archive(3, "png").close())
    first.start()
    begun.wait(10)
    with pytest.raises(ConfigError, match="Another export is being made"):
        both.archive(3, "png")
    ended.set()
    first.join()
    both.archive(3, "png").close()


def test_the_folders_of_killed_processes_are_deleted(known: Settings, program: Program) -> None:
    old, new = known.data_dir / ".download-old", known.data_dir / ".download-new"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    program(WRITES)
    Downloads(known).archive(3, "png").close()
    assert (old.exists(), new.exists()) == (False, True)


def test_no_link_and_no_other_site_can_start_one(client: FlaskClient, program: Program) -> None:
    program(WRITES)
    assert client.get("/projects/3/export").status_code == 405
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert client.post("/projects/3/export", data={"to": "png"}, headers=headers).status_code == 403
    assert client.post("/projects/9/export", data={"to": "png"}, headers=OURS).status_code == 404


def test_an_export_ends_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    line = tmp_path / "line"
    os.mkfifo(line)
    child = (
        "import time\n"
        "from backend.commands.supervisor import end_with_parent\n"
        "end_with_parent()\n"
        f"line = open({str(line)!r}, 'wb', buffering=0)\n"
        "line.write(b'started')\n"
        "time.sleep(60)\n"
    )
    parent = (
        "import pathlib, sys\n"
        "from backend.web.project_page import downloads\n"
        f"downloads.own_python = lambda: [sys.executable, '-c', {child!r}]\n"
        "downloads._export(3, 'png', pathlib.Path('out'))\n"
    )
    order = [sys.executable, "-c", parent]
    with (
        # Its own input stays open: the export shall not end because of that.
        subprocess.Popen(order, cwd=ROOT, stdin=subprocess.PIPE) as asking,
        line.open("rb", buffering=0) as end,
    ):
        assert end.read(7) == b"started"
        asking.kill()
        asking.wait()
        assert select.select([end], [], [], 10)[0], "the export goes on"
        assert end.read() == b"", "it has ended"


@pytest.mark.seconds
def test_the_real_command_is_the_one_that_is_started(known: Settings) -> None:
    said = subprocess.run(
        [*own_python(), "export", "--help"], capture_output=True, text=True, check=True
    )
    assert all(name in said.stdout for name in DOWNLOADS)
