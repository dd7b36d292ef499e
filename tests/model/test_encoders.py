from __future__ import annotations

import copy
import functools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torchvision.models import resnet50

from model import encoders, phantoms
from model.encoders import Encoder

State = dict[str, torch.Tensor]
RADIMAGENET = "radimagenet-resnet50"


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
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders") / "not" / "there" / "yet"


@pytest.fixture(scope="module")
def lite0(cache: Path) -> Encoder:
    return encoders.load("auto", cache_dir=cache)


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
@settings(deadline=None, max_examples=100)
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
        ("vgg", None, "unknown; choose auto or one of radimagenet-resnet50, efficientnet-lite0"),
        (RADIMAGENET, None, "needs the file"),
        ("efficientnet-lite0", "x.pt", "takes no weights"),
        ("pixels", "x.pt", "takes no weights"),
    ],
)
def test_a_name_that_cannot_be_loaded_says_why(name: str, weights: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        encoders.load(name, weights=weights)


def test_an_absent_device_is_refused() -> None:
    with pytest.raises(ValueError, match="device 'abacus' is not available"):
        encoders.load("efficientnet-lite0", device="abacus")


def test_auto_without_weights_is_a_substitute_that_says_so(lite0: Encoder) -> None:
    assert (lite0.name, lite0.dim, lite0.substituted) == ("efficientnet-lite0", 1280, True)
    assert "no RadImageNet weights were given" in lite0.substitution


def test_onnxruntime_computes_what_torch_computes(lite0: Encoder) -> None:
    x = pictures(3, 224)
    expected = encoders.network("efficientnet-lite0")(x).numpy()
    np.testing.assert_allclose(lite0.forward(x.numpy()), expected, rtol=1e-3, atol=1e-4)


def test_auto_with_weights_is_radimagenet_in_onnxruntime(keras_file: Path) -> None:
    encoder = encoders.load("auto", weights=keras_file)
    assert (encoder.name, encoder.dim, encoder.substituted) == (RADIMAGENET, 2048, False)
    x = pictures(2, 224)
    expected = encoders.network(RADIMAGENET, keras_file)(x).numpy()
    np.testing.assert_allclose(encoder.forward(x.numpy()), expected, rtol=1e-3, atol=1e-3)


def test_a_kept_network_loads_without_torch_and_is_no_substitute_when_asked_for(
    lite0: Encoder, cache: Path
) -> None:
    (kept,) = cache.iterdir()
    script = (
        "import sys, numpy as np; from model import encoders\n"
        "encoder = encoders.load('efficientnet-lite0', cache_dir=sys.argv[1])\n"
        "scan = np.random.default_rng(0).random((224, 224), dtype=np.float32)\n"
        "assert 'torch' not in sys.modules and not encoder.substituted\n"
        "sys.stdout.buffer.write(encoder.encode([scan]).tobytes())"
    )
    command = [sys.executable, "-c", script, str(cache)]
    again = subprocess.run(command, check=True, capture_output=True)
    assert again.stdout == lite0.encode(scans(1)).tobytes()
    assert again.stderr == b""
    assert list(cache.iterdir()) == [kept]


def test_kept_networks_of_different_weights_have_different_names(
    keras_file: Path, official_file: Path
) -> None:
    names = {encoders._cache_name(RADIMAGENET, path) for path in (keras_file, official_file)}
    assert len(names) == 2


def test_torch_runs_an_encoder_on_the_device_it_is_given(lite0: Encoder) -> None:
    forward = encoders._in_torch(encoders.network("efficientnet-lite0"), "cpu")
    x = pictures(1, 224).numpy()
    np.testing.assert_allclose(forward(x), lite0.forward(x), rtol=1e-3, atol=1e-4)


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


@pytest.fixture(params=["pixels", "efficientnet-lite0"])
def encoder(request: pytest.FixtureRequest, lite0: Encoder) -> Encoder:
    return encoders.load("pixels") if request.param == "pixels" else lite0


def test_no_images_give_no_rows(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_grey_is_the_same_as_three_equal_channels(encoder: Encoder) -> None:
    grey = scans(2, (70, 50))
    colour = [np.repeat(image[..., None], 3, axis=2) for image in grey]
    assert np.array_equal(encoder.encode(grey), encoder.encode(colour))


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
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    encoder = encoders.load("pixels")
    small = encoder.encode([ramp]).reshape(16, 16)
    assert (encoder.name, encoder.dim, encoder.substituted) == ("pixels", 256, False)
    assert np.allclose(small, np.linspace(0.5 / 16, 1 - 0.5 / 16, 16), atol=0.02)
