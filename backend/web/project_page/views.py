"""The pages of the projects, as HTML, text or JSON."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, abort, redirect, render_template, request, send_file
from werkzeug.wrappers import Response as AnyResponse

from backend import PROGRAM
from backend.errors import ConfigError
from backend.exchange.export.format_names import DOWNLOADS
from backend.rounds.publications import ProjectPublications
from backend.settings import Settings
from backend.storage import ledger
from backend.storage.artifacts import Artifacts, ProjectFiles
from backend.storage.ledger import Ledger
from backend.storage.publications import Author
from backend.storage.store import Store
from backend.storage.tables import Project
from backend.web.people import People
from backend.web.project_page import (
    label_panels,
    map_view,
    review_panel,
    selection_gain,
    sentences,
    static_files,
    stopping_panel,
    thumbnails,
    volume_panel,
    words,
)
from backend.web.project_page.downloads import Downloads
from backend.web.project_page.history import History
from backend.web.project_page.sentences import text
from backend.web.project_page.status import Keeper, Statuses, status
from backend.web.queries import (
    ConfirmForm,
    ExportForm,
    Kind,
    KindQuery,
    PageQuery,
    RollbackForm,
    RoundsQuery,
    asked,
    number,
    sent,
)
from backend.web.responses import (
    Done,
    Failure,
    Overview,
    ProjectEntry,
    ProjectMap,
    ProjectStatus,
    answered,
    written,
)
from model.evaluation import MAIN, METRICS, OTHERS, Metric

__all__ = ["routes", "status", "text"]

View = Callable[..., AnyResponse]
Change = Callable[[Project, Author], str]

QUEUED = 50  # scans of the queue on one page
ACTIONS = 20  # of people, on a page; the audit record has all
LISTED = 30  # versions on a page, unless ?versions=all
# Sent at once: each holds a thread until the client has read it, and webhooks need threads too.
RECORDS = 4
MAPS = 8  # projects whose map is kept in memory; a map of 100,000 scans takes 5 MB

PROJECT = "/projects/<int(max=2147483647):project_id>"  # no column holds a larger number

MANY = 1500  # scans; a larger map is drawn by WebGL instead of as SVG

# Load nothing from other sites, and allow only our scripts and forms. Plotly sets inline styles.
_POLICY = (
    "default-src 'self'; script-src 'self'{}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


def routes(store: Store, settings: Settings) -> Blueprint:
    """Return everything below /projects, and the files that its pages load."""
    blueprint = Blueprint("pages", __name__, template_folder="templates")
    site = _Site(store, settings)
    views: tuple[tuple[str, View], ...] = (
        ("/projects", site.overview),
        (PROJECT, site.project),
        (f"{PROJECT}/map.json", site.map),
        (f"{PROJECT}/rounds.json", site.rounds),
        (f"{PROJECT}/scans/<task>.png", site.scan),
        (f"{PROJECT}/reviews/<task>.png", site.review),
        ("/static/<name>", static_files.serve),
    )
    changes: tuple[tuple[str, View], ...] = (
        (f"{PROJECT}/rollback", site.rollback),
        (f"{PROJECT}/resume", site.resume),
        (f"{PROJECT}/confirm", site.confirm),
        (f"{PROJECT}/export", site.export),
    )
    for method, rules in (("GET", views), ("POST", changes)):
        for rule, view in rules:
            blueprint.add_url_rule(rule, view.__name__, view, methods=[method])
    blueprint.after_request(_harden)
    blueprint.add_app_template_global(static_files.address, "asset")
    blueprint.add_app_template_global(lambda: PROGRAM, "program")
    blueprint.add_app_template_filter(_when, "when")
    blueprint.add_app_template_filter(words.span, "span")
    blueprint.add_app_template_filter(words.count, "counted")
    blueprint.add_app_template_filter(words.coded, "coded")
    blueprint.add_app_template_filter(label_panels.time, "minutes")
    blueprint.add_app_template_filter(label_panels.annotator, "annotator")
    blueprint.add_app_template_filter(label_panels.scan_scores, "scan_scores")
    blueprint.add_app_template_filter(sentences.unchanged, "unchanged")
    blueprint.add_app_template_filter(sentences.complete, "complete")
    blueprint.add_app_template_filter(sentences.reached, "reached")
    blueprint.add_app_template_filter(sentences.action, "action")
    blueprint.add_app_template_filter(sentences.no_queue, "no_queue")
    return blueprint


class _Site:
    """The views, bound to the store and the settings."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._people = People(settings)
        self._artifacts = Artifacts(settings.data_dir, settings.artifacts_url)
        self._statuses = Statuses(store, self._artifacts)
        self._downloads = Downloads(settings)
        self._maps = Keeper(store, self._map, MAPS)
        self._records = threading.BoundedSemaphore(RECORDS)

    def overview(self) -> Response:
        projects, kind = self._store.projects.all(), _kind()
        if kind == "text":
            return Response(sentences.overview(projects), mimetype="text/plain")
        if kind == "json":
            return answered(Overview([_entry(project) for project in projects]))
        return Response(render_template("projects.html", projects=map(_entry, projects)))

    def project(self, project_id: int) -> Response:
        kind = _kind()
        if kind == "html":
            return self._page(project_id)
        state = self._statuses.of(project_id)
        now = self._store.clock()
        if kind == "text":
            return Response(text(state, now), mimetype="text/plain")
        said = {**sentences.progress(state), "freshness": sentences.freshness(state, now)}
        return answered(ProjectStatus.model_validate({**state, **said}))

    def map(self, project_id: int) -> Response:
        body = self._maps.of(self._store.projects.known(project_id))
        return static_files.packed(body, "application/json")

    def rounds(self, project_id: int) -> Response:
        record = self._history(project_id).audit(asked(RoundsQuery).round)
        if not self._records.acquire(blocking=False):
            abort(503, f"{RECORDS} records are being sent already. Ask again in a minute.")
        response = Response(record, mimetype="application/json")
        response.call_on_close(self._records.release)
        response.headers["Content-Disposition"] = f"inline; filename=project-{project_id}.json"
        return response

    def scan(self, project_id: int, task: str) -> Response:
        folder = self._settings.project_folder(project_id)
        picture = thumbnails.png(self._store, folder, project_id, number(task) or 0)
        response = Response(picture, mimetype="image/png")
        response.headers["Cache-Control"] = "private, max-age=600"
        return response

    def review(self, project_id: int, task: str) -> Response:
        project, folder = self._store.projects.known(project_id), self._settings.project_folder
        picture = review_panel.picture(
            self._store, self._files(project_id), folder(project_id), project, number(task) or 0
        )
        return Response(picture, mimetype="image/png")

    def rollback(self, project_id: int) -> AnyResponse:
        version = sent(RollbackForm).version
        return self._change(
            project_id, lambda project, author: self._known(project).pin(version, author)
        )

    def resume(self, project_id: int) -> AnyResponse:
        return self._change(project_id, lambda project, author: self._known(project).resume(author))

    def confirm(self, project_id: int) -> AnyResponse:
        task = sent(ConfirmForm).task
        return self._change(
            project_id,
            lambda project, author: review_panel.confirm(self._store, project, task, author),
            "review",
        )

    def export(self, project_id: int) -> AnyResponse:
        self._store.projects.known(project_id)
        to = sent(ExportForm).to
        try:
            archive = self._downloads.archive(project_id, to)
        except ConfigError as error:
            return self._refusal(project_id, error)
        name = f"project-{project_id}-{to}.zip"
        return send_file(archive, "application/zip", as_attachment=True, download_name=name)

    # -- shared by the views ----------------------------------------------------------------------

    def _change(self, project_id: int, change: Change, part: str = "versions") -> AnyResponse:
        """Make a change; then show that part of the page, or why the change was refused."""
        project = self._store.projects.known(project_id)
        try:
            said = change(project, Author("page", self._people.name()))
        except ConfigError as error:
            return self._refusal(project_id, error)
        if _kind() != "html":
            return answered(Done(done=said))
        return redirect(f"/projects/{project_id}#{part}", 303)

    def _refusal(self, project_id: int, error: ConfigError) -> AnyResponse:
        """Return the page with the reason, or the reason alone for scripts."""
        if _kind() == "html":
            return _with_code(self._page(project_id, refused=str(error)), 409)
        return answered(Failure.of(error), 409)

    def _page(self, project_id: int, refused: str = "") -> Response:
        now = ledger.read(self._store, project_id)
        state = status(self._store, self._artifacts, project_id, now)
        many = state["scans"] > MANY
        page = render_template(
            "project.html",
            state=state,
            progress=sentences.progress(state),
            **self._queue(project_id, now),
            **self._versions(project_id, now),
            scores=sentences.SCORES if sentences.scored(state) else "",
            quality=sentences.quality(state),
            selection_gain=selection_gain.sentence(state),
            volumes_said=volume_panel.volumes(state),
            minutes_said=label_panels.minutes(state),
            agreement_said=label_panels.agreement(state),
            matrix=label_panels.matrix(state),
            stopping_said=stopping_panel.lines(state),
            stopping_picture=stopping_panel.picture(state),
            review_said=review_panel.said(state),
            review_outlook=review_panel.outlook(self._store.projects.known(project_id)),
            freshness=sentences.freshness(state, self._store.clock()),
            refusal=sentences.refused(project_id, state["events_refused_since"]),
            task_url=self._task_url(project_id),
            studio_url=self._project_url(project_id),
            refused=refused,
            many=many,
            formats=DOWNLOADS,
            metrics=[_drawn(metric) for metric in METRICS.values()],
        )
        response = Response(page)
        if many:  # plotly compiles its WebGL programs in the browser
            response.headers["Content-Security-Policy"] = _POLICY.format(" 'unsafe-eval'")
        return response

    def _queue(self, project_id: int, now: Ledger) -> dict[str, Any]:
        """Return the requested part of the queue, as the page shows it.

        A queue shrinks while its page is open: a start past the end means the last part.
        """
        queue = map_view.queue(self._store, self._files(project_id), project_id, now)
        waiting = len(queue.order)
        start = (max(1, min(asked(PageQuery).start, waiting)) - 1) // QUEUED * QUEUED
        return {
            "queue": queue.part(start, QUEUED),
            "waiting": waiting,
            "start": start,
            "size": QUEUED,
        }

    def _versions(self, project_id: int, now: Ledger) -> dict[str, Any]:
        """Return the versions as the page lists them: the newest, or all of them on request."""
        history, every = self._history(project_id, now), asked(PageQuery).versions == "all"
        versions = history.versions(None if every else LISTED)
        return {
            "versions": versions,
            "main": MAIN,
            "others": [of for of in OTHERS if any(one[of.name] is not None for one in versions)],
            "lived": history.lived,
            "actions": history.actions[::-1][:ACTIONS],
            "listed": LISTED,
            "all_versions": every,
        }

    def _map(self, project_id: int) -> bytes:
        now = ledger.read(self._store, project_id)
        points = map_view.read(self._store, self._files(project_id), project_id, now)
        curve = self._history(project_id, now).curve()
        task_url = self._task_url(project_id)
        found = ProjectMap.model_validate({**points, "curve": curve, "task_url": task_url})
        return written(found).encode()

    def _history(self, project_id: int, now: Ledger | None = None) -> History:
        project = self._store.projects.known(project_id)
        return History(self._store, project, self._files(project_id), now)

    def _known(self, project: Project) -> ProjectPublications:
        return ProjectPublications(self._store, project, self._files(project.id))

    def _files(self, project_id: int) -> ProjectFiles:
        return self._artifacts.of(project_id)

    def _project_url(self, project_id: int) -> str:
        settings = self._settings
        public = settings.label_studio_public_url or settings.label_studio_url
        return f"{public}/projects/{project_id}/data"

    def _task_url(self, project_id: int) -> str:
        return f"{self._project_url(project_id)}?task="


