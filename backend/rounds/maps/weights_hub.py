"""Published weights from Hugging Face: from its local cache, or fetched if the hub answers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 3.0  # seconds for the hub's first answer


@dataclass(frozen=True)
class Weights:
    """A file on this machine, and the commit of its repository that it belongs to."""

    path: Path
    revision: str


def fetch(
    repository: str,
    files: tuple[str, ...],
    *,
    revision: str = "",
    cache_dir: str | Path | None = None,
) -> Weights | None:
    """Return the first of these files that the repository has; None if none can be fetched.

    Files in the cache need no network. Failures give None instead of an error: the caller has
    other weights or raises an error of its own.

    Args:
        repository: "owner/name".
        files: Alternative names of the same weights, preferred first.
        revision: The commit to take them from; the newest one by default.
        cache_dir: Hugging Face's own cache by default.
    """
    import httpx2

    try:
        for find in (_cached, _fetched):
            path = find(repository, files, revision or None, cache_dir)
            if path is not None:
                return Weights(path, path.parent.name)  # .../snapshots/COMMIT/FILE
    except (OSError, httpx2.HTTPError):
        pass
    return None


def _cached(
    repository: str, files: tuple[str, ...], revision: str | None, cache_dir: str | Path | None
) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for file in files:
        path = try_to_load_from_cache(repository, file, cache_dir=cache_dir, revision=revision)
        if isinstance(path, str):
            return Path(path)
    return None


def _fetched(
    repository: str, files: tuple[str, ...], revision: str | None, cache_dir: str | Path | None
) -> Path | None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    # Its warnings are plain text; our log is JSON lines.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    for file in files:
        try:
            # Ask first, with a short timeout: hf_hub_download tries a silent hub 6 x 60 s.
            told = huggingface_hub.get_hf_file_metadata(
                huggingface_hub.hf_hub_url(repository, file, revision=revision), timeout=PATIENCE
            )
        except EntryNotFoundError:
            continue
        path = huggingface_hub.hf_hub_download(
            repository, file, revision=told.commit_hash, cache_dir=cache_dir
        )
        return Path(path)
    return None
