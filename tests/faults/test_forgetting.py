"""What is deleted in Label Studio, or forgotten here, is in no file any more: bytes are looked for.

The database is open in the worker and in the web process all the time, as in a running service.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import boto3
import numpy as np
import pytest
from flask.testing import FlaskClient

from backend.commands import connection
from backend.label_studio import labels
from backend.rounds import erasing
from backend.rounds.erasing import Eraser
from backend.settings import Settings
from backend.storage.artifacts import Artifacts, embeddings_name
from backend.storage.store import Store, open_store
from backend.web.app import create_app
from backend.web.server import listen
from tests.backend import s3 as servers
from tests.backend.conftest import Clock, settings_in
from tests.backend.crew import crew
from tests.backend.fake_label_studio import CONFIG, png
from tests.backend.s3 import S3
from tests.backend.site import OPTIONS, SIZE, Site, wait_for

pytestmark = pytest.mark.server

FILE_NAME, GROUP, TITLE = "marie-curie-1867", "patient-7391-curie", "Lungs of ward 12 B"
ROOT = Path(__file__).parents[2]
WINDOW = 48  # bytes: a page of the database may end within a text, but not within each part of it


class Ward:
    """A project with one scan that can be told from all others, and all that is kept of it."""

    def __init__(self, site: Site, folder: Path, bucket: S3 | None = None) -> None:
        self.site, self.folder, self.bucket = site, folder, bucket
        self.task = site.tasks[0]
        noise = np.random.default_rng(20).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)
        self.pixels = noise.tobytes()
        path = f"/data/upload/{site.number}/{FILE_NAME}.png"
        site.fake.files[path] = png(noise / 255)
        site.fake.change_data(self.task, image=path, patient=GROUP)
        site.fake.projects[site.number].title = TITLE
        site.entry["extra_params"] = {**OPTIONS, "group_by": "patient", "projection": "tsne"}
        drawn = np.random.default_rng(21).random((1, SIZE, SIZE)) < 0.5
        self.label = labels.regions(drawn, labels.parse(CONFIG), scores=[1.0])
        self.vector = b""

    def live_through_rounds(self) -> None:
        """A model with drafts, the scan's own label, and a model that learnt from it."""
        site = self.site
        site.label(1, 2)
        assert site.refresh().problem == ""
        assert self.has_draft
        where = site.store.embeddings.all(site.number, "pixels")[self.task]
        [chunk] = site.services.files(site.number).paths([embeddings_name(where.chunk)])
        self.vector = np.load(chunk)[where.row].tobytes()
        site.fake.annotate(self.task, self.label)
        site.store.projects.request_refresh(site.number)
        assert site.refresh().problem == ""

    @property
    def has_draft(self) -> bool:
        files = self.site.services.files(self.site.number)
        return any(str(self.task) in files.read_json(name) for name in files.names("drafts"))

    @property
    def scan_marks(self) -> dict[str, list[bytes]]:
        """Parts of what must not stay of the scan, by what they are of."""
        mask = json.dumps(self.label[0]["value"]["rle"]).encode()
        return {
            "pixels": parts(self.pixels),
            "embedding": parts(self.vector),
            "label": parts(mask),
            "file name": [FILE_NAME.encode()],
            "group": [GROUP.encode()],
        }

    @property
    def marks(self) -> dict[str, list[bytes]]:
        return {**self.scan_marks, "title": [TITLE.encode()]}

    def traces(self, *folders: Path) -> dict[str, list[str]]:
        """Return which marks are found in which files and objects."""
        content = {
            path.name: path.read_bytes()
            for folder in (self.folder, *folders)
            for path in folder.rglob("*")
            if path.is_file()
        } | (objects(self.bucket) if self.bucket else {})
        found = {
            mark: [name for name, held in content.items() if any(part in held for part in looked)]
            for mark, looked in self.marks.items()
        }
        return {mark: names for mark, names in found.items() if names}


def parts(text: bytes) -> list[bytes]:
    """Return parts of a long text, each long enough to be found nowhere by chance."""
    found = [text[at : at + WINDOW] for at in range(0, len(text) - WINDOW, WINDOW)]
    return [part for part in found if len(set(part)) > 4]