def _kind() -> Kind:
    """Return the format of the answer: ?format= if given, else what the client prefers."""
    chosen = asked(KindQuery).format
    if chosen is not None:
        return chosen
    offers: dict[str, Kind] = {
        "text/plain": "text",
        "text/html": "html",
        "application/json": "json",
    }
    return offers[request.accept_mimetypes.best_match(offers, "text/plain")]


def _entry(project: Project) -> ProjectEntry:
    return ProjectEntry(
        project=project.id,
        title=project.title,
        live_version=project.live_version or None,
        step=project.step or None,
        now=sentences.STEPS.get(project.step, project.step) or "idle",
        problem=project.problem,
        disconnected=project.disconnected,
        gone=project.disconnected,
        vanished_since=project.vanished_at or None,
    )


def _drawn(metric: Metric) -> dict[str, str]:
    """Return what the learning curve has to know of a metric."""
    return {"key": metric.name, "title": metric.title, "unit": metric.unit}


def _harden(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", _POLICY.format(""))
    response.headers["X-Content-Type-Options"] = "nosniff"
    # A stricter Referrer-Policy would send `Origin: null` with forms.
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers.add("Vary", "Accept")
    return response


def _with_code(response: Response, code: int) -> Response:
    response.status_code = code
    return response


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
