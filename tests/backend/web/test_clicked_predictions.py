"""POST /predict with a context: the clicks of a smart tool."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.label_studio import labels, smart_tags
from backend.label_studio.labels import Prompts
from backend.settings import Settings
from backend.storage import pages
from backend.storage.store import Store, open_store
from backend.web.app import create_app
from tests.backend.fake_label_studio import CONFIG
from tests.backend.label_studio.labels.test_prompts import click
from tests.backend.web.test_app import ask, drawing, forbidden, known

SMART = smart_tags.added(CONFIG)
REGION = {"id": "Lung-0", "type": "brushlabels"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(f"sqlite:///{tmp_path / 'memory.sqlite'}", busy_ms=10)
    store.create()
    return store


@pytest.fixture
def asked() -> list[tuple[int, int, Prompts]]:
    return []


@pytest.fixture
def client(tmp_path: Path, store: Store, asked: list[tuple[int, int, Prompts]]) -> FlaskClient:
    def answer(project: int, task: int, prompts: Prompts) -> list[dict[str, Any]]:
        asked.append((project, task, prompts))
        return [REGION]

    drawing(store, {7: "a.png"})
    store.projects.update(1, label_config=SMART)
    return create_app(Settings(data_dir=tmp_path), store, forbidden, answer).test_client()


def body(*clicks: dict[str, Any], task: int = 7, config: str = SMART) -> dict[str, Any]:
    return {
        "tasks": [{"id": task, "data": {"image": "a.png"}}],
        "project": "1.1795391735",
        "label_config": config,
        "params": {"login": None, "password": None, "context": {"result": list(clicks)}},
    }


def test_clicks_are_answered_with_one_result_under_the_live_version(
    client: FlaskClient, asked: list[tuple[int, int, Prompts]]
) -> None:
    sent = body(click(25, 75), click(50, 50, is_positive=False))
    answer = ask(client, "/predict", sent)
    assert answer["results"] == [
        {"result": [REGION], "score": 1.0, "model_version": "unet r0001"},
    ]
    [(project, task, prompts)] = asked
    assert (project, task, prompts.label) == (1, 7, "Lung")
    assert [(one.x, one.y, one.positive) for one in prompts.given] == [
        (0.25, 0.75, True),
        (0.5, 0.5, False),
    ]


def test_clicks_are_answered_before_there_is_a_model(
    client: FlaskClient, store: Store, asked: list[tuple[int, int, Prompts]]
) -> None:
    store.projects.update(1, live_version="")
    assert ask(client, "/predict", body(click(1, 1)))["results"][0]["result"] == [REGION]
    assert len(asked) == 1


def test_clicks_are_remembered_when_a_round_goes_live(
    client: FlaskClient, store: Store, asked: list[tuple[int, int, Prompts]]
) -> None:
    ask(client, "/predict", body(click(25, 75)))
    store.projects.update(1, live_version="unet r0002")
    ask(client, "/predict", body(click(50, 50)))
    assert [(one.x, one.y) for one in asked[-1][2].given] == [(0.25, 0.75), (0.5, 0.5)]


def test_a_click_on_a_page_of_a_slab_is_asked_for_that_page(
    client: FlaskClient, store: Store, asked: list[tuple[int, int, Prompts]]
) -> None:
    paged = SMART.replace('value="$image"', 'valueList="$slices"')
    urls = ["a.png", "b.png", "c.png"]
    store.projects.update(1, label_config=paged)
    store.scans.save(1, [{"id": 7, "url": pages.joined(urls), "updated_at": "before"}])
    sent = body(click(1, 1, item_index=2), config=paged)
    task = {"id": 7, "updated_at": "after", "data": {"slices": urls}}
    assert ask(client, "/predict", sent | {"tasks": [task]})["results"][0]["result"] == [REGION]
    [(_, _, prompts)] = asked
    assert (prompts.page, prompts.paged) == (2, True)
    task["data"] = {"slices": urls[:2]}
    assert ask(client, "/predict", sent | {"tasks": [task]})["results"][0]["result"] == []
    assert len(asked) == 1, "the slab has other pages now, which the next sync reads"


def test_a_second_reading_does_not_inherit_the_clicks_of_the_first(
    client: FlaskClient, store: Store, asked: list[tuple[int, int, Prompts]]
) -> None:
    ask(client, "/predict", body(click(25, 75)))
    label = {"id": 1, "task_id": 7, "cancelled": False, "ground_truth": False, "result": "[]"}
    store.labels.replace(1, [7], [{**label, "created_at": "", "updated_at": ""}])
    ask(client, "/predict", body(click(50, 50)))
    assert [(one.x, one.y) for one in asked[-1][2].given] == [(0.5, 0.5)]


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (body(), "no click and no box"),
        (body(click(1, 1, label="Rib")), "'Rib'"),
        (body(click(1, 1, item_index=2)), "page 2 of a task with a single image"),
        (body(click(1, 1), task=8), "the last sync did not see"),
        (body(click(1, 1), config=CONFIG.replace("Lung", "Rib")), "interface has changed"),
        (body(click(1, 1)) | {"project": 99}, "not connected"),
        (body(click(1, 1)) | {"tasks": []}, "the last sync did not see"),
        (body(click(1, 1)) | {"tasks": ["odd"]}, "the last sync did not see"),
    ],
)
def test_what_cannot_be_answered_is_an_empty_result_and_a_line_in_the_log(
    client: FlaskClient,
    asked: list[tuple[int, int, Prompts]],
    sent: dict[str, Any],
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        [result] = ask(client, "/predict", sent)["results"]
    assert (result["result"], asked) == ([], [])
    assert why in caplog.text


def test_without_a_context_predict_draws_drafts(tmp_path: Path, store: Store) -> None:
    known(store)
    client = create_app(Settings(data_dir=tmp_path), store, forbidden).test_client()
    sent = body() | {"params": {"context": None}}
    assert ask(client, "/predict", sent)["results"][0]["result"] == []


def test_the_notes_of_a_project_with_clicks_say_that_prompts_never_train() -> None:
    [note] = labels.parse(SMART).notes
    assert "Prompts that ask for a mask, ignored in training" in note
