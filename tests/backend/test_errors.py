from __future__ import annotations

import errno
import os
import socket
import ssl
import threading

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from backend.errors import of_system, reason


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ConnectError("hunter2"), "no connection: nothing listens there"),
        (httpx.ConnectTimeout("hunter2"), "it took too long"),
        (httpx.ReadError("hunter2"), "the connection broke off"),
        (httpx.RemoteProtocolError("hunter2"), "the connection broke off"),
        (OperationalError("hunter2", {}, Exception()), "it cannot be reached, opened or written"),
        (KeyError("hunter2"), "KeyError"),
    ],
)
def test_a_failed_call_is_told_in_words_and_never_by_its_own_text(
    error: Exception, said: str
) -> None:
    assert reason(error).startswith(said)
    assert "hunter2" not in reason(error)


def test_a_server_that_does_not_speak_tls_is_not_called_absent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_without_tls() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(65_536)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        server = threading.Thread(target=answer_without_tls)
        server.start()
        with pytest.raises(httpx.ConnectError) as caught:
            httpx.get(f"https://127.0.0.1:{listener.getsockname()[1]}/", trust_env=False)
        server.join()
    assert reason(caught.value) == "its certificate is not trusted, or it does not speak TLS"


def test_an_untrusted_certificate_is_told_without_its_text() -> None:
    error = httpx.ConnectError("hunter2")
    error.__cause__ = OSError()
    error.__cause__.__context__ = ssl.SSLCertVerificationError("hunter2")
    assert reason(error).startswith("its certificate is not trusted")
    assert "hunter2" not in reason(error)


@pytest.mark.parametrize("number", [errno.EADDRINUSE, errno.EPIPE, errno.EMFILE])
def test_what_concerns_no_file_gets_no_advice_about_files(number: int) -> None:
    told = of_system(OSError(number, os.strerror(number)))
    assert os.strerror(number) in told.what
    assert "file" not in told.fix
    assert "disk" not in told.fix


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied", "/data/key"),
    ],
)
def test_a_full_disk_and_a_file_get_advice_about_files(error: OSError) -> None:
    assert "disk space" in of_system(error).fix
