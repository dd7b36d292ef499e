"""The Label Studio in memory over HTTP, for workers that are processes of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from tests.backend.fake_label_studio import FakeLabelStudio
from tests.servers import running


@contextmanager
def served(fake: FakeLabelStudio) -> Iterator[str]:
    """Serve on a free port; yields the address."""
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body are two packets; with Nagle's algorithm the second waits for 40 ms.
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            address = f"http://{self.headers['host']}{self.path}"
            request = httpx.Request(self.command, address, headers=dict(self.headers), content=body)
            with one_at_a_time:
                answer = fake(request)
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_PATCH = do_DELETE = do_GET

        def handle(self) -> None:
            with suppress(ConnectionResetError):  # its worker was killed
                super().handle()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with running(server):
        yield f"http://127.0.0.1:{server.server_port}"
