"""Label configs of every kind on a real Label Studio: what is drawn trains, drafts come back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.commands.quickstart.service import Backend
from backend.label_studio import labels
from demo import scans
from demo.annotator import Annotator
from tests.label_studio.conftest import OPTIONS, Lab

pytestmark = [pytest.mark.studio, pytest.mark.slow, pytest.mark.timeout(600)]

Mask = NDArray[np.bool_]

IMAGE = '<Image name="scan" value="$image"/>'
BOTH = '<Label value="Lung" alias="lung"/><Label value="Heart"/>'
NAMES = f'<Labels name="names" toName="scan">{BOTH}</Labels>'
HEIGHT = WIDTH = 128  # of a phantom
PAINT = (
    f'<BrushLabels name="paint" toName="scan">{BOTH}<Label value="Rib"/></BrushLabels>'
    '<KeyPointLabels name="tip" toName="scan"><Label value="Tip"/></KeyPointLabels>'
)
KINDS = ["Brush", "Polygon", "Ellipse", "Rectangle"]


def own(kind: str) -> str:
    return f'<View>{IMAGE}<{kind}Labels name="draw" toName="scan">{BOTH}</{kind}Labels></View>'


def apart(kind: str) -> str:
    return f'<View><View>{NAMES}</View><{kind} name="draw" toName="scan"/>{IMAGE}</View>'


def project_of(annotator: Annotator, config: str, tmp_path: Path, count: int = 1) -> Lab:
    """A project of phantoms that is not connected to a backend."""
    project = annotator.create_project("configs", ["Object"])
    pool = annotator.import_scans(project, scans.phantoms(count, tmp_path))
    annotator.call("PATCH", f"/api/projects/{project}/", json={"label_config": config})
    return Lab(annotator, None, project, dict(pool))  # type: ignore[arg-type]


def submit(lab: Lab, task: int, result: list[dict[str, Any]]) -> int:
    answer = lab.annotator.call(
        "POST", f"/api/tasks/{task}/annotations/", json={"result": result, "lead_time": 1}
    )
    return int(answer["id"])


def stored(lab: Lab, annotation: int) -> list[dict[str, Any]]:
    return list(lab.annotator.call("GET", f"/api/annotations/{annotation}/")["result"])


def iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def discs() -> Mask:
    """A disc for each of the two labels, shape (2, h, w)."""
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    return np.stack([np.hypot(y - 40, x - 50) < 20, np.hypot(y - 90, x - 80) < 25])


@pytest.mark.parametrize("config", [*map(own, KINDS), *map(apart, KINDS)])
def test_a_prelabel_of_ours_is_taken_served_and_submitted_as_it_was(
    annotator: Annotator, tmp_path: Path, config: str
) -> None:
    lab = project_of(annotator, config, tmp_path)
    [task] = lab.scans
    parsed = labels.parse(annotator.project(lab.project)["label_config"])
    draft = labels.regions(discs(), parsed, scores=(0.9, 0.8))
    imported = annotator.call(
        "POST",
        f"/api/projects/{lab.project}/import/predictions",
        json=[{"task": task, "result": draft, "score": 0.5, "model_version": "v1"}],
    )
    assert imported["created"] == 1
    annotator.call("PATCH", f"/api/projects/{lab.project}/", json={"model_version": "v1"})

    served = annotator.next_task(lab.project)
    assert served is not None
    [prediction] = served["predictions"]
    assert prediction["result"] == draft

    result = stored(lab, submit(lab, task, prediction["result"]))
    drawn = labels.masks(result, parsed, size=(HEIGHT, WIDTH))
    least = {"brush": 1.0, "polygon": 0.95, "ellipse": 0.95, "rectangle": 0.75}
    kind = parsed.tool_for("Heart").shape
    for one, other in zip(drawn, discs(), strict=True):
        assert iou(one, other) >= least[kind]


def test_what_people_draw_in_any_config_is_what_the_masks_show(
    annotator: Annotator, tmp_path: Path
) -> None:
    """Also turned shapes, in percent, as the editor stores them."""
    config = "<View>" + IMAGE + NAMES + "".join(
        f'<{kind} name="{kind}" toName="scan"/>' for kind in KINDS
    ) + "</View>"  # fmt: skip
    lab = project_of(annotator, config, tmp_path)
    [task] = lab.scans
    box = {"x": 50, "y": 25, "width": 25, "height": 12.5, "rotation": 90}
    triangle = {"points": [[0, 0], [25, 0], [0, 25]], "closed": True}
    result = [
        entry
        for kind, value, label in (("rectangle", box, "lung"), ("polygon", triangle, "Heart"))
        for entry in pair(kind, value, label)
    ]
    parsed = labels.parse(config)
    found = labels.masks(stored(lab, submit(lab, task, result)), parsed, size=(HEIGHT, WIDTH))
    expected = np.zeros((2, HEIGHT, WIDTH), bool)
    expected[0, 32:64, 48:64] = True  # 32 x 16 pixels at (64, 32), turned down to its left
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    expected[1] = x + y < 31  # 32 pixels along either border, up to the diagonal
    np.testing.assert_array_equal(found, expected)


def pair(kind: str, value: dict[str, Any], label: str) -> list[dict[str, Any]]:
    common = {
        "id": kind,
        "to_name": "scan",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
    }
    return [
        common | {"type": kind, "from_name": kind.capitalize(), "value": value},
        common | {"type": "labels", "from_name": "names", "value": value | {"labels": [label]}},
    ]


@pytest.mark.parametrize(
    ("kind", "type_of"),
    [
        ("Polygon", "polygonlabels"),
        pytest.param("Ellipse", "labels", marks=pytest.mark.soak),
    ],
)
def test_a_model_learns_from_shapes_and_drafts_the_same_shapes(
    annotator: Annotator, backend: Backend, tmp_path: Path, kind: str, type_of: str
) -> None:
    config = own(kind) if type_of == "polygonlabels" else apart(kind)
    lab = project_of(annotator, config, tmp_path, count=8)
    lab.backend = backend
    backend.connect(lab.project, OPTIONS)
    lab.settle(labels=0)
    parsed = labels.parse(config)
    for _ in range(4):
        label_next(lab, parsed)
    page = lab.settle(labels=4)
    assert page["labels_used"] == 4
    assert not page["problem"]
    drafts = annotator.predictions(lab.project, page["live_version"])
    regions = [region for draft in drafts for region in draft["result"]]
    assert type_of in {region["type"] for region in regions}
    # A config that changes under way: a brush beside the former tool, and one more label.
    change_config(lab, config.replace(IMAGE, IMAGE + PAINT))
    until(lab, lambda: lab.page()["live_version"] != page["live_version"])
    after = lab.settle(labels=4)
    assert after["labels_used"] == 4, "what was drawn with the former tool still counts"
    assert any("KeyPointLabels 'tip'" in line for line in after["warnings"])
    until(lab, lambda: kinds_drafted(lab) == {"brushlabels"})


def label_next(lab: Lab, parsed: labels.LabelConfig) -> None:
    task = lab.annotator.next_task(lab.project)
    assert task is not None
    mask = lab.scans[task["id"]].mask
    assert mask is not None
    drawn = np.stack([mask, np.zeros_like(mask)])
    submit(lab, task["id"], labels.regions(drawn, parsed, scores=(1, 1)))


def change_config(lab: Lab, config: str) -> None:
    lab.annotator.call("PATCH", f"/api/projects/{lab.project}/", json={"label_config": config})


def kinds_drafted(lab: Lab) -> set[str]:
    drafts = lab.annotator.predictions(lab.project, str(lab.page()["live_version"]))
    return {region["type"] for draft in drafts for region in draft["result"]}


def until(lab: Lab, condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {lab.page()}"
        time.sleep(0.5)
