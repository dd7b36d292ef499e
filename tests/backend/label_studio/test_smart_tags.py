"""Smart tags stand in the labelling interface itself, and Firstlight can serve the result."""

from __future__ import annotations

import pytest

from backend.errors import UnsupportedLabelConfig
from backend.label_studio import labels, smart_tags
from tests.backend.label_studio.labels.samples import PLAIN

NAMES = ("firstlight-clicks", "firstlight-boxes")


def with_labels(number: int) -> str:
    inside = "".join(f'<Label value="{row}"/>' for row in range(number))
    return (
        '<View><Image name="image" value="$image"/>'
        f'<BrushLabels name="tag" toName="image">{inside}</BrushLabels></View>'
    )


@pytest.mark.parametrize(
    "before",
    [
        "",
        "\n ",
        '<?xml version="1.0" encoding="UTF-8"?>\n',
        "<!-- as before: <View> and <Image/> -->\n<!-- <Old> -->",
        '<!-- a --><?note <View a="b">?>\n',
        "<!--><View>-->",
    ],
)
@pytest.mark.parametrize("root", ["<View>", '<View className="a > b">', "<View\n  style='x'\n>"])
def test_smart_tags_come_first_in_the_outermost_tag_and_once(before: str, root: str) -> None:
    xml = before + PLAIN.replace("<View>", root, 1)
    found = smart_tags.added(xml)
    start, _, rest = xml.partition(root + "<Image")
    assert found.startswith(f"{start}{root}\n  <KeyPointLabels")
    assert found.endswith(f"<Image{rest}")
    assert labels.parse(found).prompts == NAMES
    assert smart_tags.added(found) == found


def test_an_interface_that_smart_tags_would_make_too_large_is_refused() -> None:
    most = smart_tags.added(with_labels(333))
    assert labels.parse(most).prompts == NAMES
    with pytest.raises(UnsupportedLabelConfig) as refused:
        smart_tags.added(with_labels(334))
    assert refused.value.what == (
        "With smart tags this labelling interface could not be served: "
        "The label config has 1002 Label tags, expected at most 1000."
    )
    assert refused.value.fix.endswith("then connect again with --clicks.")


def test_a_place_that_makes_no_prompts_of_them_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smart_tags, "_tag", lambda *_: "")
    with pytest.raises(UnsupportedLabelConfig, match="smart tags could not be added"):
        smart_tags.added(PLAIN)
