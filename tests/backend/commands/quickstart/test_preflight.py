from __future__ import annotations

import socket
from pathlib import Path

import pytest

from backend.commands.quickstart import preflight
from backend.commands.quickstart.preflight import GB
from backend.commands.quickstart.process import free_port
from backend.errors import ConfigError


def test_a_port_that_is_taken_is_said_with_the_option_that_changes_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ports = [(None, "-q"), (free_port(), "-p"), (port, "--port")]
        with pytest.raises(ConfigError, match=f"Port {port} of 127.0.0.1 is in use") as caught:
            preflight.require_ports(ports)
    assert "--port" in caught.value.fix
    preflight.require_ports(ports[:2])


def test_a_full_disk_is_said_with_both_sizes(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    preflight.require_disk(folder, 1)
    with pytest.raises(ConfigError, match=r"GB of free disk, but 1000000\.0 GB are needed"):
        preflight.require_disk(folder, 1_000_000 * GB)


def test_too_little_memory_is_said_with_both_sizes() -> None:
    preflight.require_memory(2 * GB, available=3 * GB)
    with pytest.raises(ConfigError, match=r"1\.5 GB of memory are free, but 2\.0 GB are needed"):
        preflight.require_memory(2 * GB, available=1.5 * GB)


def test_memory_is_the_least_of_what_the_machine_and_the_container_leave(tmp_path: Path) -> None:
    assert preflight.available_memory(tmp_path) is None, "no Linux"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  2000 kB\n")
    assert preflight.available_memory(tmp_path) == 2_048_000
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("500\n")
    (group / "memory.max").write_text("max\n")
    assert preflight.available_memory(tmp_path) == 2_048_000
    (group / "memory.max").write_text("1500\n")
    assert preflight.available_memory(tmp_path) == 1000
