"""Small pictures of scans for the page, from what the worker keeps on disk."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from backend.errors import ImageError, NotFound
from backend.storage.store import Store

LONGEST = 192  # pixels: sharp at half of that on a dense screen


def png(store: Store, folder: Path, project_id: int, task_id: int) -> bytes:
    """Return a scan as a small PNG file. Never fetched from elsewhere.

    Raises:
        NotFound: If the project has no such scan, or its pixels are not kept at the moment.
    """
    # Pictures are no business of a web process until somebody looks at one.
    import numpy as np
    from PIL import Image

    from backend.imaging import scan_cache
    from backend.imaging.decoder_process import Decoders

    found = store.scans.some(project_id, [task_id])
    # The network may see scans at another size than the encoder: any kept size will do.
    for longest in scan_cache.sizes(folder) if found else []:
        scans = scan_cache.Scans(_refuse, folder, Decoders(), longest=longest, max_pixels=1)
        try:
            pixels = scans.get(task_id, found[0].url).image
        except ImageError:
            continue
        picture = Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
        picture.thumbnail((LONGEST, LONGEST))
        file = BytesIO()
        picture.save(file, "PNG")
        return file.getvalue()
    raise NotFound(
        f"No picture of task {task_id} is kept here.",
        "It comes with the next round that reads the scan.",
    )


def _refuse(url: str, task_id: int) -> bytes:
    raise ImageError("This scan is not on disk.")
