from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from backend.errors import ConfigError
from backend.imaging.manifest import default_folder
from backend.options import parse_options
from backend.settings import (
    Settings,
    cache_folder,
    load_settings,
    override,
    prepare_data_dir,
    require_api_key,
)

pytestmark = pytest.mark.usefixtures("no_environment")


def test_without_an_environment_everything_has_a_default() -> None:
    settings = load_settings()
    assert settings.public_url == "http://127.0.0.1:9090"
    assert settings.database == "sqlite:///data/firstlight.sqlite"
    assert settings.jobs_database == "sqlite:///data/dbos.sqlite"
    assert settings.api_key == ""


def test_the_environment_is_read_by_the_names_of_the_manual(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "LABEL_STUDIO_URL": "https://studio.example/label/",
        "LABEL_STUDIO_API_KEY": "secret",
        "BACKEND_URL": "http://backend:9090/",
        "DATABASE_URL": "postgresql://db/firstlight",
        "IMAGE_HOSTS": "images.example, pacs.example:8443",
        "LOG_LEVEL": "warning",
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.label_studio_url == "https://studio.example/label"
    assert settings.public_url == "http://backend:9090"
    assert settings.database == settings.jobs_database == "postgresql://db/firstlight"
    assert settings.image_hosts == ("images.example", "pacs.example:8443")
    assert settings.log_level == "WARNING"
    assert settings.api_key == "secret"


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("FIRSTLIGHT_ALPHA", "")
    assert load_settings().port == 9090
    assert parse_options(None).alpha == 0.3


def test_every_wrong_variable_is_named_in_one_line_without_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PORT", "70000")
    monkeypatch.setenv("LABEL_STUDIO_URL", "studio.example")
    monkeypatch.setenv("FIRSTLIGHT_ALPHA", "hunter2")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    text = str(caught.value)
    assert all(name in text for name in ("PORT", "LABEL_STUDIO_URL", "FIRSTLIGHT_ALPHA"))
    assert "\n" not in text
    assert "hunter2" not in text
    assert caught.value.fix


@pytest.mark.parametrize(
    "value", ["s3://bucket/prefix", "s3://bucket", "memory://x", "/shared", "file:///shared"]
)
def test_artifacts_lie_in_a_folder_or_at_an_address(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ARTIFACTS_URL", value)
    assert load_settings().artifacts_url == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ARTIFACTS_URL", "hidden/folder"),
        ("ARTIFACTS_URL", "s3:/hidden"),
        ("ARTIFACTS_URL", "s3://"),
        ("ARTIFACTS_URL", "s3:///hidden"),
        ("ARTIFACTS_URL", "file://hidden/share"),
        ("ARTIFACTS_URL", "s3://[hidden"),
        ("DATABASE_URL", "hidden"),
        ("DATABASE_URL", "postgresql://hidden@host:port/name"),
        ("DATABASE_URL", "//hidden"),
    ],
)
def test_a_malformed_address_is_refused_without_being_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}: ") as caught:
        load_settings()
    assert "hidden" not in str(caught.value)


def test_imports_lie_in_a_folder_that_exists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert Settings(data_dir=tmp_path).imports_root == tmp_path
    monkeypatch.setenv("IMPORTS_DIR", str(tmp_path))
    settings = load_settings()
    assert settings.imports_root == tmp_path
    assert default_folder(settings, 7) == tmp_path / "imports" / "7"
    monkeypatch.setenv("IMPORTS_DIR", str(tmp_path / "not-mounted"))
    with pytest.raises(ConfigError, match=r"IMPORTS_DIR: .*expected a folder that exists"):
        load_settings()


def test_a_process_that_answers_no_clicks_needs_no_click_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLICK_MODEL", str(tmp_path / "on another machine"))
    assert load_settings().click_model == tmp_path / "on another machine"


@pytest.mark.parametrize("given", ["BASIC_AUTH_USER", "BASIC_AUTH_PASS"])
def test_half_of_the_basic_authentication_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv(given, "hunter2")
    with pytest.raises(ConfigError, match="BASIC_AUTH_USER and BASIC_AUTH_PASS") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["BASIC_AUTH_USER", "BASIC_AUTH_PASS", "WEBHOOK_SECRET"])
@pytest.mark.parametrize("value", ["pässword", "日本", "a\nb", " spaced"])
def test_what_label_studio_cannot_sign_with_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("BASIC_AUTH_USER", "us")
    monkeypatch.setenv("BASIC_AUTH_PASS", "hunter2")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}: .*printable ASCII") as caught:
        load_settings()
    assert value not in str(caught.value)


def test_a_user_with_a_colon_is_refused_and_a_password_may_have_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BASIC_AUTH_USER", "us")
    monkeypatch.setenv("BASIC_AUTH_PASS", "hunter:2")
    assert load_settings().basic_auth_user == "us"
    monkeypatch.setenv("BASIC_AUTH_USER", "us:them")
    with pytest.raises(ConfigError, match=r'BASIC_AUTH_USER: .*expected no ":"'):
        load_settings()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("::1", "http://[::1]:9090"),
        ("127.0.0.1", "http://127.0.0.1:9090"),
        ("firstlight", "http://firstlight:9090"),
    ],
)
def test_the_address_to_connect_by_follows_from_the_host(host: str, address: str) -> None:
    assert Settings(host=host).public_url == address


def test_secrets_do_not_show_in_the_settings_text() -> None:
    settings = Settings(
        label_studio_api_key=SecretStr("hunter2"),
        basic_auth_user="us",
        basic_auth_pass=SecretStr("hunter3"),
    )
    assert "hunter" not in repr(settings) + str(settings) + str(settings.model_dump())


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1


def test_a_missing_token_is_said_with_the_place_to_get_one() -> None:
    with pytest.raises(ConfigError, match="Personal Access Token"):
        require_api_key(Settings())


def test_the_data_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    prepare_data_dir(Settings(data_dir=folder))
    assert list(folder.iterdir()) == []


def test_a_new_data_folder_is_open_to_its_user_alone(tmp_path: Path) -> None:
    prepare_data_dir(Settings(data_dir=tmp_path / "new"))
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("before", "after"),
    [(0o755, 0o750), (0o777, 0o770), (0o2775, 0o2770), (0o700, 0o700), (0o1777, 0o1777)],
)
def test_an_older_data_folder_is_closed_to_others_and_stays_open_to_its_group(
    tmp_path: Path, before: int, after: int
) -> None:
    tmp_path.chmod(before)
    prepare_data_dir(Settings(data_dir=tmp_path))
    assert stat.S_IMODE(tmp_path.stat().st_mode) == after


def test_a_data_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="DATA_DIR") as caught:
        prepare_data_dir(Settings(data_dir=tmp_path / "file"))
    assert caught.value.fix


def test_settings_are_read_without_torch_or_timm() -> None:
    script = "import sys, backend.settings; print({'torch', 'timm', 'PIL'} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert found.stdout == "set()\n"


def test_what_was_chosen_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9091")
    monkeypatch.setenv("HOST", "127.0.0.2")
    override({"port": 9292, "host": None})
    assert (load_settings().port, load_settings().host) == (9292, "127.0.0.2")


def test_caches_lie_where_the_user_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "firstlight"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder() == tmp_path / "caches" / "firstlight"
