"""Commands run as a user runs them, against a real Label Studio."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from backend.commands.quickstart.process import bare_environment
from backend.commands.quickstart.studio import ROOT, LabelStudio
from demo.annotator import Annotator


def command(studio: LabelStudio, data: Path, *arguments: str) -> subprocess.Popen[str]:
    env = {
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.token,
        "DATA_DIR": str(data),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "backend", *arguments],
        cwd=ROOT,
        env=bare_environment() | env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run(studio: LabelStudio, data: Path, *arguments: str) -> str:
    process = command(studio, data, *arguments)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def tasks_of(annotator: Annotator, project: int) -> list[dict[str, Any]]:
    params = {"project": project, "page_size": 1000, "include": "id,data"}
    return list(annotator.call("GET", "/api/tasks", params=params)["tasks"])


def project_titled(annotator: Annotator, title: str) -> int:
    found = annotator.call("GET", "/api/projects", params={"title": title})["results"]
    return max(int(project["id"]) for project in found)
