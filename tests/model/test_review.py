from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from model import review
from model.evaluation import dice
from model.fitted import TrainConfig
from model.phantoms import generate
from model.refinement import LabelledScans, Stopped

SIZE = 16
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))


@st.composite
def labels(draw: st.DrawFn) -> tuple[Any, Any]:
    """Probabilities and a label of the same shape."""
    shape = draw(SHAPES)
    probabilities = arrays.arrays(np.float32, shape, elements=st.floats(0, 1, width=32))
    return draw(probabilities), draw(arrays.arrays(np.bool_, shape))


def square(classes: int = 1, *, row: int = 0, at: int = 4) -> Any:
    """The label of one class: a square."""
    mask = np.zeros((classes, SIZE, SIZE), bool)
    mask[row, 4:12, at : at + 6] = True
    return mask


def sure(mask: Any) -> Any:
    """The probabilities of networks that are sure of a mask."""
    return np.where(mask, 0.98, 0.02).astype(np.float32)


@given(labels())
def test_a_suspicion_is_a_share_about_a_class_of_the_scan(pair: tuple[Any, Any]) -> None:
    found = review.suspicion(*pair)
    assert 0 <= found.score <= found.share + 1e-9 <= 1 + 1e-9
    assert 0 <= found.label < len(pair[1])
    assert (found.other is not None) == (found.reason == "exchanged")


@given(labels())
def test_a_class_is_never_more_suspicious_than_its_overlap_is_bad(pair: tuple[Any, Any]) -> None:
    probabilities, mask = pair
    assert np.all(
        review.disagreement(probabilities, mask) <= 1 - dice(probabilities > 0.5, mask) + 1e-9
    )


@given(arrays.arrays(np.bool_, SHAPES))
def test_networks_that_agree_with_a_label_raise_no_suspicion(mask: Any) -> None:
    assert review.suspicion(sure(mask), mask).score == 0


@given(labels())
def test_networks_that_are_not_sure_raise_no_suspicion(pair: tuple[Any, Any]) -> None:
    probabilities, mask = pair
    found = review.suspicion(probabilities.clip(0.2, 0.8), mask)
    assert (found.score, found.reason == "exchanged" or found.reason == "unlike") == (0, True)


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (np.zeros_like(square()), "empty"),
        (square() & (np.arange(SIZE) < 7), "missing"),
        (square() | square(at=8), "extra"),
        (square(at=7), "both"),
    ],
)
def test_each_error_has_its_reason(label: Any, reason: str) -> None:
    found = review.suspicion(sure(square()), label)
    assert found.reason == reason
    assert found.score == found.share > 0.1


def test_exchanged_classes_are_named() -> None:
    truth = square(3, row=0, at=1) | square(3, row=2, at=9)
    found = review.suspicion(sure(truth), truth[[2, 1, 0]])
    assert (found.reason, found.label, found.other) == ("exchanged", 0, 2)
    assert found.score == pytest.approx(found.share * 2 / 3), "one of three classes is right"


@pytest.mark.seconds
def test_held_scans_are_predicted_by_a_network_that_never_saw_them() -> None:
    phantoms = generate(4, size=32)
    scans = LabelledScans([p.image for p in phantoms], [p.mask for p in phantoms], range(4))
    held = np.array([True, False, False, False])
    config = TrainConfig(
        "attention-unet/tu-test_resnet", 32, classes=1, steps=1, batch_size=2, learning_rate=1e-3
    )
    [one] = review.out_of_fold(scans, held, config)
    scans.masks[0][:] = ~scans.masks[0]  # another label of the held scan changes nothing
    [other] = review.out_of_fold(scans, held, config)
    assert np.array_equal(one, other)
    with pytest.raises(Stopped):
        review.out_of_fold(scans, held, config, stop=lambda: True)
