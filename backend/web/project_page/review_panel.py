"""The panel Review: labels under suspicion, in the words and pictures of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import ConfigError, NotFound
from backend.rounds.idle import review_files, review_list
from backend.storage import ledger
from backend.storage.artifacts import ProjectFiles
from backend.storage.ledger import Ledger, stored_options
from backend.storage.publications import Author
from backend.storage.records import REVIEW, ReviewedScan
from backend.storage.store import Store
from backend.storage.tables import Project
from backend.web.project_page import thumbnails
from backend.web.project_page.words import count

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from backend.imaging.pixels import Pixels

LISTED = 10  # labels on the page; the tab in Label Studio lists more
LEAST = 0.1  # share of a label, contradicted by a sure network, from which it is listed
SIDE, GAP, LINE = 240, 4, 2  # pixels: the longer side of a scan, between the two, of an outline
# Those of Okabe and Ito that stand out on grey scans; classes beyond them share colours.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167))

OFF = "Labels are not reviewed: the option `review` is false."
_REASONS = {
    "empty": "{about}: the mask is empty, the network is sure of a region",
    "exchanged": "{about} and {other} look exchanged",
    "missing": "{about}: the mask leaves out a part that the network is sure of",
    "extra": "{about}: the mask covers a part where the network is sure of background",
    "both": "{about}: the mask leaves out one part and covers another; it may be shifted, or "
    "belong to another scan",
    "unlike": "{about}: the mask differs, but the network is not sure",
}


def facts(store: Store, project: Project, now: Ledger) -> dict[str, Any] | None:
    """Return what the last review found, None before the first and with `review` off."""
    if not store.studies.digest(project.id, REVIEW):
        return None
    if not stored_options(project).review:
        return None
    listed = review_list.under_suspicion(store, project.id, now)
    suspicious = [scan for scan in listed if scan.share >= LEAST]
    return {
        "reviewed": len(listed),
        "suspicious": len(suspicious),
        "scans": [
            {"task": scan.task, "suspicion": scan.score, "reason": reason(scan)}
            for scan in suspicious[:LISTED]
        ],
    }


def reason(scan: ReviewedScan) -> str:
    """Return why a label is suspicious, in words."""
    return _REASONS[scan.reason].format(about=scan.about, other=scan.other)


def said(state: Mapping[str, Any]) -> str:
    """Return what the last review found, in a sentence; "" before the first."""
    found = state["review"]
    if found is None:
        return ""
    labels = count(found["reviewed"], "label")
    if not found["suspicious"]:
        return f"None of {labels} looks wrong to a network that did not learn from it."
    wrong = found["suspicious"]
    who = "looks wrong to a network" if wrong == 1 else "look wrong to networks"
    return f"{wrong} of {labels} {who} that did not learn from {'it' if wrong == 1 else 'them'}."


def outlook(project: Project) -> str:
    """Return when the first review is made, or that none is made."""
    if not stored_options(project).review:
        return OFF
    return (
        f"From {review_list.LEAST_GROUPS} labelled scans on, labels are reviewed while nobody "
        "waits for a round."
    )


def lines(state: Mapping[str, Any]) -> list[str]:
    """Return the panel as lines of text; [] before the first review."""
    found = state["review"]
    if found is None:
        return []
    scans = [
        f"  - task {scan['task']} (suspicion {scan['suspicion']:.2f}): {scan['reason']}"
        for scan in found["scans"]
    ]
    return [f"Review: {said(state)}", *scans]


def confirm(store: Store, project: Project, task_id: int, author: Author) -> str:
    """Note that a person found a listed label right; return what was done.

    Raises:
        ConfigError: If the label is not under suspicion (any more).
    """
    scans = review_list.under_suspicion(store, project.id, ledger.read(store, project.id))
    scan = next((scan for scan in scans if scan.task == task_id), None)
    if scan is None:
        raise ConfigError(
            f"The label of task {task_id} is not on the list of suspicious labels.",
            "It was corrected, deleted or confirmed meanwhile: load the page again.",
        )
    store.publications.confirm(project.id, task_id, scan.label, author)
    return f"The label of task {task_id} counts as right until somebody changes it."


# -- the picture ----------------------------------------------------------------------------------


def picture(
    store: Store, files: ProjectFiles, folder: Path, project: Project, task_id: int
) -> bytes:
    """Return a scan twice as a PNG file: with the label, and with the mask that networks expect.

    Raises:
        NotFound: If the label was not reviewed, or what the picture is made of is not kept or has
            changed since.
    """
    import numpy as np
    from PIL import Image

    scan = _reviewed(store, project.id, task_id)
    results = _results(store, files, project.id, scan) if scan else None
    if scan is None or results is None:
        raise NotFound(
            f"The label of task {task_id} was not reviewed, or was deleted since.",
            "Load the page again.",
        )
    try:
        image = thumbnails.kept(store, folder, project.id, task_id, scan.page)
        panels = [_outlined(image, project, each, scan.page) for each in results]
    except (IndexError, ValueError):  # a page of a slab, or a class, is gone
        raise NotFound(
            f"Task {task_id} or the labelling interface has changed since the review.",
            "The next review makes a new picture.",
        ) from None
    gap = np.full((len(panels[0]), GAP, 3), 255, np.uint8)
    file = BytesIO()
    Image.fromarray(np.concatenate([panels[0], gap, panels[1]], axis=1)).save(file, "PNG")
    return file.getvalue()


def _reviewed(store: Store, project_id: int, task_id: int) -> ReviewedScan | None:
    reviewed = review_list.read(store, project_id).scans
    return next((scan for scan in reviewed if scan.task == task_id), None)


def _results(
    store: Store, files: ProjectFiles, project_id: int, scan: ReviewedScan
) -> tuple[list[list[Any]], list[list[Any]]] | None:
    """Return the annotations of a reviewed label, and the mask that a network expects."""
    expected = review_files.regions(files, scan.file, [scan.task]).get(scan.task)
    if expected is None:
        return None
    with suppress(KeyError):  # an annotation may have been deleted since
        return store.labels.results(project_id, scan.annotations), [expected]
    return None


def _outlined(
    image: Pixels, project: Project, results: Sequence[Sequence[Any]], page: int
) -> NDArray[np.uint8]:
    """Return a page with the outline of each class, shape (h, w, 3); its longer side is SIDE."""
    import numpy as np
    from PIL import Image
    from scipy.ndimage import binary_erosion

    from backend.label_studio import labels

    scale = SIDE / max(image.shape[:2])
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    shown = Image.fromarray(np.rint(image * 255).astype(np.uint8)).convert("RGB")
    panel = np.array(shown.resize((width, height), Image.Resampling.BILINEAR))
    config = labels.parse(project.label_config)
    masks = (labels.masks(result, config, size=(height, width), page=page) for result in results)
    for row, plane in enumerate(labels.merge(masks, stored_options(project).merge)):
        outline = plane & ~binary_erosion(plane, iterations=LINE)
        panel[outline] = COLOURS[row % len(COLOURS)]
    return panel
