from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import uid

from backend.errors import ConfigError, FirstlightError, ImageError
from backend.imaging import sources
from backend.imaging.sources import Reading
from backend.imaging.volumes import Volume
from tests.backend import dicoms
from tests.backend.imaging.volume_files import (
    ABOVE,
    COLUMN,
    ROW,
    enhanced,
    save_dicom,
    save_series,
    slice_at,
)

READING = Reading(max_pixels=10_000)
GRID = np.random.default_rng(0).integers(0, 4000, (5, 4, 6)).astype(np.uint16)  # (n, rows, columns)


def opened(path: Path, reading: Reading = READING) -> list[Volume]:
    return [source.open() for source in sources.contents(path, reading).sources]


def values_of(volume: Volume) -> npt.NDArray[Any]:
    """All slices that are there, as (n, rows, columns)."""
    return np.stack([volume.read(index).T for index in volume.present])


def test_a_series_is_sorted_by_position_and_rescaled(tmp_path: Path) -> None:
    save_series(tmp_path, GRID)
    [volume] = opened(tmp_path)
    np.testing.assert_array_equal(values_of(volume), GRID.astype(np.float32) - 1024)
    assert volume.shape == (6, 4, 5)
    assert volume.spacing == (0.75, 0.5, 2.5)
    assert volume.notes == ()
    assert volume.files[3].sop_instance == "1.2.3.3"


def test_pixels_that_are_not_square_are_shown_square(tmp_path: Path) -> None:
    save_series(tmp_path, GRID)
    [volume] = opened(tmp_path)
    assert volume.plane.turned_shape == (4, 6)
    assert volume.plane.shown_shape == (4, 9), "a column is 1.5 times as wide as a row is high"


def test_the_affine_leads_to_the_positions_that_the_files_say_also_if_oblique(
    tmp_path: Path,
) -> None:
    row = np.array([0.8, 0.6, 0.0])
    column = np.array([-0.6 * 0.6, 0.8 * 0.6, -0.8])
    step = 2.5 * np.cross(row, column) + np.array([0.1, 0.0, 0.2])  # with a tilted gantry
    for number, values in enumerate(GRID):
        made = slice_at(
            values,
            number,
            ImageOrientationPatient=[*row, *column],
            ImagePositionPatient=[*(number * step)],
        )
        save_dicom(tmp_path / f"{9 - number}", made)
    [volume] = opened(tmp_path)
    i, j, k = 5, 3, 4
    place = k * step + i * 0.75 * row + j * 0.5 * column  # to the left, to the back, to the head
    np.testing.assert_allclose((volume.affine @ [i, j, k, 1])[:3], place * [-1, -1, 1], atol=1e-6)
    order = [volume.files[index].sop_instance[-1] for index in volume.present]
    assert order == list("01234")


def test_a_slice_of_a_body_that_lies_on_its_front_is_shown_like_all_others(tmp_path: Path) -> None:
    turned = [*-ROW, *-COLUMN]
    made = slice_at(GRID[0], 0, ImageOrientationPatient=turned)
    save_dicom(tmp_path / "a.dcm", made)
    [volume] = opened(tmp_path)
    assert volume.plane.rows_flipped
    assert volume.plane.columns_flipped


def test_monochrome1_is_shown_inverted(tmp_path: Path) -> None:
    save_series(tmp_path, GRID, PhotometricInterpretation="MONOCHROME1")
    [volume] = opened(tmp_path)
    assert volume.inverted


def test_missing_slices_leave_their_places_empty_and_are_named(tmp_path: Path) -> None:
    save_series(tmp_path, GRID)
    (tmp_path / "14.dcm").unlink()  # the third
    [volume] = opened(tmp_path)
    assert volume.present == (0, 1, 3, 4)
    assert volume.shape == (6, 4, 5)
    assert volume.notes == (
        "Slices missing between others: 1; their places in the volume stay empty.",
    )
    np.testing.assert_allclose(volume.affine @ [0, 0, 4, 1], [0, 0, 10, 1])


