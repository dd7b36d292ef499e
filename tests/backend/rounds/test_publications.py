from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from backend.commands.cli import cli
from backend.errors import ConfigError, NotFound
from backend.rounds.publications import (
    KEPT_LIVE_MODELS,
    KEPT_MODELS,
    LEFTOVER_SECONDS,
    ProjectPublications,
)
from backend.settings import Settings
from backend.storage import pages
from backend.storage.artifacts import Artifacts, ProjectFiles, weights_name
from backend.storage.records import ModelQuality
from backend.storage.store import Store, open_known, open_store
from backend.storage.tables import DraftScore, Model, Publication
from backend.web.app import create_app
from backend.web.project_page import views
from model.registry import TRAINING_RULES
from tests.backend.conftest import Clock, the
from tests.backend.fake_label_studio import CONFIG

NUMBER = 3
HEART = CONFIG.replace("Lung", "Heart")


class Shelf:
    """A project's models, weights and versions, as rounds leave them behind."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        store.projects.request_refresh(NUMBER)
        store.projects.update(NUMBER, label_config=CONFIG, title="Lungs")

    def train(self, key: str, *, accepted: bool = True, **values: Any) -> str:
        """Leave a model and its weights; return the key."""
        rank = len(self.store.publications.models(NUMBER))
        row = {"classes": ["Lung"], "labels": 4, "created_at": float(rank), **values}
        self.store.publications.save_model(
            Model(project_id=NUMBER, key=key, accepted=accepted, **row)
        )
        path = self.folder / weights_name(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return key

    def publish(self, key: str = "", *, state: str = "ready") -> str:
        """Leave a version of a model, a cold start without one; return its name."""
        number = len(self.store.publications.all(NUMBER)) + 1
        model = self.store.publications.model(NUMBER, key)
        name = f"{'attention-unet' if key else 'cold-start'} r{number:04d} {key}".rstrip()
        labels = model.labels if model else 0
        values = {
            "round": number, "attempt": 1, "model_key": key, "state": state, "labels": labels,
        }  # fmt: skip
        created = float(number)
        self.store.publications.save(
            Publication(project_id=NUMBER, name=name, created_at=created, published=[], **values)
        )
        return name

    def go_live(self, key: str = "") -> str:
        name = self.publish(key)
        self.store.clock = lambda: 1_000_000.0 + 60 * len(self.store.publications.all(NUMBER))
        self.store.publications.go_live(NUMBER, name)
        return name

    def judge(self, version: str, *dice: float) -> None:
        """Leave what people made of a version's drafts."""
        known = len(self.store.labels.draft_scores(NUMBER))
        for number, one in enumerate(dice, start=known):
            row = {"task_id": number, "version": version, "created_at": f"{number:04d}"}
            self.store.labels.save_draft_score(DraftScore(project_id=NUMBER, dice=one, **row))

    def lose(self, key: str) -> None:
        (self.folder / weights_name(key)).unlink()

    @property
    def versions(self) -> ProjectPublications:
        return ProjectPublications(self.store, the(self.store, NUMBER), ProjectFiles(self.folder))

    @property
    def weights(self) -> set[str]:
        return {path.name for path in (self.folder / "models").iterdir()}

    def lines(self) -> list[list[str]]:
        """Return the cells of the table, without its head."""
        _, *rows = self.versions.table().split("\n\n")[0].splitlines()
        return [[cell.strip() for cell in row.split("  ") if cell] for row in rows]


@pytest.fixture
def shelf(store: Store, settings: Settings) -> Shelf:
    return Shelf(store, settings.project_folder(NUMBER))


# -- the list -------------------------------------------------------------------------------------


