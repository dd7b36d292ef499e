"""Clients that take their time, against the real web process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from backend.settings import Settings
from backend.storage.store import open_store
from backend.web.server import THREADS, listen

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
PATIENCE = 2.0
SERVE = """
import json, sys
from pathlib import Path
from backend.web import server
from backend.settings import Settings

server.MOST_CONNECTIONS = int(sys.argv[3])
server.serve(
    Settings(port=int(sys.argv[1]), data_dir=Path(sys.argv[2]), **json.loads(sys.argv[4])),
    patience_seconds=float(sys.argv[5]),
)

"""
HEAD = b"POST /webhook HTTP/1.1\r\nHost: localhost\r\n"
BEGUN = {
    "head": HEAD,
    "body": HEAD + b"Content-Length: 9999\r\n\r\n{",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n{",
    "nothing": b"",
}
LARGE = b"GET /static/plotly.min.js HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Web:
    """The web process on a port of its own."""

    def __init__(
        self,
        folder: Path,
        most: int = 400,
        patience: float = 60.0,
        access: dict[str, str] | None = None,
    ):
        self.folder = folder
        with listen("127.0.0.1", 0) as found:
            self.port = int(found.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-c", SERVE, str(self.port), str(folder), str(most)]
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [*command, json.dumps(access or {}), str(patience)], cwd=ROOT, stderr=log
            )

    def __enter__(self) -> Web:
        with httpx.Client(transport=httpx.HTTPTransport(retries=8), timeout=60) as client:
            client.get(f"{self.url}/health")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def connect(self, *, room: int = 0) -> socket.socket:
        client = socket.socket()
        if room:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        client.settimeout(30)
        client.connect(("127.0.0.1", self.port))
        return client

    def answers(self) -> bool:
        """Whether a new client gets an answer while the others take their time."""
        return httpx.get(f"{self.url}/health", timeout=20).status_code == 200


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A process that waits for its clients longer than any test here takes."""
    with Web(tmp_path_factory.mktemp("patient")) as web:
        yield web


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A process that waits for no client longer than two seconds."""
    with Web(tmp_path_factory.mktemp("strict"), patience=PATIENCE) as web:
        yield web


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not so within {seconds:.0f} s"
        time.sleep(0.05)


def is_closed(client: socket.socket) -> bool:
    """Whether the server has let go of a client that reads nothing but this."""
    client.settimeout(0.01)
    try:
        return client.recv(65536) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN)
@pytest.mark.parametrize("number", [40, 200])
def test_clients_that_send_nearly_nothing_keep_nobody_waiting(
    patient: Web, begun: bytes, number: int
) -> None:
    with ExitStack() as slow:
        clients = [slow.enter_context(patient.connect()) for _ in range(number)]
        for client in clients:
            client.sendall(begun)
        assert patient.answers()
        for client in clients:
            client.sendall(b"x")
        assert patient.answers()


def test_more_clients_that_take_no_answer_than_threads_keep_nobody_waiting(patient: Web) -> None:
    with ExitStack() as slow:
        for _ in range(THREADS + 8):
            slow.enter_context(patient.connect(room=4096)).sendall(LARGE)
        assert patient.answers()


@pytest.mark.slow
@pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN)
def test_a_client_that_never_ends_its_request_is_let_go_though_it_sends(
    strict: Web, begun: bytes
) -> None:
    with strict.connect() as client:
        client.sendall(begun)

        def gone() -> bool:
            try:
                client.sendall(b"x")
            except ConnectionError:
                return True
            return is_closed(client)

        wait_for(gone)


def test_a_client_that_takes_no_answer_is_let_go(strict: Web) -> None:
    with strict.connect(room=4096) as client:
        client.sendall(LARGE)
        # The system acknowledges what its buffers hold; the rest is never taken.
        wait_for(lambda: f":{client.getsockname()[1]} " not in sockets_of(strict))


def sockets_of(web: Web) -> str:
    """Return the open connections of the process's port, as /proc/net/tcp lists them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = (row for row in rows if row[1].endswith(f":{web.port:04X}") and row[3] == "01")
    return " ".join(f":{int(row[2].partition(':')[2], 16)} " for row in ours)


def test_where_there_is_no_room_the_client_that_takes_longest_makes_it(tmp_path: Path) -> None:
    with Web(tmp_path, most=20) as web, ExitStack() as slow:
        clients = []
        for _ in range(40):
            clients.append(slow.enter_context(web.connect()))
            # At once: a client's time begins anew with its first byte. A later client that has
            # sent nothing yet would then have taken longer, and would be cut off.
            clients[-1].sendall(HEAD)
        assert web.answers()
        wait_for(lambda: is_closed(clients[0]))
        # A client that comes in while another one is cut off keeps its connection.
        assert not any(is_closed(client) for client in clients[-15:])


@pytest.mark.slow
def test_half_open_clients_are_no_hindrance_to_a_clean_end(tmp_path: Path) -> None:
    with Web(tmp_path) as web, ExitStack() as slow:
        for begun in BEGUN.values():
            slow.enter_context(web.connect()).sendall(begun)
        slow.enter_context(web.connect(room=4096)).sendall(LARGE)
        assert web.answers()
        web.process.terminate()
        assert web.process.wait(timeout=30) == 0


@pytest.mark.slow
def test_no_body_is_taken_in_before_the_password(tmp_path: Path) -> None:
    access = {"basic_auth_user": "us", "basic_auth_pass": "hunter2"}
    with Web(tmp_path, access=access) as web, web.connect() as client:
        client.sendall(HEAD.replace(b"webhook", b"setup") + b"Content-Length: 40000000\r\n\r\n")
        # The answer comes although nothing of the body was sent.
        with client.makefile("rb") as answer:
            assert answer.read().startswith(b"HTTP/1.1 401 "), "and then the line is closed"


def test_a_webhook_always_finds_a_thread(patient: Web) -> None:
    """Events come in beside clients of every slow kind at once."""
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 1}}
    store = open_store(Settings(data_dir=patient.folder).database, busy_ms=10_000)
    store.projects.request_refresh(1, connected=True)
    store.close()
    with ExitStack() as slow:
        for begun in BEGUN.values():
            for _ in range(20):
                slow.enter_context(patient.connect()).sendall(begun)
        for _ in range(20):
            slow.enter_context(patient.connect(room=4096)).sendall(LARGE)
        codes: list[int] = []

        def send() -> None:
            codes.append(httpx.post(f"{patient.url}/webhook", json=event, timeout=30).status_code)

        senders = [threading.Thread(target=send) for _ in range(20)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    assert codes == [201] * 20
