from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import sleep
from typing import IO

import httpx
import pytest

from backend.errors import ConfigError
from backend.settings import Settings
from backend.storage.store import open_store
from backend.web import clicks, ml_protocol
from backend.web.project_page import downloads, views
from backend.web.server import THREADS, listen, serve

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[3]
SERVE = """
import sys
from pathlib import Path
from backend.errors import FirstlightError
from backend.settings import Settings
from backend.web.server import serve

try:
    serve(Settings(port=int(sys.argv[1]), data_dir=Path(sys.argv[2])), patience_seconds=3.0)
except FirstlightError as error:
    sys.exit(str(error))
"""


def start(
    port: int, folder: Path, log: int | IO[str] = subprocess.PIPE, level: str = "INFO"
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SERVE, str(port), str(folder)]
    env = {**os.environ, "LOG_LEVEL": level}
    return subprocess.Popen(command, cwd=ROOT, env=env, stderr=log, text=True)


def test_webhooks_find_a_thread_however_many_slow_requests_there_are() -> None:
    slow = (ml_protocol.MOST_WAITING, clicks.MOST_WAITING, views.RECORDS, downloads.MOST_AT_ONCE)
    left_for_webhooks = THREADS - sum(slow)
    assert left_for_webhooks >= 4


def free_port() -> int:
    with listen("127.0.0.1", 0) as found:
        return int(found.getsockname()[1])


def wait_for(url: str) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(retries=7), timeout=60) as client:
        client.get(f"{url}/health")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("data")
    port = free_port()
    with (folder / "log").open("w+") as log:
        process = start(port, folder, log, "DEBUG")
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(url)
            yield url
            process.terminate()
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        check(log.read())


def check(log: str) -> None:
    """A log of requests good and bad: nothing failed, and no piece of a request is in it."""
    lines = [json.loads(line) for line in log.splitlines()]
    lines = [line for line in lines if line["level"] != "debug"]
    assert not [line for line in lines if line["level"] not in {"info", "warning"}]
    assert not any("/webhook" in line["message"] for line in lines)
    assert "hunter2" not in log


def test_the_served_backend_takes_the_events_of_known_projects(served: str) -> None:
    assert httpx.get(f"{served}/health").json()["status"] == "UP"
    version = httpx.post(f"{served}/setup", json={"project": "1.2"}).json()["model_version"]
    assert version.startswith("firstlight-")
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 1}}
    assert httpx.post(f"{served}/webhook", json=event).json()["status"] == "ignored"


@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook", "/job_status"])
def test_a_body_over_the_limit_is_refused_on_every_post(served: str, path: str) -> None:
    response = httpx.post(served + path, content=b" " * 50_000_001)
    assert response.status_code == 413
    assert response.json()["error"]


def test_a_body_of_unknown_length_over_the_limit_is_refused_too(served: str) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(51):
            yield b" " * 1_000_000

    assert httpx.post(f"{served}/webhook", content=parts()).status_code == 413


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def answer_to(url: str, sent: bytes) -> bytes:
    with connected(url) as client:
        client.sendall(sent)
        return b"".join(iter(lambda: client.recv(4096), b""))


HEAD = b"POST /webhook HTTP/1.1\r\nHost: hunter2\r\n"


@pytest.mark.parametrize(
    "begun",
    [
        HEAD,
        HEAD + b"Content-Length: 99\r\n\r\n{",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{",
    ],
    ids=["head", "body", "chunked body"],
)
def test_more_silent_clients_than_threads_stop_nobody_else(served: str, begun: bytes) -> None:
    with ExitStack() as silent:
        for _ in range(THREADS + 8):
            client = silent.enter_context(connected(served))
            client.sendall(begun)
        assert httpx.get(f"{served}/health", timeout=60).status_code == 200
        assert httpx.get(f"{served}/health", timeout=60).status_code == 200


def test_a_client_that_is_slow_but_steady_is_served(served: str) -> None:
    event = json.dumps({"action": "ANNOTATION_CREATED", "project": {"id": 1}}).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(event) + event
    with connected(served) as client:
        for begin in range(0, len(request), 8):
            client.sendall(request[begin : begin + 8])
            sleep(0.1)  # all together less than a request may take
        assert client.recv(4096).startswith(b"HTTP/1.1 20")


LARGE = b"GET /static/plotly.min.js HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def narrow(url: str) -> socket.socket:
    """A client that has room for little, so that the server has to wait for it to read."""
    host, port = url.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.connect((host, int(port)))
    return client


def test_more_clients_that_take_no_answer_than_threads_stop_nobody_else(served: str) -> None:
    with ExitStack() as silent:
        for _ in range(THREADS + 8):
            silent.enter_context(narrow(served)).sendall(LARGE)
        assert httpx.get(f"{served}/health", timeout=60).status_code == 200
        assert httpx.get(f"{served}/health", timeout=60).status_code == 200


def test_a_large_answer_down_a_slow_line_arrives_whole(served: str) -> None:
    whole = httpx.get(f"{served}/static/plotly.min.js", headers={"Accept-Encoding": "identity"})
    with narrow(served) as client:
        client.sendall(LARGE)
        got = client.recv(4096)
        for _ in range(20):
            sleep(0.2)  # all together longer than an answer may take without any progress
            for _ in range(16):
                got += client.recv(4096)
        got += b"".join(iter(lambda: client.recv(65536), b""))
    assert got.partition(b"\r\n\r\n")[2] == whole.content


@pytest.mark.parametrize(
    "sent",
    [b"hunter2\r\n\r\n", HEAD + b"hunter2\r\n\r\n", b"GET / hunter2\r\n\r\n"],
    ids=["request line", "header", "protocol"],
)
def test_a_malformed_request_is_refused_and_not_quoted_in_the_log(served: str, sent: bytes) -> None:
    assert answer_to(served, sent).startswith(b"HTTP/1.1 400 ")


def test_the_log_names_the_address_behind_a_malformed_request(tmp_path: Path) -> None:
    port = free_port()
    process = start(port, tmp_path)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url)
        answer_to(url, HEAD + b"hunter2\r\n\r\n")
        process.terminate()
        _, log = process.communicate(timeout=30)
    finally:
        process.kill()
    messages = [json.loads(line)["message"] for line in log.splitlines()]
    assert "malformed request from 127.0.0.1: The request is not valid HTTP." in messages