def test_the_list_is_newest_first_and_says_what_each_version_rests_on(shelf: Shelf) -> None:
    shelf.go_live()
    first = shelf.go_live(shelf.train("k1", labels=4))
    shelf.judge(first, 0.6, 1.0)
    shelf.go_live(shelf.train("k2", labels=18, quality=ModelQuality(validation={"dice": 0.81})))
    shelf.lose("k1")
    drafts = "0.80 drafts, 1 of 2 unchanged"
    assert shelf.lines() == [
        ["attention-unet r0003 k2", "live", "1970-01-12 13:49", "18", "0.81 held out", "there"],
        ["attention-unet r0002 k1", "previous", "1970-01-12 13:48", "4", drafts, "gone"],
        ["cold-start r0001", "previous", "1970-01-12 13:47", "0", "-", "not needed"],
    ]


def test_a_cold_start_has_the_labels_that_it_was_made_from(shelf: Shelf) -> None:
    name = shelf.go_live()
    found = shelf.store.publications.get(NUMBER, name)
    assert found is not None
    found.labels = 1  # one label trains nothing yet
    shelf.store.publications.save(found)
    assert [row[3] for row in shelf.lines()] == ["1"]


def test_the_columns_stand_below_each_other(shelf: Shelf) -> None:
    shelf.go_live()
    shelf.go_live(shelf.train("k1"))
    head, *rows = shelf.versions.table().splitlines()
    start = head.index("state")
    assert [row[start:].split()[0] for row in rows] == ["live", "previous"]
    assert [row[start - 1] for row in rows] == [" ", " "]


def test_an_attempt_that_was_never_live_stays_abandoned_wherever_it_is_by_now(shelf: Shelf) -> None:
    shelf.publish(state="abandoned")
    shelf.publish(state="removed")
    shelf.go_live()
    assert [row[1] for row in shelf.lines()] == ["live", "abandoned", "abandoned"]


def test_a_model_of_other_labels_is_named_in_the_list(shelf: Shelf) -> None:
    shelf.go_live(shelf.train("k1"))
    shelf.store.projects.update(NUMBER, label_config=HEART)
    assert shelf.lines()[0][-1] == "other labels"
    shelf.store.projects.update(NUMBER, label_config="<View/>")
    assert shelf.lines()[0][-1] == "other labels"


def test_a_project_that_published_nothing_says_so(shelf: Shelf) -> None:
    assert shelf.versions.table() == "Project 3 has published nothing yet."


def test_a_pinned_version_is_marked_in_the_list_with_the_way_out(shelf: Shelf) -> None:
    old = shelf.go_live(shelf.train("k1"))
    shelf.go_live(shelf.train("k2"))
    shelf.versions.pin(old)
    assert [row[1] for row in shelf.lines()] == ["live", "previous, pinned"]
    last = shelf.versions.table().splitlines()[-1]
    assert last == f"{old} is pinned until: python -m backend rollback 3 --resume"


# -- going back -----------------------------------------------------------------------------------


def test_a_pin_is_a_wish_for_the_worker(shelf: Shelf) -> None:
    old = shelf.go_live(shelf.train("k1"))
    wanted = the(shelf.store, NUMBER).requested
    said = shelf.versions.pin(old)
    assert said == (
        f"Project 3 goes back to {old} with its next round. "
        "It trains nothing until: python -m backend rollback 3 --resume"
    )
    assert the(shelf.store, NUMBER).requested == wanted + 1
    found = shelf.versions.pinned()
    assert found is not None
    assert (found.name, found.model_key) == (old, "k1")


def test_a_pin_ends_once(shelf: Shelf) -> None:
    shelf.versions.pin(shelf.go_live())
    wanted = the(shelf.store, NUMBER).requested
    assert shelf.versions.resume() == "Project 3 trains again with its next round."
    assert the(shelf.store, NUMBER).requested == wanted + 1
    assert shelf.versions.pinned() is None
    with pytest.raises(ConfigError, match=r"Nothing is pinned in project 3\."):
        shelf.versions.resume()


