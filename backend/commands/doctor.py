"""Check everything between a project and its queue; say what is wrong and how to fix it.

With --fix it repairs what Label Studio's API can repair. It leaves entries and webhooks of other
services alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import httpx

from backend.commands import checks_installation, checks_project
from backend.commands.findings import Check, Finding
from backend.errors import FirstlightError, LacksVariables, of_system
from backend.rounds.services import Services
from backend.settings import Settings
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
    """Yield the findings, starting with the checks that others depend on.

    Args:
        settings: The settings that the service was started with.
        project_id: A project to check as well; None for the installation alone.
        build: Builds the services.
        web: Calls our own web process.
        fix: Whether to repair what the API can, and to check it again.
    """
    here = _Examination(fix)
    yield from here.all(checks_installation.installation(settings))
    yield here.look("web process", lambda: checks_installation.web_process(settings, web))
    if here.all_ok("web process"):
        yield here.look("web access", lambda: checks_installation.web_access(settings, web))
    if not here.all_ok("database"):
        settings = settings.model_copy(update={"database_url": "sqlite://"})  # empty
    try:
        services = build(settings, open_store(settings.database, busy_ms=WORKER_BUSY_MS))
    except FirstlightError as error:
        yield here.note(Finding("token", False, error.what, error.fix))
    else:
        yield from _label_studio(here, settings, services, web)
        yield from _beyond(here, services, project_id)


def _label_studio(
    here: _Examination, settings: Settings, services: Services, web: httpx.Client
) -> Iterator[Finding]:
    studio = services.studio
    yield here.look(
        "Label Studio",
        lambda: checks_installation.label_studio(studio, settings.label_studio_url, web),
    )
    if here.all_ok("Label Studio") or not settings.api_key:
        yield here.look("token", lambda: checks_installation.token(settings, studio))
    if here.all_ok("Label Studio", "token"):
        url = settings.public_url
        yield here.look("backend address", lambda: checks_installation.backend_address(studio, url))
        yield here.look("webhook address", lambda: checks_installation.webhook_address(studio, url))


def _beyond(here: _Examination, services: Services, project_id: int | None) -> Iterator[Finding]:
    settings, studio = services.settings, services.studio
    known = (
        services.store.projects.get(project_id) if project_id and here.all_ok("database") else None
    )
    load = cache(lambda: checks_installation.load_encoder(settings, known))
    yield here.look("encoder", lambda: checks_installation.encoder(settings, load))
    if (folder := settings.click_model) is not None:
        yield here.look("click model", lambda: checks_installation.click_model(folder))
    if project_id is None:
        if here.all_ok("Label Studio", "token"):
            yield here.look("import", lambda: checks_installation.fast_import(studio, None))
        return
    if not here.all_ok("database", "Label Studio", "token"):
        yield Finding("project", False, "It was not checked.", "Fix the problems above first.")
        return
    yield here.look("project", lambda: checks_project.project(studio, project_id))
    if here.all_ok("project"):
        yield here.look("import", lambda: checks_installation.fast_import(studio, project_id))
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
        finding = _run_check(name, check)
        if self._fix and not finding.ok and finding.repair:
            finding = _repaired(finding, check)
        return self.note(finding)

    def note(self, finding: Finding) -> Finding:
        if not finding.ok:
            self._wrong.add(finding.name)
        return finding

    def all_ok(self, *names: str) -> bool:
        return self._wrong.isdisjoint(names)


def _run_check(name: str, check: Check) -> Finding:
    try:
        return check()
    except FirstlightError as error:
        variables = error.variables if isinstance(error, LacksVariables) else {}
        return Finding(name, False, error.what, error.fix, variables=variables)
    except OSError as error:
        refused = of_system(error)
        return Finding(name, False, refused.what, refused.fix)


def _repaired(finding: Finding, check: Check) -> Finding:
    try:
        if finding.repair:
            finding.repair()
    except FirstlightError as error:
        return replace(
            finding,
            what=f"{finding.what} It could not be repaired: {error.what}",
            fix=error.fix,
            repair=None,
        )
    again = _run_check(finding.name, check)
    if not again.ok:
        return again
    return replace(again, what=f"{again.what} (It was wrong: {finding.what})", repaired=True)


# -- output ---------------------------------------------------------------------------------------


def line(finding: Finding) -> str:
    """Return a finding as text: its state, name and sentence, and the fix below."""
    state = "fixed" if finding.repaired else "ok" if finding.ok else "WRONG"
    arrow = "note" if finding.ok else "fix"
    below = f"\n{arrow:>12}: {finding.fix}" if finding.fix else ""
    return f"{state:<6} {finding.name}: {finding.what}{below}"


def summary(findings: Sequence[Finding]) -> str:
    """Return the last line: how many checks are wrong."""
    wrong = [finding.name for finding in findings if not finding.ok]
    if not wrong:
        return f"All {len(findings)} checks are ok."
    return f"{len(wrong)} of {len(findings)} checks are wrong: {', '.join(wrong)}."


def document(findings: Iterable[Finding]) -> str:
    """Return findings as a JSON list."""
    rows = [
        {
            "name": finding.name,
            "ok": finding.ok,
            "what": finding.what,
            "fix": finding.fix,
            "fixable": finding.repair is not None,
            "repaired": finding.repaired,
            "variables": dict(finding.variables),
            # The earlier names of two keys, until the next release.
            "mend": finding.fix,
            "mended": finding.repaired,
        }
        for finding in findings
    ]
    return json.dumps(rows, indent=2)
