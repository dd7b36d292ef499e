from __future__ import annotations

import httpx
import pytest

from backend.errors import LabelStudioError
from backend.label_studio import answers
from backend.label_studio.client import LabelStudio
from tests.backend.fake_label_studio import TOKEN, FakeLabelStudio
from tests.backend.label_studio.conftest import opened


def test_what_label_studio_nests_by_field_is_told_in_sentences(
    studio: LabelStudio, fake: FakeLabelStudio
) -> None:
    nested = {"validation_errors": {"url": ["Enter a valid URL."], "more": {"title": ["Empty."]}}}
    with pytest.raises(LabelStudioError, match=r"\(400\): Enter a valid URL.; Empty.$"):
        opened(TOKEN, lambda request: httpx.Response(400, json=nested)).check_token()


@pytest.mark.parametrize(
    ("by", "number"),
    [(7, 7), ({"id": 7}, 7), (None, 0), ({}, 0), (True, 0), (-1, 0), (2**31, 0), ("7", 0)],
)
def test_the_annotator_is_a_users_id_or_nobody(by: object, number: int) -> None:
    assert answers.annotator({"completed_by": by}) == number
