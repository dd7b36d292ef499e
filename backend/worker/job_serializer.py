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

ERROR = "firstlight error"  # the key that marks a stored error
ARGUMENTS = {"args", "kwargs"}  # the keys under which DBOS keeps the arguments of a workflow


class JsonSerializer(Serializer):
    """Stores plain values, and of an error its class, what happened and the fix.

    Of an error from elsewhere it stores only the class: the text may quote patient data.
    """

    def name(self) -> str:
        """Return the name that is written beside every value."""
        return "firstlight_json"

    def serialize(self, data: Any) -> str:
        """Return a value as JSON.

        Raises:
            TypeError: If JSON cannot store the value, such as an object.
        """
        if isinstance(data, BaseException):
            data = _stored(data)
        return json.dumps(data, separators=(",", ":"))

    def deserialize(self, serialized_data: str) -> Any:
        """Return what `serialize` was given; a tuple among results comes back as a list."""
        value = json.loads(serialized_data)
        if isinstance(value, dict) and ERROR in value:
            return _error(value[ERROR])
        if isinstance(value, dict) and value.keys() == ARGUMENTS:
            return {**value, "args": tuple(value["args"])}  # DBOS puts an argument before them
        return value


def refuse_pickle() -> None:
    """Stop DBOS from unpickling anything.

    Every row names its serializer. DBOS would obey a row that names pickle, whatever serializer
    it was given.
    """
    DefaultSerializer.deserialize = _refused  # type: ignore[method-assign,assignment]


def _refused(*_: object) -> NoReturn:
    raise TypeError("The jobs' database holds a pickled value, which is never read.")


def _stored(error: BaseException) -> dict[str, Any]:
    ours = next((kind for kind in type(error).__mro__ if _is_ours(kind)), None)
    if ours is None or not isinstance(error, FirstlightError):
        return {ERROR: {"class": type(error).__name__}}
    return {ERROR: {"class": ours.__name__, "what": error.what, "fix": error.fix}}


def _is_ours(kind: type) -> bool:
    return getattr(errors, kind.__name__, None) is kind


def _error(stored: dict[str, str]) -> Exception:
    kind = getattr(errors, stored["class"], None)
    if isinstance(kind, type) and issubclass(kind, FirstlightError):
        return kind(stored["what"], stored.get("fix", stored.get("mend", "")))
    return RuntimeError(f"A step failed with {stored['class']}.")
