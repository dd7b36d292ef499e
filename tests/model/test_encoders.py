from __future__ import annotations

import copy
import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torchvision.models import densenet121, resnet50

from model import encoders, phantoms
from model.encoders import Encoder, Part, recipes, running, weights
from model.encoders.recipes import recipe_of

State = dict[str, torch.Tensor]
RADIMAGENET = "radimagenet-resnet50"
DENSENET = "radimagenet-densenet121"


class Hub:
    """Stands for Hugging Face, and remembers what it was asked for."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def __call__(self, repository: str, files: tuple[str, ...]) -> Path | None:
        self.asked.append((repository, files))
        return self.file


def named(name: str, file: Path) -> str:
    return f"{name}-{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"


def scans(count: int, shape: tuple[int, ...] = (224, 224)) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return [rng.random(shape, dtype=np.float32) for _ in range(count)]


def pictures(count: int, side: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.stack(scans(count, (3, side, side))))


@functools.cache
def trained_like(keras: bool) -> nn.Module:
    """A ResNet-50 in which every detail that tells the two releases apart changes the output."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network: Any = resnet50(weights=None)
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                last = name.endswith("bn3")
                nn.init.uniform_(module.weight, 0.1 if last else 0.5, 0.3 if last else 1.5)
                nn.init.normal_(module.bias, std=0.3)
                nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
                module.eps = 1.001e-5 if keras else 1e-5
            elif isinstance(module, nn.Conv2d) and keras:
                module.bias = nn.Parameter(torch.randn(module.out_channels) * 0.3)
    if keras:
        for layer in (network.layer2, network.layer3, network.layer4):
            layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    network.fc = nn.Identity()
    frozen: nn.Module = network.eval().requires_grad_(False)
    return frozen


def official_state() -> State:
    network = trained_like(keras=False)
    return nn.Sequential(*list(network.children())[:9]).state_dict(prefix="backbone.")


def keras_state() -> State:
    return trained_like(keras=True).state_dict()


@pytest.fixture(scope="module")
def official_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "ResNet50.pt"
    torch.save(official_state(), path)
    return path


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras") / "RadImageNet-ResNet50_notop.pth"
    torch.save(keras_state(), path)
    return path


@pytest.fixture(scope="module")
def densenet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("densenet") / "DenseNet121.pt"
    torch.save(trained_densenet().features.state_dict(prefix="backbone.0."), path)
    return path


@functools.cache
def trained_densenet() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = densenet121(weights=None)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.bias, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    network.classifier = nn.Identity()
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def lite0(lite0_folder: Path) -> Encoder:
    return encoders.load("auto", cache_dir=lite0_folder, fetch=Hub())


