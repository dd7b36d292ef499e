from __future__ import annotations

import pytest

from backend.label_studio.labels import interface, parse


@pytest.mark.parametrize("viewer", [False, True])
def test_an_interface_has_a_brush_for_each_class_on_the_image(viewer: bool) -> None:
    config = interface.of_slices(["Lung", 'Heart & "vessels"'], viewer=viewer)
    found = parse(config)
    assert found.labels == ("Lung", 'Heart & "vessels"')
    assert (found.image_name, found.image_key, found.notes) == ("image", "image", ())
    assert interface.has_viewer(config) == viewer
