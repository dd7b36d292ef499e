from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from backend.commands.quickstart.process import bare_environment
from backend.commands.quickstart.studio import ROOT
from demo import rounds, scans
from demo.annotator import drawn
from demo.errors import DemoError
from model import masks


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _square(size: int = 8, value: int = 255) -> NDArray[np.uint8]:
    pixels = np.zeros((size, size + 2), np.uint8)
    pixels[2:5, 3:6] = value
    return pixels


def _region(mask: NDArray[np.bool_]) -> dict[str, object]:
    return {
        "type": "brushlabels",
        "original_height": mask.shape[0],
        "original_width": mask.shape[1],
        "value": {"format": "rle", "rle": masks.encode(mask), "brushlabels": ["Object"]},
    }


def test_a_plain_folder_gives_its_images_by_name_and_no_truth(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg"):
        _write(tmp_path / name, _square())
    (tmp_path / "notes.txt").write_text("not an image")
    pool = scans.from_folder(tmp_path)
    assert [(scan.name, scan.mask) for scan in pool] == [("a.jpeg", None), ("b.PNG", None)]


@pytest.mark.parametrize("given", [".", "images"])
def test_a_masks_folder_beside_images_is_the_truth_of_what_it_names(
    tmp_path: Path, given: str
) -> None:
    for name in ("a.png", "b.jpg", "c.png"):
        _write(tmp_path / "images" / name, _square())
    for name in ("a.png", "b.png"):
        _write(tmp_path / "masks" / name, _square())
    first, second, third = scans.from_folder(tmp_path / given)
    assert first.mask is not None
    assert second.mask is not None
    np.testing.assert_array_equal(first.mask, _square() > 0)
    np.testing.assert_array_equal(second.mask, _square() > 0)
    assert third.mask is None


@pytest.mark.parametrize(
    ("mask", "message"),
    [(_square(9), "large"), (_square(value=1), "made of 0 and 255")],
)
def test_a_mask_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, mask: NDArray[np.uint8], message: str
) -> None:
    _write(tmp_path / "images" / "a.png", _square())
    _write(tmp_path / "masks" / "a.png", mask)
    with pytest.raises(DemoError, match=rf"masks/a.png.*{message}"):
        scans.from_folder(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="No PNG or JPEG"):
        scans.from_folder(tmp_path)


def test_phantoms_are_files_with_their_truth_and_the_same_for_a_seed(tmp_path: Path) -> None:
    pool = scans.phantoms(3, tmp_path / "one", seed=4)
    again = scans.phantoms(3, tmp_path / "two", seed=4)
    assert len({scan.name for scan in pool}) == 3
    for scan, same in zip(pool, again, strict=True):
        assert scan.mask is not None
        assert scan.mask.any()
        with Image.open(scan.image_path) as picture:
            assert picture.size == scan.mask.shape[::-1]
        assert scan.image_path.read_bytes() == same.image_path.read_bytes()


def test_regions_of_a_result_are_united() -> None:
    left, right = np.zeros((2, 4, 6), bool)
    left[:, :2], right[:, 4:] = True, True
    union = drawn([_region(left), _region(right)])
    assert union is not None
    np.testing.assert_array_equal(union, left | right)
    assert drawn([]) is None


def test_dice_is_the_mean_over_the_asked_scans_that_have_a_draft_and_a_truth() -> None:
    half = np.zeros((4, 4), bool)
    half[:2] = True
    pool = {
        number: scans.Scan(str(number), Path(), mask)
        for number, mask in enumerate([half, half, None, half])
    }
    drafts = {0: [_region(half)], 1: [_region(~half)], 2: [_region(half)], 9: [_region(half)]}
    assert rounds.mean_dice(drafts, pool) == 0.5


def test_an_empty_draft_beside_others_counts_but_no_drafts_at_all_have_no_dice() -> None:
    full = np.ones((4, 4), bool)
    pool = {number: scans.Scan(str(number), Path(), full) for number in range(2)}
    assert rounds.mean_dice({0: [], 1: [_region(full)]}, pool) == 0.5
    assert rounds.mean_dice({0: [], 1: []}, pool) is None


def test_the_cells_of_a_row_stand_below_their_headings() -> None:
    row = rounds.Row(1, 5, "x" * 99, "v" * 99, "0.912 prequential", 0.87654, 12.345)
    heading, line = rounds.header(), rounds.line(row)
    for name, cell in [("labels", "5"), ("model version", "vvv"), ("Dice unlabelled", "0.877")]:
        assert line[heading.index(name) :].startswith(cell)
    assert line.endswith("  12.3")


