from __future__ import annotations

import base64
import pickle
from pathlib import Path

import pytest
from dbos import _serialization as dbos_serialization
from hypothesis import given
from hypothesis import strategies as st

from backend import errors
from backend.errors import FirstlightError, ImageError
from backend.rounds.models.examples import UnreadableLabels
from backend.worker.job_serializer import JsonSerializer, refuse_pickle

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, FirstlightError)
]


@given(PLAIN)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    serializer = JsonSerializer()
    assert serializer.deserialize(serializer.serialize(value)) == value


def test_the_arguments_of_a_workflow_come_back_as_a_tuple() -> None:
    serializer = JsonSerializer()
    kept = serializer.serialize({"args": (3, [1, 2]), "kwargs": {}})
    assert serializer.deserialize(kept) == {"args": (3, [1, 2]), "kwargs": {}}


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_ours_comes_back_whole(kind: type[FirstlightError]) -> None:
    serializer = JsonSerializer()
    found = serializer.deserialize(serializer.serialize(kind("What.", "How.")))
    assert type(found) is kind
    assert (found.what, found.fix) == ("What.", "How.")


def test_an_error_from_another_module_comes_back_as_the_one_it_is_a_kind_of() -> None:
    serializer = JsonSerializer()
    error = UnreadableLabels({5: ImageError("broken")}, asked=8)
    found = serializer.deserialize(serializer.serialize(error))
    assert type(found) is ImageError
    assert found.what == error.what


def test_of_any_other_error_only_its_class_is_kept() -> None:
    serializer = JsonSerializer()
    kept = serializer.serialize(KeyError("Smith, John"))
    assert "Smith" not in kept
    assert "KeyError" in str(serializer.deserialize(kept))


def test_a_value_that_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError):
        JsonSerializer().serialize(Path("a"))


def test_a_row_that_names_pickle_is_not_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "code ran"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (mark,)

    default = dbos_serialization.DefaultSerializer
    monkeypatch.setattr(default, "deserialize", default.deserialize)  # back after this test
    refuse_pickle()
    row = base64.b64encode(pickle.dumps(Payload())).decode()
    with pytest.raises(TypeError, match="pickled"):
        dbos_serialization.deserialize_args(row, "py_pickle", JsonSerializer())
    with pytest.raises(TypeError, match="pickled"):
        dbos_serialization.deserialize_value(row, "py_pickle", JsonSerializer())
    assert not mark.exists()