def test_the_official_release_gives_the_features_it_was_trained_for(official_file: Path) -> None:
    assert len(official_state()) == 318
    x = pictures(2)
    expected = trained_like(keras=False)((x * 255 - 127.5) * 2 / 255)
    found = encoders.network(RADIMAGENET, official_file)(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_keras_conversion_gives_the_features_it_was_trained_for(keras_file: Path) -> None:
    assert len(keras_state()) == 371
    x = pictures(2)
    mean = torch.tensor([0.406, 0.456, 0.485]).reshape(3, 1, 1)
    expected = trained_like(keras=True)(x[:, [2, 1, 0]] - mean)
    found = encoders.network(RADIMAGENET, keras_file)(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_each_detail_of_the_keras_conversion_matters() -> None:
    x = pictures(1)
    expected = trained_like(keras=True)(x)
    for change in ("bias", "stride", "colours"):
        network: Any = copy.deepcopy(trained_like(keras=True))
        if change == "bias":
            network.layer1[0].conv1.bias.zero_()
        if change == "stride":
            network.layer2[0].conv1.stride, network.layer2[0].conv2.stride = (1, 1), (2, 2)
        changed = network(x.flip(1) if change == "colours" else x)
        assert not torch.allclose(changed, expected, rtol=1e-4, atol=1e-4), change


def test_half_precision_safetensors_under_a_module_prefix_load_too(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({f"module.{k}": v.half() for k, v in official_state().items()}, path)
    x = pictures(1)
    found = encoders.network(RADIMAGENET, path)(x)
    assert found.dtype == torch.float32
    expected = trained_like(keras=False)(x * 2 - 1)
    assert float((found - expected).norm() / expected.norm()) < 0.01


def test_densenet_gives_the_rectified_mean_of_its_features(densenet_file: Path) -> None:
    x = pictures(2)
    expected = trained_densenet()((x * 255 - 127.5) * 2 / 255)
    assert not torch.equal(expected, trained_densenet().features(x * 2 - 1).mean(dim=(2, 3)))
    found = encoders.network(DENSENET, densenet_file)(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_weights_of_one_radimagenet_network_are_refused_by_the_other(
    official_file: Path, densenet_file: Path
) -> None:
    with pytest.raises(ValueError, match=r"expected RadImageNet ResNet-50 .* \(318 tensors"):
        encoders.load(RADIMAGENET, weights=densenet_file)
    assert len(torch.load(densenet_file, weights_only=True)) == 725
    with pytest.raises(ValueError, match=r"expected RadImageNet DenseNet-121.* \(725 tensors"):
        encoders.load(DENSENET, weights=official_file)


def without(state: State, key: str) -> State:
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: without(official_state(), "backbone.4.0.conv1.weight"), "1 missing"),
        (lambda: without(keras_state(), "layer1.0.bn1.running_mean"), "1 unused"),
        (lambda: official_state() | {"backbone.9.weight": torch.zeros(3)}, "backbone.9.weight"),
        (lambda: keras_state() | {"fc.bias": torch.zeros(3)}, r"1 unused \['fc.bias'\]"),
        (lambda: official_state() | {"backbone.1.bias": torch.zeros(3)}, r"shape \['bn1.bias'\]"),
        (lambda: resnet50(weights=None).state_dict(), r"unused \['fc.bias', 'fc.weight'\]"),
        (lambda: {"backbone.0.conv0.weight": torch.zeros(3)}, "318 missing"),
        (lambda: {"conv1.bias": torch.zeros(64)}, "318 missing"),
        (dict, "holds 0 tensors"),
        (lambda: {"state_dict": {"a": torch.zeros(1)}}, "holds dict, not tensors"),
        (lambda: torch.zeros(3), "holds Tensor, not tensors"),
    ],
)
def test_weights_of_another_network_are_refused_with_what_came_and_what_was_expected(
    content: Any, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content(), path)
    with pytest.raises(ValueError, match=said) as refusal:
        encoders.load("auto", weights=path)
    assert str(path) in str(refusal.value)
    assert "ResNet50.pt of the official release (318 tensors" in str(refusal.value)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", b"PK\x03\x04" + bytes(99), b"\x89HDF\r\n\x1a\n" + bytes(99)],
)
def test_a_file_that_holds_no_tensors_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        encoders.load("auto", weights=path)