def _setup(root: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / "scripts" / "setup", *arguments],
        env=bare_environment() | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository whose two environments look as if they had been installed from its files."""
    root = tmp_path / "a checkout"
    (root / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup", root / "scripts")
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "requirements-setup.txt").write_text("uv==1\n")
    for venv, file in [
        (".venv", "requirements.txt"),
        (".venv", "requirements-dev.txt"),
        (".venv-label-studio", "requirements-label-studio.txt"),
    ]:
        (root / file).write_text("x==1\n")
        _program(root / venv / "bin" / "python", "exit 1")
        shutil.copy(root / file, root / venv / f".installed-{file}")
    return root


def _program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("arguments", [(), ("--dev",)])
def test_setup_does_nothing_for_what_is_up_to_date(
    checkout: Path, arguments: tuple[str, ...]
) -> None:
    done = _setup(checkout, *arguments, PYTHON="/nowhere/python3.11")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-label-studio.txt"])
def test_setup_without_a_supported_python_says_how_to_name_one(checkout: Path, file: str) -> None:
    (checkout / file).write_text("x==2\n")
    done = _setup(checkout, PYTHON="/nowhere/python3.11")
    assert done.returncode == 1
    assert "Python 3.11 to 3.13 is needed, but /nowhere/python3.11 is missing" in done.stderr
    assert "PYTHON=/path/to/python3 scripts/setup" in done.stderr


def test_setup_refuses_an_unknown_argument(checkout: Path) -> None:
    done = _setup(checkout, "--prod")
    assert (done.returncode, done.stderr) == (2, "usage: scripts/setup [--dev]\n")


@dataclass(frozen=True)
class Installer:
    """A repository, and a uv that only notes its arguments and the packages that it is given."""

    root: Path
    folder: Path

    def run(self, *arguments: str, **env: str) -> str:
        """Run scripts/setup; return what it said."""
        path = f"{self.folder}:{os.environ['PATH']}"
        done = _setup(self.root, *arguments, PATH=path, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()


@pytest.fixture
def installer(checkout: Path, tmp_path: Path) -> Installer:
    """The lock names torch, its CUDA and one more; both environments have a supported Python."""
    lock = "".join(
        f"{name}==1 \\\n    --hash=sha256:{name}\n" for name in ("numpy", "nvidia-nccl", "torch")
    )
    (checkout / "requirements.txt").write_text(f"# note\n{lock}")
    (checkout / "requirements-dev.txt").write_text(
        "-r requirements.txt\npytest==1 \\\n    --hash=sha256:pytest\n"
    )
    for venv in (".venv", ".venv-label-studio"):
        _program(checkout / venv / "bin" / "python", "exit 0")
    folder = tmp_path / "programs"
    note = f"{{ echo \"$@\"; case $* in *' -') cat; esac; }} >>'{folder}/asked'"
    _program(folder / "uv", f"[ $1 = --version ] && echo uv 1 && exit\n{note}")
    return Installer(checkout, folder)


def test_setup_takes_the_first_supported_python_that_it_finds(installer: Installer) -> None:
    shutil.rmtree(installer.root / ".venv")
    for name in ("python3.11", "python3.12"):
        _program(installer.folder / name, "exit 1")
    make = 'if [ "$2" = venv ]; then mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; fi'
    python = _program(installer.folder / "python3.13", make)
    installer.run(TORCH_INDEX="")
    made = installer.root / ".venv" / "bin" / "python"
    assert made.read_text() == python.read_text()


def test_setup_takes_torch_without_cuda_from_the_index_that_is_named(installer: Installer) -> None:
    said = installer.run(TORCH_INDEX="https://index.example/cpu")
    pip = "pip install --python .venv/bin/python --no-deps"
    assert installer.asked == [
        f"{pip} --default-index https://index.example/cpu --requirement -",
        "torch==1",
        f"{pip} --require-hashes --requirement -",
        "# note",
        "numpy==1 --hash=sha256:numpy",
        "pip check --python .venv/bin/python",
    ]
    assert "Downloading at most 0.8 GB; torch's CPU builds come from https://index.ex" in said


def test_setup_takes_all_of_the_lock_by_its_hashes_without_an_index_for_torch(
    installer: Installer,
) -> None:
    said = installer.run("--dev", TORCH_INDEX="")
    packages = [line for line in installer.asked if "==" in line]
    assert packages == [
        f"{name}==1 --hash=sha256:{name}" for name in ("numpy", "nvidia-nccl", "torch", "pytest")
    ]
    assert sum("--require-hashes" in line for line in installer.asked) == 2
    assert "Downloading at most 3.3 GB" in said


def test_setup_does_not_use_another_release_of_uv(installer: Installer) -> None:
    uv = installer.folder / "uv"
    uv.rename(installer.root / ".venv" / "bin" / "uv")
    _program(uv, "echo uv 1.1")
    installer.run(TORCH_INDEX="")
    assert "pip check --python .venv/bin/python" in installer.asked


def test_setup_tries_again_when_the_packages_did_not_fit_together(installer: Installer) -> None:
    uv = installer.folder / "uv"
    fine = uv.read_text()
    uv.write_text(fine + "case $* in *check*) exit 1; esac\n")
    path = f"{installer.folder}:{os.environ['PATH']}"
    assert _setup(installer.root, PATH=path, TORCH_INDEX="").returncode == 1
    uv.write_text(fine)
    assert "Installing into .venv" in installer.run(TORCH_INDEX="")


def test_setup_does_nothing_the_second_time(installer: Installer) -> None:
    installer.run(TORCH_INDEX="")
    (installer.folder / "asked").unlink()
    assert installer.run(TORCH_INDEX="") == ""
    assert not (installer.folder / "asked").exists()
