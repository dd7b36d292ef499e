from __future__ import annotations

import gc
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import numpy.typing as npt
import pytest
from pydicom import dcmread, uid

from backend.exchange.export.cases import Case, Scan
from backend.exchange.export.files import Files
from backend.exchange.export.formats.dicomseg import DicomSeg
from backend.exchange.export.formats.format import Context
from backend.exchange.export.masks import ANNOTATORS, Drawn
from backend.exchange.pictures import Writer
from backend.imaging.manifest import Volume
from backend.imaging.planes import Plane
from backend.imaging.sources import Reading, contents
from backend.rounds.services import Services
from tests.backend import dicoms
from tests.backend.exchange.export.exported import (
    TWO,
    Imported,
    affine_of,
    an_import,
    export,
    files_of,
    regions,
    save_manifest,
)
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.imaging.volume_files import enhanced, save_dicom, slice_at

ROWS, COLUMNS = 8, 10
NUMBERS = (0, 1, 2, 4, 5)  # one slice is missing
TILTED = [0.8, 0.6, 0.0, 0.0, 0.0, -1.0]
STUDY = {
    "FrameOfReferenceUID": "1.2.6",
    "StudyDate": "20260102",
    "StudyTime": "101112",
    "StudyID": "9",
    "AccessionNumber": "A1",
    "PatientBirthDate": "19700101",
    "PatientSex": "F",
    "ReferringPhysicianName": "",
}

# highdicom leaves databases in memory open, of which Python 3.13 warns when it collects them.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect those databases here, not in the next test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def position(number: int) -> list[float]:
    normal = np.cross(TILTED[:3], TILTED[3:])
    return [float(side) for side in 5.0 + 2.5 * number * normal]


def save_series(folder: Path, **elements: Any) -> None:
    """Write an oblique series without one slice, with a copy of a file, and a second series."""
    chance = np.random.default_rng(1)
    for number in NUMBERS:
        made = slice_at(
            chance.integers(0, 3000, (ROWS, COLUMNS)).astype(np.uint16),
            number,
            ImageOrientationPatient=TILTED,
            ImagePositionPatient=position(number),
            **{**STUDY, **elements},
        )
        path = save_dicom(folder / f"{(7 * number) % 11}.dcm", made)
    shutil.copy(path, folder / "copy.dcm")
    save_dicom(
        folder / "other.dcm",
        slice_at(np.ones((4, 4), np.uint16), 9, SeriesInstanceUID="1.2.9", **STUDY),
    )


class Series:
    """A project of one imported DICOM series."""

    def __init__(
        self, services: Services, fake: FakeLabelStudio, number: int, folder: Path
    ) -> None:
        self.services, self.fake, self.number, self.folder = services, fake, number, folder
        fake.projects[number].label_config = TWO

    def start(self) -> Imported:
        opened = [s.open() for s in contents(self.folder, Reading(max_pixels=1_000)).sources]
        largest = max(opened, key=lambda one: len(one.present))
        writer = Writer(self.folder, self.folder / "in", "percentile", "all")
        volume = writer.write(largest, "v1", None)
        chance = np.random.default_rng(2)
        truth = chance.integers(0, 3, volume.shape).astype(np.uint8)
        tasks = {
            each.index: self.fake.add_task(self.number, None, volume="v1", slice=each.index)
            for each in volume.slices
        }
        save_manifest(self.number, self.folder / "in", volume)
        return Imported(volume, truth, tasks)

    def draw(self, drawn: Imported, *indices: int) -> None:
        for index in indices or drawn.tasks:
            self.fake.annotate(drawn.tasks[index], regions(*drawn.masks(index)))

    def export(self, **choice: Any) -> Any:
        arguments = {"imported": self.folder / "in", **choice}
        return export(self.services, self.number, self.folder / "out", "dicomseg", **arguments)

    def read(self) -> Any:
        return highdicom.seg.segread(self.folder / "out" / "v1.dcm")


@pytest.fixture
def series(services: Services, fake: FakeLabelStudio, project_id: int, tmp_path: Path) -> Series:
    return Series(services, fake, project_id, tmp_path)


