from __future__ import annotations

from itertools import pairwise

import httpx
import pytest
import sqlalchemy as sa

from backend.errors import NotFound, PublishError, Unreachable
from backend.label_studio.client import QUEUE
from backend.label_studio.moments import moment
from backend.label_studio.publisher import QUIET_SECONDS, Publisher, name
from backend.rounds.services import Services
from backend.storage.store import Store
from backend.storage.tables import Publication
from tests.backend.conftest import Clock, drawn
from tests.backend.fake_label_studio import FakeLabelStudio


class Desk:
    """A project with tasks, and the publisher of its queues."""

    def __init__(self, services: Services, fake: FakeLabelStudio, number: int) -> None:
        self.fake, self.number, self.store = fake, number, services.store
        self.tasks = [fake.add_task(number) for _ in range(5)]
        self.publisher = Publisher(services.settings, services.store, services.studio, number)

    def publish(self, number: int = 1) -> str:
        version = Publication(round=number, model_key="9f3c1abc", labels=3, drafts="")
        return self.publisher.publish(version, "attention-unet", self.tasks, {})

    def go_live(self, number: int = 1) -> str:
        name = self.publish(number)
        self.store.publications.go_live(self.number, name)
        self.publisher.switch(name)
        return name

    def states(self) -> dict[str, str]:
        return {found.name: found.state for found in self.store.publications.all(self.number)}

    def clean(self) -> bool:
        return self.publisher.clean()


@pytest.fixture
def desk(services: Services, fake: FakeLabelStudio, project_id: int) -> Desk:
    return Desk(services, fake, project_id)


# -- names ----------------------------------------------------------------------------------------


def test_a_name_says_kind_round_attempt_and_model() -> None:
    assert name("attention-unet", 7, 1, "9f3c1abc") == "attention-unet r0007 9f3c1a"
    assert name("attention-unet", 7, 2, "9f3c1abc") == "attention-unet r0007.2 9f3c1a"


def test_a_cold_start_is_named_after_the_installation(desk: Desk) -> None:
    version = Publication(round=1, model_key="", labels=0, drafts="")
    found = desk.publisher.publish(version, "cold-start", desk.tasks, {})
    assert found == f"cold-start r0001 {desk.store.installation.id[:6]}"


# -- publishing -----------------------------------------------------------------------------------


def test_scores_rise_strictly_and_the_first_of_the_queue_is_lowest(desk: Desk) -> None:
    desk.tasks.reverse()
    desk.publish()
    [rows] = desk.fake.imports
    assert [row["task"] for row in rows] == desk.tasks
    assert all(low["score"] < high["score"] for low, high in pairwise(rows))
    assert {row["model_version"] for row in rows} == {"attention-unet r0001 9f3c1a"}


def test_the_queue_is_served_in_its_order_once_it_is_live(desk: Desk) -> None:
    desk.tasks.reverse()
    desk.go_live()
    assert desk.fake.served(desk.number) == desk.tasks


def test_scans_carry_their_draft_and_others_an_empty_canvas(desk: Desk) -> None:
    first, second, *_ = desk.tasks
    version = Publication(round=1, model_key="k", labels=5, drafts="")
    live = desk.publisher.publish(version, "attention-unet", desk.tasks, {str(first): drawn()})
    desk.store.publications.go_live(desk.number, live)
    desk.publisher.switch(live)
    assert desk.fake.prelabel(desk.number, first) == drawn()
    assert desk.fake.prelabel(desk.number, second) == []


def test_scans_labelled_since_the_last_sync_are_not_published(desk: Desk) -> None:
    seen = {"newest_update": "2000-01-01T00:00:00.000000Z"}
    desk.store.projects.update(desk.number, seen=seen)
    desk.fake.annotate(desk.tasks[0], drawn())
    desk.fake.annotate(desk.tasks[1], skip=True)
    published = desk.publish()
    version = desk.store.publications.get(desk.number, published)
    assert version is not None
    assert version.published == desk.tasks[1:]
    assert desk.fake.versions(desk.number) == {published: 4}


def test_a_scan_deleted_since_the_last_sync_costs_one_attempt_and_the_rest_is_published(
    desk: Desk,
) -> None:
    desk.store.projects.update(desk.number, seen={"newest_update": "2000-01-01T00:00:00.000000Z"})
    gone, *rest = desk.tasks
    desk.fake.delete_task(gone)
    published = desk.publish()
    assert published == "attention-unet r0001.2 9f3c1a"
    version = desk.store.publications.get(desk.number, published)
    assert version is not None
    assert version.published == rest
    assert desk.fake.versions(desk.number) == {published: 4}


def test_a_queue_whose_scans_are_all_labelled_by_now_is_not_published(desk: Desk) -> None:
    for task in desk.tasks:
        desk.fake.annotate(task, drawn())
    assert desk.publish() == ""
    assert desk.fake.imports == []
    assert desk.states() == {}


