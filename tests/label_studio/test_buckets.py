"""Scans in an S3 bucket, listed by a real Label Studio and read as a round reads them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from backend.commands.quickstart.studio import LabelStudio
from backend.errors import ImageError
from backend.imaging.scan_cache import Scan
from backend.rounds.services import Services, build
from backend.settings import Settings
from backend.storage.store import open_store
from backend.storage.tables import Project
from demo.annotator import Annotator
from tests.servers import POLL_SECONDS

pytestmark = [pytest.mark.studio, pytest.mark.slow, pytest.mark.timeout(600)]

WIDTH, HEIGHT = 60, 40
RAMP = np.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint8)
SCANS = {
    "grey.png": RAMP,
    "colour.png": np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1),
    "Müller 1+2 & 50%.png": 255 - RAMP,  # what is not encoded alike on the whole way is refused
}
NAME, FOLDER = "clinic", "ward 7"
KEY_ID, SECRET = "the-key-id", "the-secret"


@dataclass(frozen=True)
class Request:
    """What came to the bucket's host."""

    method: str
    target: str  # path and query as they were sent
    headers: dict[str, str]  # by lower-case name

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def is_ours(self) -> bool:
        """Whether the backend sent it, and not Label Studio's client for S3."""
        return self.headers["user-agent"].startswith("python-httpx")


class Bucket:
    """One bucket of an S3 server that reads nothing out without a valid signature, version 4.

    A context manager.

    Attributes:
        files: Key to content.
        seen: Every request, in order.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.seen: list[Request] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_SECONDS,))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def ours(self) -> list[Request]:
        return [request for request in self.seen if request.is_ours]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: Request) -> tuple[int, bytes]:
        self.seen.append(request)
        if not is_signed(request):
            return 403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>"
        _, name, key = f"{request.path}/".split("/", 2)
        key = key.removesuffix("/")
        if name == NAME and not key:
            return 200, self._listing(request.query.get("prefix", ""))
        if name == NAME and key in self.files:
            return 200, self.files[key]
        return 404, b"<Error><Code>NoSuchKey</Code></Error>"

    def _listing(self, prefix: str) -> bytes:
        rows = [
            f"<Contents><Key>{escape(quote(key))}</Key><Size>{len(body)}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, body in sorted(self.files.items())
            if key.startswith(prefix)
        ]
        return (
            f"<ListBucketResult><Name>{NAME}</Name><EncodingType>url</EncodingType>"
            f"<KeyCount>{len(rows)}</KeyCount><IsTruncated>false</IsTruncated>"
            f"{''.join(rows)}</ListBucketResult>"
        ).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, body = bucket.answer(Request(self.command, self.path, headers))
                self.send_response(status)
                self.send_header("Content-Type", "binary/octet-stream")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def is_signed(request: Request) -> bool:
    """Whether SECRET signed the request, by its headers or, presigned, by its query."""
    query = request.query
    if "X-Amz-Signature" in query:
        scope, names = query["X-Amz-Credential"], query["X-Amz-SignedHeaders"]
        date, body, claimed = query["X-Amz-Date"], "UNSIGNED-PAYLOAD", query.pop("X-Amz-Signature")
    elif request.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 "):
        _, _, parts = request.headers["authorization"].partition(" ")
        fields = dict(part.strip().split("=", 1) for part in parts.split(","))
        scope, names, claimed = fields["Credential"], fields["SignedHeaders"], fields["Signature"]
        date, body = request.headers["x-amz-date"], request.headers["x-amz-content-sha256"]
    else:
        return False
    pairs = sorted((quote(name, safe=""), quote(value, safe="")) for name, value in query.items())
    listed = "&".join("=".join(pair) for pair in pairs)
    headers = [f"{name}:{request.headers[name].strip()}" for name in names.split(";")]
    canonical = [request.method, quote(request.path), listed, *headers, "", names, body]
    key_id, _, scope = scope.partition("/")
    digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    signature = f"AWS4{SECRET}".encode()
    for part in (*scope.split("/"), f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}"):
        signature = hmac.digest(signature, part.encode(), "sha256")
    return key_id == KEY_ID and hmac.compare_digest(signature.hex(), claimed)


def png(values: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    file = BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    files = {f"{FOLDER}/{name}": png(values) for name, values in SCANS.items()}
    with Bucket(files | {"elsewhere/not ours.png": png(RAMP)}) as running:
        yield running


def services(studio: LabelStudio, data: Path, hosts: str) -> Services:
    settings = Settings(
        label_studio_url=studio.url,
        label_studio_api_key=SecretStr(studio.token),
        data_dir=data,
        image_hosts=hosts,  # type: ignore[arg-type]  # a text, as the environment has it
    )
    return build(settings, open_store(settings.database, busy_ms=1000))


@pytest.fixture
def ours(studio: LabelStudio, bucket: Bucket, tmp_path: Path) -> Iterator[Services]:
    """The backend's services, with the bucket's host in IMAGE_HOSTS."""
    made = services(studio, tmp_path, bucket.host)
    yield made
    closed(made)


@pytest.fixture
def unlisted(studio: LabelStudio, tmp_path: Path) -> Iterator[Services]:
    """The backend's services, with nothing in IMAGE_HOSTS."""
    made = services(studio, tmp_path, "")
    yield made
    closed(made)


