"""A reverse proxy as hospitals put before their servers: another address, and a path before all."""

from __future__ import annotations

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import httpx

from tests.servers import POLL_SECONDS

NOT_PASSED = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


class Proxy:
    """Passes what comes below `prefix` to `target` without the prefix; a context manager.

    Attributes:
        target: The address behind; may be set later.
        paths: Every path asked for, in order; what lies outside of `prefix` is answered 404.
        withheld: So many bytes more than are sent are promised.
    """

    def __init__(self, target: str = "", prefix: str = "") -> None:
        self.target, self.prefix = target, prefix
        self.paths: list[str] = []
        self.withheld = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_SECONDS,))
        self._http = httpx.Client(timeout=120, trust_env=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{self.prefix}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._http.close()

    def forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> httpx.Response:
        """Return the answer; with a ConnectionAbortedError there is none."""
        self.paths.append(path)
        if not path.startswith(f"{self.prefix}/"):
            return httpx.Response(404, json={"detail": "nothing here"})
        url = self.target + path.removeprefix(self.prefix)
        return self._http.request(method, url, headers=headers, content=body)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                sent = {k: v for k, v in self.headers.items() if k.lower() not in NOT_PASSED}
                # Compressed, what comes back would not have the length that was told.
                sent["Accept-Encoding"] = "identity"
                with suppress(ConnectionAbortedError):
                    self._answer(proxy.forward(self.command, self.path, sent, body))

            def _answer(self, answer: httpx.Response) -> None:
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name.lower() not in NOT_PASSED:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.content) + proxy.withheld))
                self.end_headers()
                self.wfile.write(answer.content)

            do_POST = do_PATCH = do_DELETE = do_PUT = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


class Stub(Proxy):
    """Somebody else's backend, as far as Label Studio asks it."""

    def forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> httpx.Response:
        self.paths.append(path)
        return httpx.Response(200, json={"status": "UP", "model_version": "their model"})
