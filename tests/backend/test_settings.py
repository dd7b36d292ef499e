from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from pydantic import SecretStr

from backend.errors import ConfigError, OptionsError
from backend.settings import (
    ProjectOptions,
    Settings,
    cache_folder,
    load_settings,
    override,
    parse_options,
    prepare_data_dir,
    require_api_key,
)
from model import encoders, plugins, registry
from tests.model.plugs import plug


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ProjectOptions.model_fields:
        monkeypatch.delenv(f"FIRSTLIGHT_{name.upper()}", raising=False)


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


@pytest.mark.parametrize(
    "extra_params",
    [{"alpha": 0.5, "paused": True}, json.dumps({"alpha": 0.5, "paused": True})],
    ids=["object", "text"],
)
def test_options_come_as_an_object_or_as_its_text(extra_params: object) -> None:
    options = parse_options(extra_params)
    assert (options.alpha, options.paused, options.horizon) == (0.5, True, 1000)


@pytest.mark.parametrize("extra_params", [None, "", "  ", {}, "{}", "null"])
def test_no_options_are_the_defaults(extra_params: object) -> None:
    assert parse_options(extra_params) == ProjectOptions()


def test_an_option_wins_over_the_environment_which_wins_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FIRSTLIGHT_ALPHA", "0.6")
    monkeypatch.setenv("FIRSTLIGHT_SEED", "7")
    options = parse_options({"alpha": 0.9})
    assert (options.alpha, options.seed, options.batch_size) == (0.9, 7, 10)


def test_the_method_of_the_paper_sets_every_option_in_which_it_is_exact() -> None:
    options = parse_options({"method": "paper"})
    assert (options.cold_start, options.projection) == ("medoids", "tsne")
    assert (options.acquisition, options.alpha) == ("entropy-diversity", 0.3)
    assert (options.uncertainty, options.training, options.refine) == ("entropy", "scratch", False)
    assert options.score_limit == 0, "the paper scores the whole pool"
    assert options.method_in_use == "paper"
    assert parse_options({"method": "firstlight"}) == parse_options({})


@pytest.mark.parametrize(
    ("name", "value"),
    [("network", "unet/resnet34"), ("random_fraction", 0.5), ("source_by", "clinic")],
)
def test_an_option_that_the_paper_does_not_have_is_named(name: str, value: object) -> None:
    said = parse_options({"method": "paper", name: value}).method_in_use
    assert said == f"paper, but `{name}` {json.dumps(value)}"


def test_a_single_option_wins_over_the_method_wherever_it_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FIRSTLIGHT_METHOD", "paper")
    monkeypatch.setenv("FIRSTLIGHT_REFINE", "true")
    monkeypatch.setenv("FIRSTLIGHT_UNCERTAINTY", "")  # empty counts as absent
    options = parse_options({"alpha": "auto"})
    assert (options.method, options.alpha, options.refine) == ("paper", "auto", True)
    assert options.uncertainty == "entropy"
    assert options.method_in_use == 'paper, but `alpha` "auto", `refine` true'
    assert parse_options({"method": "firstlight"}).method_in_use == "firstlight"


def test_a_project_keeps_its_first_method_until_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = parse_options({"alpha": 0.5}, "firstlight-1")
    assert (kept.method, kept.cold_start, kept.projection) == ("firstlight-1", "medoids", "tsne")
    assert kept.method_in_use == "firstlight-1, but `alpha` 0.5"
    assert parse_options({"method": "firstlight"}, "firstlight-1") == ProjectOptions()
    monkeypatch.setenv("FIRSTLIGHT_METHOD", "paper")
    assert parse_options({}, "firstlight-1").method == "paper"


@pytest.mark.parametrize(
    ("options", "installed", "encoder"),
    [
        ({}, "auto", "auto+normalised-pixels"),
        ({"encoder": "auto"}, "pixels", "auto+normalised-pixels"),
        ({"encoder": "statistics"}, "auto", "statistics"),
        ({}, "pixels", "pixels"),
        ({"method": "firstlight-1"}, "auto", "auto"),
        ({"method": "paper"}, "auto", "auto"),
        ({"method": "paper"}, "pixels", "pixels"),
    ],
)
def test_the_method_says_what_auto_means(
    options: dict[str, str], installed: str, encoder: str
) -> None:
    assert parse_options(options).encoder_of(installed) == encoder


def test_stored_options_stay_as_they_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = parse_options({"method": "paper", "alpha": 0.5}).model_dump()
    monkeypatch.setenv("FIRSTLIGHT_METHOD", "firstlight")
    assert ProjectOptions(**stored).model_dump() == stored