def closed(made: Services) -> None:
    made.source.client.close()
    made.studio.close()
    made.store.close()


def synced(person: Annotator, bucket: Bucket, *, presign: bool) -> int:
    """A project whose tasks are the files of the folder in the bucket."""
    project = person.create_project("bucket", ["Object"])
    storage = person.call(
        "POST",
        "/api/storages/s3/",
        json={
            "project": project,
            "bucket": NAME,
            "prefix": FOLDER,
            "s3_endpoint": f"http://{bucket.host}",
            "region_name": "eu-central-1",
            "aws_access_key_id": KEY_ID,
            "aws_secret_access_key": SECRET,
            "use_blob_urls": True,
            "presign": presign,
        },
    )
    person.call("POST", f"/api/storages/s3/{storage['id']}/sync")
    bucket.seen.clear()
    return project


def read(services: Services, project: int) -> dict[str, Scan | ImageError]:
    """Every scan of a project by the name of its file, or why it cannot be read."""
    urls = {
        task["id"]: str(task["data"]["image"])
        for page in services.studio.tasks(project)
        for task in page
    }
    scans = services.scans(Project(id=project), 64)
    return {file_name(urls[task]): scan for task, scan in scans.many(urls.items())}


def file_name(url: str) -> str:
    """The name behind the address that Label Studio's API shows for an s3:// one."""
    parts = urlsplit(url)
    assert parts.path.startswith("/tasks/"), url
    uri = base64.urlsafe_b64decode(dict(parse_qsl(parts.query))["fileuri"]).decode()
    folder, _, name = uri.rpartition("/")
    assert folder == f"s3://{NAME}/{FOLDER}"
    return name


def assert_equal_to_what_was_put_in(scans: dict[str, Scan | ImageError]) -> None:
    assert set(scans) == set(SCANS)
    for name, scan in scans.items():
        assert isinstance(scan, Scan), scan
        values = np.rint(scan.image * 255).astype(np.uint8)
        np.testing.assert_array_equal(values, SCANS[name], err_msg=name)


def assert_bytes_of_the_s3_address(services: Services, project: int, bucket: Bucket) -> None:
    """Tasks that were imported as JSON may name the bucket itself."""
    task = next(services.studio.tasks(project))[0]["id"]
    for name in SCANS:
        body = services.source.fetch(f"s3://{NAME}/{FOLDER}/{name}", task)
        assert body == bucket.files[f"{FOLDER}/{name}"]


def assert_knows_no_token(bucket: Bucket, studio: LabelStudio) -> None:
    assert bucket.seen
    assert not [request for request in bucket.seen if studio.token in repr(request)]


def test_the_bucket_gives_nothing_without_a_signature(bucket: Bucket) -> None:
    for key in ("", *bucket.files):
        address = f"http://{bucket.host}/{NAME}/{quote(key)}"
        assert httpx.get(address, trust_env=False).status_code == 403


def test_scans_that_label_studio_passes_on_from_a_bucket_are_read(
    studio: LabelStudio, annotator: Annotator, unlisted: Services, bucket: Bucket
) -> None:
    project = synced(annotator, bucket, presign=False)
    assert_equal_to_what_was_put_in(read(unlisted, project))
    assert_bytes_of_the_s3_address(unlisted, project, bucket)
    assert not bucket.ours
    assert_knows_no_token(bucket, studio)


def test_scans_are_read_from_a_bucket_that_label_studio_redirects_to_without_its_token(
    studio: LabelStudio, annotator: Annotator, ours: Services, bucket: Bucket
) -> None:
    project = synced(annotator, bucket, presign=True)
    assert_equal_to_what_was_put_in(read(ours, project))
    assert_bytes_of_the_s3_address(ours, project, bucket)
    assert {request.path for request in bucket.ours} == {
        f"/{NAME}/{FOLDER}/{name}" for name in SCANS
    }
    for request in bucket.ours:
        assert request.headers.keys().isdisjoint({"authorization", "cookie"})
    assert_knows_no_token(bucket, studio)


def test_a_bucket_on_a_host_that_is_not_listed_is_not_asked_and_the_setting_is_named(
    annotator: Annotator, unlisted: Services, bucket: Bucket
) -> None:
    project = synced(annotator, bucket, presign=True)
    scans = read(unlisted, project)
    assert set(scans) == set(SCANS)
    for scan in scans.values():
        assert isinstance(scan, ImageError), scan
        assert scan.what.endswith("its image lies on http://127.0.0.1, which is not allowed.")
        assert "IMAGE_HOSTS" in scan.fix
    assert not bucket.ours
