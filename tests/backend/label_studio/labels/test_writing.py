from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backend.label_studio import labels
from backend.label_studio.labels.shapes import REGISTRY
from tests.backend.label_studio.labels.samples import CONFIG, PLAIN, QUICK, block, problems

MASKS = hnp.arrays(bool, st.tuples(st.just(2), st.integers(1, 20), st.integers(1, 20)))


@given(MASKS)
@QUICK
def test_a_mask_comes_back_from_its_own_regions(mask: np.ndarray[Any, Any]) -> None:
    made = labels.regions(mask, CONFIG, scores=(0.5, 1))
    assert json.loads(json.dumps(made)) == made
    np.testing.assert_array_equal(labels.masks(made, CONFIG, size=mask.shape[1:]), mask)


def test_label_studios_sdk_accepts_the_regions_as_a_prediction() -> None:
    mask = np.stack(
        [block(12, 18, slice(0, 5), slice(0, 9)), block(12, 18, slice(6, 12), slice(2, 4))]
    )
    result = labels.regions(mask, CONFIG, scores=(0.25, 0.75))
    assert problems(PLAIN, result) == []
    result[0]["value"]["brushlabels"] = ["Rib"]
    assert problems(PLAIN, result)


def test_the_regions_of_an_aliased_label_carry_the_alias() -> None:
    xml = PLAIN.replace('value="Lung"', 'value="Lung" alias="l"')
    result = labels.regions(np.ones((2, 3, 3), bool), labels.parse(xml), scores=(1, 1))
    assert problems(xml, result) == []


def test_only_labels_that_cover_something_get_a_region_with_their_own_score() -> None:
    empty = np.zeros((2, 4, 5), dtype=bool)
    assert labels.regions(empty, CONFIG, scores=(0.1, 0.9)) == []
    empty[1, 0, 0] = True
    (one,) = labels.regions(empty, CONFIG, scores=(0.1, 0.9))
    assert (one["value"]["brushlabels"], one["score"]) == (["Heart"], 0.9)
    assert (one["original_width"], one["original_height"]) == (5, 4)


def test_the_id_of_a_region_is_its_class_and_its_page_whatever_the_mask() -> None:
    mask = np.ones((2, 4, 5), dtype=bool)
    ids = [one["id"] for one in labels.regions(mask, CONFIG, scores=(1, 1))]
    assert ids == ["Lung-0", "Heart-0"]
    mask[:, 0] = False
    assert ids == [one["id"] for one in labels.regions(mask, CONFIG, scores=(1, 0.5))]
    assert labels.region_id("Lung", page=3) == "Lung-3"


def test_the_parts_of_a_class_without_a_brush_have_ids_of_their_own() -> None:
    plane = np.zeros((12, 20), dtype=bool)
    plane[2:6, 2:6] = plane[2:6, 10:15] = True
    config = labels.parse(PLAIN.replace("Brush", "Polygon"))
    made = labels.regions_of("Lung", plane, config, score=1)
    assert [one["id"] for one in made] == ["Lung-0", "Lung-0.1"]


def test_an_id_has_no_mark_that_the_editor_cuts_it_at() -> None:
    assert labels.region_id("T#2") == "T%232-0"


@pytest.mark.parametrize(
    ("classes", "scores"),
    [(2, (1.0,)), (3, (1.0, 1.0)), (2, (1.0, 1.1)), (2, (-0.1, 1.0)), (2, (float("nan"), 1.0))],
)
def test_masks_or_scores_that_do_not_fit_the_labels_are_refused(
    classes: int, scores: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match="scores"):
        labels.regions(np.ones((classes, 2, 2), dtype=bool), CONFIG, scores=scores)


def test_a_label_whose_shape_is_only_read_gets_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, "brush", replace(REGISTRY["brush"], draw=None))
    mask = np.ones((2, 4, 5), dtype=bool)
    assert labels.regions(mask, CONFIG, scores=(1, 1)) == []