@pytest.mark.parametrize("rows", [0, 2, 5])
def test_an_import_cut_off_goes_out_again_under_another_name(desk: Desk, rows: int) -> None:
    desk.fake.cut_import_after = rows
    published = desk.publish()
    first, second = "attention-unet r0001 9f3c1a", "attention-unet r0001.2 9f3c1a"
    if rows == 5:  # all arrived, only the answer did not: that is told by counting
        assert published == first
        return
    assert published == second
    assert desk.states() == {first: "abandoned", second: "ready"}
    assert desk.fake.versions(desk.number)[second] == 5


def test_a_second_prediction_of_one_version_never_lies_on_a_task(desk: Desk) -> None:
    desk.fake.cut_import_after = 3
    desk.go_live()
    desk.go_live(2)
    pairs = [
        (row["task"], row["model_version"]) for row in desk.fake.projects[desk.number].predictions
    ]
    assert len(pairs) == len(set(pairs))


def test_what_never_arrives_whole_is_an_error_and_all_attempts_are_abandoned(desk: Desk) -> None:
    desk.fake.fail("POST", "import/predictions", 500, times=9)
    with pytest.raises(PublishError) as caught:
        desk.publish()
    assert caught.value.fix
    assert list(desk.states().values()) == ["abandoned"] * 3


@pytest.mark.parametrize("state", ["publishing", "ready"])
def test_an_attempt_that_a_kill_left_behind_is_abandoned_and_its_name_never_used_again(
    desk: Desk, state: str
) -> None:
    killed = desk.publish()
    left = desk.store.publications.get(desk.number, killed)
    assert left is not None
    left.state = state
    desk.store.publications.save(left)
    again = desk.publish()
    assert again == "attention-unet r0001.2 9f3c1a"
    assert desk.states() == {killed: "abandoned", again: "ready"}


def test_a_name_that_label_studio_still_holds_is_not_used_after_a_lost_data_folder(
    desk: Desk,
) -> None:
    old = desk.publish()
    with desk.store.session() as session:
        session.execute(sa.delete(Publication))
    assert desk.publish() == old.replace("r0001", "r0001.2")


def test_a_label_studio_that_goes_away_before_the_count_leaves_the_attempt_open(
    desk: Desk,
) -> None:
    desk.fake.fail("GET", "model-versions", httpx.ConnectError, after=1, times=9)
    with pytest.raises(Unreachable):
        desk.publish()
    assert list(desk.states().values()) == ["publishing"]
    desk.fake.heal()
    published = desk.publish(2)
    assert desk.states() == {
        "attention-unet r0001 9f3c1a": "abandoned",
        published: "ready",
    }


# -- the switch -----------------------------------------------------------------------------------


def test_the_switch_sets_project_sampling_and_title(desk: Desk) -> None:
    live = desk.go_live()
    project, [entry] = desk.fake.projects[desk.number], desk.fake.entries.values()
    assert (project.model_version, project.sampling, entry["title"]) == (live, QUEUE, live)


def test_a_switch_that_holds_changes_nothing(desk: Desk) -> None:
    live = desk.go_live()
    before = desk.fake.calls("PATCH", "")
    desk.publisher.switch(live)
    assert desk.fake.calls("PATCH", "") == before


def test_an_old_title_restored_by_a_concurrent_save_is_mended(desk: Desk) -> None:
    desk.fake.restore_title = True
    live = desk.go_live()
    [entry] = desk.fake.entries.values()
    assert entry["title"] == live


@pytest.mark.parametrize("field", ["model_version", "sampling"])
def test_a_project_changed_by_another_hand_is_switched_back(desk: Desk, field: str) -> None:
    live = desk.go_live()
    setattr(desk.fake.projects[desk.number], field, "other")
    desk.publisher.switch(live)
    project = desk.fake.projects[desk.number]
    assert (project.model_version, project.sampling) == (live, QUEUE)


