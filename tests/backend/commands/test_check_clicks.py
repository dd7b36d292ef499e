from __future__ import annotations

from typing import Any

from backend.commands import check_clicks
from backend.commands.findings import Finding
from backend.label_studio import smart_tags
from backend.rounds.services import Services
from tests.backend.commands.conftest import mended, only
from tests.backend.fake_label_studio import CONFIG, FakeLabelStudio


def check(services: Services, fake: FakeLabelStudio, number: int) -> Finding:
    entry: dict[str, Any] = only(fake)
    return check_clicks.run(services, number, entry)


def test_a_project_without_smart_tags_is_in_order_and_told_how_to_get_them(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    finding = check(services, fake, number)
    assert finding.ok
    assert "--clicks" in finding.fix


def test_an_entry_that_gets_no_clicks_is_repaired(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    fake.projects[number].label_config = smart_tags.added(CONFIG)
    assert not check(services, fake, number).ok
    title = only(fake)["title"]
    assert mended(lambda: check(services, fake, number)).ok
    assert only(fake)["is_interactive"] is True
    assert only(fake)["title"] == title


def test_labels_that_no_brush_draws_are_named(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    polygon = '<PolygonLabels name="p" toName="image"><Label value="Rib"/></PolygonLabels></View>'
    mixed = smart_tags.added(CONFIG).replace("</View>", polygon)
    fake.projects[number].label_config = mixed
    assert "No brush draws Rib" in check(services, fake, number).what
