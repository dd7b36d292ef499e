from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.side_by_side import MOST, Cores, cores, using_threads


@pytest.fixture
def three_threads() -> Iterator[None]:
    with using_threads(3):
        yield


@pytest.mark.usefixtures("three_threads")
def test_each_job_has_a_core_of_its_own_and_others_keep_their_threads() -> None:
    together = threading.Barrier(3)

    def job() -> int:
        together.wait(60)  # breaks unless all three run at the same time
        torch.ones(10).sum()
        return torch.get_num_threads()

    with cores(share=True) as three:
        assert three.number == 3
        assert three.each([job] * 3) == [1, 1, 1]
        assert torch.get_num_threads() == 3
        assert in_a_new_thread(torch.get_num_threads) == 3


@pytest.mark.usefixtures("three_threads")
def test_results_come_in_the_order_of_the_jobs() -> None:
    waits = threading.Event()

    def slow() -> str:
        assert waits.wait(60)
        return "slow"

    def quick() -> str:
        waits.set()
        return "quick"

    with cores(share=True) as three:
        assert three.each([slow, quick]) == ["slow", "quick"]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.usefixtures("three_threads")
def test_after_an_error_no_further_job_begins(share: bool) -> None:
    begun: list[int] = []

    def fails() -> None:
        begun.append(1)
        raise ValueError("no such network")

    with cores(share=share) as some, pytest.raises(ValueError, match="no such network"):
        some.each([fails] * 20)
    assert len(begun) <= some.number


def test_a_large_machine_runs_few_jobs_at_a_time() -> None:
    with using_threads(2 * MOST), cores(share=False) as one, cores(share=True) as many:
        assert (one.number, many.number) == (1, MOST)
        assert many.each([torch.get_num_threads]) == [2]


@pytest.mark.usefixtures("three_threads")
def test_long_jobs_learn_of_the_error_of_another() -> None:
    with cores(share=True) as three:

        def long() -> None:
            assert three.failed.wait(60)

        def fails() -> None:
            raise ValueError("no such network")

        with pytest.raises(ValueError, match="no such network"):
            three.each([long, fails, long])


@pytest.mark.usefixtures("three_threads")
def test_jobs_keep_the_context_of_their_caller() -> None:
    project: ContextVar[int] = ContextVar("project", default=0)
    project.set(7)
    with cores(share=True) as three:
        assert three.each([project.get] * 4) == [7] * 4


@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=12), st.integers(1, 4))
def test_jobs_take_no_longer_than_in_turn_and_no_less_than_an_even_share(
    durations: list[float], number: int
) -> None:
    seconds = Cores(number).seconds(durations)
    least = max(sum(durations) / number, *durations)
    assert least - 1e-6 <= seconds <= sum(durations) + 1e-6


def in_a_new_thread(ask: Callable[[], int]) -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(ask()))
    thread.start()
    thread.join()
    return found[0]
