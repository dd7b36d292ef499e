from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from dbos import DBOS

from backend import logs
from backend.errors import NotFound, StorageError
from backend.label_studio.publisher import Publisher
from backend.rounds import embedding, sync
from backend.rounds.context import RoundContext
from backend.rounds.models.learner import Learner
from backend.rounds.unreadable import LOST_AFTER_SECONDS, STORAGE_AWAY
from backend.rounds.workflow import Rounds
from backend.storage import artifacts, records
from backend.storage.projects import LONGEST_BACKOFF_SECONDS
from backend.storage.scans import KILLER_PAUSE_SECONDS, RETRY_SCAN_SECONDS
from backend.storage.tables import Publication, Task
from backend.web.app import create_app
from backend.web.project_page import views
from tests.backend.fake_label_studio import CONFIG
from tests.backend.site import OPTIONS, TINY, Site, assert_each_task_once, wait_for


class Killed(BaseException):
    """The process ends here: no handler of ours may see it."""


# -- the story ------------------------------------------------------------------------------------


def test_from_the_first_day_to_the_first_model(site: Site) -> None:
    project = site.refresh()
    assert project.problem == ""
    assert site.versions == ["cold-start r0001"]
    assert sorted(site.queue) == site.tasks
    assert all(site.fake.prelabel(site.number, task) == [] for task in site.tasks)
    first, second = site.queue[:2]
    site.label(site.tasks.index(first), site.tasks.index(second))
    project = site.refresh()
    assert project.problem == ""
    assert site.versions == ["cold-start r0001", "attention-unet r0002"]
    assert sorted(site.queue) == sorted(set(site.tasks) - {first, second})
    assert (project.completed, project.step, project.failures) == (project.requested, "", 0)
    assert site.fake.projects[site.number].model_version == project.live_version
    assert site.entry["title"] == project.live_version


def test_with_warm_training_a_round_goes_on_from_the_live_model(site: Site) -> None:
    site.entry["extra_params"] = {**OPTIONS, "training": "warm"}
    site.label(0, 1)
    site.refresh()
    first = site.store.publications.get(site.number, site.project.live_version)
    site.label(2)
    site.refresh()
    second = site.store.publications.get(site.number, site.project.live_version)
    assert first is not None
    assert second is not None
    model = site.store.publications.model(site.number, second.model_key)
    assert model is not None
    assert model.quality.started_from == first.model_key != ""


def test_every_round_leaves_its_record(site: Site) -> None:
    site.refresh()
    site.label(0, 1)
    site.refresh()
    first, second = site.store.rounds.all(site.number)
    assert set(first.record.seconds) == {"select", "publish", "switch"}
    trained = {"train", "score", "select", "draft", "publish", "switch"}
    assert set(second.record.seconds) == trained
    assert second.record.version == site.project.live_version
    assert second.ended_at >= second.started_at
    folder = site.services.folder(site.number)
    assert sorted(path.name for path in (folder / "rounds").iterdir()) == ["0001.json", "0002.json"]
    assert [path.name for path in (folder / "drafts").iterdir()] == ["0002.json"]


