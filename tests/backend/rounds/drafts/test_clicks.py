from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.errors import ConfigError, DraftError
from backend.label_studio import labels
from backend.label_studio.labels import Prompt, Prompts
from backend.options import ProjectOptions
from backend.rounds.drafts import clicks
from backend.rounds.drafts.click_model import ClickModel
from backend.rounds.drafts.drafting import LiveDrafts
from model import clicks as science
from model import inference
from tests.backend.rounds.models.test_learner import PARSED, SIZE, Lab, lab, live
from tests.model import two_part_files

__all__ = ["lab", "live"]  # fixtures


def at(x: float, y: float, *, positive: bool = True) -> Prompts:
    return Prompts("Lung", 0, False, (Prompt("a", x, y, positive=positive),))


@pytest.mark.parametrize("positive", [True, False])
def test_a_click_corrects_the_draft_and_its_region_takes_the_drafts_place(
    lab: Lab, live: LiveDrafts, positive: bool
) -> None:
    task = lab.tasks[5]
    found = clicks.regions(live, lab.number, task, at(0.5, 0.5, positive=positive))
    json.dumps(found)
    [mask] = labels.masks(found, PARSED, size=(SIZE, SIZE))
    assert mask[SIZE // 2, SIZE // 2] == positive
    assert {region["id"] for region in found} <= {labels.region_id("Lung")}


def test_the_network_runs_once_for_all_clicks_on_a_scan(
    lab: Lab, live: LiveDrafts, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = lab.tasks[5]
    clicks.regions(live, lab.number, task, at(0.5, 0.5))
    monkeypatch.setattr(inference, "predict", None)
    clicks.regions(live, lab.number, task, at(0.2, 0.5))


def test_while_no_drafts_are_shown_the_picture_alone_decides(
    lab: Lab, live: LiveDrafts, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.store.projects.update(lab.number, options=ProjectOptions(prelabels=False).model_dump())
    given = []

    def refine(image: object, draft: object, prompts: object) -> object:
        given.append((draft, prompts))
        return np.ones((SIZE, SIZE), np.float32)

    monkeypatch.setattr(science, "refine", refine)
    [region] = clicks.regions(live, lab.number, lab.tasks[5], at(1.0, 0.5))
    assert given == [(None, [science.Click(SIZE // 2, SIZE - 1)])]
    assert region["id"] == "Lung-0"


def test_on_a_labelled_scan_the_model_has_no_say_and_the_labels_region_stays(
    lab: Lab, live: LiveDrafts
) -> None:
    task = lab.tasks[0]
    assert live.predicted(lab.number, task).pages is None
    [region] = clicks.regions(live, lab.number, task, at(0.5, 0.5))
    assert region["id"] == "added-Lung-0"


def test_the_answer_names_the_page_if_the_request_did(lab: Lab, live: LiveDrafts) -> None:
    prompts = Prompts("Lung", 0, True, (Prompt("a", 0.5, 0.5),))
    [region] = clicks.regions(live, lab.number, lab.tasks[5], prompts)
    assert region["item_index"] == 0


def test_a_box_is_read_in_pixels(lab: Lab, live: LiveDrafts) -> None:
    box = Prompts("Lung", 0, False, (Prompt("a", 0.25, 0.5, 0.5, 0.25),))
    assert clicks.regions(live, lab.number, lab.tasks[5], box)


@pytest.mark.parametrize("prompts", [Prompts("Rib", 0, False, ()), Prompts("Lung", 1, True, ())])
def test_a_class_or_page_that_is_not_there_is_an_error(
    lab: Lab, live: LiveDrafts, prompts: Prompts
) -> None:
    with pytest.raises(DraftError, match="There is no"):
        clicks.regions(live, lab.number, lab.tasks[5], prompts)


def test_a_task_that_is_not_stored_is_an_error(lab: Lab, live: LiveDrafts) -> None:
    with pytest.raises(DraftError, match="not known yet"):
        clicks.regions(live, lab.number, 999, at(0.5, 0.5))


def test_with_a_click_model_its_network_answers_and_embeds_a_scan_once(
    lab: Lab, live: LiveDrafts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = []
    embed = science.TwoPartNetwork.embed

    def counted(self: science.TwoPartNetwork, image: NDArray[np.float32]) -> NDArray[np.float32]:
        embedded.append(image)
        return embed(self, image)

    monkeypatch.setattr(science.TwoPartNetwork, "embed", counted)
    own = ClickModel(two_part_files.write(tmp_path))
    monkeypatch.setattr(live, "click_model", own)
    task = lab.tasks[0]  # it has a label, so there is no draft
    for place in (0.25, 0.75):
        found = clicks.regions(live, lab.number, task, at(place, 0.5))
        [mask] = labels.masks(found, PARSED, size=(SIZE, SIZE))
        assert mask[SIZE // 2, int(place * SIZE)]
        assert mask.sum() < SIZE * SIZE / 4
    assert len(embedded) == 1


def test_the_network_of_click_model_is_opened_by_the_first_click(
    lab: Lab, live: LiveDrafts, tmp_path: Path
) -> None:
    assert live.click_model is None
    settings = lab.services.settings.model_copy(update={"click_model": tmp_path})
    wrong = LiveDrafts(settings, lab.store)
    wrong._services = replace(lab.services, settings=settings)
    with pytest.raises(ConfigError, match=r"CLICK_MODEL cannot be used: .* holds 0 files"):
        clicks.regions(wrong, lab.number, lab.tasks[0], at(0.5, 0.5))
