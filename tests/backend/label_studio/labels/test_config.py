from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import UnsupportedLabelConfig
from backend.label_studio import labels
from backend.label_studio.labels import Tool
from tests.backend.label_studio.labels.samples import (
    BOTH,
    BRUSH,
    CONFIG,
    IMAGE,
    LABELS,
    PLAIN,
    QUICK,
)


def tools(xml: str) -> list[tuple[str, str, tuple[str, ...], str]]:
    found = labels.parse(xml).tools
    return [(tool.name, tool.shape, tool.labels, tool.labels_name) for tool in found]


BOMB = (
    '<!DOCTYPE v [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    f"<View>&b;{IMAGE}{BRUSH}</View>"
)


@pytest.mark.parametrize(
    "xml",
    [
        PLAIN,
        f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- lungs -->\n{PLAIN}',
        f"<View><Header value='x'/><View><View>{IMAGE}</View></View><View>{BRUSH}</View></View>",
        '<View><brushlabels name="tag" toName="image"><label value="Lung"/>'
        f'<label value="Heart"/></brushlabels>{IMAGE.lower()}</View>',
        PLAIN.replace('<Label value="Heart"/>', '<View><Label value="Heart" color="#f00"/></View>'),
    ],
)
def test_one_image_and_one_brush_are_found_wherever_they_stand(xml: str) -> None:
    assert labels.parse(xml) == CONFIG


def test_an_image_with_pages_on_which_nothing_is_drawn_is_only_shown() -> None:
    viewer = '<Image name="volume" valueList="$slices"/>'
    assert labels.parse(PLAIN.replace(IMAGE, viewer + IMAGE)) == CONFIG
    drawn_on = viewer.replace('"volume"', '"image"')
    with pytest.raises(UnsupportedLabelConfig, match="2 Image tags"):
        labels.parse(PLAIN.replace(IMAGE, drawn_on + IMAGE))


def test_names_may_be_any() -> None:
    config = labels.parse(
        '<View><Image name="mein Bild" value="$cxr_2-a"/><BrushLabels name="b-1" '
        'toName="mein Bild"><Label value="Lunge links"/></BrushLabels></View>'
    )
    assert (config.image_name, config.image_key) == ("mein Bild", "cxr_2-a")
    assert config.tools == (Tool("b-1", "brush", ("Lunge links",)),)


@pytest.mark.parametrize("shape", ["Brush", "Polygon", "Rectangle", "Ellipse"])
def test_every_shape_is_served_with_labels_of_its_own_or_of_a_separate_tag(shape: str) -> None:
    own = f'<{shape}Labels name="s" toName="image"><Label value="Lung"/></{shape}Labels>'
    assert tools(f"<View>{IMAGE}{own}</View>") == [("s", shape.lower(), ("Lung",), "")]
    apart = f'<{shape} name="s" toName="image"/>{LABELS}'
    assert tools(f"<View>{IMAGE}{apart}</View>") == [("s", shape.lower(), BOTH, "names")]


def test_the_magic_wand_is_a_brush() -> None:
    xml = f'<View>{IMAGE}<MagicWand name="m" toName="image"/>{LABELS}</View>'
    assert tools(xml) == [("m", "brush", BOTH, "names")]


def test_labels_of_several_tags_are_classes_in_their_order_and_each_once() -> None:
    xml = (
        f'<View>{IMAGE}<RectangleLabels name="r" toName="image"><Label value="Box"/>'
        f'<Label value="Heart"/></RectangleLabels>{BRUSH}</View>'
    )
    config = labels.parse(xml)
    assert config.labels == ("Box", "Heart", "Lung")
    assert [config.tool_for(label).name for label in config.labels] == ["r", "tag", "tag"]


def test_a_draft_is_drawn_with_the_tool_that_is_closest_to_a_mask() -> None:
    offered = ["Rectangle", "Ellipse", "Polygon", "Brush"]
    for last in range(1, 5):
        drawn = "".join(f'<{shape} name="{shape}" toName="image"/>' for shape in offered[:last])
        config = labels.parse(f"<View>{IMAGE}{drawn}{LABELS}</View>")
        assert config.tool_for("Lung").name == offered[last - 1]


def test_labels_of_a_text_beside_the_image_are_not_classes() -> None:
    text = '<Text name="t" value="$t"/><Labels name="n" toName="t"><Label value="Drug"/></Labels>'
    assert labels.parse(f"<View>{text}{IMAGE}{BRUSH}</View>") == CONFIG