@pytest.mark.parametrize("method", ["papers", 3, None, ["paper"]])
def test_an_unknown_method_is_named(method: object) -> None:
    with pytest.raises(OptionsError, match="method: Input should be 'firstlight', "):
        parse_options({"method": method})


@pytest.mark.parametrize(
    ("extra_params", "named"),
    [
        ({"alhpa": 0.5}, "alhpa: unknown option"),
        ({"alpha": 2}, "alpha"),
        ({"cold_start_budget": 0}, "cold_start_budget"),
        ({"projection": "mds"}, "projection"),
        ({"image_size": 100}, "image_size"),
        ('{"alpha": }', "not valid JSON"),
        ("[1]", "is a list"),
        (3, "is a int"),
    ],
)
def test_a_wrong_option_is_named_with_the_mend(extra_params: object, named: str) -> None:
    with pytest.raises(OptionsError) as caught:
        parse_options(extra_params)
    assert named in caught.value.what
    assert caught.value.fix


def test_a_message_about_options_lists_the_known_ones_and_not_the_value() -> None:
    with pytest.raises(OptionsError) as caught:
        parse_options({"alpha": "Mrs Smith"})
    assert "cold_start_budget" in caught.value.fix
    assert "Smith" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["auto", *encoders.NAMES, "timm/vit_small_patch14_dinov2.lvd142m", "auto+statistics+pixels"],
)
def test_every_encoder_that_there_is_can_be_chosen(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("ENCODER", name)
    assert load_settings().encoder == name
    assert parse_options({"encoder": name}).encoder == name


@pytest.mark.parametrize("name", ["", "vgg", "timm/", "timm/../vit", "timm/a.b.c", "dinov2"])
def test_an_encoder_that_there_is_not_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(OptionsError) as caught:
        parse_options({"encoder": name})
    for known in ("auto", *encoders.NAMES, "timm/<model name>"):
        assert known in caught.value.what


@pytest.mark.parametrize(
    "name", ["auto", "unet/resnet34", "segformer/mit_b0", "attention-unet/tu-a_b.c"]
)
def test_every_network_that_may_exist_can_be_chosen(name: str) -> None:
    assert parse_options({"network": name}).network == name


@pytest.mark.parametrize("name", ["", "unet", "unet/", "unet/../x", "vgg/resnet34", "unet/a b"])
def test_a_network_that_cannot_exist_is_refused_with_those_that_do(name: str) -> None:
    with pytest.raises(OptionsError) as caught:
        parse_options({"network": name})
    assert "unetplusplus" in caught.value.what


def test_settings_are_read_without_torch_or_timm() -> None:
    script = "import sys, backend.settings; print({'torch', 'timm', 'PIL'} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert found.stdout == "set()\n"


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("cold_start", registry.COLD_STARTS),
        ("acquisition", registry.ACQUISITIONS),
        ("projection", registry.PROJECTIONS),
        ("uncertainty", registry.UNCERTAINTIES),
    ],
)
def test_every_strategy_that_there_is_can_be_chosen_and_no_other(
    option: str, names: Iterable[str]
) -> None:
    for name in names:
        assert getattr(parse_options({option: name}), option) == name
    with pytest.raises(OptionsError, match=option):
        parse_options({option: "luck"})


def test_the_name_of_a_plugin_can_be_chosen_while_its_package_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for option, group in {
        "cold_start": plugins.COLD_STARTS,
        "acquisition": plugins.ACQUISITIONS,
        "encoder": plugins.ENCODERS,
        "network": plugins.NETWORKS,
    }.items():
        with monkeypatch.context() as patch:
            plug(patch, group, "anywhere", "my-own")
            assert getattr(parse_options({option: "my-own"}), option) == "my-own"
        with pytest.raises(OptionsError, match=f"{option}.*plugin"):
            parse_options({option: "my-own"})


@pytest.mark.parametrize(("given", "kept"), [("auto", "auto"), (0.5, 0.5), ("0.5", 0.5)])
def test_alpha_is_a_share_or_automatic(
    monkeypatch: pytest.MonkeyPatch, given: object, kept: object
) -> None:
    assert parse_options({"alpha": given}).alpha == kept
    monkeypatch.setenv("FIRSTLIGHT_ALPHA", str(given))
    assert ProjectOptions().alpha == kept
    with pytest.raises(OptionsError, match="alpha"):
        parse_options({"alpha": 1.5})


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
