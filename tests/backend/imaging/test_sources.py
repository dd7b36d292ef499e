from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.errors import ConfigError
from backend.imaging.sources import Reading, contents
from tests.backend.imaging.volume_files import save_nifti, save_series

READING = Reading(max_pixels=10_000)


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(path)
    return path


def test_all_kinds_of_files_below_a_folder_are_found(tmp_path: Path) -> None:
    save_series(tmp_path / "a", np.zeros((3, 4, 6), np.uint16))
    save_nifti(tmp_path / "b" / "heart.nii.gz", np.zeros((4, 6, 3), np.int16), np.eye(4))
    picture(tmp_path / "c.PNG")
    picture(tmp_path / "d.tif")
    found = contents(tmp_path, READING)
    assert [source.open().kind for source in found.sources] == ["dicom", "nifti", "picture", "tiff"]
    assert [source.single for source in found.sources] == [False, False, True, False]
    assert found.left_out == ()


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    picture(tmp_path / "b.png")
    assert len(contents(picture(tmp_path / "a.png"), READING).sources) == 1


def test_files_of_other_kinds_are_counted_with_the_command_that_converts_them(
    tmp_path: Path,
) -> None:
    picture(tmp_path / "a.png")
    for name in ("a.mha", "b.mha", "scan.czi", "notes.txt", ".hidden.png", "DICOMDIR"):
        (tmp_path / name).write_text("nothing")
    left_out = contents(tmp_path, READING).left_out
    assert len(left_out) == 3
    assert "1 file ending in .czi cannot be read; convert with `bfconvert" in left_out[0]
    assert "2 files ending in .mha cannot be read; convert with `python -c" in left_out[1]
    assert left_out[2] == "1 file ending in .txt: no known image format."


def test_a_folder_without_images_is_refused_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no image: the folder is empty"):
        contents(tmp_path, READING)
    (tmp_path / "scan.zip").touch()
    with pytest.raises(ConfigError, match=r"ending in .zip cannot be read; convert with `7z x IN`"):
        contents(tmp_path, READING)


def test_a_damaged_dicom_file_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    save_series(tmp_path, np.zeros((3, 4, 6), np.uint16))
    (tmp_path / "cut").write_bytes(bytes(128) + b"DICM" + b"\x08\0\x05\0XX\xff\xff\xff")
    found = contents(tmp_path, READING)
    assert len(found.sources) == 1
    assert len(found.left_out) == 1
