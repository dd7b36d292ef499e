"""The story of one round: sync, embed, select or train and score, publish. Durable.

Each step may be repeated after a kill: files have names that follow from their content, rows are
written under keys, and a publication gets a new name. Steps take and return ids and small dicts;
clock, randomness and settings are read in steps only.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dbos import DBOS, DBOSConfiguredInstance

from backend import logs
from backend.errors import FirstlightError
from backend.rounds import embedding, outcome, sync, unreadable
from backend.rounds.annotators import rereading
from backend.rounds.annotators.label_figures import judge_labels
from backend.rounds.context import LoadedEncoders, RoundContext, SharedContexts
from backend.rounds.drafts import queue_drafts
from backend.rounds.idle import refinement
from backend.rounds.idle.idle_studies import IdleStudies
from backend.rounds.models.examples import UnreadableLabels
from backend.rounds.models.learner import Learner
from backend.rounds.services import Services
from backend.rounds.spreading import parted, spread
from backend.rounds.steps import REFINE, TRAIN
from backend.rounds.stopping import store_stop_signs
from backend.storage import artifacts, records
from backend.storage.tables import Publication

log = logging.getLogger(__name__)

STORY = "6"  # raise it when the steps of a round change: a round under way cannot follow
REFRESH_QUEUE = "refresh"
SCORED = 256  # scans a chunk: enough to make the time to read the weights negligible
SHARE = 1024  # scans
MADE_WAY = "It made way for a round."
CHUNKS_BETWEEN_TRIMS = 16  # trimming goes through all kept scans and takes longer than a chunk


@DBOS.dbos_class()
class Rounds(DBOSConfiguredInstance):
    """The refresh workflow and its steps, bound to the services of one worker."""

    def __init__(self, services: Services, worker: str) -> None:
        """Bind the rounds to a worker's services and to its name."""
        self.services = services
        self.worker = worker
        self.store = services.store
        self._encoders = LoadedEncoders(services.settings)
        self._contexts = SharedContexts(services, self._encoders)
        self.studies = IdleStudies(services, self._encoders)
        self._chunks = itertools.count(1)
        super().__init__("rounds")

    # -- the story ------------------------------------------------------------------------------

    @DBOS.workflow()
    def refresh(self, project_id: int) -> None:
        """Bring one project's queue up to the revision that was requested at the start."""
        with logs.context(project=project_id), self._contexts.shared():
            try:
                requested = self.begin(project_id)
                made = self._round(project_id)
            except FirstlightError as error:
                self.fail(project_id, error.what, error.fix, outcome.kind_of(error))
            except Exception:
                # The last resort for our own defects: the log gets the traceback, the page a
                # sentence, and the refresh is tried again like after any other error.
                log.exception("a round failed unexpectedly")
                self.fail(project_id, "A round failed unexpectedly.", "See the worker's log.", "")
            else:
                self.finish(project_id, requested, made)

    def _round(self, project_id: int) -> bool:
        """Return whether a round was made."""
        state = self.sync(project_id)
        self.judge(project_id)
        if state == "paused":
            return False
        chunks = self.unseen(project_id)
        spread(self.embed, [(project_id, chunk) for chunk in chunks])
        plan = self.plan(project_id, sum(map(len, chunks)) >= SHARE)
        if not plan["due"]:
            return False
        number, key = plan["round"], plan["pinned_model"]
        with logs.context(round=number):
            if plan["train"]:
                key = self.train(project_id, number)
            chunks = self.pool(project_id) if key else []
            scored = spread(self.score, [(project_id, chunk, number, key) for chunk in chunks])
            pairs = [pair for part in scored for pair in part]
            asked = [i for chunk in chunks for i in chunk]
            self.select(project_id, number, {"scores": pairs, "asked": asked, "model": key})
            if key:
                key = self.draft(project_id, number, key, plan)
            version = self.publish(project_id, number, key)
            if version:
                self.switch(project_id, number, version, plan["fingerprint"])
            return True

    @DBOS.workflow()
    def refine(self, project_id: int) -> None:
        """Improve the live model with the same labels, and publish the better one."""
        with logs.context(project=project_id), self._contexts.shared():
            try:
                key = self.improve(project_id)
                ended = self._publish_refined(project_id, key) if key else ""
                self.end_refinement(project_id, ended, "")
            except FirstlightError as error:
                self.end_refinement(project_id, "", str(error))
            except Exception:
                log.exception("a refinement failed unexpectedly")
                self.end_refinement(project_id, "", "A refinement failed unexpectedly.")

    def _publish_refined(self, project_id: int, key: str) -> str:
        """Publish the queue of a refined model; return the key, "" if it had to make way."""
        plan = self.open_refined(project_id)
        number = plan["round"]
        with logs.context(round=number):
            scored = self.score_refined(project_id, number, key)
            if scored is None:
                return ""
            self.select(project_id, number, scored, refined=True)
            if not self.draft(project_id, number, key, plan):
                return ""
            version = self.publish(project_id, number, key, refined=True)
            if version:
                self.switch(project_id, number, version, plan["fingerprint"])
            return key

    @DBOS.workflow()
    def embed(self, project_id: int, task_ids: list[int]) -> None:
        """Embed one chunk of scans, on whichever worker is free."""
        with logs.context(project=project_id):
            self.embed_chunk(project_id, task_ids)

    @DBOS.workflow()
    def score(
        self, project_id: int, task_ids: list[int], number: int, key: str
    ) -> list[tuple[int, Any]]:
        """Judge one chunk of scans, on whichever worker is free; see `score_chunk`."""
        with logs.context(project=project_id, round=number):
            return self.score_chunk(project_id, task_ids, key)

    # -- steps ----------------------------------------------------------------------------------

    @DBOS.step()
    def begin(self, project_id: int) -> int:
        """Return the revision requested now; later requests start another refresh."""
        here = self._here(project_id)
        self.store.projects.update(project_id, started_at=self.store.clock())
        return here.project.requested

    @DBOS.step()
    def sync(self, project_id: int) -> str:
        """Copy the changes from Label Studio; return "paused" if the project is paused."""
        with self._step(project_id, "sync") as here:
            options = sync.sync(self.services.studio, self.store, here.project)
        self._contexts.read_again()
        return "paused" if options.paused else "synced"

    @DBOS.step()
    def judge(self, project_id: int) -> None:
        """Score drafts, compare annotators and count minutes, from the submitted annotations."""
        judge_labels(self._here(project_id))

    @DBOS.step()
    def unseen(self, project_id: int) -> list[list[int]]:
        """Return chunks of tasks that have no embedding and may be read now.

        While other projects wait, return at most a share (1,024 scans): 100,000 scans of one
        project take an hour, and the labels of other projects must not wait that long.
        """
        ids = embedding.unseen(self._here(project_id))
        if any(other != project_id for other in self.store.projects.due()):
            ids = ids[:SHARE]
        if ids:
            self._contexts.read_again()
        self.store.projects.enter(project_id, "embed", done=0, total=len(ids))
        return parted(ids, embedding.chunk_size(len(ids)))

    @DBOS.step()
    def embed_chunk(self, project_id: int, task_ids: list[int]) -> None:
        """Fetch, decode and embed scans; name unreadable scans and retry them later."""
        here = self._here(project_id)
        embedding.embed(here, task_ids, self.worker)
        self._trim_now_and_then(here.learner)
        self.store.projects.advance(project_id, len(task_ids))

    @DBOS.step()
    def plan(self, project_id: int, shared: bool = False) -> dict[str, Any]:
        """Return whether the round has work to do, and open the round if so.

        After a share of the scans, wait for the rest: a queue needs the whole pool.
        """
        with self._step(project_id, "plan") as here:
            if shared and embedding.unseen(here):
                # Embed the next share after the other projects had their turn.
                self.store.projects.request_refresh(project_id)
                return {"due": False}
            pinned = here.publications.pinned()
            name = pinned.name if pinned else ""
            plan = here.selector.plan(here.ledger, name, lost=here.live_queue_is_lost)
            if not plan["due"]:
                if here.project.live_version:
                    here.publisher.switch(here.project.live_version)
                return plan
            opened = self.store.rounds.of_workflow(project_id, str(DBOS.workflow_id))
            model = pinned.model_key if pinned else ""
            return {**plan, "round": opened.number, "pinned_model": model}

    @DBOS.step()
    def train(self, project_id: int, number: int) -> str:
        """Train on all labels; return the key of the model to use, "" for none."""
        with self._step(project_id, TRAIN, number) as here:
            learner, now = here.learner, here.ledger
            to_train, held = learner.split(now, here.selector.clusters())
            if not to_train:
                return ""  # all labels are ground truth, which only serves validation
            version = self.store.publications.get(project_id, here.project.live_version)
            live = learner.base_of(version.model_key) if version else ""
            try:
                key = learner.fit(now, to_train, learner.reporter(), live)
                used = learner.gate(now, key, live, held)
                store_stop_signs(here)
                return used
            except UnreadableLabels as error:
                unreadable.check_storage(here, len(error.broken), error.asked)
                unreadable.note(here, error.broken)
                raise

    @DBOS.step()
    def pool(self, project_id: int) -> list[list[int]]:
        """Return chunks of the scans that are to be scored."""
        with self._step(project_id, "score") as here:
            ids = here.selector.to_score(here.ledger)
        self.store.projects.enter(project_id, "score", done=0, total=len(ids))
        return parted(ids, SCORED)

    @DBOS.step()
    def score_chunk(self, project_id: int, task_ids: list[int], key: str) -> list[tuple[int, Any]]:
        """Return (task id, judgement) of each readable scan; see `Learner.judge`."""
        learner = self._here(project_id).learner
        tasks = self.store.scans.some(project_id, task_ids)
        scores = learner.judge(key, [(task.id, task.url) for task in tasks])
        self._trim_now_and_then(learner)
        self.store.projects.advance(project_id, len(task_ids))
        return list(scores.items())

    @DBOS.step()
    def select(
        self, project_id: int, number: int, scored: dict[str, Any], refined: bool = False
    ) -> None:
        """Rank the pool, and store the queue with its reasons.

        Args:
            project_id: The project.
            number: Of the round.
            scored: `scores`, the (task id, judgement) of the scans that the model could score;
                `asked`, the scans that it was asked to score; `model`, its key. Without a model
                all are empty.
            refined: Whether the model knows no other labels than those of the live queue.
        """
        self._end_score(project_id, number)
        with self._step(project_id, "select", number) as here:
            selector = here.selector
            scores, asked = dict(scored["scores"]), scored["asked"]
            if asked:
                unreadable.check_storage(here, len(asked) - len(scores), len(asked))
            labels = here.live_labels if refined else None
            queue = selector.rank(
                here.ledger, scores, asked, number, model=scored["model"], labels=labels
            )
            records.write_queue(here.files, number, queue_drafts.explained(here, queue))
            said = [*here.config.notes, *here.network_warnings, *queue.warnings]
            # The encoder logged its own warnings at start.
            outcome.log_new(said, here.project.warnings)
            self.store.projects.update(project_id, warnings=[*selector.warnings, *said])

    @DBOS.step()
    def draft(self, project_id: int, number: int, key: str, plan: dict[str, Any]) -> str:
        """Store masks for the head of the queue, shown or not.

        Args:
            project_id: The project.
            number: Of the round.
            key: Of the model that scored the pool.
            plan: As `plan` or `open_refined` returned it.

        Returns:
            The key of the model that drew the masks; "" for a refinement that had to end.
        """
        with self._step(project_id, "draft", number) as here:
            refined, pinned = plan.get("refined"), plan.get("pinned_model")
            stop = refinement.StopSignal(self.store, project_id) if refined else _never
            head = queue_drafts.QueueHead(here, here.queue(number), plan["fingerprint"])
            draws = (
                key if refined or pinned else refinement.model_for_drafts(here, key, head.missing)
            )
            masks = head.draw(draws, stop)
            if stop():
                return ""
            here.files.write_json(artifacts.drafts_name(number), masks)
            return draws

    @DBOS.step()
    def improve(self, project_id: int) -> str:
        """Train a refined model; return its key, "" if there is none to publish."""
        with self._step(project_id, REFINE) as here:
            return refinement.improve(here, refinement.StopSignal(self.store, project_id))

    @DBOS.step()
    def open_refined(self, project_id: int) -> dict[str, Any]:
        """Open the round that publishes a refined model; return its plan."""
        opened = self.store.rounds.of_workflow(project_id, str(DBOS.workflow_id))
        fingerprint = self._here(project_id).project.fingerprint
        return {"round": opened.number, "fingerprint": fingerprint, "refined": True}

    @DBOS.step()
    def score_refined(self, project_id: int, number: int, key: str) -> dict[str, Any] | None:
        """Return the argument `scored` of `select`; None if a refresh waits."""
        with self._step(project_id, "score", number) as here:
            asked = here.selector.to_score(here.ledger)
            stop = refinement.StopSignal(self.store, project_id)
            scores = refinement.score(here, key, asked, stop)
            if scores is None:
                return None
            return {"scores": list(scores.items()), "asked": asked, "model": key}

    @DBOS.step()
    def end_refinement(self, project_id: int, published: str, error: str) -> None:
        """End the round of a refinement that has one open, note how it went, and clear the page.

        Args:
            project_id: The project.
            published: The key of the refined model that was published, "" for none.
            error: What ended the refinement, "" for nothing.
        """
        self.store.rounds.abort(project_id, error or MADE_WAY)
        self.store.projects.update(project_id, step="", progress={}, deaths=0)
        if published:
            refinement.settle(self.store, project_id)
        if error:
            log.warning("the refinement ended: %s", error)
            refinement.count_failure(self.store, project_id)

    @DBOS.step()
    def publish(self, project_id: int, number: int, key: str, refined: bool = False) -> str:
        """Write the queue to Label Studio under a new name; return the name.

        Args:
            project_id: The project.
            number: Of the round.
            key: Of the model that drew the drafts, "" for none.
            refined: Whether the model knows no other labels than those of the live queue.
        """
        with self._step(project_id, "publish", number) as here:
            started = time.monotonic()  # the wall clock may be set meanwhile
            file = artifacts.drafts_name(number)
            live = self.store.publications.get(project_id, here.project.live_version)
            version = Publication(
                round=number,
                model_key=key,
                labels=live.labels if live and refined else len(here.ledger.usable),
                drafts=artifacts.file_of(file) if key else "",
            )
            queue = here.queue(number)[: here.options.horizon]
            masks = queue_drafts.to_show(here, file, queue) if key else {}
            name = here.publisher.publish(
                version,
                "attention-unet" if key else "cold-start",
                queue,
                masks,
            )
            self.store.projects.update(project_id, publish_seconds=time.monotonic() - started)
            if not name:  # all open scans have been labelled meanwhile
                self.store.rounds.close(project_id, number, "")
                _tidy(here)
            return name

    @DBOS.step()
    def switch(self, project_id: int, number: int, version: str, fingerprint: str) -> None:
        """Make the version live, here and in Label Studio."""
        with self._step(project_id, "switch", number):
            self.store.publications.go_live(project_id, version, fingerprint=fingerprint)
            here = self._here(project_id)  # with the new live version
            here.publisher.switch(version)
            rereading.ask(here, number)
            log.info("live: %s", version)
            self.store.rounds.close(project_id, number, version)
            _tidy(here)

    @DBOS.step()
    def finish(self, project_id: int, requested: int, made: bool) -> None:
        """Note the completed revision, and when the next round may start."""
        outcome.finish(self.store, self._here(project_id).project, requested, made)

    @DBOS.step()
    def fail(self, project_id: int, what: str, fix: str, kind: str) -> None:
        """Report the error once, and schedule the next try after a growing pause."""
        outcome.fail(self.services, self._here(project_id).project, what, fix, kind)

    # -- shared by the steps --------------------------------------------------------------------

    def _here(self, project_id: int) -> RoundContext:
        return self._contexts.of(project_id)

    @contextmanager
    def _step(self, project_id: int, step: str, number: int = 0) -> Iterator[RoundContext]:
        """Show the step on the page, and put its seconds into the round's record."""
        started = self.store.clock()
        here = self._here(project_id)
        self.store.projects.enter(project_id, step)
        yield here
        if number:
            self.store.rounds.add_seconds(project_id, number, step, self.store.clock() - started)

    def _end_score(self, project_id: int, number: int) -> None:
        """Put the seconds of the scoring into the round's record; its chunks are no single step."""
        project = self._here(project_id).project
        if project.step == "score":
            seconds = self.store.clock() - project.step_at
            self.store.rounds.add_seconds(project_id, number, "score", seconds)

    def _trim_now_and_then(self, learner: Learner) -> None:
        if next(self._chunks) % CHUNKS_BETWEEN_TRIMS == 0:
            learner.scans.trim()


def _never() -> bool:
    return False


def _tidy(here: RoundContext) -> None:
    """Delete the cached scans, old drafts and weights that no rule keeps."""
    here.learner.scans.trim()
    queue_drafts.forget_old(here.files)
    here.publications.tidy()
