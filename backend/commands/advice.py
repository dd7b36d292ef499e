"""What a person does after the doctor: lines to paste for Label Studio, and the one next step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from backend import PROGRAM
from backend.commands.findings import Finding
from backend.settings import Settings

# Everything else needs these first, whatever the order of the checks.
_FIRST = ("data folder", "artifacts", "jobs database", "Label Studio", "token")


def missing_variables(findings: Iterable[Finding]) -> dict[str, str]:
    """Return the environment variables that Label Studio lacks."""
    return {name: value for finding in findings for name, value in finding.variables.items()}


def lines_to_paste(variables: Mapping[str, str]) -> str:
    """Return variables for each way to start Label Studio; "" without variables."""
    if not variables:
        return ""
    pairs = [f"{name}={value}" for name, value in variables.items()]
    return "\n".join(
        [
            "Label Studio lacks variables. Paste them where it is started, and start it again:",
            "",
            "# a shell, before `label-studio start`",
            f"export {' '.join(pairs)}",
            "",
            "# docker, as options of `docker run`",
            " ".join(f"-e {pair}" for pair in pairs),
            "",
            "# docker compose, in the service of Label Studio",
            "environment:",
            *(f'  {name}: "{value}"' for name, value in variables.items()),
            "",
            "# systemd, after `systemctl edit` and the name of the unit",
            "[Service]",
            *(f'Environment="{pair}"' for pair in pairs),
            "",
        ]
    )


def next_step(
    settings: Settings, findings: Sequence[Finding], project_id: int | None, *, fix: bool
) -> str:
    """Return the one thing to do next.

    Args:
        settings: The settings of this command.
        findings: All findings, in the order of the checks.
        project_id: The project that was checked; None without one.
        fix: Whether the doctor has already repaired what it could.
    """
    wrong = [finding for finding in findings if not finding.ok]
    if wrong:
        first = min(wrong, key=lambda one: _FIRST.index(one.name) if one.name in _FIRST else 99)
        if first.repair and not fix:
            return f"Next: run `{PROGRAM} doctor {project_id} --fix`."
        return f"Next ({first.name}): {first.fix or first.what}"
    if project_id is None:
        return (
            f"Next: run `{PROGRAM} connect ID` with the id of a project, which stands in its "
            "address in Label Studio (/projects/ID)."
        )
    url = settings.label_studio_public_url or settings.label_studio_url
    return f"Next: open {url}/projects/{project_id}/data and press Label All Tasks."
