"""The story of one round: sync, embed, select or train and score, publish. Durable.

Each step may be repeated after a kill: files have names that follow from their content, rows are
written under keys, and a publication takes a new name. Steps take and give ids and small dicts;
clock, randomness and settings are read in steps only.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from dbos import DBOS, DBOSConfiguredInstance, SetEnqueueOptions

from backend import logs
from backend.errors import FirstlightError, ImageError, LabelStudioError, NotFound, StorageError
from backend.imaging.pixels import Pixels
from backend.label_studio import labels
from backend.label_studio.publisher import Publisher
from backend.rounds import drafts, encoding, prelabels, sync
from backend.rounds.draft_quality import judge_drafts
from backend.rounds.learner import Learner, UnreadableLabels
from backend.rounds.publications import Versions
from backend.rounds.selection import Selector
from backend.rounds.services import Services
from backend.storage import artifacts, ledger
from backend.storage.artifacts import ProjectFiles
from backend.storage.projects import LONGEST_BACKOFF_SECONDS, MOST_FAILURES, spacing
from backend.storage.scans import KILLER_PAUSE_SECONDS, is_retried
from backend.storage.tables import Project, Task, Version
from model import encoders

log = logging.getLogger(__name__)

STORY = "3"  # goes up when the steps of a round change, which one under way cannot follow
REFRESH_QUEUE = "refresh"
CHUNK_QUEUE = "chunks"
CHUNK = 64
SCORED = 256  # scans a chunk: many enough that reading the weights does not count
SHARE = 1024  # scans
CHUNKS_BETWEEN_TRIMS = 16  # to look through all kept scans after each would take longer than it
KEPT_DRAFTS = 20
MANY_UNREADABLE = 4  # more than one scan in so many, and a storage is away
STORAGE_AWAY = "Many scans that could be read before cannot be read now."
LOST_AFTER_SECONDS = 24 * 3600.0
JUDGED_DRAFTS = 100  # more than are labelled while a round is made
MOST_DEATHS = 2  # of workers that read a scan among others; from then on it is read alone


@DBOS.dbos_class()
class Rounds(DBOSConfiguredInstance):
    """The refresh workflow and its steps, bound to the services of one worker."""

    def __init__(self, services: Services, worker: str) -> None:
        """Bind the rounds to a worker's services and to its name."""
        self.services = services
        self.worker = worker
        self.store = services.store
        self._encoders: dict[str, encoders.Encoder] = {}
        self._chunks = itertools.count(1)
        super().__init__("rounds")

    # -- the story ------------------------------------------------------------------------------

    @DBOS.workflow()
    def refresh(self, project_id: int) -> None:
        """Bring one project's queue up to what was wanted when this began."""
        with logs.context(project=project_id):
            try:
                wanted = self.begin(project_id)
                made = self._round(project_id)
            except FirstlightError as error:
                self.fail(project_id, error.what, error.mend, _kind(error))
            except Exception:
                # The one place in the worker where a defect of ours ends: told in the log with its
                # traceback, on the page without it, and tried again like everything else.
                log.exception("a round failed unexpectedly")
                self.fail(project_id, "A round failed unexpectedly.", "See the worker's log.", "")
            else:
                self.finish(project_id, wanted, made)

    def _round(self, project_id: int) -> bool:
        """Return whether a round was made."""
        if self.sync(project_id) == "paused":
            return False
        chunks = self.unseen(project_id)
        _spread(self.embed, [(project_id, chunk) for chunk in chunks])
        plan = self.plan(project_id, sum(map(len, chunks)) >= SHARE)
        if not plan["due"]:
            return False
        # A plan that an earlier release wrote down knows of no pin.
        number, key = plan["round"], plan.get("pinned_model", "")
        with logs.context(round=number):
            if plan["train"]:
                key = self.train(project_id, number)
            chunks = self.pool(project_id) if key else []
            scored = _spread(self.score, [(project_id, chunk, number, key) for chunk in chunks])
            self.select(project_id, number, [pair for part in scored for pair in part], key)
            if key:
                self.draft(project_id, number, key)
            version = self.publish(project_id, number, key)
            if version:
                self.switch(project_id, number, version, plan["fingerprint"])
            return True

    @DBOS.workflow()
    def embed(self, project_id: int, task_ids: list[int]) -> None:
        """Embed one chunk of scans, on whichever worker is free."""
        with logs.context(project=project_id):
            self.embed_chunk(project_id, task_ids)

    @DBOS.workflow()
    def score(
        self, project_id: int, task_ids: list[int], number: int, key: str
    ) -> list[tuple[int, float]]:
        """Return (task id, uncertainty) of one chunk of scans, on whichever worker is free."""
        with logs.context(project=project_id, round=number):
            return self.score_chunk(project_id, task_ids, key)

    # -- steps ----------------------------------------------------------------------------------

    @DBOS.step()
    def begin(self, project_id: int) -> int:
        """Return what is wanted now; what is wanted later makes another refresh."""
        project = self._project(project_id)
        self.store.projects.update(project_id, started_at=self.store.clock())
        return project.wanted

    @DBOS.step()
    def sync(self, project_id: int) -> str:
        """Copy what changed in Label Studio; say whether the project is paused."""
        with self._at(project_id, "sync"):
            options = sync.sync(self.services.studio, self.store, self._project(project_id))
            judge_drafts(self.services, self._project(project_id))
        return "paused" if options.paused else "synced"

    @DBOS.step()
    def unseen(self, project_id: int) -> list[list[int]]:
        """Return chunks of tasks that have no embedding and may be read now.

        While other projects wait these are no more than a share: a hundred thousand scans of one
        project take an hour, and nobody's label shall wait for that.
        """
        ids = self._unseen(project_id)
        if any(other != project_id for other in self.store.projects.due()):
            ids = ids[:SHARE]
        self.store.projects.enter(project_id, "embed", done=0, total=len(ids))
        return _parted(ids, CHUNK)

    @DBOS.step()
    def embed_chunk(self, project_id: int, task_ids: list[int]) -> None:
        """Fetch, decode and embed scans; one that cannot be read is named and retried later."""
        project = self._project(project_id)
        encoder = self._encoder(project)
        wanted = self.store.scans.some(project_id, task_ids)
        learner = drafts.learner_for(self.services, project)
        broken: dict[int, ImageError] = {}
        for tasks in _apart([task for task in wanted if task.deaths <= MOST_DEATHS]):
            with self._in_hand(project_id, [task.id for task in tasks]):
                broken |= self._read(project_id, encoder, learner, tasks)
        self._trim_now_and_then(learner)
        if any(task.problem for task in wanted if task.id not in broken):
            self.store.scans.retry_unreadable(project_id)  # their storage may be back
        self._note_unreadable(project_id, broken)
        self._name_killers(project_id, [task for task in wanted if task.deaths > MOST_DEATHS])
        self.store.projects.advance(project_id, len(task_ids))

    @DBOS.step()
    def plan(self, project_id: int, shared: bool = False) -> dict[str, Any]:
        """Return whether anything has to be done, and open the round if so.

        After a share of the scans there may be more of them, and a part of a pool is no pool.
        """
        with self._at(project_id, "plan"):
            if shared and self._unseen(project_id):
                self.store.projects.request_refresh(
                    project_id
                )  # the next share, when the others had their turn
                return {"due": False}
            selector = self._selector(project_id)
            now = ledger.read(self.store, project_id)
            pinned = self._versions(project_id).pinned()
            lost = partial(self._is_lost, project_id)
            plan = selector.plan(now, pinned.name if pinned else "", lost=lost)
            if not plan["due"]:
                self._verify_live(project_id)
                return plan
            opened = self.store.rounds.of_workflow(project_id, str(DBOS.workflow_id))
            model = pinned.model_key if pinned else ""
            return {**plan, "round": opened.number, "pinned_model": model}

    @DBOS.step()
    def train(self, project_id: int, number: int) -> str:
        """Train on all labels and return the key of the model to work with."""
        with self._at(project_id, "train", number):
            project = self._project(project_id)
            learner = drafts.learner_for(self.services, project)
            now = ledger.read(self.store, project_id)
            clusters = self._selector(project_id).clusters()
            to_train, held = learner.split(now, clusters)
            if not to_train:
                return ""  # all labels are ground truth, and that only validates
            version = self.store.publications.get(project_id, project.live_version)
            live = version.model_key if version else ""
            try:
                key = learner.fit(now, to_train, learner.reporter(), live)
                return learner.gate(now, key, live, held)
            except UnreadableLabels as error:
                self._check_storage(project_id, len(error.broken), error.asked)
                self._note_unreadable(project_id, error.broken)
                raise

    @DBOS.step()
    def pool(self, project_id: int) -> list[list[int]]:
        """Return chunks of the scans that are to be scored."""
        with self._at(project_id, "score"):
            pool = self._selector(project_id).pool(ledger.read(self.store, project_id))
        ids = [task_id for task_id, _ in pool]
        self.store.projects.enter(project_id, "score", done=0, total=len(ids))
        return _parted(ids, SCORED)

    @DBOS.step()
    def score_chunk(
        self, project_id: int, task_ids: list[int], key: str
    ) -> list[tuple[int, float]]:
        """Return (task id, how uncertain the model is of it) for each scan that can be read."""
        learner = drafts.learner_for(self.services, self._project(project_id))
        wanted = self.store.scans.some(project_id, task_ids)
        found = learner.uncertainties(key, [(task.id, task.url) for task in wanted])
        self._trim_now_and_then(learner)
        self.store.projects.advance(project_id, len(task_ids))
        return list(found.items())

    @DBOS.step()
    def select(
        self, project_id: int, number: int, uncertainties: list[tuple[int, float]], key: str = ""
    ) -> None:
        """Rank the pool and write the queue with its reasons down.

        Args:
            project_id: The project.
            number: Of the round.
            uncertainties: (task id, uncertainty) of the scans that the model could judge.
            key: Of that model, "" for none.
        """
        self._end_score(project_id, number)
        with self._at(project_id, "select", number):
            selector = self._selector(project_id)
            now = ledger.read(self.store, project_id)
            if key:
                pool = selector.pool(now)
                self._check_storage(project_id, len(pool) - len(uncertainties), len(pool))
            queue = selector.rank(now, dict(uncertainties))
            self._files(project_id).write_json(artifacts.round_name(number), queue)
            notes = labels.parse(self._project(project_id).label_config).notes
            said = [*notes, *queue["warnings"]]
            self._log_new(project_id, said)  # the encoder's were said at its start
            self.store.projects.update(project_id, warnings=[*selector.warnings, *said])

    @DBOS.step()
    def draft(self, project_id: int, number: int, key: str) -> None:
        """Write the model's masks for the head of the queue down, shown or not."""
        with self._at(project_id, "draft", number):
            project = self._project(project_id)
            learner = drafts.learner_for(self.services, project)
            head = self._queue(project_id, number)[: self._drafts_wanted(project)]
            urls = {task.id: task.url for task in self.store.scans.all(project_id)}
            found = {
                task_id: drafts.regions(probabilities, scan.size, learner.config)
                for task_id, scan, probabilities in learner.predict(
                    key, [(task_id, urls[task_id]) for task_id in head]
                )
            }
            self._files(project_id).write_json(artifacts.drafts_name(number), found)

    @DBOS.step()
    def publish(self, project_id: int, number: int, key: str) -> str:
        """Write the queue to Label Studio under a new name; return the name."""
        with self._at(project_id, "publish", number):
            project = self._project(project_id)
            now = ledger.read(self.store, project_id)
            started = time.monotonic()  # the clock may be set meanwhile, or the machine sleep
            horizon = ledger.stored_options(project).horizon
            version = Version(
                round=number,
                model_key=key,
                labels=len(now.usable),
                drafts=artifacts.drafts_name(number).removeprefix("drafts/") if key else "",
            )
            shown = bool(key) and self._shown(project, now)
            masks = (
                self._files(project_id).read_json(artifacts.drafts_name(number)) if shown else {}
            )
            name = self._publisher(project_id).publish(
                version,
                "attention-unet" if key else "cold-start",
                self._queue(project_id, number)[:horizon],
                masks or {},
            )
            self.store.projects.update(project_id, publish_seconds=time.monotonic() - started)
            if not name:  # all that was open has been labelled meanwhile
                self.store.rounds.close(project_id, number, {"version": ""})
                self._tidy(project_id)
            return name

    @DBOS.step()
    def switch(self, project_id: int, number: int, version: str, fingerprint: str) -> None:
        """Make the version live, here and in Label Studio."""
        with self._at(project_id, "switch", number):
            self.store.publications.go_live(project_id, version, fingerprint=fingerprint)
            self._publisher(project_id).switch(version)
            log.info("live: %s", version)
            self.store.rounds.close(project_id, number, {"version": version})
            self._tidy(project_id)

    @DBOS.step()
    def finish(self, project_id: int, wanted: int, made: bool) -> None:
        """Note what was done, and when the next round may start."""
        project = self._project(project_id)
        pause = spacing(project) if made else 0.0
        self.store.projects.update(
            project_id,
            done=wanted,
            waits_since=project.started_at,  # what is still wanted came after that
            step="",
            progress={},
            problem="",
            mend="",
            failures=0,
            not_before=project.started_at + pause,
            storage_away_since=0.0,
            deaths=0,
        )

    @DBOS.step()
    def fail(self, project_id: int, what: str, mend: str, kind: str) -> None:
        """Say what went wrong, once, and try again later, later each time.

        Args:
            project_id: The project.
            what: What happened.
            mend: How to put it right.
            kind: "missing" if Label Studio did not find something, "outage" if it failed in another
                way, "" for everything else.
        """
        project = self._project(project_id)
        if project.disconnected:  # meanwhile, which is no problem of anybody's
            self.store.rounds.abort(project_id, "The project was disconnected.")
            self.store.projects.update(project_id, step="", progress={}, problem="", mend="")
            return
        if kind == "missing" and self.services.studio.has_vanished(project_id):
            self._vanish(project)
            return
        if project.problem != what:
            number = self.store.rounds.open(project_id)
            with logs.context(**({"round": number} if number else {})):
                log.warning("%s %s", what, mend)
            self.store.projects.update(project_id, problem_at=self.store.clock())
        self.store.rounds.abort(project_id, what)
        wait = min(self._longest_backoff(kind), 2.0**project.failures)
        self.store.projects.update(
            project_id,
            step="",
            progress={},
            problem=what,
            mend=mend,
            deaths=0,
            failures=min(project.failures + 1, MOST_FAILURES),
            not_before=self.store.clock() + wait,
        )

    def _vanish(self, project: Project) -> None:
        """Note that Label Studio has no such project; the timer goes on asking for it."""
        log.warning("Label Studio has no project %d any more", project.id)
        self.store.rounds.abort(project.id, "The project vanished from Label Studio.")
        self.store.projects.update(project.id, step="", progress={}, failures=0)
        self.store.projects.vanish(self._project(project.id))

    def _longest_backoff(self, kind: str) -> float:
        """Return the seconds after which a failed refresh is tried again at the latest.

        A refresh that Label Studio fails costs a call or two: it may be tried at every tick of the
        timer, so that an outage ends here when it ends there.
        """
        if not kind:
            return LONGEST_BACKOFF_SECONDS
        return min(LONGEST_BACKOFF_SECONDS, self.services.settings.reconcile_seconds)

    # -- what the steps share -------------------------------------------------------------------

    @contextmanager
    def _at(self, project_id: int, step: str, number: int = 0) -> Iterator[None]:
        """Show the step on the page, and put its seconds into the round's record."""
        started = self.store.clock()
        self.store.projects.enter(project_id, step)
        yield
        if number:
            self.store.rounds.add_seconds(project_id, number, step, self.store.clock() - started)

    @contextmanager
    def _in_hand(self, project_id: int, task_ids: list[int]) -> Iterator[None]:
        """Note in the database which scans this worker reads: if it dies, the next one knows."""
        self.store.scans.update_reading(project_id, task_ids, read_by=self.worker)
        try:
            yield
        finally:
            self.store.scans.update_reading(project_id, task_ids, read_by="")

    def _read(
        self, project_id: int, encoder: encoders.Encoder, learner: Learner, tasks: Sequence[Task]
    ) -> dict[int, ImageError]:
        """Embed scans; return those that cannot be read, and why, by task id."""
        images, looks, broken = [], [], {}
        for task_id, scan in learner.scans.many((task.id, task.url) for task in tasks):
            if isinstance(scan, ImageError):
                broken[task_id] = scan
                continue
            height, width = scan.size
            images.append(scan.image)
            looks.append({"task": task_id, "height": height, "width": width, "pixels": scan.digest})
        if looks:
            self.store.scans.note_pixels(project_id, looks)
            self._embed(project_id, encoder, [t for t in tasks if t.id not in broken], images)
            harmless = [t.id for t in tasks if t.deaths and t.id not in broken]
            self.store.scans.update_reading(project_id, harmless, deaths=0)
        return broken

    def _name_killers(self, project_id: int, tasks: Sequence[Task]) -> None:
        """Name the scans that were alone in the hands of a worker that died; read none of them."""
        for task in tasks:
            error = ImageError(
                f"Task {task.id}: {task.deaths} workers died while they read or embedded its scan.",
                "Save the scan as a plain PNG or JPEG, or give the worker more memory; it is tried "
                "again after a day.",
            )
            with logs.context(task=task.id):
                log.error("%s", error)
            self.store.scans.mark_unreadable(project_id, task.id, str(error), KILLER_PAUSE_SECONDS)
            self.store.scans.update_reading(project_id, [task.id], deaths=MOST_DEATHS)

    def _embed(
        self,
        project_id: int,
        encoder: encoders.Encoder,
        tasks: Sequence[Task],
        images: Sequence[Pixels],
    ) -> None:
        ids = [task.id for task in tasks]
        name = artifacts.digest(encoder.name, ids, [task.url for task in tasks]) + ".npy"
        files, file = self._files(project_id), artifacts.embeddings_name(name)
        if not files.exists(file):
            files.write_array(file, encoder.encode(images))
        self.store.embeddings.save(project_id, encoder.name, name, ids)

    def _trim_now_and_then(self, learner: Learner) -> None:
        if next(self._chunks) % CHUNKS_BETWEEN_TRIMS == 0:
            learner.scans.trim()

    def _unseen(self, project_id: int) -> list[int]:
        known = self.store.embeddings.all(project_id, self._selector(project_id).encoder)
        now = self.store.clock()
        return [
            task.id
            for task in self.store.scans.all(project_id)
            if (task.problem and is_retried(task, now))
            or (task.id not in known and not task.problem)
        ]

    def _project(self, project_id: int) -> Project:
        project = self.store.projects.get(project_id)
        if project is None:
            raise StorageError(f"Project {project_id} is not in the database.", "Connect it again.")
        return project

    def _encoder(self, project: Project) -> encoders.Encoder:
        settings = self.services.settings
        name = ledger.stored_options(project).encoder or settings.encoder
        if name not in self._encoders:
            self._encoders[name] = encoding.load(settings, name)
        return self._encoders[name]

    def _selector(self, project_id: int) -> Selector:
        project = self._project(project_id)
        return Selector(self.store, project, self._files(project_id), self._encoder(project))

    def _versions(self, project_id: int) -> Versions:
        return Versions(self.store, self._project(project_id), self._files(project_id))

    def _publisher(self, project_id: int) -> Publisher:
        return Publisher(self.services.settings, self.store, self.services.studio, project_id)

    def _drafts_wanted(self, project: Project) -> int:
        """Return for how many scans at the queue's head drafts are drawn.

        While none is shown they only serve to judge the model by what is labelled next.
        """
        horizon = ledger.stored_options(project).horizon
        shown = self._shown(project, ledger.read(self.store, project.id))
        return horizon if shown else min(horizon, JUDGED_DRAFTS)

    def _shown(self, project: Project, now: ledger.Ledger) -> bool:
        """Return whether drafts are shown to people by now."""
        dice = [score.dice for score in self.store.labels.draft_scores(project.id)]
        return prelabels.wanted(project, len(now.usable), dice)

    def _is_lost(self, project_id: int) -> bool:
        """Return whether somebody deleted the queue in Label Studio."""
        live = self.store.publications.get(project_id, self._project(project_id).live_version)
        if live is None or not live.published:
            return False
        return self.services.studio.version_count(project_id, live.name) == 0

    def _verify_live(self, project_id: int) -> None:
        live = self._project(project_id).live_version
        if live:
            self._publisher(project_id).switch(live)

    def _check_storage(self, project_id: int, unreadable: int, asked: int) -> None:
        """Fail the round if so many scans cannot be read that their storage must be away.

        The live version stays. After a day the scans count as lost, and the round goes on.

        Raises:
            ImageError: If more than a quarter of the scans, and more than one, cannot be read.
        """
        if unreadable <= max(1, asked // MANY_UNREADABLE):
            return
        now = self.store.clock()
        since = self._project(project_id).storage_away_since or now
        if now - since < LOST_AFTER_SECONDS:
            self.store.projects.update(project_id, storage_away_since=min(since, now))
            # If Label Studio itself is down, this raises, and that is the cause.
            self.services.studio.project(project_id)
            log.warning("%d of %d scans cannot be read", unreadable, asked)
            raise ImageError(
                STORAGE_AWAY,
                "Is the storage of the images running? It is asked again by itself, and the queue "
                "stays as it is. Scans that are gone for good: delete their tasks, or wait a day.",
            )

    def _note_unreadable(self, project_id: int, broken: Mapping[int, ImageError]) -> None:
        if broken:
            # A Label Studio that is down is no fault of a scan: this raises, and the round waits.
            self.services.studio.project(project_id)
        for task_id, error in broken.items():
            with logs.context(task=task_id):
                log.warning("%s", error)
            self.store.scans.mark_unreadable(project_id, task_id, str(error))

    def _log_new(self, project_id: int, warnings: list[str]) -> None:
        """Log the warnings that the page does not show yet."""
        shown = self._project(project_id).warnings
        for line in warnings:
            if line not in shown:
                log.warning("%s", line)

    def _end_score(self, project_id: int, number: int) -> None:
        """Put the seconds of the scoring, which was nobody's own step, into the round's record."""
        project = self._project(project_id)
        if project.step == "score":
            seconds = self.store.clock() - project.step_at
            self.store.rounds.add_seconds(project_id, number, "score", seconds)

    def _tidy(self, project_id: int) -> None:
        """Drop scans, drafts and weights beyond those that are kept."""
        drafts.learner_for(self.services, self._project(project_id)).scans.trim()
        self._forget_drafts(project_id)
        self._versions(project_id).tidy()

    def _forget_drafts(self, project_id: int) -> None:
        """Drop the drafts of versions that nobody can have open any more."""
        files = self._files(project_id)
        by_round = sorted(files.names("drafts"), key=artifacts.round_of)
        for name in by_round[:-KEPT_DRAFTS]:
            files.remove(name)

    def _files(self, project_id: int) -> ProjectFiles:
        return self.services.files(project_id)

    def _queue(self, project_id: int, number: int) -> list[int]:
        record = self._files(project_id).read_json(artifacts.round_name(number))
        if record is None:
            raise StorageError("The queue of this round is gone.", "The round starts again.")
        return [int(task) for task in record["order"]]


def _kind(error: FirstlightError) -> str:
    """Return how a round failed, as `Rounds.fail` takes it."""
    if isinstance(error, NotFound):
        return "missing"
    return "outage" if isinstance(error, LabelStudioError) else ""


def _parted(ids: list[int], size: int) -> list[list[int]]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def _apart(tasks: list[Task]) -> Iterator[list[Task]]:
    """Yield scans that are read together, then one by one those that workers died with."""
    together = [task for task in tasks if task.deaths < MOST_DEATHS]
    if together:
        yield together
    for task in tasks:
        if task.deaths >= MOST_DEATHS:
            yield [task]


def _spread(work: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Do the calls of a workflow on all workers, one at a time on each; return what they gave."""
    handles = []
    for turn, given in enumerate(calls, start=1):
        # The first of every project before the second of any: a large one lets the others in.
        with SetEnqueueOptions(priority=turn):
            handles.append(DBOS.enqueue_workflow(CHUNK_QUEUE, work, *given))
    try:
        return [handle.get_result(polling_interval_sec=0.2) for handle in handles]
    except Exception:
        # The next try makes its own, and shall not wait for what nobody waits for any more.
        DBOS.cancel_workflows([handle.workflow_id for handle in handles])
        raise