def test_what_a_selection_rests_on_is_said_on_the_page_in_the_record_and_once_in_the_log(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("model.diagnostics.MOST_COSINE", 0.1)
    with caplog.at_level(logging.WARNING, logger="backend"):
        [said] = [line for line in site.refresh().warnings if line.startswith("domain")]
        site.entry["extra_params"] = {**OPTIONS, "alpha": 0.5}
        site.refresh()
    assert "the median cosine between two scans is" in said
    assert caplog.messages.count(said) == 1
    state = views.status(site.store, site.services.artifacts, site.number)
    assert said in views.text(state, site.clock())
    for number in (1, 2):
        record = records.read_queue(site.services.files(site.number), number)
        assert record
        assert said in record.warnings


def test_a_refresh_without_news_publishes_nothing(site: Site) -> None:
    site.refresh()
    before = site.fake.calls("POST", ""), site.fake.calls("PATCH", "")
    site.store.projects.request_refresh(site.number)
    project = site.refresh()
    assert (site.fake.calls("POST", ""), site.fake.calls("PATCH", "")) == before
    assert len(site.store.rounds.all(site.number)) == 1
    assert project.completed == project.requested


def test_a_refresh_without_news_still_mends_the_switch(site: Site) -> None:
    live = site.refresh().live_version
    site.fake.projects[site.number].model_version = ""
    site.entry["title"] = "Firstlight"
    site.refresh()
    assert site.fake.projects[site.number].model_version == site.entry["title"] == live


def test_a_queue_that_was_deleted_in_label_studio_is_published_anew(site: Site) -> None:
    site.refresh()
    site.fake.projects[site.number].predictions.clear()
    site.fake.projects[site.number].model_version = ""
    assert site.refresh().live_version.startswith("cold-start r0002")
    assert sorted(site.queue) == sorted(site.tasks)
    assert_each_task_once(site)


def test_a_hint_during_a_refresh_makes_another_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sync.sync

    def late(*given: Any) -> Any:
        options = real(*given)
        site.store.projects.request_refresh(site.number)
        return options

    monkeypatch.setattr("backend.rounds.workflow.sync.sync", late)
    project = site.refresh()
    assert project.requested == project.completed + 1
    assert site.store.projects.due() == [site.number]


def test_start_training_makes_a_round_of_fewer_labels_than_retrain_after(site: Site) -> None:
    site.entry["extra_params"] = {**OPTIONS, "retrain_after": 50}
    site.refresh()
    site.label(0, 1)
    site.refresh()
    assert site.versions == ["cold-start r0001"]
    client = create_app(site.services.settings, site.store, lambda *_: []).test_client()
    event = {"action": "START_TRAINING", "project": {"id": site.number}}
    assert client.post("/webhook", json=event).get_json()["status"] == "ok"
    site.refresh()
    assert site.versions == ["cold-start r0001", "attention-unet r0002"]
    site.store.projects.request_refresh(site.number)
    site.refresh()
    assert len(site.versions) == 2, "the press is answered once"


def test_a_paused_project_is_watched_and_left_alone(site: Site) -> None:
    site.entry["extra_params"] = {**OPTIONS, "paused": True}
    project = site.refresh()
    assert (project.completed, project.live_version) == (project.requested, "")
    assert len(site.store.scans.all(site.number)) == 6
    assert site.fake.imports == []
    site.entry["extra_params"] = OPTIONS
    assert site.refresh().live_version


def test_with_every_scan_labelled_the_last_model_is_trained_once(site: Site) -> None:
    site.refresh()
    site.label(*range(6))
    project = site.refresh()
    assert (project.completed, project.problem) == (project.requested, "")
    assert site.versions == ["cold-start r0001"], "there is nothing left to serve"
    [model] = site.store.publications.models(site.number)
    assert model.labels == 6
    rounds = len(site.store.rounds.all(site.number))
    site.store.projects.request_refresh(site.number)
    site.refresh()
    assert len(site.store.rounds.all(site.number)) == rounds
    site.fake.change_annotation(next(iter(site.fake.projects[site.number].annotations)))
    site.store.projects.request_refresh(site.number)
    site.refresh()
    assert len(site.store.publications.models(site.number)) == 2, "a label was corrected"


@pytest.mark.slow
def test_the_last_scans_being_labelled_during_a_round_is_no_problem(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = site.refresh().live_version
    site.label(*range(5))
    real = Rounds.select

    def select(self: Rounds, *given: Any) -> None:
        real(self, *given)
        monkeypatch.setattr(Rounds, "select", real)
        site.label(5)

    monkeypatch.setattr(Rounds, "select", select)
    project = site.refresh()
    assert (project.problem, project.live_version) == ("", live)
    last = site.store.rounds.all(site.number)[-1]
    assert last.ended_at
    assert (last.record.version, last.record.error) == ("", None)
    assert site.refresh().completed == site.project.requested


@pytest.mark.slow
def test_a_deleted_label_gives_its_scan_back_and_trains_without_it(site: Site) -> None:
    site.refresh()
    site.label(0, 1, 2)
    before = site.store.publications.get(site.number, site.refresh().live_version)
    [annotation] = [
        number
        for number, found in site.fake.projects[site.number].annotations.items()
        if found["task"] == site.tasks[0]
    ]
    site.fake.delete_annotation(annotation)
    after = site.store.publications.get(site.number, site.refresh().live_version)
    assert before is not None
    assert after is not None
    assert (before.labels, after.labels) == (3, 2)
    assert before.model_key != after.model_key
    assert site.tasks[0] in site.queue


def test_ground_truth_alone_trains_nothing_and_the_queue_goes_on(site: Site) -> None:
    site.refresh()
    site.label(0, 1, ground_truth=True)
    project = site.refresh()
    assert project.problem == ""
    assert site.versions == ["cold-start r0001", "cold-start r0002"]
    assert sorted(site.queue) == site.tasks[2:]


def test_no_more_than_the_horizon_is_published(site: Site) -> None:
    site.entry["extra_params"] = {**OPTIONS, "horizon": 4}
    site.refresh()
    assert len(site.queue) == 4


@pytest.mark.slow
def test_drafts_that_nobody_sees_are_drawn_for_no_more_than_will_be_judged(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.rounds.drafts.queue_drafts.JUDGED_DRAFTS", 1)
    site.entry["extra_params"] = {**OPTIONS, "prelabel_after": 3}
    site.label(0, 1)
    site.refresh()
    assert drawn_in(site, 1) == site.queue[:1]
    site.label(2)
    site.refresh()
    assert sorted(drawn_in(site, 2)) == sorted(site.queue)


def drawn_in(site: Site, number: int) -> list[int]:
    found = site.services.files(site.number).read_json(artifacts.drafts_name(number)) or {}
    return [int(task) for task in found]


def test_the_newest_drafts_stay_however_many_rounds_there_were(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.rounds.drafts.queue_drafts.KEPT_DRAFTS", 3)
    files = site.services.files(site.number)
    for number in (9_998, 9_999, 10_000, 10_001):
        files.write_json(artifacts.drafts_name(number), {})
    site.refresh()
    assert set(files.names("drafts")) == {f"drafts/{n}.json" for n in (9_999, 10_000, 10_001)}


def test_the_time_between_rounds_is_kept(site: Site) -> None:
    site.entry["extra_params"] = {**OPTIONS, "min_seconds_between_rounds": 50}
    project = site.refresh()
    assert project.not_before == project.started_at + 50


# -- a pinned version -----------------------------------------------------------------------------


def pin(site: Site, name: str) -> Publication:
    """Go back to a version and return what its round published."""
    site.rounds._here(site.number).publications.pin(name)
    return refreshed(site)


def refreshed(site: Site) -> Publication:
    assert site.refresh().problem == ""
    live = site.store.publications.get(site.number, site.project.live_version)
    assert live is not None
    return live


def two_models(site: Site) -> tuple[Publication, Publication]:
    """Return the versions of two models: of two labels, then of three."""
    site.refresh()
    site.label(0, 1)
    first = refreshed(site)
    site.label(2)
    return first, refreshed(site)


@pytest.mark.slow
def test_a_rollback_publishes_what_the_old_model_gives_and_trains_nothing(site: Site) -> None:
    first, second = two_models(site)
    again = pin(site, first.name)
    assert again.model_key == first.model_key != second.model_key
    assert site.versions[-1] == "attention-unet r0004"
    assert sorted(site.queue) == site.tasks[3:]
    assert site.entry["title"] == site.fake.projects[site.number].model_version == again.name
    *_, last = site.store.rounds.all(site.number)
    assert set(last.record.seconds) == {"score", "select", "draft", "publish", "switch"}
    shown = site.fake.prelabel(site.number, site.queue[0])
    assert (
        shown
        == artifacts.read_json(site.services.folder(site.number) / "drafts" / again.drafts)[
            str(site.queue[0])
        ]
    )


@pytest.mark.slow
def test_a_pinned_queue_follows_labels_and_new_scans_under_names_of_its_own(site: Site) -> None:
    first, _ = two_models(site)
    pinned = [pin(site, first.name)]
    site.label(3)
    pinned.append(refreshed(site))
    new = site.fake.add_task(site.number, site.phantoms[0].image)
    site.store.projects.request_refresh(site.number, full=True)
    pinned.append(refreshed(site))
    assert {version.model_key for version in pinned} == {first.model_key}
    assert len({version.name for version in pinned}) == 3
    assert sorted(site.queue) == [*site.tasks[4:], new]
    assert new in site.store.embeddings.all(site.number, "pixels")
    assert len(site.store.publications.models(site.number)) == 2
    before = site.versions
    site.store.projects.request_refresh(site.number)
    refreshed(site)
    assert site.versions == before


@pytest.mark.slow
def test_a_rollback_during_a_round_waits_for_its_end_and_is_not_lost(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.refresh()
    site.label(0, 1)
    first = refreshed(site)
    site.label(2)
    real, left = Rounds.select, [first.name]

    def select(self: Rounds, *given: Any) -> None:
        real(self, *given)
        if left:
            self._here(site.number).publications.pin(left.pop())

    monkeypatch.setattr(Rounds, "select", select)
    assert refreshed(site).model_key != first.model_key
    assert site.project.requested == site.project.completed + 1
    assert refreshed(site).model_key == first.model_key


@pytest.mark.slow
def test_with_resume_the_next_round_trains_again(site: Site) -> None:
    first, _ = two_models(site)
    pin(site, first.name)
    site.label(3)
    refreshed(site)
    site.rounds._here(site.number).publications.resume()
    after = refreshed(site)
    assert after.labels == 4
    assert len(site.store.publications.models(site.number)) == 3
    assert after.model_key not in {"", first.model_key}


def test_back_to_a_cold_start_is_its_order_without_drafts(site: Site) -> None:
    cold = site.refresh().live_version
    site.label(0, 1)
    refreshed(site)
    again = pin(site, cold)
    assert (again.model_key, again.drafts) == ("", "")
    assert site.versions[-1] == "cold-start r0003"
    assert sorted(site.queue) == site.tasks[2:]
    assert all(site.fake.prelabel(site.number, task) == [] for task in site.queue)


@pytest.mark.slow
def test_a_pin_that_other_labels_end_is_said_and_the_queue_stays_until_it_is_resolved(
    site: Site,
) -> None:
    first, _ = two_models(site)
    live = pin(site, first.name)
    site.fake.projects[site.number].label_config = CONFIG.replace("Lung", "Heart")
    site.store.projects.request_refresh(site.number)
    project = site.refresh()
    assert "was trained for other labels" in project.problem
    assert f"rollback {site.number} --resume" in project.fix
    assert project.live_version == live.name
    site.rounds._here(site.number).publications.resume()
    assert refreshed(site).name != live.name


@pytest.mark.slow
def test_weights_that_no_rule_keeps_are_gone_once_a_round_is_live(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.rounds.publications.KEPT_MODELS", 1)
    monkeypatch.setattr("backend.rounds.publications.KEPT_LIVE_MODELS", 1)
    versions = [*two_models(site)]
    for row in (3, 4):
        site.label(row)
        versions.append(refreshed(site))
    there = {path.name for path in (site.services.folder(site.number) / "models").iterdir()}
    # The last two for themselves, and the newest of those whose drafts were the best.
    scores = {score.version: score.dice for score in site.store.labels.draft_scores(site.number)}
    best = max(reversed(versions), key=lambda version: scores.get(version.name, -1.0))
    assert there == {version.model_key for version in [best, *versions[-2:]]}


# -- trouble --------------------------------------------------------------------------------------


def test_an_unreachable_label_studio_is_said_once_backs_off_and_heals(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.fake.fail("GET", "", httpx.ConnectError, times=99)
    waits = []
    with caplog.at_level(logging.WARNING, logger="backend"):
        for _ in range(12):
            project = site.refresh()
            waits.append(project.not_before + 1 - site.clock())
    assert waits[:4] == [1, 2, 4, 8]
    assert max(waits) == site.services.settings.reconcile_seconds, "it ends as soon as the outage"
    assert len([r for r in caplog.records if r.name == "backend.rounds.outcome"]) == 1
    assert "did not answer" in project.problem
    assert project.fix
    assert (project.completed, project.step) == (0, "")
    site.fake.heal()
    project = site.refresh()
    assert (project.problem, project.fix, project.failures) == ("", "", 0)
    assert project.live_version


def test_a_round_that_fails_ends_with_the_reason_in_its_record(site: Site) -> None:
    site.fake.fail("POST", r"import/predictions", 500, times=99)
    project = site.refresh()
    [opened] = site.store.rounds.all(project.id)
    assert opened.ended_at
    assert opened.record.error == project.problem


def test_lines_of_the_log_say_which_project_round_and_scan_they_are_about(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("no")

    site.fake.files[f"/data/upload/{site.number}/{site.tasks[2]}.png"] = b"no image"
    site.label(0, 1)
    monkeypatch.setattr("backend.label_studio.publisher.Publisher.switch", broken)
    logs.configure("INFO")
    site.refresh()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    ours = [line for line in lines if line["logger"].startswith("backend.")]
    assert {line.get("project") for line in ours} == {site.number}
    about = {line["message"].partition(" ")[0]: line for line in ours}
    assert about["Task"]["task"] == site.tasks[2]
    assert {about[word]["round"] for word in ("trained", "epoch", "a")} == {1}, "a round failed"


def test_a_defect_of_ours_is_told_in_the_log_and_plainly_on_the_page(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("patient Smith")

    monkeypatch.setattr("backend.rounds.workflow.judge_labels", broken)
    project = site.refresh()
    assert project.problem == "A round failed unexpectedly."
    assert "Smith" not in project.fix
    assert "Traceback" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr("backend.rounds.models.learner.train_config", lambda *_: TINY)
    assert site.refresh().problem == ""


def test_an_unknown_encoder_is_said_and_the_last_good_options_stay(site: Site) -> None:
    site.entry["extra_params"] = {**OPTIONS, "encoder": "resnet-9000"}
    project = site.refresh()
    assert "encoder" in project.options_problem
    assert project.live_version


def test_what_fails_here_and_not_in_label_studio_backs_off_for_longer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("The disk is full.", "Make room.")

    monkeypatch.setattr(sync, "sync", full)
    for _ in range(12):
        project = site.refresh()
    assert project.not_before + 1 - site.clock() == LONGEST_BACKOFF_SECONDS


def test_a_project_deleted_in_label_studio_vanishes_and_is_no_more_refreshed(site: Site) -> None:
    site.refresh()
    del site.fake.projects[site.number]
    site.store.projects.request_refresh(site.number)
    project = site.refresh()
    assert project.vanished_at
    assert not project.disconnected
    assert "no such project" in project.problem
    assert (project.step, project.failures) == ("", 0)
    assert site.store.projects.due() == []
    assert site.store.rounds.open(site.number) == 0


def test_a_404_of_a_proxy_is_no_word_of_label_studio(site: Site) -> None:
    site.refresh()
    for answer in (
        httpx.Response(404, text="404 page not found"),
        httpx.Response(404, json={"detail": "Not found."}),
        httpx.Response(404, json={"status_code": 404, "detail": "Not found."}),
    ):
        site.fake.away = lambda _, answer=answer: answer
        site.store.projects.request_refresh(site.number)
        project = site.refresh()
        assert project.problem
        assert (project.vanished_at, project.disconnected) == (0, False)
        site.fake.away = None
        assert site.refresh().problem == ""


def test_a_round_that_a_disconnection_cut_off_leaves_no_problem_and_no_step(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disconnected(*_: object) -> None:
        site.store.projects.update(site.number, disconnected=True)
        raise NotFound("The project has no backend entries of this service.", "Connect it.")

    monkeypatch.setattr(Publisher, "publish", disconnected)
    project = site.refresh()
    assert (project.disconnected, project.step, project.problem) == (True, "", "")
    assert project.failures == 0
    assert site.store.rounds.open(site.number) == 0


def test_a_broken_image_is_named_ordered_last_and_tried_again(site: Site) -> None:
    path = f"/data/upload/{site.number}/{site.tasks[2]}.png"
    whole, site.fake.files[path] = site.fake.files[path], b"no image"
    site.refresh()
    assert site.queue[-1] == site.tasks[2]
    task = site.store.scans.all(site.number)[2]
    assert "neither PNG nor JPEG" in task.problem
    site.fake.files[path] = whole
    asked = site.fake.calls("GET", path)
    site.refresh()
    assert site.fake.calls("GET", path) == asked
    site.clock.advance(RETRY_SCAN_SECONDS)
    site.refresh()
    assert site.store.scans.all(site.number)[2].problem == ""
    assert len(site.store.embeddings.all(site.number, "pixels")) == 6
    assert site.versions == ["cold-start r0001", "cold-start r0002"]


def test_an_image_that_is_missing_because_label_studio_is_down_is_no_broken_image(
    site: Site,
) -> None:
    site.fake.fail("GET", "/data/upload", httpx.ConnectError, times=99)
    site.fake.fail("GET", r"/api/projects/\d+$", httpx.ConnectError, after=1, times=99)
    assert "did not answer" in site.refresh().problem
    assert all(not task.problem for task in site.store.scans.all(site.number))


def test_a_training_during_an_outage_loses_no_label(site: Site) -> None:
    site.refresh()
    site.label(0, 1, 2)
    site.entry["extra_params"] = {**OPTIONS, "image_size": 64}  # no kept scan has this size
    site.services.folder(site.number)
    for kept in site.services.folder(site.number).glob("scans-*/*.npz"):
        kept.unlink()
    site.fake.fail("GET", "/data/upload", httpx.ConnectError, times=99)
    site.fake.fail("GET", r"/api/projects/\d+$", httpx.ConnectError, after=1, times=99)
    assert "did not answer" in site.refresh().problem
    assert all(not task.problem for task in site.store.scans.all(site.number))


def storage_is_away(site: Site) -> None:
    """Let no image come, with nothing kept of any, while Label Studio itself answers."""
    for kept in site.services.folder(site.number).glob("scans-*/*.npz"):
        kept.unlink()
    site.fake.fail("GET", "/data/upload", 404, times=9_999)


@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True], ids=["in training", "in scoring"])
def test_while_the_storage_of_the_images_is_away_queue_and_drafts_stay(
    site: Site, trained: bool
) -> None:
    site.refresh()
    site.label(0, 1, 2)
    site.refresh()
    live, queue = site.project.live_version, site.queue
    if trained:  # the labels are the same, so their model is there
        site.entry["extra_params"] = {**OPTIONS, "alpha": 0.5}
        site.store.projects.request_refresh(site.number)
    else:
        site.label(3)
    storage_is_away(site)
    for _ in range(3):
        assert site.refresh().problem == STORAGE_AWAY
        site.clock.advance(3600)
    assert all(not task.problem for task in site.store.scans.all(site.number)), "no scan is blamed"
    assert site.project.live_version == live
    assert set(queue) - set(site.queue) <= {site.tasks[3]}
    site.fake.heal()
    project = site.refresh()
    assert project.problem == ""
    assert project.live_version.startswith("attention-unet")
    assert project.live_version != live


def test_scans_that_are_gone_for_a_day_count_as_lost(site: Site) -> None:
    site.refresh()
    site.label(0, 1, 2)
    site.refresh()
    site.label(3)
    storage_is_away(site)
    assert site.refresh().problem == STORAGE_AWAY
    site.clock.advance(LOST_AFTER_SECONDS)
    site.refresh()
    assert site.refresh().problem == ""
    assert [bool(task.problem) for task in site.store.scans.all(site.number)][:4] == [True] * 4


@pytest.mark.slow
def test_one_labelled_scan_that_is_gone_holds_nobody_up(site: Site) -> None:
    site.refresh()
    site.label(0, 1, 2)
    [kept] = site.services.folder(site.number).glob(f"scans-*/{site.tasks[0]}-*.npz")
    kept.unlink()
    site.fake.fail("GET", f"/data/upload/{site.number}/{site.tasks[0]}.png", 404, times=99)
    site.refresh()
    assert site.refresh().problem == ""
    assert site.versions[-1].startswith("attention-unet")
    assert site.store.scans.all(site.number)[0].problem


def test_when_one_unreadable_scan_is_read_again_the_others_are_tried_at_once(site: Site) -> None:
    images = dict(site.fake.files)
    site.fake.files.clear()
    site.refresh()
    assert all(task.problem for task in site.store.scans.all(site.number))
    site.store.scans.update(site.number, site.tasks[0], retry_at=0.0)
    site.fake.files.update(images)
    site.refresh()
    site.refresh()
    assert all(not task.problem for task in site.store.scans.all(site.number))


def test_a_queue_that_does_not_arrive_is_said_and_goes_out_in_the_next_round(site: Site) -> None:
    site.fake.fail("POST", "import/predictions", 500, times=3)
    project = site.refresh()
    assert "did not arrive whole" in project.problem
    assert project.live_version == ""
    assert site.refresh().problem == ""
    assert site.versions[-1] == "cold-start r0002"
    assert sorted(site.queue) == site.tasks


def test_a_switch_that_fails_is_made_good_by_the_next_refresh(site: Site) -> None:
    site.fake.fail("PATCH", "/api/ml", 500, times=3)
    project = site.refresh()
    assert "500" in project.problem
    project = site.refresh()
    assert project.problem == ""
    assert site.entry["title"] == project.live_version
    assert site.versions == ["cold-start r0001"]


# -- chunks ---------------------------------------------------------------------------------------


def test_chunks_of_a_round_that_failed_hold_up_nobody(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.rounds.workflow.SCORED", 1)
    site.refresh()
    site.label(0, 1)
    real = Learner.judge

    def full(self: Learner, *given: Any) -> dict[int, float]:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(Learner, "judge", full)
    assert site.refresh().problem == "The disk is full."
    left = DBOS.list_workflows(status=["ENQUEUED", "PENDING"])
    assert [found for found in left if found.name.endswith("score")] == []
    monkeypatch.setattr(Learner, "judge", real)
    project = site.refresh()
    assert project.problem == ""
    assert project.completed == project.requested


# -- kills ----------------------------------------------------------------------------------------

STEPS = ("sync", "plan", "train", "score", "select", "draft", "publish", "switch")
# A kill after most steps is like one before the next; these two leave something in Label Studio.
AFTER = [pytest.param("publish", "after"), pytest.param("switch", "after", marks=pytest.mark.slow)]
KILLS = [*(pytest.param(step, "before", marks=pytest.mark.slow) for step in STEPS), *AFTER]


def killing(step: str, when: str) -> Callable[..., Any]:
    """Return what stands in for `Rounds._step`: it ends the process once, around this step."""
    real, left = Rounds._step, [1]

    @contextmanager
    def at(self: Rounds, project_id: int, name: str, number: int = 0) -> Iterator[RoundContext]:
        with real(self, project_id, name, number) as here:
            kill = name == step and left and left.pop()
            if kill and when == "before":
                raise Killed
            yield here
        if kill:
            raise Killed

    return at


def outcome(site: Site) -> dict[str, Any]:
    """Return what a person or a later round could tell apart, without names of attempts."""
    live = site.store.publications.get(site.number, site.project.live_version)
    assert live is not None
    return {
        "served": site.queue,
        "model": live.model_key,
        "labels": live.labels,
        "published": live.published,
        "fingerprint": site.project.fingerprint,
        "counters": (site.project.requested, site.project.completed),
        "problem": site.project.problem,
        "splits": site.store.labels.splits(site.number),
        "rounds": [found.number for found in site.store.rounds.all(site.number)],
        "title": site.entry["title"] == site.project.live_version,
    }


def kill_and_start_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> dict[str, Any]:
    """Kill a worker in a step of a round, start another, and return what the round came to."""
    monkeypatch.setattr(Rounds, "_step", killing(step, when))
    handle = DBOS.start_workflow(site.rounds.refresh, site.number)
    with pytest.raises(Killed):
        handle.get_result()
    site.stop()
    site.start()
    wait_for(lambda: site.project.completed == site.project.requested)
    assert_each_task_once(site)
    return outcome(site)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "when"), KILLS)
def test_a_kill_in_any_step_ends_like_an_undisturbed_run(
    site: Site, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    site.refresh()
    site.label(0, 1)
    disturbed = kill_and_start_again(site, monkeypatch, step, when)
    # The same labels once more, undisturbed: forget that they were published.
    site.store.projects.update(site.number, fingerprint="")
    site.refresh()
    again = outcome(site)
    assert disturbed | {"rounds": None} == again | {"rounds": None}
    assert disturbed["rounds"] == [1, 2]


PINNED_KILLS = [
    pytest.param("select", "before", marks=pytest.mark.slow),
    pytest.param("publish", "after"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("step", "when"), PINNED_KILLS)
def test_a_kill_in_a_pinned_round_ends_like_an_undisturbed_one(
    site: Site, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    first, _ = two_models(site)
    site.rounds._here(site.number).publications.pin(first.name)
    disturbed = kill_and_start_again(site, monkeypatch, step, when)
    assert disturbed["model"] == first.model_key
    assert site.store.publications.pinned(site.number) == first.name
    site.store.projects.update(site.number, fingerprint="")
    site.refresh()
    again = outcome(site)
    assert disturbed | {"rounds": None} == again | {"rounds": None}
    assert disturbed["rounds"] == [1, 2, 3, 4]


# -- scans that kill their worker -----------------------------------------------------------------


def test_scans_are_noted_while_they_are_read_and_those_of_two_deaths_go_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.refresh()
    site.store.embeddings.forget(site.number, site.store.embeddings.chunks(site.number))
    site.store.scans.update_reading(site.number, site.tasks[:2], deaths=2)
    site.store.scans.update_reading(site.number, site.tasks[2:3], deaths=1)
    noted: list[list[int]] = []
    real = embedding._read

    def read(here: RoundContext, tasks: Sequence[Task]) -> Any:
        found = site.store.scans.all(site.number)
        noted.append([task.id for task in found if task.read_by == site.rounds.worker])
        return real(here, tasks)

    monkeypatch.setattr(embedding, "_read", read)
    site.refresh()
    assert noted == [site.tasks[2:], site.tasks[:1], site.tasks[1:2]]
    after = site.store.scans.all(site.number)
    assert {(task.read_by, task.deaths) for task in after} == {("", 0)}
    assert len(site.store.embeddings.all(site.number, "pixels")) == len(site.tasks)


def test_a_scan_that_was_alone_when_its_worker_died_is_named_and_not_read(site: Site) -> None:
    site.refresh()
    site.store.embeddings.forget(site.number, site.store.embeddings.chunks(site.number))
    deadly = site.tasks[0]
    site.store.scans.update_reading(site.number, [deadly], deaths=3)
    site.refresh()
    assert deadly not in site.store.embeddings.all(site.number, "pixels")
    [named] = site.store.scans.some(site.number, [deadly])
    assert named.problem.startswith(f"Task {deadly}: 3 workers died while they read or embedded")
    assert named.retry_at >= site.clock() + KILLER_PAUSE_SECONDS - 10
    assert named.deaths == 2, "the next try is alone again, and costs one death at most"


def test_a_reading_that_fails_forgets_no_death(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise StorageError("The disk is full.")

    site.refresh()
    site.store.embeddings.forget(site.number, site.store.embeddings.chunks(site.number))
    site.store.scans.update_reading(site.number, site.tasks, deaths=1)
    monkeypatch.setattr(embedding, "_encode", full)
    assert site.refresh().problem == "The disk is full."
    after = site.store.scans.all(site.number)
    assert {(task.read_by, task.deaths) for task in after} == {("", 1)}
