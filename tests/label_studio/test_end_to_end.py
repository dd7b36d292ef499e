"""The main job on a real Label Studio, told as one story."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle

from tests.label_studio.conftest import OPTIONS, Lab

pytestmark = [pytest.mark.studio, pytest.mark.timeout(600)]


def test_from_the_cold_start_to_a_retrained_model_with_drafts(lab: Lab) -> None:
    cold = lab.settle(labels=0)
    queue = lab.queue()
    assert sorted(queue) == sorted(lab.scans), "every scan is in the queue, once"
    assert [scan["task"] for scan in cold["next"]] == queue[:10]
    assert cold["live_version"].startswith("cold-start r0001 ")

    labelled = [lab.label_next() for _ in range(5)]
    assert labelled[:2] == queue[:2], "the page's button serves the queue in its order"

    warm = lab.settle(labels=5)
    assert warm["live_version"].startswith("attention-unet r000")
    assert warm["labels_used"] == 5
    served = lab.queue()
    assert sorted(served) == sorted(lab.scans.keys() - set(labelled)), "no labelled scan is asked"
    check_drafts(lab, warm["live_version"])
    [entry] = lab.annotator.call("GET", "/api/ml", params={"project": lab.project})
    assert (entry["title"], entry["extra_params"]) == (warm["live_version"], OPTIONS)

    following = lab.annotator.next_task(lab.project)
    assert following is not None
    assert following["id"] == served[0], "the next scan is the one the model asks for"
    check_skip_goes_to_the_end(lab, served[0])
    check_deletion_returns_a_scan(lab, labelled[0])
    assert not lab.page()["problem"]


def check_drafts(lab: Lab, version: str) -> None:
    """Drafts are there, decode to the image's size, and scores ascend from the first scan on."""
    predictions = lab.annotator.predictions(lab.project, version)
    scores = sorted(float(one["score"]) for one in predictions)
    assert len(set(scores)) == len(scores)
    assert 0 < scores[0] < scores[-1] < 1
    regions = [(one["task"], region) for one in predictions for region in one["result"]]
    assert len(regions) >= len(predictions) // 2, "most scans carry a draft"
    for task, region in regions:
        mask = lab.scans[task].mask
        assert mask is not None
        height, width = mask.shape
        assert (region["original_height"], region["original_width"]) == (height, width)
        alpha = decode_rle(region["value"]["rle"]).reshape(height, width, 4)[..., 3]
        assert np.isin(alpha, [0, 255]).all()
        assert alpha.any()


def check_skip_goes_to_the_end(lab: Lab, first: int) -> None:
    task = lab.annotator.next_task(lab.project)
    assert task is not None
    assert task["id"] == first
    lab.annotator.skip(task)
    wait_for(lab, lambda: lab.queue()[-1] == first)
    assert lab.page()["labels_used"] == 5, "a skip with a draft on it trains nothing"


def check_deletion_returns_a_scan(lab: Lab, task: int) -> None:
    lab.annotator.delete_annotation(lab.submitted[task])
    wait_for(lab, lambda: task in lab.queue())
    page = lab.page()
    assert page["labels_used"] == 4
    assert page["labels_in_live"] == 4, "the live model was trained without the deleted label"


def wait_for(lab: Lab, condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        page = lab.page()
        assert time.monotonic() < deadline, f"did not happen: {page}"
        time.sleep(0.5)
