"""Look at ports, disk and memory before anything starts."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from backend.commands.quickstart.process import taken
from backend.errors import ConfigError

GB = 1_000_000_000
# Measured with 138 scans: docs/commands.md#quickstart.
MEMORY = 2.5 * GB
SERVERS = 0.5 * GB  # on disk: databases, encoder, logs
LABEL_STUDIO = 1.0 * GB  # on disk: its packages, which share their files with uv's cache
COPIES = 3  # of each image: the upload, and what the service keeps of it


def require_ports(ports: Iterable[tuple[int | None, str]]) -> None:
    """Raise if something listens on one of these ports of loopback.

    Args:
        ports: Each with the option that names another one; None means any free port.

    Raises:
        ConfigError: Names the first port that is taken.
    """
    for port, option in ports:
        if port and taken(port):
            raise ConfigError(
                f"Port {port} of 127.0.0.1 is in use by another program.",
                f"Stop that program, or name a free port with {option}.",
            )


def require_disk(folder: Path, needed: float) -> None:
    """Raise if the disk of a folder has less than `needed` bytes free.

    Raises:
        ConfigError: With the free and the needed size.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise ConfigError(
            f"{folder} has {free / GB:.1f} GB of free disk, but {needed / GB:.1f} GB are needed.",
            "Free some space, or name a folder on another disk with --keep.",
        )


def require_memory(needed: float = MEMORY, *, available: float | None = None) -> None:
    """Raise if less memory than `needed` bytes is available; do nothing where that is unknown.

    Raises:
        ConfigError: With the available and the needed size.
    """
    available = available_memory() if available is None else available
    if available is not None and available < needed:
        raise ConfigError(
            f"{available / GB:.1f} GB of memory are free, but {needed / GB:.1f} GB are needed.",
            "Close other programs, or use a larger machine.",
        )


def available_memory(root: Path = Path("/")) -> float | None:
    """Return the bytes that programs can still take on Linux; None on another system.

    Args:
        root: Where proc and sys are mounted.
    """
    known = [size for size in (_of_machine(root), _of_container(root)) if size is not None]
    return min(known, default=None)


def _of_machine(root: Path) -> float | None:
    path = root / "proc" / "meminfo"
    lines = path.read_text().splitlines() if path.exists() else []
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return float(sizes[0]) * 1024 if sizes else None


def _of_container(root: Path) -> float | None:
    """Return what the limit of a container (cgroup 2) leaves; None without a limit."""
    folder = root / "sys" / "fs" / "cgroup"
    try:
        most, used = ((folder / name).read_text() for name in ("memory.max", "memory.current"))
        return float(most) - float(used)
    except (OSError, ValueError):  # "max" means no limit
        return None
