"""Every kind of image in a real Label Studio, fetched and decoded as a round does it."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr
from pydicom import uid

from backend.commands.quickstart.studio import LabelStudio
from backend.errors import ImageError
from backend.imaging.scan_cache import Scan
from backend.rounds.services import Services, build
from backend.settings import Settings
from backend.storage.store import open_store
from backend.storage.tables import Project
from demo.annotator import Annotator
from demo.errors import DemoError
from tests.backend.dicoms import dataset, written

pytestmark = [pytest.mark.studio, pytest.mark.slow, pytest.mark.timeout(600)]

WIDTH, HEIGHT = 60, 40
RAMP = np.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint8)
SIXTEEN = RAMP.astype(np.uint16) * 16
UPLOADED = ("grey.png", "turned.jpg", "sixteen.png", "still.webp", "plain.bmp", "ink.jpg")
REFUSED = ("scan.tif", "scan.dcm")  # not among the endings that Label Studio takes as uploads


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def files() -> dict[str, bytes]:
    grey, turned = Image.fromarray(RAMP), Image.Exif()
    turned[0x0112] = 6
    made = dataset(SIXTEEN, PhotometricInterpretation="MONOCHROME1")
    made.compress(uid.RLELossless, generate_instance_uid=False)
    return {
        "grey.png": encoded(grey, "PNG"),
        "turned.jpg": encoded(grey, "JPEG", quality=98, exif=turned),
        "sixteen.png": encoded(Image.fromarray(SIXTEEN), "PNG"),
        "still.webp": encoded(grey.convert("RGB"), "WEBP", lossless=True),
        "plain.bmp": encoded(grey, "BMP"),
        "ink.jpg": encoded(grey.convert("CMYK"), "JPEG", quality=98),
        "scan.tif": encoded(Image.fromarray(SIXTEEN), "TIFF", compression="tiff_lzw"),
        "scan.dcm": written(made),
        "broken.png": encoded(grey, "PNG")[:200],
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that Label Studio serves local files from."""
    root = tmp_path_factory.mktemp("served")
    (root / "scans").mkdir()
    return root


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, served: Path) -> Iterator[LabelStudio]:
    env = {
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(served),
    }
    with LabelStudio(tmp_path_factory.mktemp("label-studio"), env=env) as running:
        yield running


@pytest.fixture(scope="module")
def person(studio: LabelStudio) -> Iterator[Annotator]:
    with Annotator(studio.url, studio.token) as annotator:
        yield annotator


@pytest.fixture
def ours(studio: LabelStudio, tmp_path: Path) -> Iterator[Services]:
    """The services of a worker."""
    settings = Settings(
        label_studio_url=studio.url,
        label_studio_api_key=SecretStr(studio.token),
        data_dir=tmp_path,
    )
    made = build(settings, open_store(settings.database, busy_ms=1000))
    yield made
    made.source.client.close()
    made.studio.close()
    made.store.close()


def found(ours: Services, project: int) -> dict[str, Scan | ImageError]:
    """Every scan of a project by the name of its file, or why it cannot be read."""
    urls = {
        task["id"]: str(task["data"]["image"])
        for page in ours.studio.tasks(project)
        for task in page
    }
    scans = ours.scans(Project(id=project), 64)
    names = {task: url.rpartition("/")[2].rpartition("-")[2] for task, url in urls.items()}
    return {names[task]: scan for task, scan in scans.many(urls.items())}


def pixels(scan: Scan | ImageError) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    assert isinstance(scan, Scan), scan
    return scan.image


def test_every_kind_that_can_be_uploaded_is_read_and_a_broken_one_is_named(
    person: Annotator, ours: Services
) -> None:
    project = person.create_project("kinds", ["Object"])
    every = files()
    for name in (*UPLOADED, "broken.png"):
        upload(person, project, name, every[name])
    scans = found(ours, project)
    assert set(scans) == {*UPLOADED, "broken.png"}
    broken = scans.pop("broken.png")
    assert isinstance(broken, ImageError)
    assert broken.what.startswith("Task ")
    assert "damaged" in broken.what
    expected = RAMP / 255
    for name in ("grey.png", "sixteen.png", "still.webp", "plain.bmp"):
        np.testing.assert_allclose(pixels(scans[name]), expected, atol=0.01, err_msg=name)
    turned = pixels(scans["turned.jpg"])
    assert np.abs(turned - np.rot90(expected, -1)).mean() < 0.02
    assert np.abs(pixels(scans["ink.jpg"]) - expected).mean() < 0.05


@pytest.mark.parametrize("name", REFUSED)
def test_label_studio_takes_no_upload_of_what_its_pages_cannot_show(
    person: Annotator, name: str
) -> None:
    project = person.create_project("refused", ["Object"])
    with pytest.raises(DemoError):
        upload(person, project, name, files()[name])


def test_local_files_of_every_kind_are_read_and_a_broken_one_is_named(
    person: Annotator, ours: Services, served: Path
) -> None:
    for name, body in files().items():
        (served / "scans" / f"local-{name}").write_bytes(body)
    project = person.create_project("local files", ["Object"])
    storage = person.call(
        "POST",
        "/api/storages/localfiles/",
        json={"project": project, "path": str(served / "scans"), "use_blob_urls": True},
    )
    person.call("POST", f"/api/storages/localfiles/{storage['id']}/sync")
    scans = found(ours, project)
    assert set(scans) == set(files())
    broken = [name for name, scan in scans.items() if isinstance(scan, ImageError)]
    assert broken == ["broken.png"]
    np.testing.assert_allclose(pixels(scans["scan.tif"]), RAMP / 255, atol=0.01)
    np.testing.assert_allclose(pixels(scans["scan.dcm"]), 1 - RAMP / 255, atol=0.01)


def upload(person: Annotator, project: int, name: str, body: bytes) -> None:
    person.call("POST", f"/api/projects/{project}/import", files={name: (name, body)})


def test_the_files_are_not_served_without_the_token(studio: LabelStudio) -> None:
    answer = httpx.get(f"{studio.url}/data/local-files/?d=scans/local-grey.png", trust_env=False)
    assert answer.status_code in (302, 401, 403)
