"""Files of weights: read without running code in them, and checked before use."""

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

# Errors of torch.load on a file that is damaged or no archive of tensors.
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
    """Return twelve hex digits of a file's SHA-256 as its mark; "" without a file.

    A missing file gives "" too; `read` raises for it later.
    """
    if path is None or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def read(path: Path, expected: str) -> State:
    """Return the tensors of a file, floats as float32, keys without a "module." in front.

    Args:
        path: A .safetensors file, or a file that torch.load reads with `weights_only`.
        expected: End of error messages: describes the expected file.
    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file holds anything else than tensors by name.
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
        with warnings.catch_warnings():  # torch warns about an odd pickle, then refuses it anyway
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (*_UNREADABLE, safetensors.SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as tensors ({reason}); {expected}") from error


def _is_state(content: Any) -> bool:
    import torch

    return isinstance(content, dict) and all(torch.is_tensor(v) for v in content.values())


def fill(body: nn.Module, state: State, path: Path, expected: str) -> None:
    """Load a state into a network; the tensors must match exactly.

    Raises:
        ValueError: If a tensor is missing, unused or of another shape.
    """
    needed = {key: value.shape for key, value in body.state_dict().items()}
    given = {key: value.shape for key, value in state.items()}
    if needed != given:
        missing = sorted(needed.keys() - given.keys())
        unused = sorted(given.keys() - needed.keys())
        misshaped = sorted(k for k in needed.keys() & given.keys() if needed[k] != given[k])
        raise ValueError(
            f"{path} holds {len(state)} tensors that do not fit this network: "
            f"{len(missing)} missing {missing[:3]}, {len(unused)} unused {unused[:3]}, "
            f"{len(misshaped)} of another shape {misshaped[:3]}; {expected}"
        )
    body.load_state_dict(state, strict=True, assign=True)
