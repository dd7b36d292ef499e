"""How the jobs' database keeps arguments, results and errors: as JSON, never as pickle.

Whoever can write a row into that database must not be able to run code in the worker.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from dbos import Serializer
from dbos._serialization import DefaultSerializer

from backend import errors
from backend.errors import FirstlightError

ERROR = "firstlight error"  # the key by which a kept error is told from a result
ARGUMENTS = {"args", "kwargs"}  # the keys under which DBOS keeps the arguments of a workflow


class JsonSerializer(Serializer):
    """Keeps plain values, and errors by their class, what happened and how to put it right.

    Of an error that is none of ours only the class is kept: its text may quote patient data.
    """

    def name(self) -> str:
        """Return the name that is written beside every value."""
        return "firstlight_json"

    def serialize(self, data: Any) -> str:
        """Return a value as JSON.

        Raises:
            TypeError: If JSON would give something else back, such as for an object.
        """
        if isinstance(data, BaseException):
            data = _kept(data)
        return json.dumps(data, separators=(",", ":"))

    def deserialize(self, serialized_data: str) -> Any:
        """Return what `serialize` was given; a tuple among results comes back as a list."""
        found = json.loads(serialized_data)
        if isinstance(found, dict) and ERROR in found:
            return _error(found[ERROR])
        if isinstance(found, dict) and found.keys() == ARGUMENTS:
            return {**found, "args": tuple(found["args"])}  # DBOS puts another one before them
        return found


def refuse_pickle() -> None:
    """Let DBOS unpickle nothing.

    A row names the way in which its values are written, and DBOS would follow a row that names
    pickle, whatever serializer it was given.
    """
    DefaultSerializer.deserialize = _refused  # type: ignore[method-assign,assignment]


def _refused(*_: object) -> NoReturn:
    raise TypeError("The jobs' database holds a pickled value, which is never read.")


def _kept(error: BaseException) -> dict[str, Any]:
    ours = next((kind for kind in type(error).__mro__ if _is_ours(kind)), None)
    if ours is None or not isinstance(error, FirstlightError):
        return {ERROR: {"class": type(error).__name__}}
    return {ERROR: {"class": ours.__name__, "what": error.what, "fix": error.fix}}


def _is_ours(kind: type) -> bool:
    return getattr(errors, kind.__name__, None) is kind


def _error(kept: dict[str, str]) -> Exception:
    kind = getattr(errors, kept["class"], None)
    if isinstance(kind, type) and issubclass(kind, FirstlightError):
        return kind(kept["what"], kept.get("fix", kept.get("mend", "")))
    return RuntimeError(f"A step failed with {kept['class']}.")
