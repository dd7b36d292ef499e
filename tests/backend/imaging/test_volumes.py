"""NIfTI, TIFF and picture files as volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from backend.errors import ConfigError, FirstlightError
from backend.imaging import flat_files, nifti
from backend.imaging.planes import Plane, long_axis
from tests.backend.imaging.shown import shown_mask
from tests.backend.imaging.volume_files import save_nifti

tifffile = pytest.importorskip("tifffile")
LIMIT = 10_000
TURNS = st.tuples(st.permutations(range(3)), st.tuples(*[st.sampled_from([-1, 1])] * 3))
SIDES = st.tuples(*[st.sampled_from([0.7, 1.0, 2.5])] * 3)


def turned(turn: tuple[list[int], tuple[int, ...]], sides: tuple[float, ...]) -> np.ndarray:  # type: ignore[type-arg]
    """An affine whose axes go to the named sides of the body."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (side, way) in enumerate(zip(*turn, strict=True)):
        affine[side, axis] = way * sides[axis]
    return affine


@given(TURNS, SIDES, st.integers(0, 2))
def test_slices_are_shown_as_radiologists_look_at_them(
    turn: tuple[list[int], tuple[int, ...]], sides: tuple[float, float, float], axis: int
) -> None:
    shape = (4, 5, 6)
    affine = turned(turn, sides)
    plane = Plane.facing(affine, shape, sides, axis)
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    places = indices @ affine[:3, :3].T  # mm to the right, to the front, to the head
    unstretched = Plane(
        axis,
        plane.transposed,
        plane.rows_flipped,
        plane.columns_flipped,
        plane.grid_shape,
        plane.turned_shape,
    )
    right, front, head = (unstretched.show(plane.cut(places, 1)[..., side]) for side in range(3))
    cut = turn[0][axis]
    if cut == 2:
        assert (np.diff(front, axis=0) < 0).all(), "the front is at the top"
    else:
        assert (np.diff(head, axis=0) < 0).all(), "the head is at the top"
    across = front if cut == 0 else right
    assert (np.diff(across, axis=1) < 0).all(), "the left side, or the back, is on the right"


@given(TURNS, SIDES)
def test_each_voxel_is_found_by_plane_and_index(
    turn: tuple[list[int], tuple[int, ...]], sides: tuple[float, float, float]
) -> None:
    grid = np.random.default_rng(0).random((4, 5, 6)) < 0.5
    affine = turned(turn, sides)
    plane = Plane.facing(affine, grid.shape, sides, long_axis(sides, affine))
    found = np.zeros_like(grid)
    for index in range(grid.shape[plane.axis]):
        plane.cut(found, index)[:] = plane.back(shown_mask(plane, plane.cut(grid, index)))
    np.testing.assert_array_equal(found, grid)


@given(TURNS, SIDES)
def test_slices_are_those_that_experiments_read(
    tmp_path_factory: pytest.TempPathFactory,
    turn: tuple[list[int], tuple[int, ...]],
    sides: tuple[float, float, float],
) -> None:
    from backend.experiments.nifti import _planes

    values = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    folder = tmp_path_factory.mktemp("volumes")
    path = save_nifti(folder / "a.nii", values, turned(turn, sides))
    volume = nifti.volume(path)
    planes, _ = _planes(path)
    shown = [
        Plane(
            volume.plane.axis,
            volume.plane.transposed,
            volume.plane.rows_flipped,
            volume.plane.columns_flipped,
            volume.plane.grid_shape,
            volume.plane.turned_shape,
        ).show(volume.read(index))
        for index in volume.present
    ]
    same = np.array_equal(shown, planes) or np.array_equal(shown[::-1], planes)
    assert same


def test_of_voxels_of_one_size_slices_across_the_body_are_cut() -> None:
    affine = turned(([2, 0, 1], (1, 1, 1)), (1.0, 1.0, 1.0))
    assert long_axis((1.0, 1.0, 1.0), affine) == 0
    assert long_axis((1.0, 3.0, 1.0), affine) == 1


