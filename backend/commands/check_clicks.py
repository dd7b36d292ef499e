"""The doctor's check of clicks: the smart tags, a brush for the answers, and our entry."""

from __future__ import annotations

from backend import PROGRAM
from backend.commands.connection import Entry
from backend.commands.findings import Finding
from backend.label_studio import labels, smart_tags
from backend.label_studio.credentials import entry_credentials
from backend.rounds.services import Services


def run(services: Services, project_id: int, ours: Entry | None) -> Finding:
    """Return whether clicks of smart tools reach us, if the interface has such tools.

    Args:
        services: Of this process.
        project_id: The project.
        ours: Our entry; None if it is missing, which another check reports.
    """
    config = labels.parse(services.studio.project(project_id).label_config)
    if not config.prompts:
        return Finding(
            "clicks",
            True,
            "The labelling interface has no smart tags for clicks.",
            f"`{PROGRAM} connect {project_id} --clicks` adds them.",
        )
    if others := sorted(set(config.labels) - set(smart_tags.brushed_labels(config))):
        return Finding(
            "clicks",
            False,
            f"No brush draws {', '.join(others)}, so clicks on them cannot replace a draft.",
            "Add these labels to BrushLabels, or take the smart tags out of the interface.",
        )
    if ours is None or ours.get("is_interactive"):
        return Finding("clicks", True, f"The smart tags are {', '.join(config.prompts)}.")
    auth = entry_credentials(services.settings)
    return Finding(
        "clicks",
        False,
        f"Label Studio sends no clicks to this service: entry {ours['id']} is not interactive.",
        f"Run `{PROGRAM} doctor {project_id} --fix`.",
        lambda: services.studio.set_interactive(ours, auth),
    )
