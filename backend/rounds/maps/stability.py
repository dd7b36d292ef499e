"""Measure how much a cold start depends on the seed of its map, for a project or a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.errors import ConfigError, ImageError
from backend.imaging import decode
from backend.imaging.pixels import Pixels, shrink
from backend.imaging.scan_cache import WORKING_SIZE
from backend.options import ProjectOptions, parse_options
from backend.rounds.maps import encoding
from backend.rounds.maps.embedding_map import GROWTH, Floats, Maps
from backend.settings import Settings
from backend.storage.artifacts import Artifacts, ProjectFiles
from backend.storage.ledger import stored_options
from backend.storage.store import Store
from model import active_learning, diagnostics, stability
from model.projection import FEWEST
from model.stability import Stability

VERDICT = "stability.json"


def of_project(
    settings: Settings, store: Store, project_id: int, changed: Mapping[str, Any], seeds: int
) -> Stability:
    """Measure a connected project, and store the result for its page.

    Args:
        changed: Options that replace the project's own.
        seeds: Number of seeds for each perplexity.

    Raises:
        NotFound: If the database does not know the project.
        ConfigError: If the project has too few embedded scans for its budget, or an option is
            wrong.
    """
    project = store.projects.known(project_id)
    options = parse_options({**stored_options(project).model_dump(), **changed})
    encoder = encoding.load(settings, options.encoder_of(settings.encoder))
    files = Artifacts(settings.data_dir, settings.artifacts_url).of(project_id)
    maps = Maps(files, store.embeddings.all(project_id, encoder.name))
    embeddings = maps.embeddings(range(len(maps.ids)))
    result = _measure(embeddings, options, range(seeds), encoder.widths)
    measured = {"scans": len(maps.ids), "overlap": result.overall}
    files.write_json(VERDICT, {**_choice(options, encoder.name), **measured})
    return result


def of_folder(
    settings: Settings, folder: Path, changed: Mapping[str, Any], seeds: int
) -> Stability:
    """Measure the PNG and JPEG images of a folder, or of its subfolder `images`.

    Raises:
        ConfigError: If the folder does not exist or holds too few images, or an option is wrong.
        ImageError: If an image cannot be read.
    """
    inside = folder / "images" if (folder / "images").is_dir() else folder
    if not inside.is_dir():
        raise ConfigError(
            f"{folder} is neither a folder nor the number of a project.",
            "Give a folder with PNG or JPEG images, or the id of a connected project.",
        )
    paths = decode.pictures(inside)
    if not paths:
        raise ConfigError(
            f"{inside} holds no image.", f"Give a folder with at least {FEWEST} PNG or JPEG images."
        )
    options = parse_options(changed)
    encoder = encoding.load(settings, options.encoder_of(settings.encoder))
    small = [shrink(_decoded(path, settings), WORKING_SIZE) for path in paths]
    return _measure(encoder.encode(small), options, range(seeds), encoder.widths)


def _decoded(path: Path, settings: Settings) -> Pixels:
    try:
        return decode.decode(path.read_bytes(), max_pixels=settings.max_image_pixels)
    except (ImageError, OSError) as error:
        why = error.what if isinstance(error, ImageError) else f"{error.strerror}."
        raise ImageError(
            f"{path} cannot be read: {why}", "Repair the file, or take it out of the folder."
        ) from None


def verdict(
    files: ProjectFiles, options: ProjectOptions, encoder: str, scans: int
) -> tuple[str, ...]:
    """Return the warning of the last measurement, if it still applies to the project.

    It applies while encoder, strategy and budget are the same, and until the pool has changed so
    much that a map would be fitted anew.
    """
    kept = files.read_json(VERDICT)
    if (
        not kept
        or options.projection != "tsne"
        or abs(scans - kept["scans"]) > GROWTH * kept["scans"]
    ):
        return ()
    same = _choice(options, encoder).items() <= kept.items()
    return diagnostics.instability(kept["overlap"]) if same else ()


def table(result: Stability) -> str:
    """Return a measurement as lines of text."""
    maps = [
        f"{choice.perplexity:>10g} {choice.seed:>5} {choice.k:>3} {choice.silhouette:>10.2f}"
        for choice in result.chosen
    ]
    overlaps = {
        "two seeds, same perplexity": result.over_seeds,
        "two perplexities, same seed": result.over_perplexities,
        "any two maps": result.overall,
        "two random choices": result.chance,
    }
    return "\n".join(
        [
            f"{'perplexity':>10} {'seed':>5} {'k':>3} {'silhouette':>10}",
            *maps,
            "",
            "Share of chosen scans in common, on average:",
            *(f"  {name:<28} {share:.2f}" for name, share in overlaps.items()),
            *result.warnings,
        ]
    )


def _measure(
    embeddings: Floats, options: ProjectOptions, seeds: Sequence[int], widths: Sequence[int]
) -> Stability:
    budget, scans = options.cold_start_budget, len(embeddings)
    if scans < FEWEST or budget >= scans:
        raise ConfigError(
            f"A cold start would choose {budget} of {scans} scans, so there is nothing to compare.",
            f"Lower --budget, or add scans: at least {FEWEST}, and more than the budget.",
        )
    return stability.measure(
        embeddings, budget, strategy=options.cold_start, seeds=seeds, widths=widths
    )


def _choice(options: ProjectOptions, encoder: str) -> dict[str, Any]:
    return {
        "encoder": encoder,
        "cold_start": options.cold_start,
        "budget": options.cold_start_budget,
        "rules": active_learning.RULES,
    }
