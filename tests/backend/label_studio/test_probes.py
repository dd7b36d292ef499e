from __future__ import annotations

import pytest

from backend.errors import LabelStudioError, NotFound, Unauthorized
from backend.label_studio import probes
from backend.label_studio.client import LabelStudio
from tests.backend.fake_label_studio import FakeLabelStudio


def test_the_fast_import_is_told_from_the_slow_and_nothing_is_stored(
    studio: LabelStudio, fake: FakeLabelStudio
) -> None:
    number = fake.add_project()
    fake.add_task(number)
    assert probes.imports_fast(studio, number)
    fake.fast_import = False
    assert not probes.imports_fast(studio, number)
    assert fake.projects[number].predictions == []


def test_a_probe_of_an_unknown_project_says_so(studio: LabelStudio, fake: FakeLabelStudio) -> None:
    fake.fail("POST", "import", 404, detail="No Project matches the given query.")
    with pytest.raises(NotFound):
        probes.imports_fast(studio, 9)


def test_local_files_are_served_or_not(studio: LabelStudio, fake: FakeLabelStudio) -> None:
    assert probes.serves_local_files(studio)
    fake.local_files = False
    assert not probes.serves_local_files(studio)


@pytest.mark.parametrize(
    ("url", "local"),
    [("/data/local-files/?d=a.png", True), ("/data/upload/1/a.png", False), ("", False)],
)
def test_an_image_in_a_local_folder_is_known_by_its_address(url: str, local: bool) -> None:
    assert probes.is_local_file(url) is local


def test_the_newest_project_is_found(studio: LabelStudio, fake: FakeLabelStudio) -> None:
    assert probes.newest_project(studio) is None
    numbers = [fake.add_project(), fake.add_project()]
    assert probes.newest_project(studio) == max(numbers)


def test_an_address_is_tried_without_storing_it(studio: LabelStudio, fake: FakeLabelStudio) -> None:
    probes.check_entry_address(studio, "http://us")
    probes.check_webhook_address(studio, "http://us/webhook")
    fake.banned = {"ml": (403, "reserved network address"), "webhooks": (400, "Enter a valid URL.")}
    with pytest.raises(Unauthorized, match="reserved"):
        probes.check_entry_address(studio, "http://us")
    with pytest.raises(LabelStudioError, match="Enter a valid URL"):
        probes.check_webhook_address(studio, "http://us/webhook")
    assert (fake.entries, fake.webhooks) == ({}, {})