@given(st.binary(max_size=200))
@example(b"\x80\x00")  # a pickle of protocol 0
@settings(max_examples=100)
def test_no_noise_does_more_than_raise_a_value_error(noise: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        path.write_bytes(noise)
        with pytest.raises(ValueError, match=r"weights\.pt"):
            encoders.load("auto", weights=path)


def test_a_truncated_download_is_refused(official_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "ResNet50.pt"
    path.write_bytes(official_file.read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        encoders.load("auto", weights=path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        encoders.load("auto", weights=path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt; expected RadImageNet"):
        encoders.load("auto", weights=tmp_path / "nowhere.pt", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("vgg", None, "unknown; choose auto, one of radimagenet-resnet50, radimagenet-densenet121"),
        ("timm/../vgg", None, "unknown; choose auto, .*, or timm/<model name>"),
        ("timm/resnet51", None, "no model 'resnet51'; choose for example .*resnet50"),
        ("timm/resnet50.nope", None, "no model 'resnet50.nope'; choose for example .*resnet50"),
        ("timm/zzz", None, r"no model 'zzz'; choose one of timm.list_models\(\)"),
        ("efficientnet-lite0", "x.pt", "takes no weights"),
        ("pixels", "x.pt", "takes no weights"),
        ("pixels+statistics", "x.pt", r"pixels\+statistics takes no weights"),
        ("pixels+vgg", None, r"'pixels\+vgg' is unknown; .* several different ones joined by \+"),
        ("pixels+pixels", None, "unknown; .* several different ones"),
    ],
)
def test_a_name_that_cannot_be_loaded_says_why(name: str, weights: str | None, said: str) -> None:
    hugging_face = Hub()
    with pytest.raises(ValueError, match=said):
        encoders.load(name, weights=weights, fetch=hugging_face)
    assert hugging_face.asked == []


@pytest.mark.parametrize(
    ("name", "repository", "files"),
    [
        (RADIMAGENET, "Lab-Rasool/RadImageNet", ("ResNet50.pt",)),
        (DENSENET, "Lab-Rasool/RadImageNet", ("DenseNet121.pt",)),
        ("timm/test_vit", "timm/test_vit.r160_in1k", ("model.safetensors", "pytorch_model.bin")),
    ],
)
def test_weights_that_cannot_be_had_are_asked_for_once_and_said_with_their_source(
    name: str, repository: str, files: tuple[str, ...]
) -> None:
    hugging_face = Hub()
    with pytest.raises(ValueError, match="neither given nor cached, and could not") as refusal:
        encoders.load(name, fetch=hugging_face)
    assert hugging_face.asked == [(repository, files)]
    said = str(refusal.value)
    assert f"download {' or '.join(files)} of https://huggingface.co/{repository}" in said
    assert "ENCODER_WEIGHTS" in said


def test_a_model_that_nobody_publishes_there_is_not_asked_for() -> None:
    hugging_face = Hub()
    with pytest.raises(ValueError, match="it is not on Hugging Face"):
        encoders.load("timm/gcvit_tiny", fetch=hugging_face)
    assert hugging_face.asked == []


def test_an_absent_device_is_refused() -> None:
    with pytest.raises(ValueError, match="device 'abacus' is not available"):
        encoders.load("efficientnet-lite0", device="abacus")


@pytest.mark.slow
def test_auto_and_its_substitute_joined_count_once(lite0: Encoder, lite0_folder: Path) -> None:
    joined = encoders.load(f"auto+{encoders.STAND_IN}", cache_dir=lite0_folder)
    assert (joined.name, joined.widths) == (lite0.name, lite0.widths)
    assert joined.substituted
    name = f"auto+pixels+{encoders.STAND_IN}"
    assert encoders.load(name, cache_dir=lite0_folder).name == f"{lite0.name}+pixels"


@pytest.mark.slow
def test_auto_without_weights_is_a_substitute_that_says_so(lite0: Encoder) -> None:
    assert (lite0.name, lite0.dim, lite0.substituted) == ("efficientnet-lite0", 1280, True)
    assert "neither given nor cached, and could not be fetched" in lite0.substitution


def test_onnxruntime_computes_what_torch_computes(lite0: Encoder) -> None:
    x = pictures(3, 224)
    expected = encoders.network("efficientnet-lite0")(x).numpy()
    np.testing.assert_allclose(lite0.parts[0].forward(x.numpy()), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_auto_with_weights_is_radimagenet_in_onnxruntime(keras_file: Path) -> None:
    hugging_face = Hub()
    encoder = encoders.load("auto", weights=keras_file, fetch=hugging_face)
    assert hugging_face.asked == []
    assert encoder.name == named(RADIMAGENET, keras_file)
    assert (encoder.dim, encoder.substituted) == (2048, False)
    x = pictures(2, 224)
    expected = encoders.network(RADIMAGENET, keras_file)(x).numpy()
    np.testing.assert_allclose(encoder.parts[0].forward(x.numpy()), expected, rtol=1e-3, atol=1e-3)


def test_a_kept_network_loads_without_torch_and_is_no_substitute_when_asked_for(
    lite0: Encoder, lite0_folder: Path
) -> None:
    (kept,) = lite0_folder.iterdir()
    script = (
        "import sys, numpy as np; from model import encoders\n"
        "encoder = encoders.load('efficientnet-lite0', cache_dir=sys.argv[1])\n"
        "scan = np.random.default_rng(0).random((224, 224), dtype=np.float32)\n"
        "assert 'torch' not in sys.modules and not encoder.substituted\n"
        "sys.stdout.buffer.write(encoder.encode([scan]).tobytes())"
    )
    command = [sys.executable, "-c", script, str(lite0_folder)]
    again = subprocess.run(command, check=True, capture_output=True)
    assert again.stdout == lite0.encode(scans(1)).tobytes()
    assert again.stderr == b""
    assert list(lite0_folder.iterdir()) == [kept]


def test_kept_networks_of_different_weights_have_different_names(
    keras_file: Path, official_file: Path
) -> None:
    names = {running.file_name(RADIMAGENET, weights.mark(p)) for p in (keras_file, official_file)}
    assert len(names) == 2


def test_torch_runs_an_encoder_on_the_device_it_is_given(lite0: Encoder) -> None:
    forward = running.in_torch(encoders.network("efficientnet-lite0"), "cpu")
    x = pictures(1, 224).numpy()
    np.testing.assert_allclose(forward(x), lite0.parts[0].forward(x), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_auto_takes_radimagenet_from_the_hub_when_it_can_be_had(
    official_file: Path, tmp_path: Path
) -> None:
    hugging_face = Hub(official_file)
    encoder = encoders.load("auto", cache_dir=tmp_path, fetch=hugging_face)
    assert hugging_face.asked == [("Lab-Rasool/RadImageNet", ("ResNet50.pt",))]
    assert encoder.name == named(RADIMAGENET, official_file)
    assert not encoder.substituted


@pytest.mark.soak
def test_the_densenet_of_the_hub_runs_in_onnxruntime_as_in_torch(densenet_file: Path) -> None:
    fetched = encoders.load(DENSENET, fetch=Hub(densenet_file))
    assert (fetched.name, fetched.dim) == (named(DENSENET, densenet_file), 1024)
    x = pictures(2, 224)
    expected = encoders.network(DENSENET, densenet_file)(x).numpy()
    np.testing.assert_allclose(fetched.parts[0].forward(x.numpy()), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "owner", "theirs"),
    [
        ("auto", "auto", True),
        (RADIMAGENET, "auto", True),
        ("auto", RADIMAGENET, True),
        (DENSENET, "auto", False),
        ("timm/resnet50", "auto", False),
        ("timm/resnet50", "timm/resnet50", True),
        ("pixels", "auto", False),
        ("resnet50-random", "timm/resnet50", False),
        (RADIMAGENET, "pixels", True),
        ("pixels", "pixels", False),
        ("statistics+pixels", "auto", False),
        ("auto+statistics", "auto", True),
        (RADIMAGENET, "statistics+auto", True),
        ("statistics+timm/resnet50", "timm/resnet50", True),
        ("timm/resnet50+auto", "auto", False),
    ],
)
def test_weights_go_to_the_encoder_they_were_given_for_and_no_other(
    name: str, owner: str, theirs: bool
) -> None:
    file = Path("weights.pt")
    assert encoders.weights_for(name, file, owner=owner) == (file if theirs else None)
    assert encoders.weights_for(name, None, owner=owner) is None


def test_a_network_without_an_onnx_form_runs_in_torch_and_says_so(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    forward, note = running.on_cpu(lambda: Branching().eval(), tmp_path / "kept.onnx")
    x = pictures(2, 224)
    assert np.array_equal(forward(x.numpy()), x.flatten(1).numpy())
    assert "runs in torch, slower: no ONNX form of it could be made" in note
    assert list(tmp_path.iterdir()) == []


def test_a_network_too_large_for_onnx_runs_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx.checker.MAXIMUM_PROTOBUF", 10)
    forward, note = running.on_cpu(lambda: nn.Flatten().eval(), None)
    assert forward(pictures(1, 224).numpy()).shape == (1, 3 * 224 * 224)
    assert "its ONNX form would exceed 10 bytes" in note


# --- timm -------------------------------------------------------------------------------------


def timm_state(model: str, **how: Any) -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network: nn.Module = timm.create_model(model, **how)
    return network.state_dict()


@pytest.fixture(scope="module")
def vit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vit") / "model.safetensors"
    save_file(timm_state("test_vit"), path)
    return path


@pytest.mark.slow
def test_a_transformer_of_timm_runs_in_onnxruntime_as_in_torch(vit_file: Path) -> None:
    hugging_face = Hub(vit_file)
    encoder = encoders.load("timm/test_vit.r160_in1k", fetch=hugging_face)
    assert encoder.name == named("timm/test_vit.r160_in1k", vit_file)
    assert (encoder.dim, encoder.substituted, encoder.note) == (64, False, "")
    x = pictures(3, 224)
    expected = encoders.network("timm/test_vit", vit_file)(x).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(encoder.parts[0].forward(x.numpy()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_kept_model_of_timm_is_the_same_encoder(vit_file: Path, tmp_path: Path) -> None:
    first, again = (
        encoders.load("timm/test_vit", weights=vit_file, cache_dir=tmp_path) for _ in range(2)
    )
    assert len(list(tmp_path.iterdir())) == 1
    images = scans(2, (90, 120))
    assert (again.name, again.dim) == (first.name, first.dim)
    assert again.parts[0].resampling == first.parts[0].resampling
    assert np.array_equal(again.encode(images), first.encode(images))


@pytest.mark.parametrize("classes", [0, 3, 1000])
def test_a_model_of_timm_loses_its_classifier_whatever_its_size(
    classes: int, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    state = timm_state("test_resnet", num_classes=classes)
    torch.save(state, path)
    headless = timm.create_model("test_resnet", num_classes=0).eval()
    headless.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})
    x = pictures(2)
    config: Any = timm.get_pretrained_cfg("test_resnet")
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (config.mean, config.std))
    with torch.inference_mode():
        expected = headless((x - mean) / std)
    found = encoders.network("timm/test_resnet", path)(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_dinov2_runs_at_224_pixels_with_its_positions_interpolated(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    state = timm_state("vit_small_patch14_dinov2")
    assert state["pos_embed"].shape == (1, 1 + 37 * 37, 384)  # at 518 pixels
    save_file(state, path)
    network: Any = encoders.network("timm/vit_small_patch14_dinov2.lvd142m", path)
    assert network[1].pos_embed.shape == (1, 1 + 16 * 16, 384)
    assert network(pictures(1, 224)).shape == (1, 384)


@pytest.mark.parametrize(
    "content",
    [
        dict,
        lambda: {"head.weight": torch.zeros(1000, 64)},
        lambda: without(timm_state("test_vit"), "blocks.0.norm1.weight"),
        lambda: timm_state("test_vit") | {"more": torch.zeros(1)},
        lambda: timm_state("test_resnet"),
    ],
)
def test_weights_of_another_model_are_refused_by_timm_too(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content(), path)
    with pytest.raises(
        ValueError, match=r"tensors that do not fit this network .* timm's test_vit"
    ):
        encoders.load("timm/test_vit", weights=path)


def test_a_pickle_that_would_run_code_is_refused_for_timm_too(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        encoders.load("timm/test_vit", weights=path)


# --- input ------------------------------------------------------------------------------------

IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [
        (RADIMAGENET, "official_file", lambda x: x * 2 - 1),
        (RADIMAGENET, "keras_file", lambda x: x - IMAGENET[0]),
        (DENSENET, "densenet_file", lambda x: x * 2 - 1),
        ("efficientnet-lite0", None, lambda x: (x * 255 - 127) / 128),
        ("resnet50-random", None, lambda x: x * 2 - 1),
        ("timm/test_vit", "vit_file", lambda x: (x - 0.5) / 0.5),
    ],
)
@pytest.mark.parametrize("colour", [(0, 0, 0), (0.5, 0.5, 0.5), (1, 1, 1), (1, 0.5, 0)])
def test_each_network_receives_the_input_it_was_trained_on(
    name: str,
    file: str | None,
    expected: Any,
    colour: tuple[float, ...],
    request: pytest.FixtureRequest,
) -> None:
    path = None if file is None else request.getfixturevalue(file)
    normalise = next(encoders.network(name, path).children())
    picture = torch.tensor(colour, dtype=torch.float32).reshape(1, 3, 1, 1)
    received = normalise(picture).reshape(3).numpy()
    np.testing.assert_allclose(received, expected(np.array(colour)), atol=1e-6)


def test_the_configuration_of_a_timm_model_gives_its_input(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(timm_state("resnet18"), path)
    normalise = next(encoders.network("timm/resnet18.tv_in1k", path).children())
    received = normalise(torch.full((1, 3, 1, 1), 0.5)).reshape(3).numpy()
    np.testing.assert_allclose(received, (0.5 - IMAGENET[0]) / IMAGENET[1], atol=1e-6)
    assert recipe_of("timm/resnet18.tv_in1k").resampling == Image.Resampling.BILINEAR
    assert recipe_of("timm/resnet18.a1_in1k").resampling == Image.Resampling.BICUBIC


@pytest.mark.parametrize("resampling", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_a_network_is_given_whole_scans_squeezed_to_rgb_squares(
    resampling: Image.Resampling,
) -> None:
    seen: list[NDArray[np.float32]] = []

    def forward(given: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(given)
        return np.zeros((len(given), 1), np.float32)

    image = np.zeros((60, 100, 3), np.float32)
    image[:, :50, 0], image[:, 50:, 2] = 1, 1  # red on the left, blue on the right
    Part(1, forward, resampling=resampling).encode([image])
    ((picture,),) = seen
    assert picture.shape == (3, 224, 224)
    assert (picture[:, 0, 0].tolist(), picture[:, -1, -1].tolist()) == ([1, 0, 0], [0, 0, 1])
    assert (picture.min(), picture.max()) == (0, 1)


def test_the_input_of_lite0_fits_the_statistics_of_its_first_layers() -> None:
    photographs = [image[100:420, 100:420] / 255 for image in load_sample_images().images]
    x = torch.from_numpy(np.stack(photographs)).permute(0, 3, 1, 2).float()
    normalise, body = encoders.network("efficientnet-lite0").children()
    stem: Any = body._conv_stem
    norm: Any = body._bn0
    alive = norm.running_var > 1e-3
    mean, std = (
        torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )

    def misfit(inputs: torch.Tensor) -> float:
        ratio = stem(inputs).var(dim=(0, 2, 3)) / norm.running_var
        return float(ratio[alive].log().abs().mean())

    assert misfit(normalise(x)) < 0.7 < 1.3 < misfit((x - mean) / std)


@pytest.mark.slow
def test_embeddings_tell_the_modes_of_the_phantoms_apart(lite0: Encoder) -> None:
    pool = phantoms.generate(80, size=96)
    modes = np.array([phantom.mode for phantom in pool])
    embeddings = lite0.encode([phantom.image for phantom in pool])
    accuracy = cross_val_score(KNeighborsClassifier(3), embeddings, modes, cv=4).mean()
    assert accuracy > np.bincount(modes).max() / modes.size + 0.4


def test_the_random_control_is_seeded_and_leaves_torchs_generator_alone() -> None:
    x = pictures(1)
    torch.manual_seed(3)
    first = encoders.network("resnet50-random")(x)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert torch.equal(first, encoders.network("resnet50-random")(x))
    assert first.shape == (1, 2048)
    assert first.isfinite().all()


@pytest.fixture(
    params=["pixels", "normalised-pixels", "statistics", "efficientnet-lite0", "statistics+pixels"]
)
def encoder(request: pytest.FixtureRequest, lite0: Encoder) -> Encoder:
    return lite0 if request.param == lite0.name else encoders.load(request.param)


def test_no_images_give_no_rows(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_grey_is_the_same_as_three_equal_channels(encoder: Encoder) -> None:
    grey = scans(2, (70, 50))
    colour = [np.repeat(image[..., None], 3, axis=2) for image in grey]
    assert np.array_equal(encoder.encode(grey), encoder.encode(colour))


@pytest.mark.slow
def test_an_embedding_does_not_depend_on_its_neighbours_or_the_run(encoder: Encoder) -> None:
    images = scans(3, (40, 60)) + scans(encoders.BATCH, (300, 20))
    together = encoder.encode(images)
    assert together.dtype == np.float32
    assert np.array_equal(together, encoder.encode(images))
    alone = np.concatenate([encoder.encode([image]) for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_images_of_another_floating_type_or_memory_order_are_the_same_images(
    encoder: Encoder,
) -> None:
    image = scans(1, (60, 80, 3))[0]
    others: list[NDArray[Any]] = [
        image.astype(np.float64),
        np.asfortranarray(image),
        np.flip(np.flip(image, 0).copy(), 0),
    ]
    for other in others:
        assert np.array_equal(encoder.encode([other]), encoder.encode([image]))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((4, 4, 4), np.float32), "shape"),
        (np.zeros((4,), np.float32), "shape"),
        (np.zeros((0, 4), np.float32), "shape"),
        (np.zeros((1, 4, 4, 3), np.float32), "shape"),
        (np.full((4, 4), 255, np.uint8), "uint8 and values from 255 to 255"),
        (np.full((4, 4), 1.5, np.float32), "values from 1.5"),
        (np.full((4, 4), -0.1, np.float32), "scale it to floats"),
        (np.full((4, 4), np.nan, np.float32), "values from nan"),
    ],
)
def test_an_image_that_was_not_scaled_is_refused(image: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        encoders.load("pixels").encode([image])


def test_pixels_are_the_small_grey_picture_itself() -> None:
    with pytest.raises(ValueError, match="pixels has no network"):
        encoders.network("pixels")
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    encoder = encoders.load("pixels")
    small = encoder.encode([ramp]).reshape(16, 16)
    assert (encoder.name, encoder.dim, encoder.substituted) == ("pixels", 256, False)
    assert np.allclose(small, np.linspace(0.5 / 16, 1 - 0.5 / 16, 16), atol=0.02)


def test_an_encoder_of_several_parts_puts_their_vectors_side_by_side() -> None:
    images = scans(2, (70, 50)) + scans(1, (30, 30, 3))
    names = ("statistics", "pixels")
    encoder = encoders.load("+".join(names))
    assert (encoder.name, encoder.widths) == ("statistics+pixels", (148, 256))
    assert encoder.dim == 404
    alone = [encoders.load(name).encode(images) for name in names]
    assert np.array_equal(encoder.encode(images), np.hstack(alone))


@pytest.mark.slow
def test_a_part_keeps_the_mark_of_its_weights_and_the_reason_of_its_substitute(
    keras_file: Path,
) -> None:
    given = encoders.load("statistics+auto", weights=keras_file)
    assert given.name == f"statistics+{named(RADIMAGENET, keras_file)}"
    assert not given.substituted
    replaced = encoders.load("auto+statistics")
    assert replaced.name == "efficientnet-lite0+statistics"
    assert replaced.substituted


def test_every_name_has_a_recipe_and_every_recipe_a_name() -> None:
    assert tuple(recipes.RECIPES) == encoders.NAMES


def test_running_a_network_leaves_no_id_of_the_machine_and_tells_nobody(tmp_path: Path) -> None:
    program = """
import numpy as np, onnx
from onnx import helper, TensorProto
from model.encoders import running
one = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", one[:1], one[1:])
made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
run = running.in_onnxruntime(made.SerializeToString())
assert run(np.ones(1, np.float32)) == 1
"""
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", program], env=os.environ | home, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))
