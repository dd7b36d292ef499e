"""Look at everything between a project and its queue, and say what is wrong and how to fix it.

With --fix a finding repairs what Label Studio's API can repair. Nothing that another service put
there is touched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import httpx

from backend.commands import checks_installation, checks_project
from backend.commands.findings import Check, Finding
from backend.errors import FirstlightError
from backend.rounds.services import Services
from backend.settings import Settings, require_api_key
from backend.storage.database import WORKER_BUSY_MS
from backend.storage.store import Store, open_store

Build = Callable[[Settings, Store], Services]


def examine(
    settings: Settings,
    project_id: int | None,
    *,
    build: Build,
    web: httpx.Client,
    fix: bool = False,
) -> Iterator[Finding]:
    """Yield one finding after the other, those that others rest on first.

    Args:
        settings: As the service was started with.
        project_id: A project to look at as well; None for the installation alone.
        build: Puts the services together.
        web: For calls to our own web process.
        fix: Whether to repair what the API can, and to check it again.
    """
    here = _Examination(fix)
    yield from here.all(checks_installation.installation(settings))
    yield here.look("web process", lambda: checks_installation.web_process(settings, web))
    if here.all_ok("web process"):
        yield here.look("web access", lambda: checks_installation.web_access(settings, web))
    if not here.all_ok("database"):
        settings = settings.model_copy(update={"database_url": "sqlite://"})  # knows nothing
    try:
        require_api_key(settings)
        services = build(settings, open_store(settings.database, busy_ms=WORKER_BUSY_MS))
    except FirstlightError as error:
        yield here.note(Finding("token", False, error.what, error.fix))
    else:
        yield from _beyond(here, services, project_id)


def _beyond(here: _Examination, services: Services, project_id: int | None) -> Iterator[Finding]:
    settings, studio = services.settings, services.studio
    yield here.look(
        "Label Studio", lambda: checks_installation.label_studio(studio, settings.label_studio_url)
    )
    if here.all_ok("Label Studio"):
        yield here.look("token", lambda: checks_installation.token(studio))
    if here.all_ok("Label Studio", "token"):
        url = settings.public_url
        yield here.look("backend address", lambda: checks_installation.backend_address(studio, url))
        yield here.look("webhook address", lambda: checks_installation.webhook_address(studio, url))
    known = (
        services.store.projects.get(project_id) if project_id and here.all_ok("database") else None
    )
    load = cache(lambda: checks_installation.load_encoder(settings, known))
    yield here.look("encoder", lambda: checks_installation.encoder(settings, load))
    if project_id is None:
        return
    if not here.all_ok("database", "Label Studio", "token"):
        yield Finding("project", False, "It was not looked at.", "Mend what stands above first.")
        return
    yield here.look("project", lambda: checks_project.project(studio, project_id))
    if here.all_ok("project"):
        yield from here.all(checks_project.of_project(services, project_id, load))
        if here.all_ok("entry"):
            yield from here.all(checks_project.of_queue(services, project_id))


class _Examination:
    """Runs checks, repairs if asked to, and remembers what was wrong."""

    def __init__(self, fix: bool) -> None:
        self._fix = fix
        self._wrong: set[str] = set()

    def all(self, asked: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
        for name, check in asked:
            yield self.look(name, check)

    def look(self, name: str, check: Check) -> Finding:
        finding = _judged(name, check)
        if self._fix and not finding.ok and finding.repair:
            finding = _mended(finding, check)
        return self.note(finding)

    def note(self, finding: Finding) -> Finding:
        if not finding.ok:
            self._wrong.add(finding.name)
        return finding

    def all_ok(self, *names: str) -> bool:
        return self._wrong.isdisjoint(names)


def _judged(name: str, check: Check) -> Finding:
    try:
        return check()
    except FirstlightError as error:
        return Finding(name, False, error.what, error.fix)


def _mended(finding: Finding, check: Check) -> Finding:
    try:
        if finding.repair:
            finding.repair()
    except FirstlightError as error:
        return replace(
            finding,
            what=f"{finding.what} It could not be mended: {error.what}",
            fix=error.fix,
            repair=None,
        )
    again = _judged(finding.name, check)
    if not again.ok:
        return again
    return replace(again, what=f"{again.what} (It was wrong: {finding.what})", repaired=True)


# -- how it is said -------------------------------------------------------------------------------


def line(finding: Finding) -> str:
    """Return a finding as text: its state, name and sentence, and the fix below."""
    state = "repaired" if finding.repaired else "ok" if finding.ok else "WRONG"
    arrow = "note" if finding.ok else "fix"
    below = f"\n{arrow:>12}: {finding.fix}" if finding.fix else ""
    return f"{state:<6} {finding.name}: {finding.what}{below}"


def summary(found: Sequence[Finding]) -> str:
    """Return the last line: how many things are wrong."""
    wrong = [one.name for one in found if not one.ok]
    if not wrong:
        return f"All {len(found)} checks are ok."
    return f"{len(wrong)} of {len(found)} checks are wrong: {', '.join(wrong)}."


def document(found: Iterable[Finding]) -> str:
    """Return findings as a JSON list."""
    rows = [
        {
            "name": one.name,
            "ok": one.ok,
            "what": one.what,
            "fix": one.fix,
            "fixable": one.repair is not None,
            "repaired": one.repaired,
            # As they were called before; they go with the next release.
            "mend": one.fix,
            "mended": one.repaired,
        }
        for one in found
    ]
    return json.dumps(rows, indent=2)
