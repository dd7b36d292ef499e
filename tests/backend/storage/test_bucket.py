"""Artifacts in a store that speaks S3, and what stands in the way of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backend.commands import checks_installation, connection
from backend.errors import ConfigError, StorageError
from backend.rounds.drafts import drafting
from backend.rounds.maps.embedding_map import Maps
from backend.rounds.models.learner import learner_for
from backend.rounds.services import Services
from backend.settings import Settings
from backend.storage import bucket, ledger
from backend.storage.artifacts import Artifacts, Space, embeddings_name, round_name
from backend.storage.bucket import Bucket
from backend.storage.store import Store
from backend.storage.tables import Publication
from backend.web.app import create_app
from tests.backend import s3 as servers
from tests.backend.conftest import settings_in
from tests.backend.s3 import S3
from tests.backend.site import Site


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    with servers.running(monkeypatch) as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, database_url: str, s3: S3) -> Settings:
    return on_machine("one", tmp_path, database_url, s3)


def on_machine(name: str, tmp_path: Path, database_url: str, s3: S3) -> Settings:
    (tmp_path / name).mkdir()
    made = settings_in(tmp_path / name, database_url)
    return made.model_copy(update={"artifacts_url": s3.url})


# -- before it is used ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gs://bucket/prefix", "pip install gcsfs"),
        ("abfs://container/prefix", "pip install adlfs"),
        ("nowhere://bucket", "nowhere://, a protocol that fsspec"),
        ("file:///no/such/folder", "/no/such/folder cannot be written"),
        ("/no/such/folder", "Mount or make that folder"),
    ],
)
def test_what_cannot_be_used_here_is_told_with_the_mend(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        bucket.prepare(url)


def test_what_can_be_used_is_not_asked_for_at_the_start(tmp_path: Path) -> None:
    for url in ("", str(tmp_path), f"file://{tmp_path}", "s3://bucket/prefix"):
        bucket.prepare(url)
    assert list(tmp_path.iterdir()) == []


def test_what_may_be_secret_in_an_address_is_not_shown() -> None:
    url = "sftp://user:hidden@host:22/folder?token=hidden#hidden"
    assert bucket.shown(url) == "sftp://host:22/folder"


# -- a store that speaks S3 -----------------------------------------------------------------------


def test_objects_are_whole_have_marks_and_go(s3: S3, tmp_path: Path) -> None:
    store, file = Bucket(s3.url), tmp_path / "file"
    assert (store.mark("models/k"), store.get("models/k"), store.keys("models")) == ("", None, [])

    file.write_bytes(b"first")
    store.put("models/k", file)
    first = store.mark("models/k")
    file.write_bytes(b"second")
    store.put("models/k", file)

    assert store.mark("models/k") not in {"", first}
    assert store.get("models/k") == b"second"
    assert store.keys("models") == ["models/k"]
    assert Bucket(f"s3://{s3.bucket}/lungs/").get("models/k") == b"second"
    assert Bucket(f"s3://{s3.bucket}").keys("") == ["lungs/models/k"]
    store.remove("models/k")
    store.remove("models/k")
    assert store.keys("models") == []


def test_a_missing_bucket_is_not_taken_for_an_empty_one(s3: S3, tmp_path: Path) -> None:
    store = Bucket("s3://elsewhere/lungs")
    (tmp_path / "file").touch()
    for use in (
        lambda: store.mark("models/k"),
        lambda: store.get("models/k"),
        lambda: store.keys("models"),
        lambda: store.put("models/k", tmp_path / "file"),
    ):
        with pytest.raises(StorageError, match="there is no such bucket or file"):
            use()


def test_a_store_that_does_not_answer_is_named_without_address_and_key(s3: S3) -> None:
    store = Bucket(s3.url)
    s3.stop()
    with pytest.raises(StorageError) as caught:
        store.get("models/k")
    s3.start()
    told = f"{caught.value}{caught.value.__cause__}"
    assert "The artifacts at ARTIFACTS_URL did not answer (no connection: nothing listens" in told
    assert not [word for word in ("hidden", "access", s3.bucket, s3.endpoint) if word in told]
    assert store.get("models/k") is None


def test_the_doctor_says_whether_the_store_can_be_used(settings: Settings, s3: S3) -> None:
    found = checks_installation.artifacts(settings)
    assert (found.ok, found.what) == (True, f"{s3.url} can be written and read.")
    assert Bucket(s3.url).keys("") == []
    assert list((settings.data_dir / "projects").iterdir()) == []
    s3.stop()
    with pytest.raises(StorageError, match="did not answer"):
        checks_installation.artifacts(settings)
    assert list((settings.data_dir / "projects").iterdir()) == []
    s3.start()
    missing = settings.model_copy(update={"artifacts_url": "gs://bucket"})
    with pytest.raises(ConfigError, match="gcsfs"):
        checks_installation.artifacts(missing)


# -- rounds ---------------------------------------------------------------------------------------


def live(site: Site) -> Publication:
    version = site.store.publications.get(site.number, site.project.live_version)
    assert version is not None
    return version


@pytest.fixture
def trained(site: Site) -> Site:
    site.refresh()
    site.label(0, 1)
    assert site.refresh().problem == ""
    assert live(site).model_key
    return site


@pytest.fixture
def elsewhere(trained: Site, tmp_path: Path, database_url: str, s3: S3) -> Services:
    """The services of another machine, with nothing but the database in common."""
    shared = {"database_url": trained.services.settings.database}
    there = on_machine("two", tmp_path, database_url, s3).model_copy(update=shared)
    return replace(trained.services, settings=there)


def test_what_rounds_leave_is_there_for_another_machine(trained: Site, elsewhere: Services) -> None:
    number, version = trained.number, live(trained)
    here, there = trained.services.files(number), elsewhere.files(number)
    assert not there.folder.exists()
    record = there.read_json(round_name(version.round))
    assert record == here.read_json(round_name(version.round))
    assert [task for task in record["order"] if task in trained.queue] == trained.queue
    embedded = trained.store.embeddings.all(number, "pixels")
    maps = [Maps(files, embedded).current(Space("pixels", "pca", 0), 2) for files in (here, there)]
    assert (maps[0].coordinates == maps[1].coordinates).all()
    learner = learner_for(elsewhere, trained.project)
    assert learner.knows(version.model_key)
    wanted = trained.store.scans.all(number)[2]
    [(_, scan, drawn)] = learner.predict(version.model_key, [(wanted.id, wanted.url)])
    kept = here.read_json(f"drafts/{version.drafts}")[str(wanted.id)]
    found = drafting.regions(drawn, scan.size, learner.config)
    assert [one["value"] for one in found] == [one["value"] for one in kept]


def test_pages_of_another_machine_show_map_queue_and_versions(
    trained: Site, elsewhere: Services
) -> None:
    project = f"/projects/{trained.number}"
    pages = [
        create_app(settings, trained.store, lambda *_: []).test_client()
        for settings in (trained.services.settings, elsewhere.settings)
    ]
    for part in ("/map.json", "/rounds.json", "?format=json"):
        first, second = (page.get(project + part).get_json() for page in pages)
        assert first == second
    assert pages[1].get(project + "/map.json").get_json()["placed"] == len(trained.tasks)


@pytest.mark.slow
def test_an_outage_is_said_and_the_next_round_goes_on_from_where_it_was(
    trained: Site, s3: S3
) -> None:
    queue, before = trained.queue, live(trained).name
    trained.label(2)
    s3.stop()
    project = trained.refresh()
    assert "The artifacts at ARTIFACTS_URL did not answer" in project.problem
    assert live(trained).name == before
    assert trained.queue == [task for task in queue if task != trained.tasks[2]]
    client = create_app(trained.services.settings, trained.store, lambda *_: []).test_client()
    assert client.get(f"/projects/{trained.number}").status_code == 503
    assert client.get("/health").status_code == 200
    s3.start()
    assert trained.refresh().problem == ""
    assert live(trained).labels == 3


@pytest.mark.slow
def test_what_was_lost_from_the_store_is_made_anew(trained: Site, elsewhere: Services) -> None:
    """The copies of one machine do not hide that the others have nothing."""
    number = trained.number
    store = Bucket(trained.services.settings.artifacts_url)
    lost = [key for key in store.keys("") if "/embeddings/" in key or "/models/" in key]
    assert len(lost) == 2
    for key in lost:
        store.remove(key)
    [chunk] = {one.chunk for one in trained.store.embeddings.all(number, "pixels").values()}
    with pytest.raises(StorageError, match="embeddings is missing"):
        Maps(elsewhere.files(number), trained.store.embeddings.all(number, "pixels")).embeddings(
            [0]
        )
    trained.store.embeddings.forget(number, [chunk])
    trained.store.projects.update(number, fingerprint="")
    trained.store.projects.request_refresh(number)
    assert trained.refresh().problem == ""
    assert sorted(key for key in store.keys("") if key in lost) == sorted(lost)
    assert elsewhere.files(number).exists(embeddings_name(chunk))
    assert ledger.read(trained.store, number).usable.keys() == set(trained.tasks[:2])


@pytest.mark.slow
def test_forgetting_a_project_empties_the_store_of_it(
    trained: Site, elsewhere: Services, store: Store
) -> None:
    assert Bucket(elsewhere.settings.artifacts_url).keys("projects")
    store.projects.update(trained.number, disconnected=True)
    connection.forget(elsewhere.settings, store, trained.number)
    assert Bucket(elsewhere.settings.artifacts_url).keys("projects") == []
    assert Artifacts(elsewhere.settings.data_dir).of(trained.number).names("models") == []