def test_what_draws_no_masks_is_ignored_with_a_note() -> None:
    xml = (
        f'<View>{IMAGE}<KeyPointLabels name="k" toName="image"><Label value="Tip"/>'
        f'</KeyPointLabels>{BRUSH}<Choices name="c" toName="image"><Choice value="x"/></Choices>'
        '<Text name="t" value="$text"/></View>'
    )
    config = labels.parse(xml)
    assert config.labels == BOTH
    assert config.notes == (
        "Not used for training, only kept in Label Studio: KeyPointLabels 'k', Choices 'c'.",
    )
    assert labels.parse(PLAIN).notes == ()


def test_a_label_goes_by_its_alias_and_is_known_by_its_other_names() -> None:
    xml = (
        f'<View>{IMAGE}<BrushLabels name="tag" toName="image"><Label value="肺" alias="lung" '
        'predicted_values="left lung, Heart"/><Label value="Heart"/></BrushLabels></View>'
    )
    config = labels.parse(xml)
    assert config.labels == ("lung", "Heart")
    assert config.rows == {"lung": 0, "肺": 0, "left lung": 0, "Heart": 1}


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("<View>", "not valid XML"),
        ("no xml", "not valid XML"),
        ("<View>\x00</View>", "not valid XML"),
        ("<View>\ud800</View>", "not valid XML"),
        (BOMB, "DTD or entities"),
        (f'<!DOCTYPE v SYSTEM "file:///etc/passwd">{PLAIN}', "DTD or entities"),
        ("<View/>", "0 Image tags"),
        (f"<View>{BRUSH}</View>", "0 Image tags"),
        (f"<View>{IMAGE}{IMAGE}{BRUSH}</View>", "2 Image tags"),
        (PLAIN.replace("$image", "image"), "value is 'image'"),
        (PLAIN.replace("$image", "$a/$b"), r"value is '\$a/\$b'"),
        (PLAIN.replace(' value="$image"', ""), "value is missing"),
        (f"<View>{IMAGE}</View>", "no tag that draws masks; its control tags are: none"),
        (
            f'<View>{IMAGE}{LABELS}<KeyPoint name="k" toName="image"/></View>',
            "no tag that draws masks; its control tags are: 'KeyPoint', 'Labels'",
        ),
        (f'<View>{IMAGE}<Polygon name="p" toName="image"/></View>', "Polygon has no labels"),
        (f'<View>{IMAGE}<Polygon toName="image"/>{LABELS}</View>', "Polygon tag has no name"),
        (PLAIN.replace('name="image" ', ""), "Image tag has no name"),
        (PLAIN.replace('toName="image"', 'toName="other"'), "bound to 'other'"),
        (PLAIN.replace('toName="image"', ""), "bound to missing"),
        (PLAIN.replace('name="tag"', ""), "no name"),
        (f'<View>{IMAGE}<BrushLabels name="tag" toName="image"/></View>', "no labels"),
        (PLAIN.replace('<Label value="Lung"/>', "<Label/>"), "Label has no value"),
        (PLAIN.replace("Heart", "Lung"), "'Lung' more than once"),
        (PLAIN.replace('"Heart"', '"Heart" alias="Lung"'), "'Lung' more than once"),
        (PLAIN.replace("Lung", "a&#10;b").replace("Heart", "a&#10;b"), r"'a\\nb' more than once"),
    ],
)
def test_any_other_interface_is_refused_in_one_line_with_its_mend(xml: str, says: str) -> None:
    with pytest.raises(UnsupportedLabelConfig, match=says) as caught:
        labels.parse(xml)
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@given(st.one_of(st.text(), st.text(alphabet=PLAIN), st.binary().map(lambda b: b.decode("latin1"))))
@QUICK
def test_no_text_makes_parse_fail_in_another_way(text: str) -> None:
    with pytest.raises(UnsupportedLabelConfig):
        labels.parse(text)


@given(st.integers(0, len(PLAIN)), st.integers(0, len(PLAIN)), st.text(max_size=3))
@QUICK
def test_a_mutated_config_is_served_or_refused(start: int, end: int, new: str) -> None:
    with suppress(UnsupportedLabelConfig):
        assert labels.parse(PLAIN[:start] + new + PLAIN[end:]).labels


@pytest.mark.seconds
def test_the_module_is_imported_without_torch_or_the_sdk() -> None:
    code = (
        "import sys, backend.label_studio.labels, backend.imaging.fetch;"
        "print([m for m in ('torch', 'label_studio_sdk') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(labels.__file__).parents[3],
    )
    assert done.stdout.strip() == "[]"
