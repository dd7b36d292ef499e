from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError

from backend.rounds.maps import weights_hub


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that gives no answer; the addresses that were tried."""
    tried: list[str] = []

    def unanswered(url: str, **_: Any) -> None:
        tried.append(url)
        raise httpx2.ConnectTimeout("silence")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unanswered)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", pytest.fail)
    return tried


def test_a_silent_hub_is_tried_once_and_gives_nothing(silent: list[str], tmp_path: Path) -> None:
    assert weights_hub.fetch("them/it", ("a.safetensors", "a.bin"), cache_dir=tmp_path) is None
    assert silent == ["https://huggingface.co/them/it/resolve/main/a.safetensors"]


def test_what_was_fetched_before_is_found_without_the_hub(
    silent: list[str], tmp_path: Path
) -> None:
    commit = "0123456789" * 4
    repository = tmp_path / "models--them--it"
    kept = repository / "snapshots" / commit / "a.bin"
    kept.parent.mkdir(parents=True)
    kept.touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    found = weights_hub.Weights(kept, commit)
    files = ("a.safetensors", "a.bin")
    assert weights_hub.fetch("them/it", files, cache_dir=tmp_path) == found
    assert weights_hub.fetch("them/it", files, revision=commit, cache_dir=tmp_path) == found
    assert silent == []
    assert weights_hub.fetch("them/it", files, revision="f" * 40, cache_dir=tmp_path) is None
    assert silent == [f"https://huggingface.co/them/it/resolve/{'f' * 40}/a.safetensors"]


def test_the_first_file_that_the_hub_has_is_fetched_at_the_commit_that_it_tells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = "0123456789" * 4

    def answer(url: str, **_: Any) -> SimpleNamespace:
        if url.endswith("safetensors"):
            raise EntryNotFoundError("absent")
        return SimpleNamespace(commit_hash=commit)

    def download(repository: str, file: str, *, revision: str, **_: Any) -> str:
        return f"/{repository}/{revision}/{file}"

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = weights_hub.fetch("them/it", ("a.safetensors", "a.bin", "a.pt"), cache_dir=tmp_path)
    assert found == weights_hub.Weights(Path(f"/them/it/{commit}/a.bin"), commit)
    assert weights_hub.fetch("them/it", ("a.safetensors",), cache_dir=tmp_path) is None