def pixels_of(segmentation: Any, volume: Volume) -> npt.NDArray[Any]:
    """The masks by source image, (n, rows, columns, classes), of all slices in the manifest."""
    uids = [each.sop_instance for each in volume.slices]
    found: npt.NDArray[Any] = segmentation.get_pixels_by_source_instance(
        uids, assert_missing_frames_are_empty=True
    )
    return found


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_an_oblique_series_comes_back_bit_by_bit_at_its_positions(
    series: Series, kind: str
) -> None:
    save_series(series.folder / "ct", PhotometricInterpretation=kind)
    drawn = series.start()
    series.draw(drawn)
    report = series.export()
    assert report.problems == []
    made = series.read()
    assert [made.get_segment_description(n).segment_label for n in (1, 2)] == ["Lung", "Heart"]
    found = pixels_of(made, drawn.volume)
    for place, index in enumerate(NUMBERS):
        for number in (1, 2):
            np.testing.assert_array_equal(
                found[place, ..., number - 1], number == drawn.labels[..., index].T
            )
    where = {tuple(position(number)) for number in NUMBERS}
    frames = made.PerFrameFunctionalGroupsSequence
    assert {tuple(f.PlanePositionSequence[0].ImagePositionPatient) for f in frames} == where
    shared = made.SharedFunctionalGroupsSequence[0]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == TILTED
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.5, 0.75]
    assert (made.StudyInstanceUID, made.FrameOfReferenceUID) == ("1.2.5", "1.2.6")
    assert made.get_segment_description(1).algorithm_type.value == "MANUAL"


def test_a_segmentation_names_the_labelled_images_only(series: Series) -> None:
    save_series(series.folder / "ct")
    drawn = series.start()
    series.draw(drawn, 1, 4)
    series.export()
    said = series.read().ReferencedSeriesSequence[0]
    named = [each.ReferencedSOPInstanceUID for each in said.ReferencedInstanceSequence]
    assert named == ["1.2.3.1", "1.2.3.4"]


def test_classes_may_overlap_and_a_volume_may_be_empty(series: Series) -> None:
    save_series(series.folder / "ct")
    drawn = series.start()
    series.fake.annotate(drawn.tasks[2])
    series.export()
    assert not series.read().pixel_array.any(), "submitted without a region"
    whole = np.ones((ROWS, COLUMNS), bool)
    shown = np.ones(drawn.volume.plane.shown_shape, bool)
    series.fake.annotate(drawn.tasks[1], regions(shown, shown))
    series.export()
    found = pixels_of(series.read(), drawn.volume)
    np.testing.assert_array_equal(found[1], np.stack([whole, whole], axis=-1))


def test_equal_masks_give_equal_uids_and_other_masks_others(series: Series) -> None:
    save_series(series.folder / "ct")
    drawn = series.start()
    series.draw(drawn, 1)
    series.export()
    first = series.read().SOPInstanceUID
    shutil.rmtree(series.folder / "out")
    series.export()
    assert series.read().SOPInstanceUID == first
    series.draw(drawn, 2)
    series.export()
    assert series.read().SOPInstanceUID != first


def uids_of(drawn: Imported, folder: Path, *origins: str) -> tuple[str, str]:
    """Return the UIDs of the file with the same masks, one slice from each origin."""
    scans = [
        Scan(task=each.index, url="", image="", changed="", annotations=1, index=each.index)
        for each, _ in zip(drawn.volume.slices, origins, strict=False)
    ]
    masks = [
        Drawn(scan, drawn.volume.plane.shown_shape, origin, iter(drawn.masks(scan.index)))
        for scan, origin in zip(scans, origins, strict=True)
    ]
    context = Context("Hearts", ("Lung", "Heart"), lambda scan: np.zeros((1, 1), np.uint8))
    case = Case("v1", tuple(scans), drawn.volume)
    DicomSeg(context).write(case, masks, False, Files(folder))
    made = dcmread(folder / "v1.dcm")
    return made.SeriesInstanceUID, made.SOPInstanceUID


def test_equal_masks_of_people_and_of_a_model_have_uids_of_their_own(series: Series) -> None:
    save_series(series.folder / "ct")
    drawn = series.start()
    origins = [(ANNOTATORS, ANNOTATORS), ("r1", "r1"), ("r2", "r2"), (ANNOTATORS, "r1")]
    found = [uids_of(drawn, series.folder / "out", *each) for each in origins]
    assert len({uid for uids in found for uid in uids}) == 8
    assert [uids_of(drawn, series.folder / "out", *each) for each in origins] == found


