"""Work in several processes, each on one core."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

import torch

log = logging.getLogger(__name__)

Task = TypeVar("Task", bound=Hashable)


def finish(
    do: Callable[[Task], object],
    tasks: Mapping[Task, str],
    jobs: int,
    say: Callable[[str], object],
    outcome: Callable[[Task], str],
) -> dict[str, str]:
    """Do tasks in separate processes, and tell the outcome of each.

    Args:
        do: Can be pickled, as can the tasks.
        tasks: The name of each.
        jobs: Number of processes.
        say: Called with a line of text for each task.
        outcome: Returns the text for a task that is done.

    Returns:
        Errors by the name of the task; the other tasks are done all the same.
    """
    failed: dict[str, str] = {}
    for done, (task, error) in enumerate(_done(do, list(tasks), jobs), 1):
        name = tasks[task]
        if error is not None:
            failed[name] = f"{type(error).__name__}: {error}"
            log.error("%s failed", name, exc_info=error)
        say(f"{done}/{len(tasks)} {name}: {failed.get(name) or outcome(task)}")
    return failed


def _done(
    do: Callable[[Task], object], tasks: Sequence[Task], jobs: int
) -> Iterator[tuple[Task, BaseException | None]]:
    """Do tasks in separate processes; yield each when it is done, with its error, if any."""
    if not tasks:
        return
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    workers = ProcessPoolExecutor(min(jobs, len(tasks)), spawn, initializer=_begin)
    try:
        futures = {workers.submit(do, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.exception()
    except BaseException:  # mostly Ctrl-C: the next start does the unfinished tasks
        workers.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    workers.shutdown()


def _begin() -> None:
    """Set a process up: use one core, leave Ctrl-C to the parent, and end with the parent."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)
