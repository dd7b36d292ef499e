"""Thumbnails of scans for the page, from the decoded scans that the worker keeps on disk."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import ImageError, NotFound
from backend.storage.store import Store

if TYPE_CHECKING:
    from backend.imaging.pixels import Pixels

LONGEST = 192  # pixels of the longer side


def png(store: Store, folder: Path, project_id: int, task_id: int) -> bytes:
    """Return a scan as a small PNG file, from this machine's disk alone.

    Raises:
        NotFound: If the project has no such scan, or its pixels are not kept at the moment.
    """
    # Imported here: the web process needs them only once a page shows thumbnails.
    import numpy as np
    from PIL import Image

    pixels = kept(store, folder, project_id, task_id)
    thumbnail = Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    thumbnail.thumbnail((LONGEST, LONGEST))
    file = BytesIO()
    thumbnail.save(file, "PNG")
    return file.getvalue()


def kept(
    store: Store, folder: Path, project_id: int, task_id: int, page: int | None = None
) -> Pixels:
    """Return a scan in [0, 1] as the worker keeps it on this machine's disk.

    Args:
        store: The database.
        folder: The decoded scans of the project.
        project_id: The project.
        task_id: The scan.
        page: Of a slab; None for the page that stands for the slab.

    Raises:
        NotFound: As in `png`.
    """
    from backend.imaging import scan_cache
    from backend.imaging.decoder_process import Decoders

    tasks = store.scans.some(project_id, [task_id])
    # The network may see scans at another size than the encoder: any kept size will do.
    for longest in scan_cache.sizes(folder) if tasks else []:
        scans = scan_cache.Scans(_refuse, folder, Decoders(), longest=longest, max_pixels=1)
        try:
            scan = scans.get(task_id, tasks[0].url)
            return scan.image if page is None else scan.pages[page]
        except ImageError:
            continue
    raise NotFound(
        f"Task {task_id} has no thumbnail here: its scan is not on this machine's disk.",
        "The next round that reads the scan makes a thumbnail.",
    )


def _refuse(url: str, task_id: int) -> bytes:
    raise ImageError("This scan is not on disk.")
