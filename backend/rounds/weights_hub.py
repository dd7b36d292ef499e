"""Published weights from Hugging Face: out of its local cache, or fetched when it answers."""

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
    """Return the first of some files that a repository has, or None if it cannot be had.

    What was fetched before is found without the network. Nothing is raised: whoever asks has
    something else to offer, or an error of its own.

    Args:
        repository: "owner/name".
        files: Names of the same thing, the preferred one first.
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
        found = try_to_load_from_cache(repository, file, cache_dir=cache_dir, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None


def _fetched(
    repository: str, files: tuple[str, ...], revision: str | None, cache_dir: str | Path | None
) -> Path | None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    # Its warnings would stand as plain text among our own lines.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    for file in files:
        try:
            # Asked once, because hf_hub_download tries a silent hub six times, a minute each.
            told = huggingface_hub.get_hf_file_metadata(
                huggingface_hub.hf_hub_url(repository, file, revision=revision), timeout=PATIENCE
            )
        except EntryNotFoundError:
            continue
        found = huggingface_hub.hf_hub_download(
            repository, file, revision=told.commit_hash, cache_dir=cache_dir
        )
        return Path(found)
    return None