def objects(bucket: S3) -> dict[str, bytes]:
    client = boto3.client("s3")
    listed = client.list_objects_v2(Bucket=bucket.bucket).get("Contents", [])
    read = (client.get_object(Bucket=bucket.bucket, Key=one["Key"]) for one in listed)
    return {one["Key"]: got["Body"].read() for one, got in zip(listed, read, strict=True)}


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> Iterator[S3 | None]:
    """No bucket, unless a test asks for one by its parameter."""
    if not getattr(request, "param", False):
        yield None
        return
    with pytest.MonkeyPatch.context() as patch, servers.running(patch) as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, database_url: str, bucket: S3 | None) -> Settings:
    return on_machine(tmp_path / "one", database_url, bucket)


def on_machine(folder: Path, database_url: str, bucket: S3 | None) -> Settings:
    folder.mkdir()
    url = bucket.url if bucket else ""
    return settings_in(folder, database_url).model_copy(update={"artifacts_url": url})


@pytest.fixture
def web(settings: Settings, store: Store) -> Iterator[FlaskClient]:
    """The web process, whose connections to the database stay open."""
    opened = open_store(settings.database)
    yield create_app(settings, opened, lambda *_: []).test_client()
    opened.close()


@pytest.fixture
def ward(site: Site, settings: Settings, bucket: S3 | None, web: FlaskClient) -> Ward:
    made = Ward(site, settings.data_dir, bucket)
    made.live_through_rounds()
    for page in ("", "/map.json", f"/scans/{made.task}.png"):
        assert web.get(f"/projects/{site.number}{page}").status_code == 200
    found = made.traces()
    assert set(found) == set(made.marks), "every mark has to be there before it can be gone"
    return made


def eraser(settings: Settings, store: Store, clock: Clock) -> Eraser:
    return Eraser(
        store, Artifacts(settings.data_dir, settings.artifacts_url), settings.data_dir, clock
    )


def delete(ward: Ward, *, paused: bool = True) -> None:
    """Delete the scan in Label Studio and let a refresh see it; a paused one trains nothing."""
    ward.site.fake.delete_task(ward.task)
    ward.site.entry["extra_params"]["paused"] = paused
    ward.site.store.projects.request_refresh(ward.site.number, full=True)
    assert ward.site.refresh().problem == ""


@pytest.mark.slow
def test_a_deleted_scan_is_in_no_file_of_a_running_service(
    ward: Ward, settings: Settings, clock: Clock, web: FlaskClient
) -> None:
    delete(ward, paused=False)
    eraser(settings, ward.site.store, clock).turn(leads=True)
    assert set(ward.traces()) == {"title"}
    assert not ward.has_draft
    number = ward.site.number
    for page, status in (("", 200), ("/map.json", 200), (f"/scans/{ward.task}.png", 404)):
        assert web.get(f"/projects/{number}{page}").status_code == status
    assert set(ward.traces()) == {"title"}, "a look at the pages brings nothing back"
    ward.site.label(3)
    assert ward.site.refresh().problem == ""
    assert set(ward.traces()) == {"title"}, "nor does a round"


@pytest.mark.slow
def test_a_scan_with_another_address_leaves_nothing_of_the_former_one(
    ward: Ward, settings: Settings, clock: Clock
) -> None:
    site = ward.site
    site.fake.files["/data/upload/other.png"] = png(site.phantoms[0].image)
    site.fake.change_data(ward.task, image="/data/upload/other.png", patient="another")
    for number, found in list(site.fake.projects[site.number].annotations.items()):
        if found["task"] == ward.task:
            site.fake.delete_annotation(number)
    site.store.projects.request_refresh(site.number)
    assert site.refresh().problem == ""
    eraser(settings, site.store, clock).turn(leads=True)
    assert set(ward.traces()) == {"title"}
    kept = list(site.services.folder(site.number).glob(f"scans-*/{ward.task}-*"))
    assert len(kept) == 1, "today's picture stays"


