from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from model import plugins, registry
from model.attention_unet import AttentionUnet
from model.fitted import Fitted, Untrainable
from model.inference import predict
from model.networks import build, guarded, load_radimagenet, output_bias, usable, why_not
from model.training import fit
from tests.model.plugs import plug
from tests.model.scans import CONFIG, discs

IMAGES = torch.zeros(2, 3, 64, 32)


@pytest.mark.parametrize(
    "name",
    [
        "attention-unet/tu-test_resnet", "attention-unet-half/tu-test_resnet", "unet/resnet18",
        "unet/tu-test_resnet", "fpn/resnet18",
    ],
)  # fmt: skip
def test_a_network_by_name_maps_images_to_a_logit_for_each_class(name: str) -> None:
    assert build(name, 2).eval()(IMAGES).shape == (2, 2, 64, 32)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", registry.ARCHITECTURES)
def test_every_architecture_of_the_list_builds_a_network(architecture: str) -> None:
    encoder = {"dpt": "tu-vit_tiny_patch16_224"}.get(architecture, "resnet18")
    images = torch.zeros(2, 3, 224, 224)
    network = build(f"{architecture}/{encoder}", 2)

    assert network.eval()(images).shape == (2, 2, 224, 224)
    assert output_bias(network) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet/resnet18", "segformer/mit_b0"])
def test_networks_of_other_architectures_learn_and_are_loaded_again(
    name: str, tmp_path: Path
) -> None:
    images, masks = discs(4)
    fitted = fit(images, masks, replace(CONFIG, network=name, steps=20, learning_rate=1e-3))
    fitted.save(tmp_path / "network.safetensors")

    loaded = Fitted.load(tmp_path / "network.safetensors")

    assert np.mean(fitted.history[-5:]) < 0.9 * np.mean(fitted.history[:5])
    np.testing.assert_array_equal(list(predict(loaded, images)), list(predict(fitted, images)))


@pytest.mark.parametrize("name", ["unet/no-such-encoder", "no-such/resnet18", "unet", "unet/"])
def test_a_network_that_does_not_exist_cannot_be_trained(name: str) -> None:
    with pytest.raises(Untrainable, match=f"unknown network '{name}'.*such as 'unet/resnet34'"):
        fit(*discs(1), replace(CONFIG, network=name))


# -- networks of other packages -------------------------------------------------------------------


def one_layer(classes: int) -> nn.Module:
    return nn.Conv2d(3, classes, kernel_size=1)


def no_network(classes: int) -> int:
    return classes


def broken(classes: int) -> nn.Module:
    raise ZeroDivisionError(f"{classes} classes")


def flat(classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, classes, kernel_size=1), nn.Flatten())


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("one_layer", "no_network", "broken", "flat", "missing")
    plug(monkeypatch, plugins.NETWORKS, __name__, *names)


@pytest.mark.usefixtures("plugged")
def test_a_network_of_another_package_is_trained_saved_and_loaded(tmp_path: Path) -> None:
    images, masks = discs(2)
    fitted = fit(images, masks, replace(CONFIG, network="one_layer"))
    fitted.save(tmp_path / "network.safetensors")

    loaded = Fitted.load(tmp_path / "network.safetensors")

    assert registry.is_network("one_layer")
    assert isinstance(loaded.network, nn.Conv2d)
    np.testing.assert_array_equal(list(predict(loaded, images)), list(predict(fitted, images)))


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_network", "'no_network' returned a int: expected a function"),
        ("missing", r"'missing' failed \(AttributeError\)"),
        ("broken", r"'broken' failed \(ZeroDivisionError\): correct the plugin"),
    ],
)
def test_a_plugin_that_makes_no_network_is_named(name: str, message: str) -> None:
    with pytest.raises(Untrainable, match=message):
        fit(*discs(1), replace(CONFIG, network=name))


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize("name", ["no_network", "broken", "flat", "missing"])
def test_the_default_stands_in_for_a_plugin_that_makes_no_network(name: str) -> None:
    assert usable(name, 2) == registry.AUTO
    assert f"the plugin of network '{name}'" in why_not(name, 2)
    assert why_not(name, 2) == why_not(name, 2)


@pytest.mark.usefixtures("plugged")
def test_a_plugin_whose_training_fails_is_set_aside_unless_the_error_is_ours() -> None:
    assert usable("one_layer", 2) == "one_layer"
    with pytest.raises(Untrainable), guarded("one_layer", (Untrainable,)):
        raise Untrainable
    assert usable("one_layer", 2) == "one_layer"
    with pytest.raises(plugins.PluginError, match="one_layer"), guarded("one_layer", ()):
        raise ZeroDivisionError
    assert usable("one_layer", 2) == registry.AUTO
    with pytest.raises(ZeroDivisionError), guarded("unet/resnet18", ()):
        raise ZeroDivisionError


def test_a_file_whose_plugin_is_gone_says_so(
    plugged: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fit(*discs(1), replace(CONFIG, network="one_layer")).save(tmp_path / "network.safetensors")
    plug(monkeypatch, plugins.NETWORKS, __name__)

    with pytest.raises(ValueError, match="cannot be loaded: unknown network 'one_layer'"):
        Fitted.load(tmp_path / "network.safetensors")


# -- RadImageNet's weights in the encoder ---------------------------------------------------------


@functools.cache
def radimagenet() -> nn.Module:
    """A ResNet-50 of torchvision with statistics unlike those of a new one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = resnet50(weights=None)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    frozen: nn.Module = network.eval().requires_grad_(False)
    return frozen


def official_release() -> dict[str, Tensor]:
    body = nn.Sequential(*list(radimagenet().children())[:9])
    return body.state_dict(prefix="backbone.")


def test_a_resnet50_starts_from_radimagenet_s_official_release(tmp_path: Path) -> None:
    torch.save(official_release(), tmp_path / "ResNet50.pt")
    network, images = (
        AttentionUnet("resnet50", 3, 1),
        torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    )

    load_radimagenet(network, tmp_path / "ResNet50.pt")

    expected = nn.Sequential(*list(radimagenet().children())[:8])(images)
    torch.testing.assert_close(network.eval().encode(images)[0], expected)
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("encoder_name", "in_channels", "state", "message"),
    [
        ("resnet50", 3, lambda: radimagenet().state_dict(), "unused .'fc.bias'.*ResNet50.pt"),
        ("resnet50", 3, lambda: {"x": torch.zeros(1)}, "318 missing"),
        ("resnet50", 1, official_release, "1 of another shape .'conv1.weight'"),
        ("resnet18", 3, official_release, "do not fit this network"),
    ],
)
def test_weights_of_another_network_are_refused(
    encoder_name: str,
    in_channels: int,
    state: Callable[[], dict[str, Tensor]],
    message: str,
    tmp_path: Path,
) -> None:
    torch.save(state(), tmp_path / "weights.pt")

    with pytest.raises(ValueError, match=message):
        load_radimagenet(AttentionUnet(encoder_name, in_channels, 1), tmp_path / "weights.pt")
