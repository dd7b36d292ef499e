"""A small manifest."""

from __future__ import annotations

from pathlib import Path

from backend.imaging.manifest import Manifest, Slice, Volume
from backend.imaging.planes import Plane

AFFINE = ((-1.5, 0.0, 0.0, 0.0), (0.0, -1.5, 0.0, 0.0), (0.0, 0.0, 8.0, 0.0), (0.0, 0.0, 0.0, 1.0))


def a_volume(name: str = "volume-3f9a2c81d04e") -> Volume:
    return Volume(
        name=name,
        root="/scans",
        source="a/heart.nii.gz",
        kind="nifti",
        source_hash="0" * 64,
        shape=(6, 5, 2),
        affine=AFFINE,
        spacing=(1.5, 1.5, 8.0),
        plane=Plane(2, True, False, False, (6, 5), (5, 6)),
        slices=tuple(
            Slice(index=index, picture=f"{name}/{index:04}.png", picture_hash="1" * 64)
            for index in range(2)
        ),
    )


def a_manifest(folder: Path) -> Manifest:
    return Manifest(
        project=7,
        label_studio="http://studio.test",
        created="2026-11-30T00:00:00+00:00",
        window="percentile",
        folder=str(folder.resolve()),
        volumes=(a_volume(),),
    )
