"""The page's map is read from the files that the selection wrote."""

from __future__ import annotations

import numpy as np

from backend.rounds.maps.embedding_map import Map, Maps
from backend.rounds.services import Services
from backend.storage import artifacts, ledger
from backend.storage.artifacts import Space
from backend.storage.tables import Publication
from backend.web.project_page import map_view

SPACE = Space("pixels", "pca", 4)
BUDGET = 3
TASKS = range(1, 13)


def select(services: Services, project_id: int) -> Map:
    """Embed twelve scans, draw their map, and make a round live that ranks none of them."""
    store, files = services.store, services.files(project_id)
    rows = [{"id": i, "url": f"/{i}.png", "group": "", "updated_at": ""} for i in TASKS]
    store.scans.save(project_id, rows)
    embeddings = np.random.default_rng(0).normal(size=(len(TASKS), 6)).astype(np.float32)
    files.write_array(artifacts.embeddings_name("a.npy"), embeddings)
    store.embeddings.save(project_id, SPACE.encoder, "a.npy", list(TASKS))
    drawn = Maps(files, store.embeddings.all(project_id, SPACE.encoder)).current(SPACE, BUDGET)
    options = {"projection": SPACE.projection, "seed": SPACE.seed, "cold_start_budget": BUDGET}
    record = {"order": [], "reasons": [], "encoder": SPACE.encoder, "options": options, "scans": {}}
    files.write_json(artifacts.round_name(1), record)
    store.publications.save(Publication(project_id=project_id, name="v", round=1, attempt=1))
    store.publications.go_live(project_id, "v")
    return drawn


def test_every_scan_lies_on_the_page_where_the_selection_put_it(
    services: Services, project_id: int
) -> None:
    drawn = select(services, project_id)
    store, files = services.store, services.files(project_id)
    found = map_view.read(store, files, project_id, ledger.read(store, project_id))
    assert found["placed"] == len(TASKS)
    assert dict(zip(found["task"], found["cluster"], strict=True)) == dict(
        zip(drawn.ids, drawn.clustering.clusters.tolist(), strict=True)
    )
    shown = np.column_stack([found["x"], found["y"]])
    for shown_axis, drawn_axis in zip(shown.T, drawn.coordinates.T, strict=True):
        assert np.corrcoef(shown_axis, drawn_axis)[0, 1] > 0.999
