from __future__ import annotations

import numpy as np
import pytest

from backend.experiments import figures
from backend.experiments.figures import Map
from backend.experiments.results import Results
from tests.backend.experiments.samples import chosen, results


def test_each_arm_has_a_line_of_its_own_with_its_band(two: Results) -> None:
    axes = figures.curves(two).axes[0]
    lines = [(line.get_label(), line.get_marker(), line.get_color()) for line in axes.lines]
    assert [label for label, _, _ in lines] == ["medoids", "random"]
    assert lines[0][1:] != lines[1][1:]
    assert len(axes.collections) == 2
    assert axes.get_ylim()[1] <= 1


def test_one_count_of_labels_puts_the_arms_side_by_side(two: Results) -> None:
    axes = figures.curves(results(two.arms, labels=(10,))).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["medoids", "random"]


def test_a_map_numbers_the_chosen_scans_in_order() -> None:
    one = chosen()
    figure = figures.picture(one, ["other", "medoids", "random"])
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["medoids", "random"]
    texts = {text.get_text(): text.xy for text in panels[0].texts}  # type: ignore[attr-defined]
    assert texts == {
        "1": tuple(one.points[4]),
        "2": tuple(one.points[2]),
        "3": tuple(one.points[8]),
    }


def test_a_map_of_one_dimension_is_drawn_on_a_line() -> None:
    one = Map("pixels, none", 0, np.arange(4.0)[:, None], {"random": [1]}, first=1)
    [axes] = figures.picture(one, ["random"]).axes
    assert axes.texts[0].get_text() == "1"


def test_attention_shows_each_scan_beside_its_gates() -> None:
    image, masks = np.full((20, 30), 0.5), np.zeros((1, 20, 30), bool)
    masks[0, 5:9, 5:9] = True
    scan = figures.ScanView("a.png", image, masks, np.full((4, 20, 30), 0.2))
    look = figures.Attention("pixels, medoids", (scan, scan))
    figure = figures.gates(look)
    panels = [axes for axes in figure.axes if axes.get_images()]
    assert len(panels) == 2 * (1 + 4)
    assert [axes.get_title() for axes in panels[:3]] == ["drawn", "gate 1", "gate 2"]
    assert look.file == "attention-pixels-medoids"


def test_gains_over_pools_have_a_row_for_each_pool_and_one_for_all(two: Results) -> None:
    overall = [{"medoids": (0.01, -0.01, 0.03)}, {"medoids": (0.02, 0.01, 0.03)}]
    figure = figures.gains([two, two], "dice", "mean Dice", overall)
    rows = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert rows == ["phantoms", "phantoms", "all pools"]
    points = next(line for line in figure.axes[1].lines if line.get_label() == "medoids")
    ours, theirs = (
        float(np.mean(list(two.values(arm, 1, "dice").values()))) for arm in ("medoids", "random")
    )
    by_hand = 100 * (ours - theirs)
    assert np.asarray(points.get_xdata()).tolist() == pytest.approx([by_hand, by_hand, 2.0])
