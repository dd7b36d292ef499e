"""Files of weights: read without running what is in them, and checked before they are used."""

from __future__ import annotations

import hashlib
import pickle
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    State = dict[str, Tensor]

# What torch.load stumbles over in a file that is no archive of tensors, or half of one.
_UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
)


def mark(path: Path | None) -> str:
    """Return what tells a file of weights from others: twelve hexadecimal digits; "" without one.

    A file that is missing is said by `read`, when it is needed.
    """
    if path is None or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def read(path: Path, expected: str) -> State:
    """Return the tensors of a file, floats as float32, keys without a "module." in front.

    Args:
        path: A .safetensors file, or whatever torch.load reads with `weights_only`.
        expected: Ends the messages of errors: what belongs there.
    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds anything but tensors by name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no encoder weights at {path}; {expected}")
    state = _content(path, expected)
    if not _is_state(state):
        raise ValueError(f"{path} holds {type(state).__name__}, not tensors by name; {expected}")
    return {
        str(key).removeprefix("module."): value.float() if value.is_floating_point() else value
        for key, value in state.items()
    }


def _content(path: Path, expected: str) -> Any:
    import safetensors.torch
    import torch

    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():  # torch warns of an odd pickle before it refuses it
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (*_UNREADABLE, safetensors.SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as tensors ({reason}); {expected}") from error


def _is_state(content: Any) -> bool:
    import torch

    return isinstance(content, dict) and all(torch.is_tensor(v) for v in content.values())


def fill(body: nn.Module, state: State, path: Path, expected: str) -> None:
    """Load every tensor of a state into a network that needs exactly these.

    Raises:
        ValueError: If one is missing, left over or of another shape.
    """
    needed = {key: value.shape for key, value in body.state_dict().items()}
    given = {key: value.shape for key, value in state.items()}
    if needed != given:
        missing = sorted(needed.keys() - given.keys())
        unused = sorted(given.keys() - needed.keys())
        misshaped = sorted(k for k in needed.keys() & given.keys() if needed[k] != given[k])
        raise ValueError(
            f"{path} holds {len(state)} tensors that are not this network: "
            f"{len(missing)} missing {missing[:3]}, {len(unused)} unused {unused[:3]}, "
            f"{len(misshaped)} of another shape {misshaped[:3]}; {expected}"
        )
    body.load_state_dict(state, strict=True, assign=True)