def test_uneven_distances_are_named(tmp_path: Path) -> None:
    for number, height in enumerate([0.0, 2.0, 5.1]):
        made = slice_at(GRID[number], number, ImagePositionPatient=[*(height * ABOVE)])
        save_dicom(tmp_path / str(number), made)
    [volume] = opened(tmp_path)
    assert volume.present == (0, 1, 2)
    assert "Slices lie 2.00 to 3.10 mm apart" in volume.notes[0]


@pytest.mark.parametrize("sop", ["1.2.3.2", "1.2.3.99"])
def test_a_doubled_slice_is_imported_once(tmp_path: Path, sop: str) -> None:
    save_series(tmp_path, GRID)
    made = slice_at(GRID[2], 2, SOPInstanceUID=sop)
    save_dicom(tmp_path / "copy", made)
    [volume] = opened(tmp_path)
    np.testing.assert_array_equal(values_of(volume), GRID.astype(np.float32) - 1024)
    assert "once" in volume.notes[0]


def test_different_slices_at_one_place_are_refused(tmp_path: Path) -> None:
    save_series(tmp_path, GRID)
    save_dicom(tmp_path / "other", slice_at(GRID[3], 2, SOPInstanceUID="1.9"))
    with pytest.raises(ImageError, match=r"is mixed from several acquisitions\. Export each"):
        opened(tmp_path)


def test_several_images_at_each_place_are_volumes_of_which_one_is_chosen(tmp_path: Path) -> None:
    for echo in range(2):
        for number, values in enumerate(GRID):
            made = slice_at(
                values + np.uint16(echo),
                number,
                SOPInstanceUID=f"1.{echo}.{number}",
                InstanceNumber=10 * echo + number,
            )
            save_dicom(tmp_path / f"{echo}-{number}", made)
    with pytest.raises(ImageError, match=r"holds 2 volumes \(4-D\).*--frame 0 to --frame 1"):
        opened(tmp_path)
    [volume] = opened(tmp_path, Reading(10_000, frame=1))
    np.testing.assert_array_equal(values_of(volume), GRID.astype(np.float32) + 1 - 1024)
    assert volume.frame == 1


def test_two_series_in_one_folder_are_two_volumes(tmp_path: Path) -> None:
    save_series(tmp_path, GRID)
    for number, values in enumerate(GRID[:2]):
        made = slice_at(values, number, SeriesInstanceUID="1.2.9", SOPInstanceUID=f"1.9.{number}")
        save_dicom(tmp_path / "more" / str(number), made)
    first, second = opened(tmp_path)
    assert (first.shape[2], second.shape[2]) == (5, 2)
    assert first.identity != second.identity
    assert first.digest != second.digest


def test_a_series_with_two_orientations_becomes_two_volumes(tmp_path: Path) -> None:
    save_series(tmp_path, GRID)
    upright = [*ROW, *-ABOVE]
    made = slice_at(GRID[0], 0, SOPInstanceUID="1.9", ImageOrientationPatient=upright)
    save_dicom(tmp_path / "locator", made)
    volumes = opened(tmp_path)
    assert sorted(volume.shape[2] for volume in volumes) == [1, 5]
    assert all("2 orientations or sizes" in volume.notes[0] for volume in volumes)
    assert len({volume.identity for volume in volumes}) == 2


def test_images_without_a_position_stand_for_themselves(tmp_path: Path) -> None:
    for number in range(2):
        made = dicoms.dataset(GRID[number], SOPInstanceUID=f"1.7.{number}", SeriesInstanceUID="1.7")
        made.ImagerPixelSpacing = [0.2, 0.2]
        save_dicom(tmp_path / str(number), made)
    volumes = opened(tmp_path)
    assert [volume.shape for volume in volumes] == [(6, 4, 1), (6, 4, 1)]
    for volume, values in zip(volumes, GRID, strict=False):
        np.testing.assert_array_equal(volume.plane.show(volume.read(0)), values)
    assert volumes[0].spacing[:2] == (0.2, 0.2)


def test_an_image_without_spacing_says_so(tmp_path: Path) -> None:
    save_dicom(tmp_path / "a", dicoms.dataset(GRID[0]))
    [volume] = opened(tmp_path)
    assert not volume.has_spacing
    assert "says no spacing of pixels" in volume.notes[0]


