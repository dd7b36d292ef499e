from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backend import logs
from backend.errors import ImageError, Unreachable
from backend.imaging.decoder_process import Decoders
from backend.imaging.scan_cache import Scan, Scans
from backend.storage import pages
from tests.backend.fake_label_studio import png


class Source:
    """Images by address; counts how often each is fetched."""

    def __init__(self) -> None:
        self.images: dict[str, bytes] = {}
        self.fetched: list[str] = []

    def add(self, url: str, value: float = 0.5, shape: tuple[int, int] = (8, 12)) -> str:
        self.images[url] = png(np.full(shape, value))
        return url

    def fetch(self, url: str, task_id: int) -> bytes:
        self.fetched.append(url)
        if url not in self.images:
            raise ImageError(f"Task {task_id}: there is no image.")
        return self.images[url]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def open_scans(source: Source, tmp_path: Path, decoders: Decoders) -> Callable[..., Scans]:
    def opened(longest: int = 64, max_bytes: int = 10**9) -> Scans:
        sizes = {"longest": longest, "max_pixels": 10**6, "max_bytes": max_bytes}
        return Scans(source.fetch, tmp_path, decoders, **sizes)

    return opened


def test_a_scan_is_fetched_once_and_is_the_same_from_disk(
    open_scans: Callable[..., Scans], source: Source
) -> None:
    url = source.add("a")
    first, again = open_scans().get(1, url), open_scans().get(1, url)
    assert source.fetched == ["a"]
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.size, first.digest) == (again.size, again.digest)


def test_another_address_or_size_is_another_scan(
    open_scans: Callable[..., Scans], source: Source
) -> None:
    open_scans().get(1, source.add("a"))
    open_scans().get(1, source.add("b"))
    open_scans(longest=4).get(1, "a")
    assert source.fetched == ["a", "b", "a"]


def test_a_large_scan_is_kept_small_and_its_own_size_is_remembered(
    open_scans: Callable[..., Scans], source: Source
) -> None:
    scan = open_scans(longest=6).get(1, source.add("a", shape=(8, 12)))
    assert (scan.image.shape, scan.size) == ((4, 6), (8, 12))
    assert scan.image.dtype == np.float32


def test_equal_pixels_have_an_equal_digest_whatever_the_address(
    open_scans: Callable[..., Scans], source: Source
) -> None:
    scans = open_scans()
    same = [scans.get(number, source.add(f"{number}")).digest for number in (1, 2)]
    assert same[0] == same[1] != scans.get(3, source.add("3", value=0.6)).digest


def test_a_scan_that_cannot_be_read_does_not_stop_the_others(
    open_scans: Callable[..., Scans], source: Source
) -> None:
    for number in (1, 3):
        source.add(str(number))
    source.images["4"] = b"not an image"
    found = list(open_scans().many((number, str(number)) for number in (1, 2, 3, 4)))
    assert [task_id for task_id, _ in found] == [1, 2, 3, 4]
    assert [isinstance(scan, Scan) for _, scan in found] == [True, False, True, False]


def test_scans_come_in_the_order_asked_for_and_only_a_few_are_ahead(
    open_scans: Callable[..., Scans], source: Source
) -> None:
    for number in range(60):
        source.add(str(number))
    rows = open_scans().many((number, str(number)) for number in range(60))
    assert [next(rows)[0] for _ in range(3)] == [0, 1, 2]
    assert len(source.fetched) < 40
    assert [task_id for task_id, _ in rows] == list(range(3, 60))


def test_a_scan_that_cannot_be_decoded_is_named(
    open_scans: Callable[..., Scans], source: Source
) -> None:
    source.images["a"] = b"not an image"
    with pytest.raises(ImageError, match="Task 7: The image is neither PNG"):
        open_scans().get(7, "a")


def test_scans_are_fetched_at_the_same_time(tmp_path: Path, decoders: Decoders) -> None:
    together = threading.Barrier(4, timeout=30)

    def fetch(url: str, task_id: int) -> bytes:
        together.wait()  # passes only when four are here at once
        return png(np.full((8, 12), 0.5))

    scans = Scans(fetch, tmp_path, decoders, longest=8, max_pixels=100)
    found = list(scans.many((number, str(number)) for number in range(8)))
    assert all(isinstance(scan, Scan) for _, scan in found)


def test_whoever_stops_reading_stops_the_fetching(
    open_scans: Callable[..., Scans], source: Source
) -> None:
    rows = open_scans().many((number, source.add(str(number))) for number in range(60))
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert len(source.fetched) < 40
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scans")]


def test_a_label_studio_that_is_down_is_no_fault_of_the_scan(
    tmp_path: Path, decoders: Decoders
) -> None:
    def fetch(url: str, task_id: int) -> bytes:
        raise Unreachable("down")

    scans = Scans(fetch, tmp_path, decoders, longest=8, max_pixels=100)
    with pytest.raises(Unreachable):
        list(scans.many([(1, "a")]))


