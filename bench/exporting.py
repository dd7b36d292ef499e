"""Measure exports: seconds, and the rise of memory.

    python -m bench.exporting --volumes acdc50          all slices of a folder with images/, labels/
    python -m bench.exporting --scans 10000             masks of 512 x 512 pixels, as COCO

Another process plays Label Studio, so that its memory does not count. The first run writes
everything; before the second run nothing has changed.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import SecretStr

from backend.exchange.export.running import Choice, Export
from backend.imaging.manifest import Volume
from backend.rounds.services import Services, build
from backend.settings import Settings
from backend.storage.store import open_store
from bench.memory import Peak, anonymous
from bench.syncing import Large
from model import phantoms
from tests.backend.exchange.export.exported import TWO, published, regions, save_manifest
from tests.backend.fake_label_studio import TOKEN
from tests.backend.imaging.shown import shown_mask
from tests.backend.served import served

SIDE = 512
CLASSES = (1, 2, 3)
DIFFERENT = 100  # phantoms; more would only take longer to draw


def play(folder: str, scans: int, pipe: Connection) -> None:
    """Serve a project with labelled scans until killed; send its address and its volumes."""
    fake = Large()
    found = list(published(Path(folder))) if folder else []
    classes = "".join(f'<Label value="class {n}"/>' for n in CLASSES)
    config = TWO.replace('<Label value="Lung"/><Label value="Heart"/>', classes)
    number = fake.add_project(config)
    for volume, drawn in found:
        for index in range(drawn.shape[volume.plane.axis]):
            values = volume.plane.cut(drawn, index)
            masks = [shown_mask(volume.plane, values == each) for each in CLASSES]
            task = fake.add_task(number, None, volume=volume.name, slice=index)
            fake.annotate(task, regions(*masks, config=config))
    results = [regions(*masks, config=config) for masks in phantom_masks()] if scans else []
    for row in range(scans):
        fake.annotate(fake.add_task(number), results[row % len(results)])
    with served(fake) as url:
        pipe.send((url, [volume.model_dump(mode="json") for volume, _ in found]))
        pipe.recv()


def phantom_masks() -> Iterator[list[NDArray[np.bool_]]]:
    """Yield the masks of DIFFERENT phantoms: the object, and two parts of it."""
    for phantom in phantoms.generate(DIFFERENT, size=SIDE):
        [mask] = phantom.mask
        left = mask & (np.arange(SIDE) < SIDE // 2)
        yield [mask, left, mask & ~left]


@contextmanager
def playing(folder: str, scans: int) -> Iterator[tuple[str, list[Volume]]]:
    """Run a Label Studio in another process; yield its address and the volumes."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=play, args=(folder, scans, there), daemon=True)
    process.start()
    try:
        url, volumes = here.recv()
        yield url, [Volume.model_validate(each) for each in volumes]
    finally:
        process.kill()
        process.join()


def note_sizes(services: Services, volumes: Sequence[Volume]) -> None:
    """Note the sizes of pictures, as a round does that has read them."""
    shown = {volume.name: volume.plane.shown_shape for volume in volumes}
    store = services.store
    for page in services.studio.tasks(1):
        data = {task["id"]: task["data"] for task in page}
        store.scans.save(1, [{"id": task, "url": data[task]["image"]} for task in data])
        sizes = {task: shown.get(of.get("volume"), (SIDE, SIDE)) for task, of in data.items()}
        store.scans.note_pixels(
            1,
            [
                {"task": task, "height": height, "width": width, "pixels": ""}
                for task, (height, width) in sizes.items()
            ],
        )


def main() -> None:
    """Print a line for each format and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", default="", help="folder with images/ and labels/")
    parser.add_argument("--scans", type=int, default=0)
    chosen = parser.parse_args()
    formats = ("nnunet", "coco") if chosen.volumes else ("coco",)
    with (
        tempfile.TemporaryDirectory() as temporary,
        playing(chosen.volumes, chosen.scans) as (url, volumes),
    ):
        folder = Path(temporary)
        settings = Settings(
            label_studio_url=url, label_studio_api_key=SecretStr(TOKEN), data_dir=folder / "data"
        )
        settings.data_dir.mkdir()
        store = open_store(settings.database)
        store.create()
        store.projects.request_refresh(1)
        services = build(settings, store)
        note_sizes(services, volumes)
        save_manifest(1, folder / "imported", *volumes)
        for to in formats:
            for name in ("first", "second, nothing changed"):
                gc.collect()
                idle, started = anonymous("self"), time.monotonic()
                project = store.projects.known(1)
                with Peak() as peak:
                    report = Export(
                        services, project, Choice(to), folder / to, folder / "imported"
                    ).run()
                size = sum(path.stat().st_size for path in (folder / to).rglob("*"))
                print(
                    f"{to}, {name}: {time.monotonic() - started:.1f} s, "
                    f"{(peak.bytes - idle) / 1e6:.0f} MB above {idle / 1e6:.0f} MB, "
                    f"{report.scans} scans, {report.written} cases written, {size / 1e6:.0f} MB, "
                    f"{len(report.problems)} problems"
                )
        store.close()


if __name__ == "__main__":
    main()