def test_a_file_of_frames_gets_a_mask_for_each_labelled_frame(series: Series) -> None:
    values = np.random.default_rng(0).integers(0, 200, (4, ROWS, COLUMNS)).astype(np.uint8)
    made = enhanced(
        values, [9.0, 6.0, 3.0, 0.0], SOPClassUID=uid.EnhancedMRImageStorage,
        StudyInstanceUID="1.2.5", InstanceNumber=1, **STUDY,
    )  # fmt: skip
    save_dicom(series.folder / "mr" / "film.dcm", made)
    drawn = series.start()
    series.draw(drawn, 1, 3)
    assert series.export().problems == []
    found = series.read().get_pixels_by_source_frame(
        made.SOPInstanceUID, [4, 3, 2, 1], assert_missing_frames_are_empty=True
    )
    for index in range(4):  # the last frame lies lowest
        for number in (1, 2):
            expected = (number == drawn.labels[..., index].T) & (index in (1, 3))
            np.testing.assert_array_equal(found[index, ..., number - 1], expected)


def test_a_film_without_positions_is_named(series: Series) -> None:
    made = dicoms.dataset(
        np.zeros((4, ROWS, COLUMNS), np.uint8), StudyInstanceUID="1.2.5", SeriesInstanceUID="1.2.4"
    )
    save_dicom(series.folder / "us" / "film.dcm", made)
    drawn = series.start()
    series.draw(drawn, 1)
    [problem] = series.export().problems
    assert "do not suffice for a segmentation" in problem


def test_a_series_that_moved_or_changed_is_named(series: Series) -> None:
    save_series(series.folder / "ct")
    series.draw(series.start())
    shutil.move(series.folder / "ct", series.folder / "moved")
    [problem] = series.export().problems
    assert "v1 is left out: its source is not at" in problem
    assert "Put the source back where it was imported from." in problem
    shutil.move(series.folder / "moved", series.folder / "ct")
    (series.folder / "ct" / "7.dcm").unlink()
    [problem] = series.export().problems
    assert "has changed since it was imported" in problem


def test_headers_without_names_and_dates_suffice(series: Series) -> None:
    save_series(series.folder / "ct")
    for path in (series.folder / "ct").glob("*.dcm"):
        made = dcmread(path)
        for name in ("PatientName", "PatientID", *STUDY.keys() - {"FrameOfReferenceUID"}):
            delattr(made, name)
        made.save_as(path)
    series.draw(series.start(), 1)
    assert series.export().problems == []
    assert series.read().PatientName == ""


def test_names_keep_their_letters_in_any_script(series: Series) -> None:
    series.fake.projects[series.number].label_config = TWO.replace("Heart", "心\\Herz" + "z" * 80)
    save_series(series.folder / "ct", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    series.fake.annotate(series.start().tasks[1])
    assert series.export().problems == []
    made = series.read()
    assert str(made.PatientName) == "Müller^Jörg"
    assert made.get_segment_description(2).segment_label == "心/Herz" + "z" * 58


def test_headers_that_do_not_suffice_are_named(series: Series) -> None:
    save_series(series.folder / "ct")
    for path in (series.folder / "ct").glob("*.dcm"):
        made = dcmread(path)
        del made.StudyInstanceUID
        made.save_as(path)
    series.draw(series.start())
    [problem] = series.export().problems
    assert "do not suffice for a segmentation" in problem
    assert "StudyInstanceUID" in problem


def test_a_volume_of_another_kind_is_named(
    services: Services, fake: FakeLabelStudio, project_id: int, tmp_path: Path
) -> None:
    fake.projects[project_id].label_config = TWO
    values = np.zeros((5, 5, 3), np.int16)
    plane = Plane(2, True, True, False, (5, 5), (5, 5))
    imported = an_import(
        fake, project_id, tmp_path, values, values.astype(np.uint8),
        affine=affine_of((0, 1, 2), (1, 1, 1), (1, 1, 1)), plane=plane,
    )  # fmt: skip
    fake.annotate(imported.tasks[0])
    save_manifest(project_id, tmp_path / "in", imported.volume)
    out = tmp_path / "out"
    [problem] = export(services, project_id, out, "dicomseg", imported=tmp_path / "in").problems
    assert "its source is no DICOM series but nifti" in problem
    assert not [name for name in files_of(out) if name.endswith(".dcm")]
