"""nnU-Net's rules for a dataset, checked from its documentation (dataset_format.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from PIL import Image


def check(folder: Path) -> dict[str, Any]:
    """Assert that nnU-Net takes the dataset in a folder; return its dataset.json."""
    said = json.loads((folder / "dataset.json").read_text())
    assert {"channel_names", "labels", "numTraining", "file_ending"} <= said.keys()
    ending, channels = said["file_ending"], len(said["channel_names"])
    assert list(said["channel_names"]) == [str(number) for number in range(channels)]
    numbers = list(said["labels"].values())
    assert said["labels"]["background"] == 0
    assert sorted(numbers) == list(range(len(numbers))), "labels are consecutive"
    assert said["labels"].get("ignore", max(numbers)) == max(numbers), "ignore is the highest"

    cases = {path.name.removesuffix(ending) for path in (folder / "labelsTr").iterdir()}
    images = {path.name for path in (folder / "imagesTr").iterdir()}
    assert len(cases) == said["numTraining"]
    assert images == {f"{case}_0000{ending}" for case in cases}, "one file holds all channels"
    for case in cases:
        image = folder / "imagesTr" / f"{case}_0000{ending}"
        label = folder / "labelsTr" / f"{case}{ending}"
        found = check_picture(image, label, channels) if ending == ".png" else check_volume(
            image, label
        )  # fmt: skip
        assert found <= set(numbers), "no label that dataset.json does not name"
    check_split(folder, cases)
    return dict(said)


def check_picture(image: Path, label: Path, channels: int) -> set[int]:
    with Image.open(image) as picture, Image.open(label) as mask:
        assert picture.size == mask.size
        assert len(picture.getbands()) == channels
        assert mask.mode in ("L", "I;16")
        return set(np.unique(np.asarray(mask)).tolist())


def check_volume(image: Path, label: Path) -> set[int]:
    """As nnU-Net's reader does it: both through SimpleITK, on one grid."""
    scan: Any = SimpleITK.ReadImage(str(image))
    mask: Any = SimpleITK.ReadImage(str(label))
    assert scan.GetSize() == mask.GetSize()
    for one, other in (
        (scan.GetSpacing(), mask.GetSpacing()),
        (scan.GetOrigin(), mask.GetOrigin()),
        (scan.GetDirection(), mask.GetDirection()),
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)
    values = SimpleITK.GetArrayFromImage(mask)
    assert values.dtype.kind in "iu"
    assert not np.isnan(SimpleITK.GetArrayFromImage(scan)).any()
    return set(np.unique(values).tolist())


def check_split(folder: Path, cases: set[str]) -> None:
    path = folder / "splits_final.json"
    if path.exists():
        [fold] = json.loads(path.read_text())
        assert fold.keys() == {"train", "val"}
        assert fold["train"]
        assert fold["val"]
        assert not set(fold["train"]) & set(fold["val"])
        assert set(fold["train"]) | set(fold["val"]) == cases