@pytest.mark.slow
@pytest.mark.parametrize("bucket", [True], indirect=True, ids=["bucket"])
@pytest.mark.parametrize("whole", [False, True], ids=["scan", "project"])
def test_copies_on_another_machine_go_when_its_worker_looks_next(
    ward: Ward, settings: Settings, tmp_path: Path, clock: Clock, bucket: S3, whole: bool
) -> None:
    store, number = ward.site.store, ward.site.number
    there = on_machine(tmp_path / "two", settings.database, bucket)
    files = Artifacts(there.data_dir, there.artifacts_url).of(number)
    files.paths([name for kind in ("embeddings", "maps", "drafts") for name in files.names(kind)])
    kept = settings.project_folder(number) / "scans-256"
    (files.folder / kept.name).mkdir()
    for path in kept.iterdir():
        (files.folder / kept.name / path.name).write_bytes(path.read_bytes())
    copies = list(files.folder.rglob("*.*"))
    if whole:
        store.projects.update(number, disconnected=True)
        assert connection.forget(settings, store, number).endswith("are deleted.")
        assert ward.traces() == {}
        store.projects.request_refresh(number, connected=True)
    else:
        delete(ward)
        eraser(settings, store, clock).turn(leads=True)
        assert set(ward.traces()) == {"title"}
    assert {"pixels", "embedding"} <= set(ward.traces(there.data_dir))
    eraser(there, store, clock).turn(leads=False)
    assert set(ward.traces(there.data_dir)) <= {"title"}
    assert any(path.exists() for path in copies) is not whole


@pytest.mark.slow
def test_a_forgotten_project_is_in_no_file_of_a_running_service(
    ward: Ward,
    settings: Settings,
    store: Store,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While somebody reads the log it cannot be emptied: the worker does that afterwards."""
    if settings.database_url:
        pytest.skip("the log is SQLite's")
    monkeypatch.setattr(erasing, "PURGE_TRIES", 2)
    number = ward.site.number
    command = open_store(settings.database)
    with closing(sqlite3.connect(settings.data_dir / "firstlight.sqlite")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM projects").fetchall()
        list(connection.disconnect(settings, ward.site.services.studio, command, number))
        said = connection.forget(settings, command, number)
        assert "the worker overwrites them within a minute" in said
        assert store.projects.all() == []
        works = eraser(settings, store, clock)
        works.turn(leads=True)
        assert "pixels" not in ward.traces()
        assert "title" in ward.traces()
        reader.execute("COMMIT")
        works.turn(leads=True)
        assert ward.traces() == {}
    assert store.erasures.to_do() == []
    command.engine.dispose()


# -- processes ------------------------------------------------------------------------------------

WEB = """
import sys
from pathlib import Path
from backend.rounds import erasing
from backend.settings import Settings
from backend.web.server import serve
erasing.TURN_SECONDS = 0.1
serve(Settings(port=int(sys.argv[1]), data_dir=Path(sys.argv[2])))
"""


def test_a_web_process_without_a_worker_beside_it_erases_what_its_machine_keeps(
    tmp_path: Path,
) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'firstlight.sqlite'}")
    store.create()
    store.projects.request_refresh(1)
    row = {"url": "a", "group": "", "updated_at": "1", "is_labeled": False}
    store.scans.save(1, [{"id": 5, **row}])
    store.scans.keep_only(1, [])
    store.erasures.note([note.number for note in store.erasures.after()], files_done=True)
    kept = tmp_path / "projects" / "1" / "scans-256" / "5-0123456789abcdef.npz"
    kept.parent.mkdir(parents=True)
    kept.touch()
    with listen("127.0.0.1", 0) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-c", WEB, str(port), str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: not kept.exists())
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        store.close()


@pytest.mark.slow
def test_a_running_worker_erases_a_deleted_scan_by_itself(tmp_path: Path) -> None:
    with crew(f"sqlite:///{tmp_path / 'firstlight.sqlite'}", tmp_path) as workers:
        workers.hire(1)
        number = workers.project(6)
        workers.until_live(number)
        task, *_ = workers.fake.projects[number].tasks
        name = workers.fake.projects[number].tasks[task]["data"]["image"].encode()
        folder = tmp_path / "projects" / str(number)
        assert list(folder.glob(f"scans-*/{task}-*"))
        workers.fake.delete_task(task)
        workers.store.projects.request_refresh(number, full=True)
        wait_for(lambda: [note.database_done for note in workers.store.erasures.after()] == [True])
        wait_for(lambda: not list(folder.glob(f"scans-*/{task}-*")))
        assert not [path for path in tmp_path.glob("*sqlite*") if name in path.read_bytes()]
