from __future__ import annotations

import httpx
import pytest

from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudio
from tests.backend.fake_label_studio import TOKEN, FakeLabelStudio
from tests.backend.label_studio.conftest import opened


def test_what_label_studio_nests_by_field_is_told_in_sentences(
    studio: LabelStudio, fake: FakeLabelStudio
) -> None:
    nested = {"validation_errors": {"url": ["Enter a valid URL."], "more": {"title": ["Empty."]}}}
    with pytest.raises(LabelStudioError, match=r"\(400\): Enter a valid URL.; Empty.$"):
        opened(TOKEN, lambda request: httpx.Response(400, json=nested)).check_token()