def test_no_wish_wakes_a_project_that_was_disconnected(shelf: Shelf) -> None:
    name = shelf.go_live()
    shelf.versions.pin(name)
    shelf.store.projects.update(NUMBER, disconnected=True)
    for request in (partial(ProjectPublications.pin, name=name), ProjectPublications.resume):
        with pytest.raises(ConfigError, match="Project 3 is not connected") as caught:
            request(shelf.versions)
        assert caught.value.fix == "Connect it first: python -m backend connect 3"
    assert the(shelf.store, NUMBER).disconnected
    assert shelf.store.publications.pinned(NUMBER) == name


def test_a_pin_is_of_one_project(shelf: Shelf) -> None:
    shelf.versions.pin(shelf.go_live())
    assert shelf.store.publications.pinned(NUMBER + 1) == ""


def test_a_paused_project_says_that_the_round_waits(shelf: Shelf) -> None:
    name = shelf.go_live()
    shelf.store.projects.update(NUMBER, options={"paused": True})
    assert "paused: that round waits" in shelf.versions.pin(name)
    assert "paused: that round waits" in shelf.versions.resume()


def test_a_version_that_left_label_studio_can_be_gone_back_to(shelf: Shelf) -> None:
    old = shelf.go_live(shelf.train("k1"))
    found = shelf.store.publications.get(NUMBER, old)
    assert found is not None
    found.state = "removed"
    shelf.store.publications.save(found)
    assert old in shelf.versions.pin(old)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("r0099", "r0099 cannot be published: project 3 has no such version."),
        ("", "No version is named."),
        ("lost", "cannot be published: its weights are gone."),
        ("other", "cannot be published: it was trained for other labels."),
        ("never", "cannot be published: it was never live."),
    ],
)
def test_what_cannot_be_gone_back_to_is_refused_with_what_can(
    shelf: Shelf, name: str, what: str
) -> None:
    names = {
        "cold": shelf.go_live(),
        "lost": shelf.go_live(shelf.train("k1")),
        "other": shelf.go_live(shelf.train("k2", classes=["Heart"])),
        "never": shelf.publish(shelf.train("k3"), state="abandoned"),
        "good": shelf.go_live(shelf.train("k4")),
    }
    shelf.lose("k1")
    with pytest.raises(ConfigError) as caught:
        shelf.versions.pin(names.get(name, name))
    assert caught.value.what.endswith(what)
    assert caught.value.fix == f"Choose one of: {names['good']}, {names['cold']}."
    assert shelf.store.publications.pinned(NUMBER) == ""


def test_with_nothing_to_go_back_to_that_is_said(shelf: Shelf) -> None:
    with pytest.raises(ConfigError, match="There is none to go back to yet"):
        shelf.versions.pin("r0001")


def test_of_many_versions_an_error_lists_the_newest(shelf: Shelf) -> None:
    names = [shelf.go_live() for _ in range(13)]
    with pytest.raises(ConfigError) as caught:
        shelf.versions.pin("r0099")
    listed = ", ".join(names[:2:-1])
    assert caught.value.fix == f"Choose one of: {listed} and 3 more."


@pytest.mark.parametrize(
    ("damage", "why"),
    [("weights", "its weights are gone"), ("labels", "it was trained for other labels")],
)
def test_a_pin_that_no_longer_holds_is_an_error_that_names_the_way_out(
    shelf: Shelf, damage: str, why: str
) -> None:
    name = shelf.go_live(shelf.train("k1"))
    shelf.versions.pin(name)
    if damage == "weights":
        shelf.lose("k1")
    else:
        shelf.store.projects.update(NUMBER, label_config=HEART)
    with pytest.raises(ConfigError) as caught:
        shelf.versions.pinned()
    assert caught.value.what == f"The pinned version {name} cannot be published: {why}."
    assert "python -m backend rollback 3 --resume" in caught.value.fix
    shelf.versions.resume()
    assert shelf.versions.pinned() is None


