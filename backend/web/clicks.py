"""Clicks and boxes of smart tools: in what order they are answered, and which are remembered."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from backend.errors import FirstlightError
from backend.label_studio.labels import Prompt, Prompts

log = logging.getLogger(__name__)

# Project, task and prompts to regions; may be slow, may raise FirstlightError.
ClicksOf = Callable[[int, int, Prompts], list[dict[str, Any]]]

DEADLINE_SECONDS = 10.0
MOST_WAITING = 8  # requests: each holds a thread of the server, and webhooks need threads too
REMEMBERED_SECONDS = 300.0
MOST_REMEMBERED = 200  # structures of all projects
MOST_PROMPTS = 30  # of a structure: each takes some 30 ms
NEAR = 0.01  # a later click so near to an earlier one takes its place, as a share of the image


@dataclass(frozen=True)
class Structure:
    """What the prompts are about: a class on a page of a scan, whatever model is live.

    Attributes:
        submitted: How many labels the scan has. The next reading must not inherit earlier clicks.
    """

    project: int
    task: int
    label: str
    page: int
    submitted: int


@dataclass
class _Memory:
    prompts: tuple[Prompt, ...]
    last: float  # when the last of them came, by the clock
    number: int  # of the request that brought it


class Clicks:
    """Answers prompts one at a time; an older request about the same structure is dropped.

    Prompts are remembered for some minutes: after an accepted answer, and always under
    auto-accept, Label Studio sends each click alone. It does not say who clicks, so the memory is
    that of the scan, until somebody submits a label of it.
    """

    def __init__(
        self,
        answer: ClicksOf,
        *,
        seconds: float = DEADLINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answer = answer
        self._seconds = seconds
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clicks")
        self._places = threading.BoundedSemaphore(MOST_WAITING)
        self._lock = threading.Lock()
        self._memories: OrderedDict[Structure, _Memory] = OrderedDict()
        self._count = 0

    def __call__(
        self, project_id: int, task_id: int, prompts: Prompts, *, submitted: int = 0
    ) -> list[Any]:
        """Return the regions; [] for a failed or late answer, or if a newer click came.

        Args:
            project_id, task_id: The scan.
            prompts: What a person points at now.
            submitted: How many labels the scan has.
        """
        structure = Structure(project_id, task_id, prompts.label, prompts.page, submitted)
        number, known = self._remember(structure, prompts.given)
        if not self._places.acquire(blocking=False):
            log.warning("no answer to a click: %d others wait", MOST_WAITING)
            return []
        try:
            return self._answered(structure, number, replace(prompts, given=known))
        finally:
            self._places.release()

    def _answered(self, structure: Structure, number: int, prompts: Prompts) -> list[Any]:
        run = contextvars.copy_context().run  # that thread then logs with the same task
        future = self._thread.submit(run, self._run, structure, number, prompts)
        try:
            return future.result(timeout=self._seconds)
        except FirstlightError as error:
            log.warning("no answer to a click: %s", error)
        except TimeoutError:
            future.cancel()
            log.warning("no answer to a click before the deadline")
        except Exception:  # Label Studio hides an error from the person who clicked
            log.exception("the answer to a click failed")
        return []

    def _run(self, structure: Structure, number: int, prompts: Prompts) -> list[Any]:
        with self._lock:
            memory = self._memories.get(structure)
        if memory is not None and memory.number > number:
            log.info("a newer click takes the place of this one")
            return []
        return self._answer(structure.project, structure.task, prompts)

    def _remember(
        self, structure: Structure, given: tuple[Prompt, ...]
    ) -> tuple[int, tuple[Prompt, ...]]:
        """Note a request; return its number, and its prompts with the remembered ones before."""
        now = self._clock()
        with self._lock:
            self._count += 1
            before = self._memories.pop(structure, None)
            fresh = before is not None and now - before.last <= REMEMBERED_SECONDS
            known = _joined(before.prompts if before and fresh else (), given)
            self._memories[structure] = _Memory(known, now, self._count)
            while len(self._memories) > MOST_REMEMBERED:
                self._memories.popitem(last=False)
            return self._count, known


def _joined(before: tuple[Prompt, ...], given: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
    """Return all prompts, oldest first; a later click takes the place of one that it hits."""
    kept = [old for old in before if not any(_replaces(new, old) for new in given)]
    return (*kept, *given)[-MOST_PROMPTS:]


def _replaces(new: Prompt, old: Prompt) -> bool:
    if new.id == old.id or (new.is_box and old.is_box):
        return True
    near = max(abs(new.x - old.x), abs(new.y - old.y)) <= NEAR
    return near and not new.is_box and not old.is_box
