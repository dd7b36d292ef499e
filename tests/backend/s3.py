"""A server that speaks S3, in this process."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest
from moto.server import ThreadedMotoServer


class S3:
    """A server with one bucket, which can be down for a while."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        _, self._port = self._server.get_host_and_port()
        self.bucket = f"artifacts-{secrets.token_hex(4)}"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/lungs"

    def make_bucket(self) -> None:
        boto3.client("s3").create_bucket(Bucket=self.bucket)

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        """Answer again, with everything that was stored before."""
        self._server = ThreadedMotoServer("127.0.0.1", self._port, verbose=False)
        self._server.start()


@contextmanager
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A server that the environment leads to, as it would lead to any other."""
    logger = logging.getLogger("werkzeug")
    before, logger.level = logger.level, logging.ERROR
    server = S3()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "access")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server.make_bucket()
        yield server
    finally:
        server.stop()
        logger.level = before