def test_the_page_says_what_is_pinned_and_for_how_long(shelf: Shelf, settings: Settings) -> None:
    old = shelf.go_live(shelf.train("k1"))
    live = shelf.go_live(shelf.train("k2"))
    shelf.versions.pin(old)
    state = views.status(shelf.store, Artifacts(settings.data_dir), NUMBER)
    assert (state["pinned"], state["live_version"]) == (old, live)
    lines = views.text(state, 0.0).splitlines()
    at = lines.index(f"Queue: {live} is live.")
    assert lines[at + 1 : at + 3] == [
        f"Pinned: the queue comes from {old}, and no model is trained, until:",
        "  python -m backend rollback 3 --resume",
    ]


def test_what_a_pin_published_is_listed_for_label_studio_under_its_own_name(
    shelf: Shelf, settings: Settings
) -> None:
    old = shelf.go_live(shelf.train("k1"))
    newer = shelf.go_live(shelf.train("k2"))
    shelf.versions.pin(old)
    again = shelf.go_live("k1")
    client = create_app(settings, shelf.store, lambda *_: []).test_client()
    assert client.get("/versions").get_json() == {"versions": [again, newer, old]}
    assert shelf.store.installation.answer(the(shelf.store, NUMBER)) == again
    assert [row[1] for row in shelf.lines()] == ["live", "previous", "previous, pinned"]


# -- the commands ---------------------------------------------------------------------------------


