"""The answers to Label Studio's requests, without HTTP, so that the adapter can share them."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from backend import logs
from backend.errors import FirstlightError, StorageError, UnsupportedLabelConfig
from backend.label_studio import labels
from backend.options import FIRSTLIGHT, parse_options
from backend.rounds.drafts import prelabels
from backend.settings import Settings
from backend.storage.ledger import stored_options
from backend.storage.store import Store
from backend.storage.tables import Project, Task
from backend.web.clicks import Clicks
from backend.web.live_drafts import DraftProcess
from backend.web.project_page import sentences
from backend.web.refresh_requests import RefreshRequests, Refusals
from backend.web.responses import Health, Ready
from backend.web.schemas import JobIn, PredictIn, SetupIn, TaskIn, WebhookIn, identifier, job

log = logging.getLogger(__name__)

DraftsOf = Callable[[int, int], list[dict[str, Any]]]  # project and task to regions
DEADLINE_SECONDS = 10.0
MOST_WAITING = 20
MOST_DRAWN = 500  # tasks of one request; the deadline leaves no time for more drafts


def live_drafts(settings: Settings, store: Store) -> DraftProcess:
    """Return the process that draws live drafts; the caller may call its `keep_warm`."""
    return DraftProcess(settings, store)


class OneAtATime:
    """Live drafts on a single thread, within a deadline for each request."""

    def __init__(
        self,
        drafts: DraftsOf,
        *,
        seconds: float = DEADLINE_SECONDS,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._drafts = drafts
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="drafts")
        # Every waiting request holds a thread of the server, and webhooks need threads too.
        self._places = threading.BoundedSemaphore(most_waiting)

    def __call__(self, project_id: int, tasks: Sequence[int | None]) -> list[list[Any]]:
        """Return the regions of each task; [] for None, and for a failed or late draft."""
        if not any(tasks) or not self._places.acquire(blocking=False):
            return [[] for _ in tasks]
        try:
            end = time.monotonic() + self._seconds
            return [self._draft(project_id, task, end) if task else [] for task in tasks]
        finally:
            self._places.release()

    def _draft(self, project_id: int, task: int, end: float) -> list[Any]:
        left = end - time.monotonic()
        if left <= 0:
            return []
        with logs.context(project=project_id, task=task):
            # The drawing thread then logs with the same project and task.
            run = contextvars.copy_context().run
            future = self._thread.submit(run, self._drafts, project_id, task)
            try:
                return future.result(timeout=left)
            except FirstlightError as error:
                log.warning("no draft: %s", error)
            except TimeoutError:
                future.cancel()
                log.warning("no draft before the deadline")
            except Exception:  # an error in one draft must not cost the batch its answers
                log.exception("the draft failed")
            return []

    def close(self) -> None:
        """Stop the thread; a draft under way is finished, and its result dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Answers:
    """Answers Label Studio's requests from the database, and /predict from live drafts too.

    Args:
        store: The database.
        requests: Takes the requests for a refresh.
        drafts: Draws live drafts.
        clicks: Answers the smart tools; None if this process answers none.
    """

    def __init__(
        self,
        store: Store,
        requests: RefreshRequests,
        drafts: OneAtATime,
        clicks: Clicks | None = None,
    ) -> None:
        self._store = store
        self._requests = requests
        self._drafts = drafts
        self._clicks = clicks
        self._refusals = Refusals(store)

    def webhook_secret(self) -> str:
        """Return the secret that this installation keeps for its webhooks."""
        return self._store.installation.webhook_secret

    def alive(self) -> Health:
        """Return that this process is up, which anybody may know."""
        return Health(status="UP", model_class="Firstlight")

    def health(self) -> Health:
        """Return that this process is up, and the problems and warnings of all projects."""
        try:
            projects = self._store.projects.all()
        except StorageError as error:
            projects, problems = [], [str(error)]
        else:
            problems = [f"project {p.id}: {_problem(p)}" for p in projects if p.problem]
            refused = (sentences.refused(p.id, p.webhook_refused_at) for p in projects)
            problems += filter(None, refused)
        warnings = [f"project {p.id}: {line}" for p in projects for line in p.warnings]
        return Health(status="UP", model_class="Firstlight", problems=problems, warnings=warnings)

    def ready(self) -> Ready:
        """Return that this process can answer requests.

        The state of Label Studio does not count. The pages work without it, and a load balancer
        that takes out unready instances would otherwise take out all of them at once.

        Raises:
            StorageError: When the database does not answer.
        """
        self._store.ping()
        return Ready(status="READY")

    def setup(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return live version, problems and method; note a new project for the worker."""
        request = SetupIn.model_validate(body)
        with logs.context(project=request.project):
            project = self._project(request.project)
            self._notice(request, project)
            return {
                "model_version": self._store.installation.answer(project),
                "problems": list(_setup_problems(request, project)),
                "method": _method(request, project),
            }

    def predict(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return exactly one result a task, in the order of the tasks."""
        request = PredictIn.model_validate(body)
        with logs.context(project=request.project):
            return self._predict(request) if request.context is None else self._clicked(request)

    def _predict(self, request: PredictIn) -> dict[str, Any]:
        project = self._project(request.project)
        results: list[list[Any]] = [[] for _ in request.tasks]
        if project is not None and self._draws(project, request.label_config):
            first = self._stored(project, request.tasks[:MOST_DRAWN])
            results[: len(first)] = self._drafts(project.id, first)
        version = self._store.installation.answer(project)
        return {"results": [{"result": r, "score": 1.0, "model_version": version} for r in results]}

    def _clicked(self, request: PredictIn) -> dict[str, Any]:
        """Return the regions that a smart tool asks for; empty, with a line in the log, if none."""
        project = self._project(request.project)
        regions: list[Any] = []
        try:
            if project is None or project.disconnected:
                raise ValueError("the project is not connected")
            regions = self._prompted(project, request)
        except (ValueError, FirstlightError) as error:
            log.warning("no answer to a click: %s", error)
        version = self._store.installation.answer(project)
        empty = [{"result": [], "score": 0.0, "model_version": version} for _ in request.tasks[1:]]
        return {"results": [{"result": regions, "score": 1.0, "model_version": version}, *empty]}

    def _prompted(self, project: Project, request: PredictIn) -> list[Any]:
        """Return the regions for the prompts of a request.

        Raises:
            ValueError: If they cannot be answered; it says why.
            UnsupportedLabelConfig: If the labelling interface cannot be read.
        """
        if not _same_labels(request.label_config, project.label_config):
            raise ValueError("the labelling interface has changed; the next sync reads it")
        if self._clicks is None:
            raise ValueError("this process answers no clicks")
        config = labels.parse(project.label_config)
        prompts = labels.prompts(request.context or {}, config)
        if prompts.page and not config.paged:
            raise ValueError(f"page {prompts.page} of a task with a single image")
        [task] = self._stored(project, request.tasks[:1]) or [None]
        if task is None:
            raise ValueError("the last sync did not see this image of the task")
        submitted, _ = self._store.labels.counts(project.id, [task]).get(task, (0, 0))
        with logs.context(project=project.id, task=task):
            return self._clicks(project.id, task, prompts, submitted=submitted)

    def _draws(self, project: Project, label_config: str) -> bool:
        """Return whether the project shows drafts of the live model; loads no network."""
        same = _same_labels(label_config, project.label_config)
        return same and prelabels.live_with_drafts(self._store, project) is not None

    def _stored(self, project: Project, tasks: Sequence[TaskIn | None]) -> list[int | None]:
        """Return the ids of tasks, None for a task whose image the last sync did not see.

        A draft is drawn on the stored address's image; the address in a request is never fetched.
        """
        ids = [task.id for task in tasks if task]
        stored = {task.id: task for task in self._store.scans.some(project.id, ids)}
        config = labels.parse(project.label_config)
        return [
            task.id
            if task and task.id in stored and _same_image(task, stored[task.id], config)
            else None
            for task in tasks
        ]

    def webhook(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Request a refresh if the event can change the queue; return what was done."""
        event = WebhookIn.read(body)
        with logs.context(project=event.project):
            return self._webhook(event)

    def _webhook(self, event: WebhookIn) -> dict[str, Any]:
        project = self._project(event.project)
        if project is not None and event.is_of_webhook:
            self._refusals.over(project)
        reason = _why_ignored(event, project)
        if reason or project is None:
            return {"status": "ignored", "reason": reason}
        train = event.action == "START_TRAINING"
        stored = self._requests.request(project.id, full=event.deletes_tasks, train=train)
        if not train:
            return {"status": "ok"}
        now = self._project(project.id) if stored else None
        return {
            "status": "ok",
            "job": job(project.id, now.requested if now else project.requested + 1),
        }

    def webhook_refused(self, body: bytes) -> None:
        """Report an event that came without the secret; `body` is b"" if it was not read."""
        self._refusals.note(body)

    def is_training(self, project: object) -> dict[str, Any]:
        """Return whether a worker is busy with a project: an id, a text or an object."""
        known = self._project(identifier(project))
        return {"is_training": bool(known and known.step)}

    def versions(self) -> dict[str, Any]:
        """Return the names of the publications in Label Studio, newest first."""
        shown = [
            version
            for project in self._store.projects.all()
            for version in self._store.publications.all(project.id)
            if version.state in {"live", "previous", "ready"}
        ]
        shown.sort(key=lambda version: version.created_at, reverse=True)
        return {"versions": list(dict.fromkeys(version.name for version in shown))}

    def job_status(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return how far a refresh has come; None for a job that was never given out."""
        parts = JobIn.model_validate(body).parts
        project = self._project(parts[0]) if parts else None
        # One more than is stored: the request may still wait in memory.
        if parts is None or project is None or parts[1] > project.requested + 1:
            return None
        answer = {"job_status": _job_status(project, parts[1])}
        if answer["job_status"] == "failed":
            return {**answer, "error": _problem(project)}
        return {**answer, "step": project.step or None, "progress": project.progress}

    def version(self, project: object) -> str:
        """Return a project's live version, else the installation's name (see `is_training`)."""
        return self._store.installation.answer(self._project(identifier(project)))

    def _project(self, project_id: int | None) -> Project | None:
        return None if project_id is None else self._store.projects.get(project_id)

    def _notice(self, request: SetupIn, project: Project | None) -> None:
        """Store what is new: the project itself, its options, Label Studio's address."""
        if request.project is None:
            return
        if project is None or project.disconnected:
            self._requests.sight(request.project)
        elif _options_changed(project, request.extra_params):
            self._requests.request(request.project)
        if project is not None and request.hostname not in {"", project.hostname}:
            with suppress(StorageError):  # the next /setup sends it again
                self._store.projects.update(project.id, hostname=request.hostname)


def _options_changed(project: Project, extra_params: object) -> bool:
    # Label Studio sends null after a PATCH without options: null says nothing about them.
    if extra_params is None or "extra_params" not in project.seen:
        return False
    return (extra_params or None) != (project.seen["extra_params"] or None)


def _setup_problems(request: SetupIn, project: Project | None) -> Iterator[str]:
    if request.project is None:
        yield "The request names no project. Connect the backend in a project's Settings > Model."
    try:
        labels.parse(request.label_config)
    except FirstlightError as error:
        yield str(error)
    try:
        parse_options(request.extra_params)
    except FirstlightError as error:
        yield str(error)
    if project is not None:
        yield from filter(None, (_problem(project), project.options_problem))


def _method(request: SetupIn, project: Project | None) -> str:
    """Return the method that holds with these options; the last valid ones if they are wrong."""
    with suppress(FirstlightError):
        if request.extra_params is not None or project is None:
            usual = project.first_method if project else FIRSTLIGHT
            return parse_options(request.extra_params, usual).method_in_use
    return (stored_options(project) if project else parse_options(None)).method_in_use


def _problem(project: Project) -> str:
    return f"{project.problem} {project.fix}".strip() if project.problem else ""


def _same_labels(sent: str, known: str) -> bool:
    """Return whether the labelling interface still has the classes and tools of the last sync.

    Label Studio stores the answers to /predict: a draft with outdated labels would stay there.
    """
    if not (sent and known) or sent == known:
        return True
    try:
        return labels.parse(sent) == labels.parse(known)
    except UnsupportedLabelConfig:
        return False


def _same_image(sent: TaskIn, stored: Task, config: labels.LabelConfig) -> bool:
    """Return whether a task still has the image that it had at the last sync.

    The address counts only for a task that changed since the sync: for an image in a bucket,
    Label Studio's task list and /predict give different addresses.
    """
    if sent.updated_at in {"", stored.updated_at} or config.image_key not in sent.data:
        return True
    return labels.address(sent.data, config) == stored.url


def _why_ignored(event: WebhookIn, project: Project | None) -> str:
    if event.project is None:
        return "the event names no project"
    if project is None or project.disconnected:
        return f"project {event.project} is not connected"
    if event.action == "PROJECT_UPDATED":
        # Our own changes of the project come back as this event too.
        same = event.label_config in {"", project.label_config}
        return "the label config is the same" if same else ""
    if event.changes_labels or event.changes_tasks or event.action == "START_TRAINING":
        return ""
    return "this event does not change the queue"


def _job_status(project: Project, number: int) -> str:
    if project.completed >= number:
        return "finished"
    if project.step:
        return "started"
    return "failed" if project.problem else "queued"