def test_the_frames_of_an_enhanced_file_are_sorted_by_position_with_their_own_slope(
    tmp_path: Path,
) -> None:
    save_dicom(tmp_path / "a", enhanced(GRID, [8.0, 6.0, 4.0, 2.0, 0.0]))
    [volume] = opened(tmp_path)
    assert [volume.files[index].frame for index in volume.present] == [4, 3, 2, 1, 0]
    frames = np.arange(5)[:, None, None]
    np.testing.assert_array_equal(values_of(volume), (2.0 * GRID + frames)[::-1])
    assert volume.spacing == (0.5, 0.5, 2.0)


def test_frames_without_positions_keep_their_order(tmp_path: Path) -> None:
    save_dicom(tmp_path / "a", dicoms.dataset(GRID))
    [volume] = opened(tmp_path)
    np.testing.assert_array_equal(values_of(volume), GRID)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless])
def test_a_compressed_series_is_read(tmp_path: Path, syntax: uid.UID) -> None:
    for number, values in enumerate(GRID):
        made = slice_at(values, number)
        if syntax == uid.RLELossless:
            made.compress(syntax, generate_instance_uid=False)
        else:
            frame = jpeg_ls(values)
            made = slice_at(values, number)
            made.file_meta.TransferSyntaxUID = syntax
            made.PixelData = frame
            made["PixelData"].is_undefined_length = True
        save_dicom(tmp_path / str(number), made)
    [volume] = opened(tmp_path)
    np.testing.assert_array_equal(values_of(volume), GRID.astype(np.float32) - 1024)


def jpeg_ls(values: npt.NDArray[np.uint16]) -> bytes:
    imagecodecs = pytest.importorskip("imagecodecs")
    from pydicom.encaps import encapsulate

    return bytes(encapsulate([imagecodecs.jpegls_encode(values)]))


def test_colour_is_shown_as_it_is(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    save_dicom(tmp_path / "a", dicoms.dataset(colour))
    [volume] = opened(tmp_path)
    assert not volume.windowed
    np.testing.assert_array_equal(volume.plane.show(volume.read(0)), colour)


def test_a_video_is_named_with_the_command_that_saves_its_frames(tmp_path: Path) -> None:
    made = dicoms.holding(GRID[0], b"\0" * 8, uid.MPEG4HP41)
    save_dicom(tmp_path / "film.dcm", made)
    with pytest.raises(ConfigError, match=r"film.dcm holds a video \(MPEG-4.*ffmpeg -i video.mp4"):
        opened(tmp_path)


def test_what_cannot_be_decoded_is_named_with_the_command_that_converts_it(tmp_path: Path) -> None:
    made = dicoms.holding(GRID[0], b"\0" * 8, uid.HTJ2K)
    save_dicom(tmp_path / "a.dcm", made)
    [volume] = opened(tmp_path)
    with pytest.raises(FirstlightError, match=r"cannot be read: .*gdcmconv --raw a.dcm OUT.dcm"):
        volume.read(0)


def test_a_report_is_left_out_and_counted(tmp_path: Path) -> None:
    save_series(tmp_path, GRID)
    report = slice_at(GRID[0], 9, Modality="SR")
    save_dicom(tmp_path / "report", report)
    found = sources.contents(tmp_path, READING)
    assert found.left_out == ("1 DICOM files hold no image (reports, contours, segmentations).",)
    assert len(found.sources) == 1


def test_only_the_elements_that_are_asked_for_are_kept(tmp_path: Path) -> None:
    save_series(tmp_path, GRID, PatientAge="042Y")
    assert opened(tmp_path)[0].tags == {}
    assert opened(tmp_path, Reading(10_000, keep=["PatientAge"]))[0].tags == {"PatientAge": "042Y"}


def test_a_slice_larger_than_allowed_is_refused(tmp_path: Path) -> None:
    save_series(tmp_path, GRID)
    with pytest.raises(ImageError, match="more than the 10 allowed"):
        opened(tmp_path, Reading(max_pixels=10))


def test_names_tell_nothing_of_the_order_or_the_place_of_files(tmp_path: Path) -> None:
    save_series(tmp_path / "a", GRID)
    save_series(tmp_path / "b" / "c", GRID[::1])
    [one], [other] = opened(tmp_path / "a"), opened(tmp_path / "b")
    assert (one.identity, one.digest) == (other.identity, other.digest)