def said(folder: Path, *words: str) -> str:
    result = CliRunner().invoke(cli, words, env={"DATA_DIR": str(folder)}, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output.rstrip("\n")


def test_the_commands_list_pin_and_resume(shelf: Shelf, tmp_path: Path) -> None:
    old = shelf.go_live(shelf.train("k1"))
    shelf.go_live(shelf.train("k2"))
    assert said(tmp_path, "versions", "3") == shelf.versions.table()
    # The name is three words; quoted or not, it is one version.
    for words in (old.split(), [old]):
        assert said(tmp_path, "rollback", "3", *words).startswith(f"Project 3 goes back to {old}")
        assert shelf.store.publications.pinned(NUMBER) == old
        assert "trains again" in said(tmp_path, "rollback", "3", "--resume")
        assert shelf.store.publications.pinned(NUMBER) == ""


def test_a_command_takes_a_version_or_resume_but_not_both(shelf: Shelf) -> None:
    result = CliRunner().invoke(cli, ["rollback", "3", "r0001", "--resume"])
    assert result.exit_code == 2
    assert "not both" in result.output


@pytest.mark.parametrize("words", [("versions", "9"), ("rollback", "9", "r1")])
def test_a_command_for_an_unknown_project_says_how_to_connect_it(
    shelf: Shelf, tmp_path: Path, words: Sequence[str]
) -> None:
    with pytest.raises(NotFound, match="connect 9"):
        said(tmp_path, *words)


def test_a_command_in_the_wrong_folder_names_it_and_leaves_it_empty(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no database yet") as caught:
        open_known(f"sqlite:///{tmp_path / 'firstlight.sqlite'}")
    assert str(tmp_path) in caught.value.what
    assert "DATA_DIR" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


# -- retention ------------------------------------------------------------------------------------


def keys(numbers: Sequence[int]) -> set[str]:
    return {f"k{number}" for number in numbers}


def test_the_weights_of_the_last_five_models_stay(shelf: Shelf) -> None:
    for number in range(8):
        shelf.train(f"k{number}", accepted=number % 2 == 0)
    shelf.versions.tidy()
    assert shelf.weights == keys(range(3, 8))


def test_of_the_last_thirty_those_stay_that_were_live(shelf: Shelf) -> None:
    for number in range(40):
        key = shelf.train(f"k{number}")
        if number % 3 == 0:
            shelf.go_live(key)
    shelf.versions.tidy()
    live = [number for number in range(10, 40) if number % 3 == 0]
    assert shelf.weights == keys([*live, *range(35, 40)])


def test_the_two_models_that_the_stop_rule_compares_stay(shelf: Shelf) -> None:
    for labels in range(1, 40):
        quality = ModelQuality(held_out={"dice": {1: 0.9}}, validation={"dice": labels / 100})
        shelf.train(f"k{labels}", labels=labels, quality=quality)
    shelf.versions.tidy()
    assert shelf.weights == keys([21, 31, *range(35, 40)]), "10 labels apart, and the last five"


def test_a_refused_model_counts_only_among_the_last_five(shelf: Shelf) -> None:
    shelf.train("refused", accepted=False, quality=ModelQuality(validation={"dice": 0.99}))
    for number in range(4):
        shelf.train(f"k{number}", quality=ModelQuality(validation={"dice": 0.5}))
    shelf.versions.tidy()
    assert "refused" in shelf.weights
    shelf.train("k4", quality=ModelQuality(validation={"dice": 0.5}))
    shelf.versions.tidy()
    assert shelf.weights == keys(range(5))


def many(shelf: Shelf, start: int = 100) -> None:
    """Train as many models as push out everything that only its age keeps."""
    for number in range(start, start + KEPT_LIVE_MODELS):
        shelf.train(f"k{number}")


def test_the_best_on_held_out_scans_stays_however_old(shelf: Shelf) -> None:
    for number, dice in enumerate([0.7, 0.9, 0.8]):
        shelf.train(f"k{number}", quality=ModelQuality(validation={"dice": dice}))
    shelf.judge(shelf.go_live(shelf.train("k3")), 0.99)  # another measure: it does not compare
    shelf.go_live()
    shelf.go_live()
    many(shelf)
    shelf.versions.tidy()
    assert shelf.weights == keys([1, *range(125, 130)])


def test_while_nothing_is_held_out_the_best_is_the_one_with_the_best_drafts(shelf: Shelf) -> None:
    for number, dice in enumerate([0.7, 0.9, 0.8]):
        version = shelf.go_live(shelf.train(f"k{number}"))
        shelf.judge(version, dice - 0.1, dice + 0.1)
    shelf.go_live()
    shelf.go_live()
    many(shelf)
    shelf.versions.tidy()
    assert shelf.weights == keys([1, *range(125, 130)])


def test_the_best_of_former_labels_is_not_the_best(shelf: Shelf) -> None:
    shelf.train("former", classes=["Heart"], quality=ModelQuality(validation={"dice": 0.9}))
    shelf.train("best", quality=ModelQuality(validation={"dice": 0.6}))
    many(shelf)
    shelf.versions.tidy()
    assert shelf.weights == {"best", *keys(range(125, 130))}


def test_of_slabs_models_of_earlier_rules_are_neither_the_best_nor_compared(shelf: Shelf) -> None:
    url = pages.joined(["/a.png", "/b.png"])
    earlier = ModelQuality(held_out={"dice": {1: 0.9}}, validation={"dice": 0.9})
    today = ModelQuality(
        held_out={"dice": {1: 0.8}}, validation={"dice": 0.8}, rules=TRAINING_RULES
    )
    shelf.train("earlier", quality=earlier)
    shelf.train("today", quality=today)
    assert shelf.versions._best() == "earlier"
    assert len(shelf.store.publications.measured(NUMBER)) == 2
    shelf.store.scans.save(NUMBER, [{"id": 1, "url": url}])
    assert shelf.versions._best() == "today"
    assert [of.key for of in shelf.store.publications.measured(NUMBER)] == ["today"]


def test_a_best_whose_weights_are_lost_gives_its_place_to_the_next(shelf: Shelf) -> None:
    shelf.train("lost", quality=ModelQuality(validation={"dice": 0.9}))
    shelf.train("next", quality=ModelQuality(validation={"dice": 0.8}))
    shelf.lose("lost")
    many(shelf)
    shelf.versions.tidy()
    assert "next" in shelf.weights


def test_live_the_one_before_pinned_and_under_way_stay_however_old(shelf: Shelf) -> None:
    names = {key: shelf.go_live(shelf.train(key)) for key in ("pinned", "old", "before", "live")}
    shelf.publish(shelf.train("ready"), state="ready")
    shelf.publish(shelf.train("publishing"), state="publishing")
    shelf.publish(shelf.train("abandoned"), state="abandoned")
    shelf.versions.pin(names["pinned"])
    many(shelf)
    shelf.versions.tidy()
    needed = {"pinned", "before", "live", "ready", "publishing"}
    assert shelf.weights == needed | keys(range(125, 130))


def test_the_record_of_a_model_outlives_its_weights(shelf: Shelf) -> None:
    for number in range(7):
        shelf.train(f"k{number}")
    shelf.versions.tidy()
    assert len(shelf.store.publications.models(NUMBER)) == 7


def test_weights_that_no_record_knows_go(shelf: Shelf) -> None:
    shelf.train("k0")
    (shelf.folder / weights_name("unrecorded")).touch()
    shelf.versions.tidy()
    assert shelf.weights == {"k0"}


def test_leftovers_of_killed_processes_go_after_a_day(shelf: Shelf, clock: Clock) -> None:
    young, old, whole = "younger", "older", "k0"
    shelf.train(whole)
    for folder in ("models", "embeddings", "rounds"):
        (shelf.folder / folder).mkdir(exist_ok=True)
        for name, age in ((young, LEFTOVER_SECONDS - 1), (old, LEFTOVER_SECONDS + 1)):
            for path in (f"{name}.17.partial", f".{name}.17.partial"):
                leftover = shelf.folder / folder / path
                leftover.touch()
                os.utime(leftover, (clock() - age, clock() - age))
    shelf.versions.tidy()
    left = {path.name for path in shelf.folder.rglob("*") if path.is_file()}
    assert left == {whole, "younger.17.partial", ".younger.17.partial"}


def test_a_project_without_a_folder_has_nothing_to_tidy(shelf: Shelf) -> None:
    shelf.versions.tidy()
    assert not shelf.folder.exists()


@dataclass(frozen=True)
class Past:
    """One model of a made-up history."""

    accepted: bool
    live: bool
    dice: float | None


HISTORIES = st.lists(
    st.builds(
        Past,
        accepted=st.booleans(),
        live=st.booleans(),
        dice=st.none() | st.sampled_from([0.2, 0.5, 0.8]),
    ),
    max_size=40,
)


@contextmanager
def memory() -> Iterator[Store]:
    store = open_store("sqlite://")
    store.create()
    yield store
    store.close()


@pytest.mark.slow
@given(history=HISTORIES, pinned=st.integers(0, 39))
@hypothesis_settings(max_examples=60)
def test_in_any_history_what_a_rule_keeps_stays_and_all_else_goes(
    history: Sequence[Past], pinned: int
) -> None:
    with tempfile.TemporaryDirectory() as name, memory() as store:
        shelf = Shelf(store, Path(name))
        names = {}
        for number, past in enumerate(history):
            quality = ModelQuality(validation={} if past.dice is None else {"dice": past.dice})
            key = shelf.train(f"k{number}", accepted=past.accepted, quality=quality)
            if past.live:
                names[number] = shelf.go_live(key)
        if pinned in names:
            shelf.versions.pin(names[pinned])
        shelf.versions.tidy()
        count, live = len(history), sorted(names)
        expected = set(range(count)[-KEPT_MODELS:]) | set(live[-2:])
        expected |= {number for number in live if number >= count - KEPT_LIVE_MODELS}
        expected |= {pinned} & set(names)
        scored = [(p.dice, n) for n, p in enumerate(history) if p.accepted and p.dice is not None]
        expected |= {number for _, number in sorted(scored)[-1:]}
        assert history == [] or shelf.weights == keys(sorted(expected))
