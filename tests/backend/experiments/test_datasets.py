from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from backend.errors import ConfigError
from backend.experiments import datasets
from backend.experiments.scans import Scan, VolumeSlice

LIMIT = 1_000_000
Array = npt.NDArray[Any]


def picture(path: Path, pixels: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def scan_of(folder: Path, name: str = "") -> Scan:
    found = datasets.find(folder, max_pixels=LIMIT).scans
    return next(scan for scan in found if name in scan.name).read()


def grey(number: int, shape: tuple[int, int] = (6, 8)) -> Array:
    return np.random.default_rng(number).integers(0, 256, shape)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three images, each with a mask whose left half is drawn."""
    mask = np.zeros((6, 8))
    mask[:, :4] = 255
    for number in range(3):
        picture(tmp_path / "images" / f"{number}.png", grey(number))
        picture(tmp_path / "masks" / f"{number}.png", mask)
    return tmp_path


def test_images_and_masks_of_one_name_are_scans(pairs: Path) -> None:
    dataset = datasets.find(pairs, max_pixels=LIMIT)
    scan = dataset.scans[1].read()

    assert dataset.labels == ("mask",)
    assert [scan.name for scan in dataset.scans] == ["0.png", "1.png", "2.png"]
    assert scan.image.dtype == np.float32
    np.testing.assert_allclose(scan.image * 255, grey(1), atol=1e-4)
    assert scan.masks.dtype == bool
    assert scan.masks.tolist() == [[[True] * 4 + [False] * 4] * 6]
    assert scan.spacing is None


def test_a_jpeg_may_have_a_mask_in_png(pairs: Path) -> None:
    (pairs / "images" / "0.png").unlink()
    picture(pairs / "images" / "0.jpg", grey(0))
    assert scan_of(pairs, "0.jpg").masks.sum() == 24


def test_folders_of_masks_are_labels(pairs: Path) -> None:
    for number in range(3):
        picture(pairs / "masks" / "heart" / f"{number}.png", np.zeros((6, 8)))
        picture(pairs / "masks" / "lung" / f"{number}.png", np.full((6, 8), 255))

    dataset = datasets.find(pairs, max_pixels=LIMIT)

    assert dataset.labels == ("heart", "lung")
    assert dataset.scans[0].read().masks.mean(axis=(1, 2)).tolist() == [0, 1]


def test_an_image_without_a_mask_is_named(pairs: Path) -> None:
    (pairs / "masks" / "1.png").unlink()
    with pytest.raises(ConfigError, match=r"1 of 3 images .* no mask, first 1\.png"):
        datasets.find(pairs, max_pixels=LIMIT)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.full((6, 7), 255), r"0\.png has a mask of shape \(6, 7\)"),
        (np.ones((6, 8)), r"0\.png has values up to 1\..*0 and 255"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(pairs: Path, mask: Array, said: str) -> None:
    picture(pairs / "masks" / "0.png", mask)
    with pytest.raises(ConfigError, match=said):
        scan_of(pairs, "0.png")


def test_a_damaged_image_is_named_and_harms_no_other(pairs: Path) -> None:
    (pairs / "images" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    assert scan_of(pairs, "1.png").image.shape == (6, 8)
    with pytest.raises(ConfigError, match=r"0\.png cannot be read\. The image is damaged"):
        scan_of(pairs, "0.png")


def test_a_folder_without_scans_is_told_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no labelled scans.*images/ and masks/"):
        datasets.find(tmp_path, max_pixels=LIMIT)


def test_montgomery_as_published_has_two_lungs(tmp_path: Path) -> None:
    picture(tmp_path / "CXR_png" / "MCUCXR_0001_0.png", grey(0))
    (tmp_path / "CXR_png" / "Thumbs.db").touch()
    picture(tmp_path / "ManualMask" / "leftMask" / "MCUCXR_0001_0.png", np.full((6, 8), 255))
    picture(tmp_path / "ManualMask" / "rightMask" / "MCUCXR_0001_0.png", np.zeros((6, 8)))

    assert datasets.find(tmp_path, max_pixels=LIMIT).labels == ("left lung", "right lung")
    scan = scan_of(tmp_path)
    assert scan.masks.mean(axis=(1, 2)).tolist() == [1, 0]
    assert scan.spacing is None  # a copy of another size has pixels of another size


def test_montgomery_at_its_own_size_is_in_millimetres() -> None:
    original = np.broadcast_to(np.float32(0), (4020, 4892))
    assert datasets._montgomery_spacing(original) == (0.0875, 0.0875)


def chexmask(folder: Path, rows: list[dict[str, object]]) -> None:
    """Write a table as CheXmask publishes it, with its unnamed column of row numbers."""
    names = ["", "image_id", "Dice RCA (Mean)", "Left Lung", "Right Lung", "Heart"]
    names += ["Height", "Width"]
    with (folder / "VinDr-CXR.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def test_chexmask_gives_the_rows_that_can_be_trusted_and_have_an_image(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "images" / f"{name}.png", grey(0, (3, 4)))
    row = {"Left Lung": "1 2 12 1", "Right Lung": "5 4", "Heart": "", "Height": 3, "Width": "4.0"}
    chexmask(
        tmp_path,
        [
            {"image_id": "absent", "Dice RCA (Mean)": 0.9, **row},
            {"image_id": "b.png", "Dice RCA (Mean)": 0.69, **row},
            {"image_id": "a", "Dice RCA (Mean)": 0.7, **row},
        ],
    )

    dataset = datasets.find(tmp_path, max_pixels=LIMIT)

    assert dataset.labels == ("Left Lung", "Right Lung", "Heart")
    assert [scan.name for scan in dataset.scans] == ["a.png"]
    assert dataset.scans[0].read().masks.astype(int).tolist() == [
        [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]],  # pixels 1, 2 and 12, row by row
        [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    ]


def test_chexmask_of_another_size_than_its_image_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", grey(0, (3, 4)))
    row = {"Left Lung": "", "Right Lung": "", "Heart": "", "Height": 6, "Width": 8}
    chexmask(tmp_path, [{"image_id": "a", "Dice RCA (Mean)": 0.9, **row}])
    with pytest.raises(ConfigError, match=r"mask of shape \(6, 8\).*\(3, 4\)"):
        scan_of(tmp_path)


def nifti(path: Path, values: Array, affine: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image: Any = nibabel.nifti1.Nifti1Image  # nibabel leaves its constructor untyped
    nibabel.save(image(values.astype(np.float32), affine), path)


def test_synthstrip_shows_the_head_upright_in_millimetres(tmp_path: Path) -> None:
    # A sagittal slice, its second axis going back and its third going down.
    values = np.zeros((1, 4, 3))
    values[0, 0, 0] = 500  # the front of the top
    affine = np.diag([1.0, -2.0, -3.0, 1.0])
    nifti(tmp_path / "asl_epi_001" / "image.nii.gz", values, affine)
    nifti(tmp_path / "asl_epi_001" / "mask.nii.gz", values > 0, affine)

    scan = scan_of(tmp_path, "asl_epi_001")

    assert scan.image.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert scan.masks[0].tolist() == (scan.image > 0).tolist()
    assert scan.spacing == (3.0, 2.0)
    assert datasets.find(tmp_path, max_pixels=LIMIT).labels == ("brain",)


@pytest.mark.parametrize("shape", [(4, 3, 2), (1, 1, 3)])
def test_a_volume_is_no_slice(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nifti(tmp_path / "case" / "image.nii.gz", np.zeros(shape), np.eye(4))
    with pytest.raises(ConfigError, match="expected a single slice"):
        scan_of(tmp_path)


def test_a_case_without_a_mask_is_named(tmp_path: Path) -> None:
    nifti(tmp_path / "case" / "image.nii.gz", np.zeros((4, 3)), np.eye(4))
    with pytest.raises(ConfigError, match=r"mask\.nii\.gz cannot be read"):
        scan_of(tmp_path)


def kept(folder: Path, longest: int = 256) -> datasets.Collection:
    found = datasets.find(folder, max_pixels=LIMIT)
    return datasets.keep(found, folder / "kept", longest=longest)


def test_scans_are_kept_as_they_are_when_small(pairs: Path) -> None:
    data = kept(pairs)
    image, masks = data.scans[2].load()
    np.testing.assert_allclose(image * 255, grey(2), atol=1e-4)
    assert masks.tolist() == scan_of(pairs, "2.png").masks.tolist()
    assert data.unit == "pixels"
    assert data.scans[2].spacing == (1.0, 1.0)


def test_a_shrunk_scan_still_counts_in_pixels_of_the_original(pairs: Path) -> None:
    data = kept(pairs, longest=4)
    image, masks = data.scans[0].load()
    assert image.shape == masks.shape[1:] == (3, 4)
    assert masks[0].tolist() == [[True, True, False, False]] * 3
    assert data.scans[0].spacing == (2.0, 2.0)


def test_scans_of_one_group_or_of_equal_pixels_belong_together(pairs: Path) -> None:
    picture(pairs / "images" / "3.png", grey(2))
    picture(pairs / "masks" / "3.png", np.zeros((6, 8)))
    (pairs / "groups.csv").write_text("name,group\n0.png,p\n1.png,p\n")
    first, second, third, fourth = (scan.patient for scan in kept(pairs).scans)
    assert first == second != third == fourth


def test_groups_may_name_scans_without_their_ending_and_no_others(pairs: Path) -> None:
    (pairs / "groups.csv").write_text("name,group\n0,p\n1,p\n")
    first, second, third = (scan.patient for scan in kept(pairs).scans)
    assert first == second != third
    (pairs / "groups.csv").write_text("name,group\n0.jpg,p\n1,p\n")
    with pytest.raises(ConfigError, match=r"names 1 scans that do not exist, such as '0\.jpg'"):
        kept(pairs)


def test_a_table_of_groups_may_come_from_a_spreadsheet(pairs: Path) -> None:
    (pairs / "groups.csv").write_text("name,group\n0.png,Zoë\n1.png,Zoë\n", encoding="utf-8-sig")
    first, second, third = (scan.patient for scan in kept(pairs).scans)
    assert first == second != third
    (pairs / "groups.csv").write_text("name,group\n0.png,p\n", encoding="utf-16")
    with pytest.raises(ConfigError, match="columns name and group"):
        kept(pairs)


def test_what_is_drawn_small_is_kept_small_and_not_lost(pairs: Path) -> None:
    mask = np.zeros((6, 8))
    mask[2, 3] = 255
    picture(pairs / "masks" / "0.png", mask)
    _, masks = kept(pairs, longest=2).scans[0].load()
    assert masks.any()


def test_a_table_of_groups_without_its_columns_is_refused(pairs: Path) -> None:
    (pairs / "groups.csv").write_text("file,patient\n0.png,p\n")
    with pytest.raises(ConfigError, match=r"file, patient.*columns name and group"):
        kept(pairs)


def test_the_fingerprint_follows_from_the_content(pairs: Path) -> None:
    before = kept(pairs).fingerprint
    assert kept(pairs).fingerprint == before
    picture(pairs / "masks" / "0.png", np.zeros((6, 8)))
    assert kept(pairs).fingerprint != before


def volume(folder: Path, name: str, values: Array, labels: Array, affine: Array) -> None:
    nifti(folder / "images" / name, values, affine)
    nifti(folder / "labels" / name, labels, affine)


def test_volumes_become_slices_that_stay_together(tmp_path: Path) -> None:
    values, labels = np.zeros((3, 4, 2)), np.zeros((3, 4, 2))
    values[0, 0, 1] = values[2, 3, 0] = 9
    labels[0, 0, 1], labels[2, 3, 0] = 2, 5
    for name in ("a.nii.gz", "b.nii.gz"):
        volume(tmp_path, name, values, labels, np.diag([-2.0, -3.0, 10.0, 1.0]))

    dataset = datasets.find(tmp_path, max_pixels=LIMIT)

    assert dataset.labels == ("label 2", "label 5")
    assert [scan.name for scan in dataset.scans][:3] == [
        "a.nii.gz/000", "a.nii.gz/001", "b.nii.gz/000",
    ]  # fmt: skip
    assert set(dataset.patients.values()) == {"a.nii.gz", "b.nii.gz"}
    first, second = dataset.scans[0].read(), dataset.scans[1].read()
    assert first.image.shape == (4, 3)  # the front at the top, the left side on the right
    assert first.spacing == (3.0, 2.0)
    assert [scan.place for scan in dataset.scans][1] == VolumeSlice("a.nii.gz", 1, (10.0, 3.0, 2.0))
    assert np.argwhere(first.masks).tolist() == [[1, 3, 2]]
    assert np.argwhere(second.masks).tolist() == [[0, 0, 0]]
    assert (first.image > 0).tolist() == first.masks[1].tolist()


def test_voxels_grow_with_the_working_size(tmp_path: Path) -> None:
    ones = np.ones((8, 6, 2))
    volume(tmp_path, "a.nii", ones, ones, np.diag([2.0, 3.0, 10.0, 1.0]))
    dataset = datasets.find(tmp_path, max_pixels=LIMIT)
    [first, _] = datasets.keep(dataset, tmp_path / "kept", longest=4).scans
    assert first.load()[0].shape == (3, 4)
    assert first.place == VolumeSlice("a.nii", 0, (10.0, 6.0, 4.0))


def test_a_volume_is_turned_upright_whatever_the_order_of_its_axes(tmp_path: Path) -> None:
    values = np.zeros((2, 3, 4))
    values[0, 0, 3] = 1  # to the right, at the back, at the top of the head
    volume(tmp_path, "a.nii", values, values, np.diag([1.0, 9.0, 1.0, 1.0]))
    shown = [scan.read() for scan in datasets.find(tmp_path, max_pixels=LIMIT).scans]
    assert [scan.image.shape for scan in shown] == [(4, 2)] * 3  # cut across the longest side
    # The last slice is the one at the back: its first axis grows to the left.
    assert np.argwhere(shown[2].masks[0]).tolist() == [[0, 1]]


def test_patients_keep_their_volumes_together(tmp_path: Path) -> None:
    for name in ("a_1.nii.gz", "a_2.nii.gz", "b_1.nii.gz"):
        ones = np.ones((3, 3, 2))
        volume(tmp_path, name, ones, ones, np.eye(4))
    (tmp_path / "groups.csv").write_text("name,patient\na_1,a\na_2.nii.gz,a\n")
    patients = datasets.find(tmp_path, max_pixels=LIMIT).patients
    assert list(patients.values()) == ["a", "a", "a", "a", "b_1.nii.gz", "b_1.nii.gz"]


@pytest.mark.parametrize(
    ("shape", "labelled", "said"),
    [
        ((3, 3, 2), (3, 2, 2), "mask of shape"),
        ((3, 3, 2, 1), (3, 3, 2, 1), "expected a volume with three axes"),
        ((3, 3, 2), None, "1 of 1 volumes .* no labels, first a.nii.gz"),
    ],
)
def test_volumes_that_cannot_be_used_are_named(
    tmp_path: Path, shape: tuple[int, ...], labelled: tuple[int, ...] | None, said: str
) -> None:
    (tmp_path / "labels").mkdir()
    nifti(tmp_path / "images" / "a.nii.gz", np.zeros(shape), np.eye(4))
    if labelled:
        nifti(tmp_path / "labels" / "a.nii.gz", np.ones(labelled), np.eye(4))
    with pytest.raises(ConfigError, match=said):
        scan_of(tmp_path)


def test_labels_with_another_affine_than_their_image_are_refused(tmp_path: Path) -> None:
    ones, affine = np.ones((3, 3, 2)), np.diag([-2.0, -2.0, 5.0, 1.0])
    volume(tmp_path, "a.nii.gz", ones, ones, affine)
    nifti(tmp_path / "labels" / "a.nii.gz", ones, affine + 1e-4)  # rounded by another program
    assert scan_of(tmp_path).masks.all()
    nifti(tmp_path / "labels" / "a.nii.gz", ones, np.eye(4))
    with pytest.raises(ConfigError, match=r"a\.nii\.gz has the affine \[\[1\.0, .*has \[\[-2\.0, "):
        datasets.find(tmp_path, max_pixels=LIMIT)


def test_volumes_in_which_nothing_is_drawn_are_refused(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        volume(tmp_path, name, np.ones((3, 3, 2)), np.zeros((3, 3, 2)), np.eye(4))
    with pytest.raises(ConfigError, match=rf"All labels of the 2 volumes in {tmp_path} are 0"):
        scan_of(tmp_path)
