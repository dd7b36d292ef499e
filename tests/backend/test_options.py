from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from backend.errors import OptionsError
from backend.options import ProjectOptions, parse_options
from backend.settings import (
    load_settings,
)
from model import encoders, plugins, registry
from tests.model.plugs import plug

pytestmark = pytest.mark.usefixtures("no_environment")


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
    assert options.network == "attention-unet", "with its whole decoder, on a CPU too"
    assert options.method_in_use == "paper"
    assert parse_options({"method": "firstlight"}) == parse_options({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("network", "unet/resnet34"),
        ("random_fraction", 0.5),
        ("source_by", "clinic"),
        ("slice_by", "slice"),
        ("by_minutes", True),
    ],
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
        ({}, "auto", "auto+normalised-pixels+statistics"),
        ({"encoder": "auto"}, "pixels", "auto+normalised-pixels+statistics"),
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
    with pytest.raises(OptionsError, match="method: expected 'firstlight', "):
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
    "name",
    [
        "auto", "unet/resnet34", "segformer/mit_b0", "attention-unet", "attention-unet/tu-a_b.c",
        "attention-unet-half/resnet18",
    ],
)  # fmt: skip
def test_every_network_that_may_exist_can_be_chosen(name: str) -> None:
    assert parse_options({"network": name}).network == name


@pytest.mark.parametrize(
    "name",
    [
        "", "unet", "unet/", "unet/../x", "vgg/resnet34", "unet/a b", "attention-unet/",
        "attention-unet-half",
    ],
)  # fmt: skip
def test_a_network_that_cannot_exist_is_refused_with_those_that_do(name: str) -> None:
    with pytest.raises(OptionsError) as caught:
        parse_options({"network": name})
    assert "unetplusplus" in caught.value.what


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