def test_a_label_studio_that_keeps_another_version_is_an_error(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = desk.publish()
    desk.store.publications.go_live(desk.number, published)
    monkeypatch.setattr(desk.publisher._studio, "switch", lambda *_: None)
    monkeypatch.setattr(desk.publisher._studio, "rename", lambda *_: None)
    with pytest.raises(PublishError, match="does not keep"):
        desk.publisher.switch(published)


def test_nothing_is_switched_while_our_entry_cannot_be_told(desk: Desk) -> None:
    published = desk.publish()
    with pytest.raises(NotFound):  # /setup still answers the version before
        desk.publisher.switch(published)
    assert desk.fake.calls("PATCH", "") == 0


# -- cleaning -------------------------------------------------------------------------------------


def quiet(desk: Desk, clock: Clock) -> None:
    clock.advance(QUIET_SECONDS + 1)


def test_only_versions_before_the_last_two_are_deleted_one_at_a_time(
    desk: Desk, clock: Clock
) -> None:
    names = []
    for number in range(1, 6):
        names.append(desk.go_live(number))
        clock.advance(1)
    quiet(desk, clock)
    assert [desk.clean() for _ in range(5)] == [True, True, True, False, False]
    assert set(desk.fake.versions(desk.number)) == set(names[-2:])
    assert [desk.states()[each] for each in names] == ["removed"] * 3 + ["previous", "live"]
    assert desk.fake.projects[desk.number].model_version == names[-1]


def test_nothing_is_deleted_within_five_minutes_of_a_submit(desk: Desk, clock: Clock) -> None:
    for number in range(1, 4):
        desk.go_live(number)
        clock.advance(1)
    quiet(desk, clock)
    desk.fake.annotate(desk.tasks[0], drawn())
    clock.advance(QUIET_SECONDS - 1)
    assert not desk.clean()
    clock.advance(2)
    assert desk.clean()


def test_an_abandoned_attempt_is_deleted_later(desk: Desk, clock: Clock) -> None:
    desk.fake.cut_import_after = 2
    live = desk.go_live()
    quiet(desk, clock)
    assert desk.clean()
    assert set(desk.fake.versions(desk.number)) == {live}
    assert not desk.clean()


def test_a_version_that_goes_live_meanwhile_is_never_deleted(desk: Desk, clock: Clock) -> None:
    desk.go_live(1)
    clock.advance(1)
    desk.go_live(2)
    clock.advance(1)
    live = desk.go_live(3)
    quiet(desk, clock)
    while desk.publisher.clean():
        pass
    assert live in desk.fake.versions(desk.number)


@pytest.mark.parametrize("state", ["publishing", "ready"])
def test_a_version_under_way_is_not_deleted(desk: Desk, clock: Clock, state: str) -> None:
    desk.go_live()
    version = Publication(round=2, model_key="k", labels=3, drafts="")
    published = desk.publisher.publish(version, "attention-unet", desk.tasks, {})
    found = desk.store.publications.get(desk.number, published)
    assert found is not None
    found.state = state
    desk.store.publications.save(found)
    quiet(desk, clock)
    assert not desk.clean()


def test_nothing_is_deleted_before_a_version_is_live(desk: Desk, clock: Clock) -> None:
    desk.fake.cut_import_after = 1
    desk.publish()
    quiet(desk, clock)
    assert not desk.clean()


def test_an_interrupted_delete_is_repeated(desk: Desk, clock: Clock) -> None:
    desk.fake.cut_import_after = 2
    desk.go_live()
    quiet(desk, clock)
    desk.fake.fail("DELETE", "model-versions", httpx.ReadTimeout)
    with pytest.raises(Unreachable):
        desk.clean()
    assert desk.clean()
    assert len(desk.fake.versions(desk.number)) == 1


def test_a_delete_after_which_the_queue_was_not_switched_on_again_is_made_good(
    desk: Desk, clock: Clock
) -> None:
    for number in range(1, 4):
        live = desk.go_live(number)
        clock.advance(1)
    quiet(desk, clock)
    desk.fake.fail("PATCH", "api/projects", httpx.ConnectError, times=9)
    with pytest.raises(Unreachable):
        desk.clean()
    assert desk.fake.projects[desk.number].model_version == ""
    desk.fake.heal()
    assert desk.clean()
    assert desk.fake.projects[desk.number].model_version == live


def test_on_demand_all_old_versions_go_at_once_and_are_counted(desk: Desk, clock: Clock) -> None:
    names = []
    for number in range(1, 5):
        names.append(desk.go_live(number))
        clock.advance(1)
    desk.fake.annotate(desk.tasks[0], drawn())  # just now: nobody waits for quiet
    number = len(desk.tasks)
    assert list(desk.publisher.remove_old()) == [(name, number) for name in names[:2]]
    assert set(desk.fake.versions(desk.number)) == set(names[2:])
    assert list(desk.publisher.remove_old()) == []


def test_versions_that_this_service_never_wrote_stay(desk: Desk, clock: Clock) -> None:
    for number in range(1, 4):
        desk.go_live(number)
        clock.advance(1)
    theirs = {"task": desk.tasks[0], "score": 0.5, "model_version": "theirs", "result": []}
    desk.fake.projects[desk.number].predictions.append(theirs)
    list(desk.publisher.remove_old())
    assert desk.fake.versions(desk.number)["theirs"] == 1


# -- small things ---------------------------------------------------------------------------------


def test_a_timestamp_of_label_studio_is_read_to_the_microsecond() -> None:
    assert moment("1970-01-01T00:00:01.500000Z") == 1.5


def test_the_store_knows_what_was_published(desk: Desk, store: Store) -> None:
    found = store.publications.get(desk.number, desk.go_live())
    assert found is not None
    assert (found.state, found.published, found.labels) == ("live", desk.tasks, 3)