def test_a_damaged_file_on_disk_is_fetched_anew(
    open_scans: Callable[..., Scans], source: Source, tmp_path: Path
) -> None:
    first = open_scans().get(1, source.add("a"))
    [kept] = tmp_path.rglob("*.npz")
    whole = kept.read_bytes()
    start = whole.index(np.ascontiguousarray(np.rint(first.image * 255), np.uint8).tobytes())
    unwritten = whole[:start] + bytes(8) + whole[start + 8 :]  # after a power cut
    for damaged in (b"", whole[:40], b"rubbish" * 30, unwritten):
        kept.write_bytes(damaged)
        np.testing.assert_array_equal(open_scans().get(1, "a").image, first.image)
    assert source.fetched == ["a"] * 5


def test_the_folder_is_trimmed_to_what_was_read_last(
    open_scans: Callable[..., Scans], source: Source, tmp_path: Path
) -> None:
    scans = open_scans()
    for number in range(4):
        scans.get(number, source.add(str(number)))
    files = {path.name.partition("-")[0]: path for path in tmp_path.rglob("*.npz")}
    for age, name in enumerate("2031"):
        os.utime(files[name], (age, age))
    size = files["0"].stat().st_size
    open_scans(max_bytes=2 * size).trim()
    assert {path.name[0] for path in tmp_path.rglob("*.npz")} == {"3", "1"}
    open_scans().trim()
    assert len(list(tmp_path.rglob("*.npz"))) == 2


def test_a_scan_that_is_read_again_is_kept_longest(
    open_scans: Callable[..., Scans], source: Source, tmp_path: Path
) -> None:
    scans = open_scans()
    for number in range(2):
        scans.get(number, source.add(str(number)))
    for path in tmp_path.rglob("*.npz"):
        os.utime(path, (0, 0) if path.name.startswith("0-") else (1, 1))
    scans.get(0, "0")
    open_scans(max_bytes=path.stat().st_size).trim()
    assert [path.name[0] for path in tmp_path.rglob("*.npz")] == ["0"]


def test_the_bound_holds_for_scans_of_every_size_together(
    open_scans: Callable[..., Scans], source: Source, tmp_path: Path
) -> None:
    source.add("a")
    for longest in (4, 6, 8):
        open_scans(longest=longest).get(1, "a")
    open_scans(max_bytes=0).trim()
    assert not list(tmp_path.rglob("*.npz"))


def test_what_is_logged_while_scans_are_fetched_carries_project_and_task(
    tmp_path: Path, decoders: Decoders, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch(url: str, task_id: int) -> bytes:
        logging.getLogger("some.library").warning("an odd file")
        return png(np.full((8, 12), 0.5))

    logs.configure("INFO")
    with logs.context(project=3, round=7):
        scans = Scans(fetch, tmp_path, decoders, longest=64, max_pixels=10**6)
        assert len(list(scans.many([(1, "a"), (2, "b")]))) == 2
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    told = sorted((line["project"], line["round"], line["task"]) for line in lines)
    assert told == [(3, 7, 1), (3, 7, 2)]


def test_a_slab_is_read_page_by_page_and_kept_in_one_file(
    source: Source, open_scans: Callable[..., Scans]
) -> None:
    urls = [source.add(f"/{number}.png", number / 2) for number in range(3)]
    scan = open_scans().get(1, pages.joined(urls))
    assert [round(float(page.mean()), 1) for page in scan.pages] == [0.0, 0.5, 1.0]
    assert scan.image is scan.pages[1], "the middle page stands for the slab"
    again = open_scans().get(1, pages.joined(urls))
    assert source.fetched == urls
    np.testing.assert_array_equal(again.pages, scan.pages)
    assert again.digest == scan.digest


def test_slabs_of_other_pages_or_of_another_order_are_no_equal_scans(
    source: Source, open_scans: Callable[..., Scans]
) -> None:
    first, second = source.add("/a.png", 0.2), source.add("/b.png", 0.8)
    orders = [[first, second], [second, first], [first, first], [first]]
    digests = {open_scans().get(1, pages.joined(order)).digest for order in orders}
    assert len(digests) == 4


def test_a_page_that_cannot_be_read_is_named(
    source: Source, open_scans: Callable[..., Scans]
) -> None:
    with pytest.raises(ImageError, match=r"Task 1: there is no image\. This is page 2 of 2\."):
        open_scans().get(1, pages.joined([source.add("/a.png"), "/gone.png"]))


def test_pages_of_different_sizes_are_named(
    source: Source, open_scans: Callable[..., Scans]
) -> None:
    urls = [source.add("/a.png"), source.add("/b.png", shape=(8, 13))]
    with pytest.raises(ImageError, match="page 1 has 12 x 8 pixels, page 2 has 13 x 8"):
        open_scans().get(1, pages.joined(urls))


def test_a_whole_volume_in_a_task_is_not_read(
    source: Source, open_scans: Callable[..., Scans]
) -> None:
    with pytest.raises(ImageError, match="it has 16 pages, expected at most 15"):
        open_scans().get(1, pages.joined([source.add("/a.png")] * 16))