@pytest.mark.parametrize("path", ["/webhook", "/predict", "/projects/1/rollback"])
def test_a_bad_size_of_a_chunk_is_refused_and_not_quoted_in_the_log(served: str, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
    form = "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    answer = answer_to(served, (head + form + "hunter2\r\n").encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"The body is not in valid chunks." in answer


@pytest.mark.slow
def know(folder: Path, project: int) -> None:
    """Do what the worker does once Label Studio shows an entry of ours."""
    store = open_store(Settings(data_dir=folder).database, busy_ms=10_000)
    store.projects.request_refresh(project, connected=True)
    store.close()


@pytest.mark.slow
def test_a_burst_of_webhooks_is_taken_and_leaves_one_refresh_to_do(
    tmp_path: Path,
) -> None:
    port = free_port()
    process = start(port, tmp_path)
    url = f"http://127.0.0.1:{port}"
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 1}}

    def send(number: int) -> list[int]:
        with httpx.Client(timeout=30) as client:
            return [client.post(f"{url}/webhook", json=event).status_code for _ in range(number)]

    try:
        wait_for(url)
        know(tmp_path, 1)
        with ThreadPoolExecutor(16) as people:
            codes = Counter(code for got in people.map(send, [125] * 16) for code in got)
        assert codes == {201: 2_000}
        process.terminate()
        process.communicate(timeout=30)
    finally:
        process.kill()
    store = open_store(Settings(data_dir=tmp_path).database)
    [project] = store.projects.all()
    assert project.requested > 1
    assert (project.completed, store.projects.due()) == (0, [1])


def test_a_port_in_use_ends_the_start_with_one_line(served: str, tmp_path: Path) -> None:
    process = start(int(served.rpartition(":")[2]), tmp_path)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1
    [line] = log.splitlines()
    assert line.startswith("Cannot listen on 127.0.0.1, port ")
    assert "Address already in use" in line
    assert line.endswith("set HOST and PORT.")


@pytest.mark.parametrize("host", ["192.0.2.1", "not a host"])
def test_a_host_that_is_not_of_this_machine_is_refused_with_the_mend(host: str) -> None:
    with pytest.raises(ConfigError, match=r"Cannot listen on .* set HOST and PORT\."):
        listen(host, 0)


def test_a_socket_can_listen_on_the_newer_protocol_too() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with listen("::1", 0) as found:
        assert found.family == socket.AF_INET6


def test_a_hint_that_waits_for_the_database_is_stored_when_the_server_stops(
    tmp_path: Path,
) -> None:
    port = free_port()
    process = start(port, tmp_path)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url)
        know(tmp_path, 1)
        writer = sqlite3.connect(tmp_path / "firstlight.sqlite")
        writer.execute("BEGIN IMMEDIATE")
        event = {"action": "ANNOTATION_CREATED", "project": {"id": 1}}
        assert httpx.post(f"{url}/webhook", json=event).json() == {"status": "ok"}
        writer.rollback()
        process.terminate()
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert writer.execute("SELECT wanted FROM projects").fetchone() == (2,)
    writer.close()


def test_a_database_of_another_schema_ends_the_start_with_one_line(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'firstlight.sqlite'}")
    store.create()
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = '0' WHERE key = 'schema'")
    store.close()
    process = start(free_port(), tmp_path)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(log.splitlines()) == 1
    assert "schema 0" in log


def test_a_server_without_the_folder_of_click_model_stops_before_the_database(
    settings: Settings, tmp_path: Path
) -> None:
    wrong = settings.model_copy(update={"click_model": tmp_path / "model.onnx"})
    with pytest.raises(ConfigError, match=r"CLICK_MODEL is .*model\.onnx, which is no folder"):
        serve(wrong)
    assert not [*tmp_path.rglob("*.sqlite")]