def test_a_nifti_with_four_axes_needs_a_frame(tmp_path: Path) -> None:
    values = np.arange(4 * 5 * 3 * 2, dtype=np.int16).reshape(4, 5, 3, 2)
    path = save_nifti(tmp_path / "a.nii.gz", values, np.eye(4))
    for frame in (None, 2):
        with pytest.raises(ConfigError, match=r"holds 2 volumes \(4-D\).*--frame 0 to --frame 1"):
            nifti.volume(path, frame=frame)
    volume = nifti.volume(path, frame=1)
    np.testing.assert_array_equal(volume.read(2), values[..., 2, 1])
    assert volume.frame == 1
    assert volume.title == "a"


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3, 1, 1)])
def test_a_nifti_may_have_two_axes_or_axes_of_length_one(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path = save_nifti(tmp_path / "a.nii", np.ones(shape, np.float32), np.eye(4))
    volume = nifti.volume(path, frame=0)
    assert volume.shape == ((4, 5, 3) if len(shape) > 2 else (4, 5, 1))
    assert volume.frame is None
    assert volume.read(0).all()


def test_a_nifti_without_spacing_and_orientation_says_so(tmp_path: Path) -> None:
    import nibabel

    ones = np.ones((4, 5, 3), np.float32)
    image = nibabel.nifti1.Nifti1Image(ones, None)  # type: ignore[no-untyped-call]
    image.header["pixdim"] = 0
    path = tmp_path / "a.nii"
    path.write_bytes(image.to_bytes())
    volume = nifti.volume(path)
    assert volume.spacing == (1, 1, 1)
    assert not volume.has_spacing
    assert abs(np.linalg.det(volume.affine)) == 1
    assert [note.split(" ", 1)[1] for note in volume.notes] == [
        "says no valid spacing; 1 mm stands for it.",
        "says no orientation; left and right may be exchanged.",
    ]


def test_colour_in_nifti_is_refused(tmp_path: Path) -> None:
    values = np.zeros((4, 5, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    path = save_nifti(tmp_path / "a.nii", values, np.eye(4))
    with pytest.raises(ConfigError, match="expected grey values in three axes"):
        nifti.volume(path)


@pytest.mark.parametrize("content", [b"", b"no NIfTI"])
def test_a_damaged_nifti_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a.nii cannot be read"):
        nifti.volume(path)


def test_a_cut_nifti_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", np.ones((4, 5, 3), np.float32), np.eye(4))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match="cannot be read"):
        nifti.volume(path).read(0)


@pytest.mark.parametrize("pages", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_each_page_of_a_tiff_is_a_slice(tmp_path: Path, pages: int, dtype: str) -> None:
    values = (np.random.default_rng(0).random((pages, 4, 6)) * 200).astype(dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="minisblack", compression="deflate")
    volume = flat_files.tiff(path, max_pixels=LIMIT)
    assert volume.shape == (6, 4, pages)
    assert volume.windowed == (dtype != "uint8")
    for index in range(pages):
        np.testing.assert_array_equal(volume.plane.show(volume.read(index)), values[index])


def test_pages_in_colour_are_shown_with_the_upper_eight_bits(tmp_path: Path) -> None:
    values = (np.random.default_rng(0).random((2, 4, 6, 3)) * 65535).astype(np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="rgb")
    volume = flat_files.tiff(path, max_pixels=LIMIT)
    np.testing.assert_array_equal(volume.plane.show(volume.read(1)), values[1] >> 8)
    assert not volume.windowed


@pytest.mark.parametrize("dtype", ["float32", "uint32", "int16"])
def test_colours_of_other_types_than_bytes_and_words_are_refused(
    tmp_path: Path, dtype: str
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4, 6, 3), dtype), photometric="rgb")
    with pytest.raises(ConfigError, match=rf"a.tif stores colours as {dtype}.*8 or 16 bits"):
        flat_files.tiff(path, max_pixels=LIMIT)


def test_white_is_zero_in_a_tiff_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((4, 6), np.uint16), photometric="miniswhite")
    assert flat_files.tiff(path, max_pixels=LIMIT).inverted


def test_the_spacing_that_imagej_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        np.zeros((3, 4, 6), np.uint16),
        imagej=True,
        resolution=(2.0, 4.0),
        metadata={"axes": "ZYX", "spacing": 5.0, "unit": "um"},
    )
    volume = flat_files.tiff(path, max_pixels=LIMIT)
    np.testing.assert_allclose(volume.spacing, (5e-4, 2.5e-4, 5e-3))
    assert volume.plane.shown_shape == (4, 12)


def test_channels_and_times_in_a_tiff_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.zeros((2, 3, 4, 6), np.uint16), imagej=True, metadata={"axes": "ZCYX"}
    )
    with pytest.raises(ConfigError, match=r"holds 1 stacks of pages.*tiffsplit a.tif"):
        flat_files.tiff(path, max_pixels=LIMIT)


def test_a_damaged_tiff_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0 and no more")
    with pytest.raises(FirstlightError, match=r"a.tif cannot be read as TIFF"):
        flat_files.tiff(path, max_pixels=LIMIT)


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_a_picture_is_a_volume_of_one_slice(tmp_path: Path, mode: str) -> None:
    shape = (4, 6, 3) if mode == "RGB" else (4, 6)
    dtype = np.uint16 if mode == "I;16" else np.uint8
    values = (np.random.default_rng(0).random(shape) * 250).astype(dtype)
    path = tmp_path / "a.png"
    Image.fromarray(values).save(path)
    volume = flat_files.picture(path, max_pixels=LIMIT)
    assert volume.shape == (6, 4, 1)
    assert volume.windowed == (mode == "I;16")
    np.testing.assert_array_equal(volume.plane.show(volume.read(0)), values)


def test_a_picture_larger_than_allowed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(path)
    with pytest.raises(FirstlightError, match="more than the 10 allowed"):
        flat_files.picture(path, max_pixels=10)
