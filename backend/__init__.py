"""The service: Label Studio, HTTP, jobs and storage. Nothing here knows science."""

from importlib import metadata

__version__ = "0.1.0"


def _program() -> str:
    try:
        metadata.distribution("firstlight")
    except metadata.PackageNotFoundError:  # a clone whose environment has only the dependencies
        return "python -m backend"
    return "firstlight"


PROGRAM = _program()  # what people type before a command; messages name it
