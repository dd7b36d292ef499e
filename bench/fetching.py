"""Time fetching ahead against one at a time: python -m bench.fetching [--scans N] [--seconds S].

A server of the benchmark waits S seconds before each answer, like a distant storage. Both ways
fetch, decode, shrink and keep the same PNG files through backend.imaging.scan_cache; they take
turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from backend.imaging.decoder_process import Decoders
from backend.imaging.fetch import ImageSource
from backend.imaging.scan_cache import FETCHERS, WORKING_SIZE, Scan, Scans


@contextmanager
def server(body: bytes, seconds: float) -> Iterator[str]:
    """Serve one file under every path, with a pause before each answer; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(seconds)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def picture() -> bytes:
    """Return a PNG of 512 x 512 grey pixels."""
    file = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).resize((512, 512), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def timed(source: ImageSource, address: str, number: int, *, ahead: bool) -> float:
    """Return the seconds for so many scans, with an empty cache."""
    tasks = [(row, f"{address}/{row}.png") for row in range(number)]
    with tempfile.TemporaryDirectory() as folder:
        scans = Scans(
            source.fetch, Path(folder), Decoders(), longest=WORKING_SIZE, max_pixels=10**8
        )
        start = time.perf_counter()
        results = scans.many(tasks) if ahead else ((row, scans.get(row, url)) for row, url in tasks)
        assert all(isinstance(scan, Scan) for _, scan in results)
        return time.perf_counter() - start


def main() -> None:
    """Print the median seconds of both ways and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    with server(picture(), given.seconds) as address, httpx.Client(trust_env=False) as client:
        source = ImageSource(
            label_studio_url="http://127.0.0.1:9",
            authorise=dict,
            image_hosts=(address.removeprefix("http://"),),
            max_bytes=10**7,
            client=client,
        )
        pairs = [
            [timed(source, address, given.scans, ahead=ahead) for ahead in (False, True)]
            for _ in range(given.turns)
        ]
    one, many = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(single / several for single, several in pairs)
    print(f"one at a time {one:.2f} s, {FETCHERS} ahead {many:.2f} s, {given.scans} scans")
    print(f"ratio: median {statistics.median(ratios):.1f}, {ratios[0]:.1f} to {ratios[-1]:.1f}")


if __name__ == "__main__":
    main()
