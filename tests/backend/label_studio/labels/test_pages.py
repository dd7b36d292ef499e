from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from backend.errors import UnsupportedLabelConfig
from backend.label_studio import labels
from tests.backend.label_studio.labels.samples import (
    BRUSH,
    CONFIG,
    IMAGE,
    PLAIN,
    QUICK,
    block,
    paired,
    problems,
    region,
)

PAGED = PLAIN.replace(IMAGE, '<Image name="image" valueList="$slices"/>')
SLAB = labels.parse(PAGED)
SIZE = (6, 5)


def written(pages: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Return the regions of masks of shape (pages, labels, h, w)."""
    return [
        entry
        for page, planes in enumerate(pages)
        for label, plane in zip(SLAB.labels, planes, strict=True)
        for entry in labels.regions_of(label, plane, SLAB, score=0.5, page=page)
    ]


def read(result: list[Any], pages: int) -> list[Any]:
    return [labels.masks(result, SLAB, size=SIZE, page=page) for page in range(pages)]


def test_a_value_list_on_which_people_draw_makes_slabs_of_its_key() -> None:
    assert (SLAB.paged, SLAB.image_key) == (True, "slices")
    assert not CONFIG.paged


def test_a_value_list_that_is_no_data_key_is_named() -> None:
    with pytest.raises(UnsupportedLabelConfig, match="The Image tag's valueList is 'slices'"):
        labels.parse(PAGED.replace("$slices", "slices"))


def test_an_image_without_value_and_value_list_is_named() -> None:
    with pytest.raises(UnsupportedLabelConfig, match="The Image tag's value is missing"):
        labels.parse(f'<View><Image name="image"/>{BRUSH}</View>')


@given(pages=arrays.arrays(bool, st.tuples(st.integers(1, 4), st.just(2), *map(st.just, SIZE))))
@QUICK
def test_masks_on_pages_are_read_as_they_were_written(pages: np.ndarray[Any, Any]) -> None:
    result = written(pages)
    np.testing.assert_array_equal(read(result, len(pages)), pages)
    labels.check_pages(result, SLAB, len(pages))
    below = list(labels.stacked(result, SLAB, size=SIZE, pages=len(pages)))
    np.testing.assert_array_equal(
        below, [np.concatenate([*planes]) for planes in pages.swapaxes(0, 1)]
    )
    assert problems(PAGED, result) == []


def test_regions_are_called_by_class_and_page() -> None:
    result = written(np.ones((2, 2, *SIZE), bool))
    assert [each["id"] for each in result] == ["Lung-0", "Heart-0", "Lung-1", "Heart-1"]
    assert [each["item_index"] for each in result] == [0, 0, 1, 1]


def test_regions_of_a_single_image_have_no_page() -> None:
    [only] = labels.regions_of("Lung", np.ones(SIZE, bool), CONFIG, score=1.0)
    assert "item_index" not in only


@pytest.mark.parametrize("nothing", [{}, {"item_index": None}, {"item_index": 0}])
def test_a_region_without_a_page_lies_on_the_first(nothing: dict[str, Any]) -> None:
    drawn = region(block(*SIZE, slice(2), slice(2)), **nothing)
    first, second = read([drawn], 2)
    assert first[0].any()
    assert not second.any()


def test_a_shape_with_a_separate_labels_tag_lies_on_its_page() -> None:
    config = labels.parse(
        '<View><Image name="image" valueList="$slices"/><Rectangle name="s" toName="image"/>'
        '<Labels name="names" toName="image"><Label value="Lung"/></Labels></View>'
    )
    box = {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0}
    result = paired("rectangle", box, item_index=1)
    assert not labels.masks(result, config, size=SIZE).any()
    assert labels.masks(result, config, size=SIZE, page=1).any()


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (3, "brush region 0: its item_index is 3, but the task has 3 pages, counted from 0"),
        (10**30, "but the task has 3 pages"),
        (-1, "item_index is -1, expected a page's number"),
        ("1", "item_index is '1', expected a page's number"),
        (1.5, "item_index is 1.5, expected a page's number"),
        (True, "item_index is True, expected a page's number"),
        ([], ""),
    ],
)
def test_a_page_that_is_not_there_is_an_error_that_says_so(page: object, why: str) -> None:
    result = [region(block(*SIZE, slice(2), slice(2)), item_index=page)]
    if not why:
        labels.check_pages(result, SLAB, 3)
        return
    with pytest.raises(ValueError, match=why):
        labels.check_pages(result, SLAB, 3)


def test_a_region_of_a_page_on_a_task_of_one_image_is_an_error() -> None:
    result = [region(block(*SIZE, slice(2), slice(2)), item_index=1)]
    with pytest.raises(ValueError, match="its item_index is 1, but the task has 1 page, counted"):
        labels.check_pages(result, CONFIG, 1)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        ({"slices": ["/a", "/b", "/c"]}, 3),
        ({"slices": ["/a"]}, 1),
        ({"slices": ["/a", None]}, 2),
        ({"slices": []}, 0),
        ({"slices": "/a"}, 0),
        ({"image": "/a"}, 0),
    ],
)
def test_the_address_of_a_slab_holds_those_of_its_pages(data: dict[str, Any], count: int) -> None:
    from backend.storage import pages

    found = labels.address(data, SLAB)
    assert len(pages.separate(found)) == max(count, 1)
    assert bool(found) == bool(count)


def test_the_address_of_an_image_is_its_own() -> None:
    assert labels.address({"image": "/a\0.png", "slices": ["/b", "/c"]}, CONFIG) == "/a.png"
    assert labels.address({}, CONFIG) == ""
