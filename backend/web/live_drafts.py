"""Live drafts, drawn in a process of their own: the web process never loads a network."""

from __future__ import annotations

import atexit
import json
import logging
import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

from backend import logs
from backend.errors import DraftError, FirstlightError
from backend.label_studio.labels import Prompt, Prompts
from backend.rounds.drafts import prelabels
from backend.settings import Settings, tame_threads
from backend.storage.store import Store, open_store

if TYPE_CHECKING:
    from backend.rounds.drafts.drafting import LiveDrafts

log = logging.getLogger(__name__)

NICENESS = 10  # webhooks come first; the worker comes last
LOOK_SECONDS = 2.0
DECODE_SECONDS = 15.0  # for one image; an annotator waits ten seconds for a draft at most
LONGEST_PAUSE_SECONDS = 60.0
# Only a child that hangs takes longer: its imports took two minutes on an overloaded machine.
ANSWER_SECONDS = 600.0


class DraftProcess:
    """Draws one live draft at a time, in a child process that ends with this process.

    The child starts with the first draft, or with `keep_warm` as soon as a project shows drafts.
    If the child dies, a new one replaces it.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._looked = threading.Event()  # the first look for live networks is over
        self._child: _Child | None = None
        self._warm: set[tuple[int, str]] = set()  # (project, version) of its networks

    def __call__(self, project_id: int, task_id: int) -> list[dict[str, Any]]:
        """Return the regions of the live model's draft for a stored task.

        Raises:
            DraftError: When the scan cannot be read, or the child died.
        """
        with self._lock:
            return self._living().ask({"project": project_id, "task": task_id})

    def clicked(self, project_id: int, task_id: int, prompts: Prompts) -> list[dict[str, Any]]:
        """Return the regions that a person asks for with clicks and boxes on a stored task.

        Raises:
            DraftError: When the scan cannot be read, or the child died.
        """
        question = {"project": project_id, "task": task_id, "prompts": asdict(prompts)}
        with self._lock:
            return self._living().ask(question)

    def keep_warm(self, wait_seconds: float = 0.0) -> None:
        """From now on load each live network before the first request for a draft.

        Args:
            wait_seconds: How long to wait for the networks that are live now; 0 to return at once.
        """
        threading.Thread(target=self._keep_warm, name="warm drafts", daemon=True).start()
        self._looked.wait(wait_seconds)

    def close(self) -> None:
        """End the child; a draft under way is dropped."""
        self._closed.set()
        if self._child is not None:
            # Not with SIGTERM: a child that starts while its parent ends ignores it.
            self._child.process.kill()

    def _keep_warm(self) -> None:
        pause, warn = 0.0, logs.Once(log)
        while not self._closed.wait(pause):
            try:
                self._load_newest()
                pause, problem = LOOK_SECONDS, ""
            except FirstlightError as error:
                # The pause grows: else a child that cannot start would keep a core busy.
                pause, problem = min(2 * pause + 1, LONGEST_PAUSE_SECONDS), str(error)
            except Exception:
                # Go on: nothing would report the end of this thread.
                log.exception("loading the live networks failed unexpectedly")
                pause, problem = LONGEST_PAUSE_SECONDS, ""
            self._looked.set()
            warn(problem)

    def _load_newest(self) -> None:
        """Load the networks that went live last into the child."""
        for live in islice(prelabels.newest_with_drafts(self._store), prelabels.KEPT_MODELS):
            with self._lock:
                child = self._living()
                if live not in self._warm:
                    child.ask({"project": live[0]})
                    self._warm.add(live)

    def _living(self) -> _Child:
        """Return the child, a new one when the last one died. The caller holds the lock."""
        if self._child is None:
            # Python waits for its children when it exits; this ends the child before.
            atexit.register(self.close)
        if self._child is None or not self._child.process.is_alive():
            self._warm.clear()
            self._child = _start(self._settings)
        if self._closed.is_set():  # checked last: `close` may have missed this child
            self._child.process.kill()
        return self._child


@dataclass(frozen=True)
class _Child:
    """The process that draws, and this process's end of the pipe to it."""

    process: SpawnProcess
    pipe: Connection

    def ask(self, question: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the regions for a project and a task; without a task load the project's network.

        With prompts they are the regions that the prompts ask for.

        Raises:
            DraftError: When there is no draft, or the process died or took too long.
        """
        answer = self._exchange(question)
        if "what" in answer:
            raise DraftError(answer["what"], answer["fix"])
        regions: list[dict[str, Any]] = answer["regions"]
        return regions

    def _exchange(self, question: dict[str, Any]) -> dict[str, Any]:
        with suppress(EOFError, OSError):
            self.pipe.send_bytes(json.dumps(question).encode())
            if self.pipe.poll(ANSWER_SECONDS):
                answer: dict[str, Any] = json.loads(self.pipe.recv_bytes())
                return answer
        self.process.kill()
        self.process.join()
        raise DraftError(
            f"The process that draws live drafts ended (exit code {self.process.exitcode}).",
            "It starts again by itself.",
        )


def _start(settings: Settings) -> _Child:
    context = multiprocessing.get_context("spawn")
    try:
        ours, theirs = context.Pipe()
        # Not daemonic: a daemonic process may have no children, and decoding needs one.
        process = context.Process(target=_serve, args=(theirs, settings), daemon=False)
        process.start()
    except OSError as error:
        raise DraftError(
            f"The process that draws live drafts cannot start ({error.strerror}).",
            "Check the limits on memory and processes. The start is tried again by itself.",
        ) from None
    theirs.close()
    return _Child(process, ours)


def _serve(pipe: Connection, settings: Settings) -> None:
    """Run the child: answer questions until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends this child
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(NICENESS)
    tame_threads()
    logs.configure(settings.log_level)
    from backend.rounds.drafts.drafting import LiveDrafts  # imported here: it loads torch

    drafts = LiveDrafts(settings, open_store(settings.database), decode_seconds=DECODE_SECONDS)
    with suppress(EOFError, OSError):
        while True:
            answer = _answer(drafts, json.loads(pipe.recv_bytes()))
            pipe.send_bytes(json.dumps(answer).encode())


def _end_with_parent() -> None:
    """End this process when the parent is gone, even in the middle of a draft."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _answer(drafts: LiveDrafts, question: dict[str, Any]) -> dict[str, Any]:
    project, task = question["project"], question.get("task")
    with logs.context(project=project, task=task):
        try:
            if task is None:
                drafts.warm(project)
                return {"regions": []}
            if "prompts" not in question:
                return {"regions": drafts.regions(project, task)}
            return {"regions": _clicked(drafts, project, task, question["prompts"])}
        except FirstlightError as error:
            return {"what": error.what, "fix": error.fix}
        except Exception:  # an error in one draft must not end the process
            log.exception("the draft failed")
            return {"what": "The draft failed.", "fix": "Read the reason in the web process's log."}


def _clicked(
    drafts: LiveDrafts, project_id: int, task_id: int, sent: dict[str, Any]
) -> list[dict[str, Any]]:
    from backend.rounds.drafts import clicks  # imported here: it loads torch

    given = tuple(Prompt(**prompt) for prompt in sent["given"])
    return clicks.regions(drafts, project_id, task_id, Prompts(**{**sent, "given": given}))
