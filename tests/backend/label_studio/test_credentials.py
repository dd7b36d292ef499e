from __future__ import annotations

from pydantic import SecretStr

from backend.label_studio.credentials import entry_credentials
from backend.settings import Settings

OPEN = Settings()
GUARDED = Settings(basic_auth_user="us", basic_auth_pass=SecretStr("hunter2"))


def test_an_entry_gets_the_credentials_that_label_studio_signs_with() -> None:
    assert entry_credentials(OPEN) == {"auth_method": "NONE"}
    assert entry_credentials(GUARDED) == {
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": "us",
        "basic_auth_pass": "hunter2",
    }
