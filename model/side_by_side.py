"""Independent trainings side by side, each with its share of the cores.

Operations of a small network are too short for the threads inside an operation, which then gain
nothing (bench/cores.py): two such trainings at the same time take as long as one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar, cast

import torch

MOST = 4  # at the same time: each holds a network, its scans and its activations in memory
START_SECONDS = 60.0  # of the threads

T = TypeVar("T")


class Cores:
    """Runs jobs, a number of them at the same time.

    Args:
        number: Of jobs at the same time.
        executor: Has so many threads; None to run the jobs in the calling thread, one by one.

    Attributes:
        failed: Set after an error: no further job begins, and long ones may end.
    """

    def __init__(self, number: int = 1, executor: Executor | None = None) -> None:
        self.number, self._executor = number, executor
        self.failed = threading.Event()

    def each(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Return the results of all jobs, in order; raise the error of one when all have ended."""
        if self._executor is None:
            return [job() for job in jobs]
        begun = [self._executor.submit(copy_context().run, self._run, job) for job in jobs]
        try:
            wait(begun)
        except BaseException:  # such as Ctrl-C
            self.failed.set()
            raise
        return [cast("T", job.result()) for job in begun]

    def seconds(self, durations: Sequence[float]) -> float:
        """Return how long jobs of such durations take, in any unit, if they begin in this order."""
        busy = [0.0] * self.number
        for duration in durations:
            busy[busy.index(min(busy))] += duration
        return max(busy)

    def _run(self, job: Callable[[], object]) -> object:
        if self.failed.is_set():
            return None
        try:
            return job()
        except BaseException:
            self.failed.set()
            raise


@contextmanager
def cores(*, share: bool) -> Iterator[Cores]:
    """Yield the cores that torch uses.

    Args:
        share: Whether up to MOST jobs run at the same time, each with a share of the cores. Else
            jobs run one by one, and each uses all.
    """
    threads = torch.get_num_threads()
    number = min(threads, MOST) if share else 1
    if number == 1:
        yield Cores()
        return
    with ThreadPoolExecutor(number, thread_name_prefix="training") as executor:
        _limit(executor, number, threads // number)
        yield Cores(number, executor)


def _limit(executor: Executor, number: int, threads: int) -> None:
    """Let each of the executor's threads use so many threads inside an operation."""
    all_of_them = threading.Barrier(number)

    def limit(_: int) -> None:
        torch.get_num_threads()  # else a thread's first operation would undo the limit
        torch.set_num_threads(threads)
        all_of_them.wait(START_SECONDS)

    with using_threads(torch.get_num_threads()):  # the last call counts for threads of later
        list(executor.map(limit, range(number)))


@contextmanager
def using_threads(number: int) -> Iterator[None]:
    """Let torch use so many threads inside an operation, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
