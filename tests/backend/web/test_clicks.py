from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from backend.errors import DraftError
from backend.label_studio.labels import Prompt, Prompts
from backend.web import clicks
from backend.web.clicks import Clicks


class Answerer:
    """Notes what it is asked, and answers with the number of prompts."""

    def __init__(self) -> None:
        self.asked: list[Prompts] = []

    def __call__(self, project: int, task: int, prompts: Prompts) -> list[dict[str, Any]]:
        self.asked.append(prompts)
        return [{"id": f"{prompts.label}-{prompts.page}", "number": len(prompts.given)}]


def click(number: int, positive: bool = True) -> Prompt:
    return Prompt(str(number), number / 10, 0.5, positive=positive)


def of(*given: Prompt, label: str = "Lung") -> Prompts:
    return Prompts(label, 0, False, given)


@pytest.fixture
def answerer() -> Answerer:
    return Answerer()


def test_a_click_is_answered_with_all_pending_prompts(answerer: Answerer) -> None:
    found = Clicks(answerer)(1, 7, of(click(1), click(2)))
    assert found == [{"id": "Lung-0", "number": 2}]


def test_a_single_click_comes_with_the_clicks_before_it_for_some_minutes(
    answerer: Answerer,
) -> None:
    now = [0.0]
    answers = Clicks(answerer, clock=lambda: now[0])
    answers(1, 7, of(click(1)))
    now[0] += clicks.REMEMBERED_SECONDS
    answers(1, 7, of(click(2)))
    assert [*answerer.asked[-1].given] == [click(1), click(2)]
    now[0] += clicks.REMEMBERED_SECONDS + 1
    answers(1, 7, of(click(3)))
    assert [*answerer.asked[-1].given] == [click(3)]


def test_other_scans_and_labels_do_not_share_their_clicks(answerer: Answerer) -> None:
    answers = Clicks(answerer)
    answers(1, 7, of(click(1)))
    for project, task, label in [(2, 7, "Lung"), (1, 8, "Lung"), (1, 7, "Heart")]:
        answers(project, task, of(click(2), label=label))
        assert answerer.asked[-1].given == (click(2),)


def test_a_submitted_label_ends_the_memory(answerer: Answerer) -> None:
    answers = Clicks(answerer)
    answers(1, 7, of(click(1)), submitted=0)
    answers(1, 7, of(click(2)), submitted=1)
    assert answerer.asked[-1].given == (click(2),)


def test_prompts_that_are_sent_again_count_once_and_a_click_replaces_the_one_it_hits(
    answerer: Answerer,
) -> None:
    answers = Clicks(answerer)
    answers(1, 7, of(click(1), click(2)))
    answers(1, 7, of(click(1), click(2), click(3)))
    assert answerer.asked[-1].given == (click(1), click(2), click(3))
    taken_back = Prompt("new", 0.3, 0.5, positive=False)
    answers(1, 7, of(taken_back))
    assert answerer.asked[-1].given == (click(1), click(2), taken_back)


def test_a_new_box_replaces_the_old_one(answerer: Answerer) -> None:
    answers = Clicks(answerer)
    answers(1, 7, of(Prompt("a", 0.1, 0.1, 0.3, 0.3)))
    answers(1, 7, of(Prompt("b", 0.5, 0.5, 0.3, 0.3)))
    assert [prompt.id for prompt in answerer.asked[-1].given] == ["b"]


def test_only_the_newest_of_the_waiting_clicks_on_a_structure_is_computed() -> None:
    started, go_on = threading.Event(), threading.Event()
    asked = []

    def slow(project: int, task: int, prompts: Prompts) -> list[dict[str, Any]]:
        asked.append(len(prompts.given))
        started.set()
        go_on.wait()
        return [{"number": len(prompts.given)}]

    answers = Clicks(slow)
    with ThreadPoolExecutor() as people:
        first = people.submit(answers, 1, 7, of(click(1)))
        started.wait()
        waiting = people.submit(answers, 1, 7, of(click(1), click(2)))
        while answers._count < 2:
            threading.Event().wait(0.001)
        newest = people.submit(answers, 1, 7, of(click(1), click(2), click(3)))
        while answers._count < 3:
            threading.Event().wait(0.001)
        go_on.set()
        assert first.result() == [{"number": 1}]
        assert waiting.result() == []
        assert newest.result() == [{"number": 3}]
    assert asked == [1, 3]


def test_a_failed_and_a_late_answer_are_empty_and_said(caplog: pytest.LogCaptureFixture) -> None:
    def failing(project: int, task: int, prompts: Prompts) -> list[dict[str, Any]]:
        raise DraftError("The scan is no picture.", "Send another.")

    go_on = threading.Event()

    def hanging(project: int, task: int, prompts: Prompts) -> list[dict[str, Any]]:
        go_on.wait()
        return []

    with caplog.at_level(logging.WARNING):
        assert Clicks(failing)(1, 7, of(click(1))) == []
        assert Clicks(hanging, seconds=0.01)(1, 7, of(click(1))) == []
    go_on.set()
    assert "no answer to a click: The scan is no picture. Send another." in caplog.text
    assert "no answer to a click before the deadline" in caplog.text


def test_few_clicks_may_wait_so_that_webhooks_find_a_thread(
    answerer: Answerer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clicks, "MOST_WAITING", 0)
    assert Clicks(answerer)(1, 7, of(click(1))) == []
    assert "0 others wait" in caplog.text
