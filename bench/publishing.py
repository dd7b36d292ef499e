"""Time publishing against Label Studio's bulk call: python -m bench.publishing [--tasks N].

It starts a real Label Studio with a project of N tasks. The same masks go into it in three ways
that take turns: through our Publisher, which leaves out scans labelled meanwhile, names the
publication, sends, counts and stores it; through one `import_predictions` of Label Studio's SDK;
and through one bare POST of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import label_studio_sdk
from pydantic import SecretStr

from backend.commands.quickstart.studio import LabelStudio as Server
from backend.label_studio import labels
from backend.label_studio.client import LabelStudio
from backend.label_studio.publisher import Publisher
from backend.label_studio.queue_import import score
from backend.settings import Settings
from backend.storage.store import Store, open_store
from backend.storage.tables import Publication
from demo.annotator import Annotator
from model.phantoms import generate

PHANTOMS = 20  # different masks; more masks would only take longer to draw
Regions = list[dict[str, Any]]


@dataclass(frozen=True)
class Desk:
    """A project with tasks, and the three ways to publish into it."""

    project: int
    tasks: Sequence[int]
    drafts: Mapping[str, Regions]
    store: Store
    publisher: Publisher
    sdk: label_studio_sdk.LabelStudio
    web: httpx.Client

    def ours(self, number: int) -> float:
        """Return the seconds of a publication through our Publisher."""
        version = Publication(round=number, model_key=f"{number:06d}", labels=1, drafts="")
        with stopwatch() as seconds:
            name = self.publisher.publish(version, "attention-unet", self.tasks, self.drafts)
        assert name
        return seconds()

    def by_sdk(self, number: int) -> float:
        """Return the seconds of the SDK's bulk call."""
        rows: list[Any] = self._rows(f"sdk {number}")
        with stopwatch() as seconds:
            self.sdk.projects.import_predictions(id=self.project, request=rows)
        return seconds()

    def by_post(self, number: int) -> float:
        """Return the seconds of a bare HTTP request with JSON."""
        rows = self._rows(f"post {number}")
        path = f"/api/projects/{self.project}/import/predictions"
        with stopwatch() as seconds:
            self.web.post(path, json=rows).raise_for_status()
        return seconds()

    def turn(self, number: int) -> tuple[float, ...]:
        """Return the mean seconds of all three ways; they take turns at being first.

        Each way runs twice in a row: on SQLite every other import takes 50 % longer, in every way.
        """
        ways = [self.ours, self.by_sdk, self.by_post]
        first = number % len(ways)
        times = {
            way: (way(2 * number) + way(2 * number + 1)) / 2
            for way in [*ways[first:], *ways[:first]]
        }
        return tuple(times[way] for way in ways)

    def _rows(self, version: str) -> list[dict[str, Any]]:
        return [
            {
                "task": task,
                "score": score(position, len(self.tasks)),
                "model_version": version,
                "result": self.drafts[str(task)],
            }
            for position, task in enumerate(self.tasks)
        ]


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds of the block after its end."""
    ended: list[float] = []
    started = time.perf_counter()
    yield lambda: ended[0]
    ended.append(time.perf_counter() - started)


def desk(server: Server, folder: Path, number: int, pixels: int) -> Desk:
    """Return a new project with so many tasks, in the state of the end of a round."""
    settings = Settings(
        label_studio_url=server.url, label_studio_api_key=SecretStr(server.token), data_dir=folder
    )
    store = open_store(settings.database)
    store.create()
    studio = LabelStudio(settings)
    with Annotator(server.url, server.token) as person:
        project = person.create_project("publishing", ["Object"])
        rows = [{"image": f"/data/upload/{row}.png"} for row in range(number + 1)]
        path = f"/api/projects/{project}/import"
        answer = person.call("POST", path, params={"return_task_ids": "true"}, json=rows)
        first, *tasks = answer["task_ids"]
        config = labels.parse(studio.project(project).label_config)
        shapes = [
            labels.regions(p.mask, config, scores=[0.9]) for p in generate(PHANTOMS, size=pixels)
        ]
        time.sleep(6)  # let the import end before a person submits
        person.call("POST", f"/api/tasks/{first}/annotations/", json={"result": shapes[0]})
    store.projects.request_refresh(project)
    store.projects.update(project, seen={"newest_update": studio.newest_update(project)})
    return Desk(
        project=project,
        tasks=tasks,
        drafts={str(task): shapes[row % PHANTOMS] for row, task in enumerate(tasks)},
        store=store,
        publisher=Publisher(settings, store, studio, project),
        web=httpx.Client(
            base_url=server.url, headers={"Authorization": f"Token {server.token}"}, timeout=120
        ),
        sdk=label_studio_sdk.LabelStudio(base_url=server.url, api_key=server.token),  # type: ignore[no-untyped-call]
    )


def main() -> None:
    """Print the median seconds of each way, and our ratios to the others with their range."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--pixels", type=int, default=512, help="Side of a mask.")
    parser.add_argument("--turns", type=int, default=9)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Server(Path(name) / "studio") as server:
        turns = []
        for number in range(asked.turns):
            # Use a new project each time: real projects hold only a few publications.
            found = desk(server, Path(name), asked.tasks, asked.pixels)
            turns.append(found.turn(number + 1))
    size = statistics.mean(len(json.dumps(regions)) for regions in found.drafts.values())
    print(f"{asked.tasks} tasks, a mask of {size / 1000:.1f} kB each, {asked.turns} turns")
    ours, *others = zip(*turns, strict=True)
    print(f"ours: median {statistics.median(ours):.2f} s")
    for name, theirs in zip(("import_predictions", "bare POST"), others, strict=True):
        ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
        print(
            f"{name}: median {statistics.median(theirs):.2f} s, ours to it "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
