"""Time the app's answers to Label Studio's most frequent requests: python -m bench.answers.

Flask's test client calls the app without server or network, on a project of 10,000 scans. /health
is the baseline.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backend.commands.quickstart.studio import ROOT
from backend.settings import Settings
from backend.storage.store import open_store
from backend.web.app import create_app
from backend.web.ml_protocol import live_drafts

CALLS = 200
SCANS = 10_000


def main() -> None:
    """Print p50 and p99 of /health, /setup and /webhook in ms, and the ratio of p50 to /health."""
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(data_dir=Path(name))
        store = open_store(settings.database)
        store.create()
        store.projects.request_refresh(1)
        scans = [{"id": i, "url": f"/data/upload/1/{i}.png"} for i in range(1, SCANS + 1)]
        for start in range(0, SCANS, 500):
            store.scans.save(1, scans[start : start + 500])
        client = create_app(settings, store, live_drafts(settings, store)).test_client()
        calls: dict[str, Callable[[], Any]] = {
            "/health": lambda: client.get("/health"),
            "/setup": lambda: client.post("/setup", json=recorded("setup") | {"project": "1.1"}),
            "/webhook": lambda: client.post("/webhook", json=event()),
        }
        times = {path: measure(call) for path, call in calls.items()}
        store.close()
    baseline = np.median(times["/health"])
    print(f"{'':10}{'p50 ms':>10}{'p99 ms':>10}{'to /health':>12}")
    for path, found in times.items():
        p50, p99 = 1000 * np.percentile(found, [50, 99])
        print(f"{path:10}{p50:10.1f}{p99:10.1f}{np.median(found) / baseline:12.1f}")


def measure(call: Callable[[], Any]) -> list[float]:
    """Return the seconds of each of CALLS calls."""
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        assert call().status_code == 200
        times.append(time.perf_counter() - started)
    return times


def recorded(name: str) -> dict[str, Any]:
    """Return the body of a recorded request."""
    body: dict[str, Any] = json.loads((ROOT / "tests" / "wire" / f"{name}.json").read_text())[
        "body"
    ]
    return body


def event() -> dict[str, Any]:
    """Return a submitted annotation of the project."""
    body = recorded("annotation_created")
    body["project"]["id"] = 1
    return body


if __name__ == "__main__":
    main()
