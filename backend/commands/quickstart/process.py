"""A server that runs beside this process and ends with it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NoReturn, Self

from backend.errors import ServerError

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


class Process:
    """One command in a process group of its own, writing to a log file.

    Where util-linux is installed, the kernel also ends it when the thread that started it dies,
    so that not even a killed parent leaves a server behind.

    Args:
        command: Program and arguments.
        log: File that standard output and error are appended to.
        env: The whole environment of the program.
        cwd: Its working directory.
    """

    def __init__(
        self, command: Sequence[str | Path], *, log: Path, env: Mapping[str, str], cwd: Path
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [*_tied_to_parent(), *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether the program has not ended."""
        return self._popen.poll() is None

    def check(self, name: str) -> None:
        """Raise ServerError, with the end of the log, if the program has ended."""
        if not self.running:
            raise ServerError(
                f"{name} ended with code {self._popen.returncode}: {last_line(self.log)} "
                f"(all of it: {self.log})"
            )

    def wait(self, seconds: float) -> int:
        """The exit code, once the program has ended by itself.

        Raises:
            subprocess.TimeoutExpired: If it still runs after that time.
        """
        return self._popen.wait(seconds)

    def stop(self, seconds: float) -> None:
        """Ask the program to end, then end its whole group after that time at the latest."""
        if self.running:
            self._popen.terminate()
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._kill_group()
            self._popen.wait()

    def _kill_group(self) -> None:
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


class Server(ABC):
    """A server as a context manager, which stops everything that it started.

    Attributes:
        title: Its name in error messages.
        grace: Seconds it gets to end by itself.
    """

    title: ClassVar[str]
    grace: ClassVar[float]
    _process: Process | None = None

    @abstractmethod
    def start(self) -> Self:
        """Start it, and return when it answers."""

    def check(self) -> None:
        """Raise ServerError, with the end of its log, if it has ended."""
        if self._process:
            self._process.check(self.title)

    def stop(self) -> None:
        """End it and everything it started."""
        if self._process:
            self._process.stop(seconds=self.grace)
            self._process = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def free_port() -> int:
    """A port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def taken(port: int) -> bool:
    """Whether something listens on that port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def bare_environment() -> dict[str, str]:
    """The variables that any program needs, without those that might configure it."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def environment_without(names: Collection[str]) -> dict[str, str]:
    """The variables of this process, except those with these names."""
    return {name: value for name, value in os.environ.items() if name not in names}


def has_display() -> bool:
    """Whether a browser could open a window here."""
    return sys.platform != "linux" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def stop_on_signals() -> None:
    """Let the first signal raise KeyboardInterrupt, and ignore every later signal.

    SIGINT is always set, because shells start background jobs with SIGINT ignored. An ignored
    SIGHUP stays ignored, because that is what nohup asks for.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def stop(_number: int, _frame: object) -> NoReturn:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, stop)


def last_line(log: Path) -> str:
    """The last line of a log that is not blank; "the log is empty" if there is none."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    return next((line for line in reversed(lines) if line), "the log is empty")


def _tied_to_parent() -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []
