from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.exchange.export.cases import Scan, single

STEMS = st.sampled_from(["a", "A", "a-task-2", "a-task-3", "A-Task-2", "a-task-2-2", "task-1", ""])


def names(*stems: str) -> list[str]:
    scans = [Scan(task, "", f"{stem}.png", "", 1) for task, stem in enumerate(stems, start=1)]
    return [case.name for case in single(scans).cases]


@given(st.lists(STEMS, max_size=6))
def test_no_two_cases_share_a_name_on_any_file_system(stems: list[str]) -> None:
    assert len({name.lower() for name in names(*stems)}) == len(stems)


def test_a_name_made_of_a_task_gives_way_to_a_picture_of_that_name() -> None:
    assert names("a", "a", "a-task-1") == ["a-task-1-2", "a-task-2", "a-task-1"]
