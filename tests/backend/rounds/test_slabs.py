"""Rounds on slabs: tasks of several pages, of which each is read, trained on and drafted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backend.errors import DraftError
from backend.label_studio import labels
from backend.label_studio.labels import Prompt, Prompts
from backend.rounds import embedding, sync
from backend.rounds.annotators import agreement
from backend.rounds.context import LoadedEncoders, RoundContext
from backend.rounds.drafts import clicks, drafting, queue_drafts
from backend.rounds.drafts.draft_quality import score_drafts
from backend.rounds.drafts.drafting import LiveDrafts
from backend.rounds.models.learner import Learner, learner_for
from backend.rounds.services import Services
from backend.storage import artifacts, ledger, pages
from backend.storage.tables import Publication
from model import encoders, inference, phantoms, training
from tests.backend.conftest import Region, the
from tests.backend.fake_label_studio import CONFIG, FakeLabelStudio, png
from tests.backend.rounds.models.test_learner import SIZE, TINY, ignore

PAGED = CONFIG.replace('value="$image"', 'valueList="$slices"')
SLAB = labels.parse(PAGED)
PAGES = 3


class Lab:
    """A project of slabs, each of three pages, on both sides."""

    def __init__(self, services: Services, fake: FakeLabelStudio, number: int) -> None:
        self.services, self.store, self.fake, self.number = services, services.store, fake, number
        fake.projects[number].label_config = PAGED
        [entry] = fake.entries.values()
        entry["extra_params"] = {"prelabel_after": 2}
        self.phantoms = phantoms.generate(5 * PAGES, size=SIZE)
        self.tasks = [self._task(first) for first in range(0, len(self.phantoms), PAGES)]

    def _task(self, first: int) -> int:
        urls = [f"/data/upload/1/page-{number}.png" for number in range(first, first + PAGES)]
        for number, url in enumerate(urls, start=first):
            self.fake.files[url] = png(self.phantoms[number].image)
        return self.fake.add_task(self.number, slices=urls, volume=f"v{first}")

    def truth(self, row: int, page: int) -> Any:
        return self.phantoms[row * PAGES + page].mask

    def draw(self, row: int, *on: int, **others: Any) -> int:
        """Submit a slab on which these pages are drawn and the others left empty."""
        result = drawn({page: self.truth(row, page) for page in on})
        return self.fake.annotate(self.tasks[row], result, **others)

    def sync(self) -> ledger.Ledger:
        sync.sync(self.services.studio, self.store, the(self.store, self.number))
        return ledger.read(self.store, self.number)

    @property
    def here(self) -> RoundContext:
        return RoundContext.of(self.services, LoadedEncoders(self.services.settings), self.number)

    @property
    def key(self) -> str:
        [model] = self.store.publications.models(self.number)
        return model.key

    @property
    def learner(self) -> Learner:
        learner = learner_for(self.services, the(self.store, self.number))
        return replace(learner, quick_config=TINY)

    def address(self, row: int) -> tuple[int, str]:
        [(task, url)] = self.store.scans.addresses(self.number, [self.tasks[row]]).items()
        return task, url


def drawn(masks: dict[int, Any]) -> list[Region]:
    return [
        region
        for page, mask in masks.items()
        for region in labels.regions_of("Lung", mask[0], SLAB, score=1.0, page=page)
    ]


@pytest.fixture
def lab(services: Services, fake: FakeLabelStudio, project_id: int) -> Lab:
    return Lab(services, fake, project_id)


@pytest.fixture
def live(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> LiveDrafts:
    """Drafts of a model that is live."""
    for row in range(3):
        lab.draw(row, 0, 1)
    now = lab.sync()
    key = lab.learner.fit(now, list(now.usable), ignore)
    version = {"name": "r1", "round": 1, "attempt": 1, "model_key": key, "labels": 3}
    lab.store.publications.save(Publication(project_id=lab.number, **version))
    lab.store.publications.go_live(lab.number, "r1")
    monkeypatch.setattr(drafting, "build", lambda settings, store: lab.services)
    return LiveDrafts(lab.services.settings, lab.store)


# -- reading --------------------------------------------------------------------------------------


def test_every_page_of_a_submitted_slab_is_data_also_the_empty_ones(lab: Lab) -> None:
    lab.draw(0, 0, 2)
    lab.draw(1, skip=True)
    now = lab.sync()
    found = list(lab.learner.examples(now, list(now.usable)))
    assert [(each.task, each.page) for each in found] == [(lab.tasks[0], p) for p in range(PAGES)]
    for each in found:
        expected = lab.truth(0, each.page) if each.page != 1 else np.zeros((1, SIZE, SIZE), bool)
        np.testing.assert_array_equal(each.mask, expected)
        np.testing.assert_allclose(each.image, lab.phantoms[each.page].image, atol=1 / 255)


def test_each_page_is_merged_by_itself(lab: Lab) -> None:
    lab.draw(0, 0)
    lab.draw(0, 0, 1)
    lab.draw(0, 1)
    now = lab.sync()
    first, second, third = (each.mask for each in lab.learner.examples(now, list(now.usable)))
    np.testing.assert_array_equal(first, lab.truth(0, 0))
    np.testing.assert_array_equal(second, lab.truth(0, 1))
    assert not third.any()


def test_training_is_told_which_pages_belong_together(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}

    def noted(*given: Any, **others: Any) -> training.Fitted:
        told.update(others)
        return fit(*given, **others)

    fit = training.fit
    monkeypatch.setattr(training, "fit", noted)
    for row in range(2):
        lab.draw(row, 0)
    now = lab.sync()
    lab.learner.fit(now, lab.tasks[:2], ignore)
    assert told["scans"] == [task for task in lab.tasks[:2] for _ in range(PAGES)]
    assert told["groups"] == [now.groups[task] for task in told["scans"]]


@pytest.mark.parametrize("page", [PAGES, 99, -1, "1"])
def test_a_region_on_a_page_that_is_not_there_is_a_problem_of_its_annotation(
    lab: Lab, page: object
) -> None:
    bad = lab.fake.annotate(lab.tasks[0], [{**drawn({0: lab.truth(0, 0)})[0], "item_index": page}])
    lab.draw(1, 0)
    now = lab.sync()
    assert list(now.usable) == [lab.tasks[1]]
    assert "item_index is" in now.ignored[bad]


def test_a_slab_that_loses_a_page_keeps_no_label_of_it(lab: Lab) -> None:
    lab.draw(0, 2)
    assert list(lab.sync().usable) == [lab.tasks[0]]
    lab.fake.change_data(lab.tasks[0], slices=["/data/upload/1/page-0.png"] * 2)
    assert "the task has 2 pages" in next(iter(lab.sync().ignored.values()))


def test_the_drawn_share_is_that_of_all_pages(lab: Lab) -> None:
    lab.draw(0, 0)
    [label] = lab.sync().annotations
    assert label.area == pytest.approx(lab.truth(0, 0).mean() / PAGES, rel=0.2)


@pytest.mark.parametrize("slices", [[], None, "/data/upload/1/page-0.png", [None, None, None]])
def test_a_task_of_a_single_slice_among_slabs_is_named(lab: Lab, slices: object) -> None:
    lab.fake.change_data(lab.tasks[0], slices=slices)
    lab.sync()
    embedding.embed(lab.here, lab.tasks, "w")
    [broken] = lab.store.scans.unreadable(lab.number)
    assert broken.id == lab.tasks[0]
    assert "it has no image URL" in broken.problem
    assert "a valueList takes a list of URLs" in broken.problem


def test_a_slab_with_a_missing_page_is_named_with_the_page(lab: Lab) -> None:
    del lab.fake.files["/data/upload/1/page-4.png"]
    lab.sync()
    embedding.embed(lab.here, lab.tasks, "w")
    [broken] = lab.store.scans.unreadable(lab.number)
    assert broken.id == lab.tasks[1]
    assert "This is page 2 of 3." in broken.problem


# -- the queue ------------------------------------------------------------------------------------


def test_the_embedding_of_a_slab_is_the_mean_of_its_pages(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.sync()
    here = lab.here
    embedding.embed(here, lab.tasks, "w")
    place = lab.store.embeddings.all(lab.number, here.encoder.name)[lab.tasks[1]]
    found = here.files.read(artifacts.embeddings_name(place.chunk), np.load)[place.row]
    images = here.learner.scans.get(*lab.address(1)).pages
    np.testing.assert_allclose(found, here.encoder.encode(list(images)).mean(axis=0), rtol=1e-5)


def test_slabs_are_embedded_with_a_bounded_number_of_pages_in_memory(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.sync()
    here, seen = lab.here, []
    encode = type(here.encoder).encode

    def counted(encoder: encoders.Encoder, images: Sequence[Any]) -> Any:
        seen.append(len(images))
        return encode(encoder, images)

    monkeypatch.setattr(type(here.encoder), "encode", counted)
    monkeypatch.setattr(embedding, "LARGEST_CHUNK", 6)
    embedding.embed(here, lab.tasks, "w")
    assert max(seen) <= 6
    assert sum(seen) == 3 * len(lab.tasks)


def test_a_slab_is_as_uncertain_as_its_most_uncertain_third(lab: Lab, live: LiveDrafts) -> None:
    tasks = [lab.address(row) for row in (3, 4)]
    slabs = lab.learner.judge(lab.key, tasks)
    for task, joined in tasks:
        single = [lab.learner.judge(lab.key, [(task, u)])[task] for u in pages.separate(joined)]
        most = max(each.uncertainty for each in single)
        assert slabs[task].uncertainty == pytest.approx(most, rel=1e-5)


# -- drafts ---------------------------------------------------------------------------------------


def test_a_live_draft_covers_every_page(
    lab: Lab, live: LiveDrafts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(model: object, images: Sequence[Any], **_: Any) -> Iterator[Any]:
        return ((image > 0.5).astype(np.float32)[None] for image in images)

    monkeypatch.setattr(inference, "predict", predict)
    regions = live.regions(lab.number, lab.tasks[4])
    [(_, scan, pages)] = lab.learner.predict(lab.key, [lab.address(4)])
    assert regions == drafting.regions(pages, scan.size, SLAB)
    assert [region["item_index"] for region in regions] == [0, 1, 2]
    assert [region["id"] for region in regions] == ["Lung-0", "Lung-1", "Lung-2"]


def test_a_slab_that_lost_pages_gets_no_draft_of_them(lab: Lab, live: LiveDrafts) -> None:
    file = artifacts.drafts_name(7)
    here = lab.here
    found = {str(task): drawn({2: lab.truth(0, 0)}) for task in lab.tasks}
    here.files.write_json(file, found)
    assert queue_drafts.to_show(here, file, []).keys() == found.keys()
    lab.fake.change_data(lab.tasks[0], slices=["/data/upload/1/page-0.png"] * 2)
    lab.sync()
    assert queue_drafts.to_show(lab.here, file, []).keys() == {str(task) for task in lab.tasks[1:]}


def test_a_click_on_a_page_is_answered_on_that_page(lab: Lab, live: LiveDrafts) -> None:
    prompts = Prompts("Lung", 2, True, (Prompt("a", 0.5, 0.5),))
    regions = clicks.regions(live, lab.number, lab.tasks[4], prompts)
    assert [(each["id"], each["item_index"]) for each in regions] == [("Lung-2", 2)]
    mask = labels.masks(regions, SLAB, size=(SIZE, SIZE), page=2)
    assert mask[0, SIZE // 2, SIZE // 2]


def test_a_click_on_a_page_that_is_not_there_is_an_error(lab: Lab, live: LiveDrafts) -> None:
    prompts = Prompts("Lung", PAGES, True, (Prompt("a", 0.5, 0.5),))
    with pytest.raises(DraftError, match="There is no 'Lung' on page 3"):
        clicks.regions(live, lab.number, lab.tasks[4], prompts)


# -- quality --------------------------------------------------------------------------------------


def judged(lab: Lab, draft: Sequence[int], submitted: Sequence[int]) -> float:
    """Return the score of a draft on some pages against labels on others."""
    lab.sync()
    for task in lab.tasks:
        lab.store.scans.update(lab.number, task, height=SIZE, width=SIZE)
    here = lab.here
    found = {str(lab.tasks[0]): drawn({page: lab.truth(0, 0) for page in draft})}
    here.files.write_json(artifacts.drafts_name(1), found)
    name = artifacts.file_of(artifacts.drafts_name(1))
    shown = {"name": "v", "round": 1, "attempt": 1, "drafts": name, "live_at": 1.0}
    lab.store.publications.save(Publication(project_id=lab.number, **shown))
    lab.fake.annotate(lab.tasks[0], drawn({page: lab.truth(0, 0) for page in submitted}))
    lab.sync()
    score_drafts(lab.here)
    [score] = lab.store.labels.draft_scores(lab.number)
    return score.dice


@pytest.mark.parametrize(
    ("draft", "submitted", "dice"),
    [([0, 1], [0, 1], 1.0), ([0], [1], 0.0), ([0, 1], [0], 2 / 3), ([], [], 1.0)],
)
def test_a_draft_is_scored_over_all_pages_together(
    lab: Lab, draft: list[int], submitted: list[int], dice: float
) -> None:
    assert judged(lab, draft, submitted) == pytest.approx(dice)


def test_a_rightly_empty_page_of_a_held_out_slab_raises_no_score(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(model: object, images: Sequence[Any], **_: Any) -> Iterator[Any]:
        """Draw the first page of each held-out slab, and nothing on the others."""
        for _ in images:
            row, page = divmod(next(asked) % (2 * PAGES), PAGES)
            yield lab.truth(2 + row, page).astype(np.float32) * (page == 0)

    asked = itertools.count()
    for row in range(2):
        lab.draw(row, 0)
    lab.draw(2, 0, 1)  # the second page is missed
    lab.draw(3)
    now = lab.sync()
    key = lab.learner.fit(now, lab.tasks[:2], ignore)
    monkeypatch.setattr(inference, "predict", predict)
    held = lab.tasks[2:4]
    scores = lab.learner._validate(now, key, held, lambda: False)
    first, second = (int(lab.truth(2, page).sum()) for page in (0, 1))
    dice = 2 * first / (2 * first + second)
    assert scores[held[0]].mean == pytest.approx(dice), "the third page adds nothing"
    assert scores[held[1]].mean == 0.0, "two rightly empty pages hide no error"
    lab.learner.gate(now, key, "", held)
    model = lab.store.publications.model(lab.number, key)
    assert model is not None
    assert model.quality.validation_scans == 2
    assert model.quality.held_out_dice == pytest.approx({held[0]: dice, held[1]: 0.0})
    assert model.quality.validation["dice"] == pytest.approx(dice / 2), "as the gate sees it"


def test_annotators_are_compared_over_all_pages_together(lab: Lab) -> None:
    lab.draw(0, 0, 1, by=1)
    lab.draw(0, 0, by=2)
    lab.sync()
    lab.store.scans.update(lab.number, lab.tasks[0], height=SIZE, width=SIZE)
    agreement.compare(lab.here)
    [pair] = lab.store.annotators.comparisons(lab.number)
    first, second = (int(lab.truth(0, page).sum()) for page in (0, 1))
    assert pair.scores["dice"] == [pytest.approx(2 * first / (2 * first + second))]
