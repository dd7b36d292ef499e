from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.commands.quickstart import images
from backend.errors import ConfigError, ImageError


def write(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6), value, np.uint8)).save(path)
    return path


def test_images_in_a_folder_and_below_it_are_found_by_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "below/c.tif"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    found, _ = images.from_folder(tmp_path)
    assert [image.path.name for image in found] == ["a.jpeg", "b.PNG", "c.tif"]


def test_a_folder_of_images_beside_masks_gives_the_images_alone(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png")
    write(tmp_path / "masks" / "a.png")
    [image], _ = images.from_folder(tmp_path)
    assert image.path == tmp_path / "images" / "a.png"


def test_names_are_told_apart_and_stay_the_same_in_the_next_run(tmp_path: Path) -> None:
    write(tmp_path / "one" / "scan.png")
    write(tmp_path / "two" / "scan.png")
    (first, second), _ = images.from_folder(tmp_path)
    assert first.name != second.name
    assert first.name.endswith("-scan.png")
    write(tmp_path / "a new one.png")
    assert {first.mark, second.mark} <= {image.mark for image in images.from_folder(tmp_path)[0]}


def test_a_tiff_becomes_a_png_because_browsers_show_no_tiff(tmp_path: Path) -> None:
    pixels = np.linspace(0, 60_000, 24, dtype=np.uint16).reshape(4, 6)
    Image.fromarray(pixels).save(tmp_path / "deep.tiff")
    [image], _ = images.from_folder(tmp_path)
    assert image.name.endswith("-deep.png")
    with Image.open(BytesIO(image.content(100))) as shown:
        assert (shown.format, shown.mode, shown.size) == ("PNG", "L", (6, 4))
        assert np.asarray(shown)[-1, -1] == 255
    with pytest.raises(ImageError):
        image.content(10)


def test_a_png_is_uploaded_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    [image], _ = images.from_folder(tmp_path)
    assert image.content(100) == path.read_bytes()


def test_a_folder_without_images_says_which_kinds_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(ConfigError, match=r"holds no image that .* TIFF, DICOM and NIfTI"):
        images.from_folder(tmp_path)


def test_volumes_are_told_from_images_by_their_ending_or_their_content(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    for name in ("b.nii", "b.nii.gz", "b.txt"):
        (tmp_path / name).touch()
    (tmp_path / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    [image], volumes = images.from_folder(tmp_path)
    assert image.path.name == "a.png"
    assert [path.name for path in volumes] == ["IM0001", "b.nii", "b.nii.gz"]


def test_uploads_in_a_state_folder_inside_the_folder_are_no_scans(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "data" / "label-studio" / "upload.png")
    [image], _ = images.from_folder(tmp_path, state=tmp_path / "data")
    assert image.path == tmp_path / "a.png"


def test_an_upload_holds_so_many_files_and_bytes_at_most(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(b"x" * (10 if number else 100))
    pool, _ = images.from_folder(tmp_path)
    sizes = [len(batch) for batch in images.batches(pool, files=3, size=30)]
    assert sizes == [1, 3, 1]


def test_synthetic_scans_are_the_same_for_a_seed(tmp_path: Path) -> None:
    first, again = (images.phantoms(2, tmp_path / name, seed=4) for name in ("one", "two"))
    assert [a.content(10**6) for a in first] == [b.content(10**6) for b in again]
    assert first[0].content(10**6) != first[1].content(10**6)
