"""Workers as processes of their own, on one PostgreSQL and one Label Studio in memory.

Each is `python -m backend worker` with networks so small that a training takes as long as it is
told to, and with a fuse: the first worker that comes to the point in that file is killed there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.storage.store import Store, open_store
from tests.backend import worker_process
from tests.backend.conftest import answering
from tests.backend.fake_label_studio import TOKEN, FakeLabelStudio
from tests.backend.served import served
from tests.backend.site import OPTIONS, SIZE, TINY, wait_for
from tests.backend.worker_process import FUSE, STEPS
from tests.forked import Forked
from tests.label_studio.fuse import Fuse

ROOT = Path(__file__).parents[2]
TICKS = "CREW_TICK"  # the environment may say how many seconds lie between two looks of the timer


@dataclass
class Crew:
    """The workers, and what they work on."""

    url: str
    database: str
    folder: Path
    fake: FakeLabelStudio
    store: Store
    fuse: Fuse
    program: Callable[[], None] = worker_process.main
    workers: list[Forked | subprocess.Popen[bytes]] = field(default_factory=list)

    def hire(
        self,
        number: int = 1,
        *,
        steps: int = TINY.steps,
        machine: Path | None = None,
        launcher: Sequence[str] = (),
    ) -> None:
        """Start workers and wait until they live.

        Args:
            number: How many.
            steps: How many steps each of their trainings takes.
            machine: Their DATA_DIR; `folder` unless told otherwise.
            launcher: Words before the command of each, with `{}` for its number.
        """
        before, gone = len(self.store.workers.all()), self.ended()
        for row in range(before, before + number):
            words = [word.format(row) for word in launcher]
            self.workers.append(self._start(steps, machine or self.folder, words))
        wait_for(
            lambda: self.ended() != gone or len(self.store.workers.all()) == before + number, 110
        )
        assert self.ended() == gone, self.log.read_text()

    def replace(self) -> None:
        """Start a worker in place of the last one, which has ended."""
        self.workers.append(self._start(TINY.steps, self.folder, []))

    def _start(
        self, steps: int, data_dir: Path, launcher: list[str]
    ) -> Forked | subprocess.Popen[bytes]:
        env = os.environ | {
            "LABEL_STUDIO_URL": self.url,
            "LABEL_STUDIO_API_KEY": TOKEN,
            "DATABASE_URL": self.database,
            "DATA_DIR": str(data_dir),
            "ENCODER": "pixels",
            "RECONCILE_SECONDS": os.environ.get(TICKS, "5"),
            FUSE: str(self.fuse.path),
            STEPS: str(steps),
        }
        if not launcher:
            return Forked(self.program, env=env, log=self.log)
        command = [*launcher, sys.executable, "-m", worker_process.__name__]
        with self.log.open("ab") as log:
            # It watches the pipe, and ends with the benchmark.
            return subprocess.Popen(
                command,
                env=env,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def project(self, scans: int, **options: Any) -> int:
        """Make a project with so many phantoms, and ask for a round."""
        from model import phantoms

        number = self.fake.add_project()
        self.fake.connect(number, OPTIONS | options)
        for phantom in phantoms.generate(scans, size=SIZE, seed=number):
            self.fake.add_task(number, phantom.image)
        self.store.projects.request_refresh(number)
        return number

    def live(self, number: int) -> str:
        project = self.store.projects.known(number)
        assert not project.problem, project.problem
        return project.live_version

    def until_live(self, number: int, *, after: str = "") -> str:
        """Wait for a version, another one than `after`, and return its name."""
        wait_for(lambda: self.live(number) not in {"", after}, 100)
        return self.live(number)

    def ended(self) -> list[int]:
        """Return the exit codes of workers that are gone; minus 9 is a kill."""
        return [code for one in self.workers if (code := one.poll()) is not None]


@contextmanager
def crew(database: str, folder: Path) -> Iterator[Crew]:
    """A Label Studio without projects and no worker yet."""
    fake = FakeLabelStudio()
    store = open_store(database)
    store.create()
    fake.setup = answering(store)
    with served(fake) as url:
        found = Crew(url, database, folder, fake, store, Fuse(folder / "fuse"))
        try:
            yield found
        finally:
            for process in found.workers:
                process.kill()
                process.wait()
            store.close()
