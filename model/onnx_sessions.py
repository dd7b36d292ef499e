"""Sessions of onnxruntime that leave the other processes of the machine their share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# onnxruntime 1.32 makes an id of the machine and sends events to its maker, unless this variable
# is set before its import. No data may leave a hospital unasked. (The variable is set, not read.)
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # noqa: TID251


def session(model: bytes | Path) -> Any:
    """Return an onnxruntime.InferenceSession on all cores of this process.

    Args:
        model: An ONNX model, or its file. A model whose weights lie beside it needs the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _cores()
    # Let waiting threads sleep: spinning threads take the cores from a training beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _cores() -> int:
    """Return the number of cores that this process may use; some systems cannot tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
