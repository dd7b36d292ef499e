"""A labelling interface: its image, the tags that draw masks on it, and their labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeTree

from backend.errors import UnsupportedLabelConfig
from backend.label_studio.labels.shapes import BARE, LABELLED, REGISTRY, SHAPES

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_DRAWING = LABELLED | BARE
_LABELS_TAGS = [REGISTRY[name].labels_tag for name in SHAPES]
_OFFERED = f"{', '.join(_LABELS_TAGS[:-1])} or {_LABELS_TAGS[-1]}"
# Far beyond any interface that people draw with; a larger one could take minutes to read.
_LONGEST = 1_000_000  # characters
_MOST_ELEMENTS = 50_000  # of any kind, those of a taxonomy too: each costs the parser microseconds
_MOST_TAGS = 100  # that draw or hold labels: each pair of them may be a tool
_MOST_LABELS = 1_000  # each is a mask of its own
_DATA_KEY = re.compile(r"\$([\w-]+)")
_POINTS = frozenset({"keypointlabels", "keypoint"})
_SMART = _POINTS | {"rectanglelabels"}  # tags whose clicks and boxes Label Studio sends to us


@dataclass(frozen=True)
class Tool:
    """A control tag that draws masks, with the labels of its own or of a separate Labels tag."""

    name: str
    shape: str  # its name in the registry of shapes
    labels: tuple[str, ...]
    labels_name: str = ""  # of the Labels tag; empty where the tool has its own labels


@dataclass(frozen=True)
class LabelConfig:
    """The image of a labelling interface, its tools and classes, by the names that results use."""

    image_name: str
    image_key: str
    tools: tuple[Tool, ...]
    labels: tuple[str, ...]  # the classes: of all tools, each once, in the order of the interface
    rows: Mapping[str, int] = field(default_factory=dict)  # every name of a label -> its class
    notes: tuple[str, ...] = ()  # parts of the interface that train nothing
    prompts: tuple[str, ...] = ()  # smart tags: their clicks and boxes are prompts, never labels
    paged: bool = False  # the image is a valueList: its tasks are slabs, their regions have pages

    def tool_for(self, label: str) -> Tool:
        """Return the tool that a draft of this label is drawn with."""
        able = [tool for tool in self.tools if label in tool.labels]
        return min(able, key=lambda tool: SHAPES.index(tool.shape))


def parse(xml: str) -> LabelConfig:
    """Return the classes of a labelling interface: one Image, and tags that draw masks on it.

    The Image may have a valueList instead of a value: its tasks are then slabs of several pages.
    Further Images with a valueList, on which nothing is drawn, may stand beside it as viewers.

    A label goes by its alias where it has one, as in the results that Label Studio stores. Its
    value and its predicted_values are understood too, unless they name another label.

    A smart tag (smart="true") of key points, or of rectangles whose labels another tag draws too,
    holds prompts: clicks and boxes that ask for a mask. They are no labels.

    Raises:
        UnsupportedLabelConfig: If it cannot be served; the error says why and how to fix it.
    """
    tags = list(_root(xml).iter())
    image = _only_image(tags)
    image_name, image_key = _name(image), _data_key(image)
    # Before the labels of any are read: those of tags within tags would be read again and again.
    _check_number("tags that draw or label", sum(map(_draws_or_labels, tags)), _MOST_TAGS)
    _check_number("Label tags", sum(_kind(tag) == "label" for tag in tags), _MOST_LABELS)
    on_image = [tag for tag in tags if tag.get("toName") == image_name]
    prompting = _prompting(on_image)
    drawing = [tag for tag in tags if _kind(tag) in _DRAWING and tag not in prompting]
    for tag in drawing:
        _check_bound(tag, image_name)
    separate = [tag for tag in on_image if _is_separate(tag)]
    bare = any(_kind(tag) in BARE for tag in drawing)
    offered = [(_name(tag), _labels(tag)) for tag in separate if bare]
    tools = tuple(tool for tag in drawing for tool in _tools(tag, offered))
    if not tools:
        raise _without_tools(tags)
    labelling = [tag for tag in drawing if _kind(tag) in LABELLED] + separate
    used = {id(tag) for tag in [*drawing, *separate, *prompting]}
    others = [tag for tag in on_image if id(tag) not in used]
    labels = tuple(dict.fromkeys(label for tool in tools for label in tool.labels))
    return LabelConfig(
        image_name=image_name,
        image_key=image_key,
        tools=tools,
        labels=labels,
        rows=_rows(labels, labelling),
        notes=tuple(_notes(others, prompting)),
        prompts=tuple(_name(tag) for tag in prompting),
        paged=_is_paged(image),
    )


def _root(xml: str) -> Element:
    if not xml or not xml.strip():
        raise UnsupportedLabelConfig(
            "The label config is empty.", "Set up a labelling interface in the project."
        )
    _check_number("characters", len(xml), _LONGEST)
    _check_number("tags", xml.count("<") - xml.count("</"), _MOST_ELEMENTS)
    try:
        root: Element = SafeTree.fromstring(xml, forbid_dtd=True)
    except DefusedXmlException:
        raise UnsupportedLabelConfig(
            "The label config declares a DTD or entities.", "Remove <!DOCTYPE> and <!ENTITY>."
        ) from None
    except (ParseError, ValueError, LookupError):
        raise UnsupportedLabelConfig(
            "The label config is not valid XML.", "Open it in Label Studio and save it again."
        ) from None
    return root


def _only_image(tags: Sequence[Element]) -> Element:
    images = [tag for tag in tags if _kind(tag) == "image" and not _is_viewer(tag, tags)]
    if len(images) != 1:
        raise UnsupportedLabelConfig(
            f"The label config has {len(images)} Image tags, expected 1.",
            'Keep one <Image name="image" value="$image"/>.',
        )
    return images[0]


def _is_viewer(image: Element, tags: Sequence[Element]) -> bool:
    """Return whether an Image only shows pages, such as the slices beside the one to draw on."""
    bound = any(tag.get("toName") == image.get("name") for tag in tags)
    return bool(image.get("valueList")) and not image.get("value") and not bound


def _is_paged(image: Element) -> bool:
    return not image.get("value") and bool(image.get("valueList"))


def _without_tools(tags: Sequence[Element]) -> UnsupportedLabelConfig:
    others = sorted({_shown(tag.tag) for tag in tags if tag.get("toName")})
    return UnsupportedLabelConfig(
        f"The label config has no tag that draws masks; its control tags are: "
        f"{', '.join(others) or 'none'}.",
        f'Add {_OFFERED} with toName="..." and the labels inside.',
    )


def _data_key(image: Element) -> str:
    attribute = "valueList" if _is_paged(image) else "value"
    value = image.get(attribute)
    key = _DATA_KEY.fullmatch((value or "").strip())
    if key is None:
        raise UnsupportedLabelConfig(
            f"The Image tag's {attribute} is {_shown(value)}, expected one data key such as "
            "$image.",
            f'Set {attribute}="$image", with the key that holds the image in your tasks.',
        )
    return key[1]


def _name(tag: Element) -> str:
    name = tag.get("name", "")
    if not name:
        raise UnsupportedLabelConfig(
            f"The {_written(tag)} tag has no name.", 'Give it a name="...".'
        )
    return name


def _check_bound(tag: Element, image_name: str) -> None:
    if tag.get("toName") != image_name:
        raise UnsupportedLabelConfig(
            f"{_written(tag)} is bound to {_shown(tag.get('toName'))}, but the Image is called "
            f"{_shown(image_name)}.",
            f"Set toName of {_written(tag)} to the name of the Image.",
        )


def _check_number(what: str, number: int, most: int) -> None:
    if number > most:
        raise UnsupportedLabelConfig(
            f"The label config has {number} {what}, expected at most {most}.",
            "Remove the tags and labels that nobody uses.",
        )


def _tools(tag: Element, offered: Sequence[tuple[str, tuple[str, ...]]]) -> Iterator[Tool]:
    """Yield one tool for each set of labels that this tag draws with: its own, or those offered."""
    name, kind = _name(tag), _kind(tag)
    if kind in LABELLED:
        yield Tool(name, LABELLED[kind], _labels(tag))
        return
    if not offered:
        raise UnsupportedLabelConfig(
            f"{_written(tag)} has no labels: there is no Labels tag for the Image.",
            f"Add a Labels tag that is bound to the Image, or use {_OFFERED}.",
        )
    for labels_name, labels in offered:
        yield Tool(name, BARE[kind], labels, labels_name)


def _labels(tag: Element) -> tuple[str, ...]:
    labels = [_label(found) for found in _label_tags(tag)]
    if not labels:
        raise UnsupportedLabelConfig(
            f"{_written(tag)} has no labels.", 'Put one <Label value="..."/> a class inside it.'
        )
    if not all(labels):
        raise UnsupportedLabelConfig(
            "A Label has no value.", f'Give every Label inside {_written(tag)} a value="...".'
        )
    doubles = sorted(label for label, number in Counter(labels).items() if number > 1)
    if doubles:
        raise UnsupportedLabelConfig(
            f"{_written(tag)} has {_shown(doubles[0])} more than once.",
            "Give every label a value, or an alias, of its own.",
        )
    return tuple(labels)


def _label_tags(tag: Element) -> list[Element]:
    return [found for found in tag.iter() if _kind(found) == "label"]


def _label(tag: Element) -> str:
    return tag.get("alias") or tag.get("value") or ""


def _rows(labels: Sequence[str], labelling: Sequence[Element]) -> dict[str, int]:
    """Return the class of every name by which a label may go, in old results too."""
    rows = {label: row for row, label in enumerate(labels)}
    for tag in [label for parent in labelling for label in _label_tags(parent)]:
        if _label(tag) in rows:
            predicted = tag.get("predicted_values", "").split(",")
            for name in (tag.get("value", ""), *map(str.strip, predicted)):
                rows.setdefault(name, rows[_label(tag)])
    rows.pop("", None)
    return rows


def _prompting(on_image: Sequence[Element]) -> list[Element]:
    """Return the smart tags that hold prompts.

    A smart rectangle may also be the only tool that draws a label; then it is no prompt.
    """
    smart = [t for t in on_image if _kind(t) in _SMART and t.get("smart", "").lower() == "true"]
    others = [t for t in on_image if t not in smart and (_kind(t) in LABELLED or _is_separate(t))]
    drawn = {_label(label) for tag in others for label in _label_tags(tag)}
    return [
        tag
        for tag in smart
        if _kind(tag) in _POINTS or drawn.issuperset(map(_label, _label_tags(tag)))
    ]


def _draws_or_labels(tag: Element) -> bool:
    return _kind(tag) in _DRAWING or _kind(tag) in _SMART or _is_separate(tag)


def _is_separate(tag: Element) -> bool:
    return _kind(tag) == "labels"


def _notes(others: Sequence[Element], prompting: Sequence[Element]) -> Iterator[str]:
    if others:
        yield f"Not used for training, only kept in Label Studio: {_named(others)}."
    if prompting:
        yield (
            f"Prompts that ask for a mask, ignored in training and in submitted labels: "
            f"{_named(prompting)}."
        )


def _named(tags: Sequence[Element]) -> str:
    return ", ".join(f"{_written(tag)} {_shown(tag.get('name'))}" for tag in tags)


def _kind(tag: Element) -> str:
    return tag.tag.lower()


def _written(tag: Element) -> str:
    return tag.tag[:60]


def _shown(text: str | None) -> str:
    return "missing" if text is None else repr(text[:60])
