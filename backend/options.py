"""The options of a project: defaults, methods, and what Label Studio or the environment sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from backend.errors import OptionsError
from model.registry import (
    ATTENTION_UNET,
    AUTO,
    DESCRIBED,
    KNOWN_ACQUISITIONS,
    KNOWN_COLD_STARTS,
    KNOWN_ENCODERS,
    KNOWN_NETWORKS,
    USUAL_ACQUISITION,
    USUAL_COLD_START,
    Projection,
    Uncertainty,
    is_acquisition,
    is_cold_start,
    is_encoder,
    is_network,
)


def _known_encoder(name: str) -> str:
    if not is_encoder(name):
        raise ValueError(KNOWN_ENCODERS)
    return name


def _known_network(name: str) -> str:
    if not is_network(name):
        raise ValueError(KNOWN_NETWORKS)
    return name


def _known_cold_start(name: str) -> str:
    if not is_cold_start(name):
        raise ValueError(KNOWN_COLD_STARTS)
    return name


def _known_acquisition(name: str) -> str:
    if not is_acquisition(name):
        raise ValueError(KNOWN_ACQUISITIONS)
    return name


Encoder = Annotated[str, AfterValidator(_known_encoder)]
Network = Annotated[str, AfterValidator(_known_network)]
ColdStart = Annotated[str, AfterValidator(_known_cold_start)]
Acquisition = Annotated[str, AfterValidator(_known_acquisition)]


FIRSTLIGHT = "firstlight"  # the method that new projects get
FIRSTLIGHT_1 = "firstlight-1"  # the method that projects got in the first release
# The options that `method` sets. `firstlight` means the defaults of ProjectOptions.
METHODS: Mapping[str, Mapping[str, Any]] = {
    FIRSTLIGHT: {},
    FIRSTLIGHT_1: {"cold_start": "medoids", "projection": "tsne"},
    "paper": {
        "cold_start": "medoids",
        "projection": "tsne",
        "acquisition": "entropy-diversity",
        "alpha": 0.3,
        "uncertainty": "entropy",
        "training": "scratch",
        "refine": False,  # the paper trains one network a round, and that network draws
        "score_limit": 0,  # it scores the whole pool
        "network": ATTENTION_UNET,  # with its whole decoder
        "random_fraction": 0.0,
        "by_minutes": False,
        "source_by": "",
        "slice_by": "",
    },
}


# The options that records of the first release lack.
NEW_OPTIONS = (
    "score_limit",
    "network",
    "source_by",
    "slice_by",
    "merge",
    "second_reading",
    "by_minutes",
)

# The options that decide nothing in a round.
IDLE_OPTIONS = frozenset(
    {
        "method",
        "paused",
        "refine",
        "max_refine_seconds",
        "review",
        "enough",
        "draft_target",
        "show_people",
    }
)


class ProjectOptions(BaseSettings):
    """The options that an admin may set for one project.

    A value in extra_params of the ML backend wins over the environment's FIRSTLIGHT_<NAME>, which
    wins over the value that `method` sets, which wins over the default.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="FIRSTLIGHT_", env_ignore_empty=True
    )

    method: Literal["firstlight", "firstlight-1", "paper"] = "firstlight"
    cold_start_budget: int = Field(default=10, ge=1)
    cold_start: ColdStart = USUAL_COLD_START
    acquisition: Acquisition = USUAL_ACQUISITION
    alpha: float | Literal["auto"] = 0.3
    uncertainty: Uncertainty = "entropy"
    projection: Projection = "auto"
    encoder: Encoder | None = None
    batch_size: int = Field(default=10, ge=1)
    horizon: int = Field(default=1000, ge=1)
    group_by: str = ""
    source_by: str = ""
    slice_by: str = ""
    training: Literal["scratch", "warm"] = "scratch"
    retrain_after: int = Field(default=1, ge=1)
    min_seconds_between_rounds: float | None = Field(default=None, ge=0)
    max_train_seconds: float = Field(default=300.0, gt=0)
    score_limit: int = Field(default=2000, ge=0)
    refine: bool = True
    review: bool = True
    max_refine_seconds: float = Field(default=900.0, gt=0)
    network: Network = AUTO
    image_size: int | None = Field(default=None, ge=32, le=2048, multiple_of=32)
    random_fraction: float = Field(default=0.0, ge=0, le=1)
    by_minutes: bool = False
    merge: Literal["majority", "staple"] = "majority"
    second_reading: float = Field(default=0.0, ge=0, le=1)
    prelabels: bool = True
    prelabel_after: int = Field(default=5, ge=1)
    prelabel_min_dice: float = Field(default=0.5, ge=0, le=1)
    enough: float = Field(default=0.5, gt=0, le=100)
    draft_target: float = Field(default=0.95, ge=0, le=1)
    show_people: bool = False
    paused: bool = False
    seed: int = Field(default=0, ge=0, le=2**32 - 1)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_method(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Add what the method sets to the options from extra_params and the environment."""
        chosen = given.get("method")
        return {**(METHODS.get(chosen, {}) if isinstance(chosen, str) else {}), **given}

    @property
    def deciding(self) -> dict[str, Any]:
        """The options whose change makes a round due.

        A new option is left out while it has its default. Otherwise an upgrade would publish.
        `method` is left out, because the options that it sets are in.
        """
        fields = type(self).model_fields
        unset = {name for name in NEW_OPTIONS if getattr(self, name) == fields[name].default}
        return self.model_dump(exclude={*IDLE_OPTIONS, *unset})

    @property
    def method_in_use(self) -> str:
        """The method, and the options that were given another value than it sets, in words."""
        usual = {name: type(self).model_fields[name].default for name in METHODS["paper"]}
        usual |= METHODS[self.method]
        others = {n: getattr(self, n) for n, v in usual.items() if getattr(self, n) != v}
        said = ", ".join(f"`{name}` {json.dumps(value)}" for name, value in others.items())
        return f"{self.method}, but {said}" if said else self.method

    def encoder_of(self, installed: str) -> str:
        """Return the name of the project's encoder.

        Args:
            installed: The setting ENCODER. If that is "auto" too, the method decides whether grey
                values and statistics stand beside the network's features.
        """
        name = self.encoder or installed
        return DESCRIBED if name == AUTO and self.method == FIRSTLIGHT else name

    @field_validator("alpha")
    @classmethod
    def _share_or_auto(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 <= value <= 1:
            raise ValueError('expected a number from 0 to 1, or "auto"')
        return value


def parse_options(extra_params: object, method: str = FIRSTLIGHT) -> ProjectOptions:
    """Read the extra_params of an ML backend: an object, a JSON string, or nothing.

    Args:
        extra_params: What Label Studio sends.
        method: The method, if neither extra_params nor the environment names one.

    Raises:
        OptionsError: Names each key that is unknown or out of range, and lists the known keys.
    """
    given = as_object(extra_params)
    # pydantic-settings takes keys with "_" as commands of the caller, such as to read a file.
    if commands := [key for key in given if key.startswith("_")]:
        raise _wrong_options(f"{key}: unknown option" for key in commands)
    try:
        options = ProjectOptions(**given)
        if "method" not in options.model_fields_set:
            options = ProjectOptions(**{**given, "method": method})
    except ValidationError as error:
        raise _wrong_options(lines_of(error)) from None
    return options


def _wrong_options(lines: Iterable[str]) -> OptionsError:
    known = ", ".join(sorted(ProjectOptions.model_fields))
    return OptionsError(
        f"extra_params: {'; '.join(lines)}.",
        "Correct them, in --extra-params or in the project's Settings > Model. Known options: "
        f"{known}.",
    )


def as_object(extra_params: object) -> Mapping[str, Any]:
    """Return the extra_params of an ML backend as an object; what they hold is not checked.

    Raises:
        OptionsError: If they are no object and no JSON of one.
    """
    if isinstance(extra_params, str):
        try:
            extra_params = json.loads(extra_params.strip() or "{}")
        except (ValueError, RecursionError):
            raise OptionsError(
                "extra_params is not valid JSON.", 'Write an object such as {"alpha": 0.3}.'
            ) from None
    if not extra_params:
        return {}
    if not isinstance(extra_params, dict):
        raise OptionsError(
            f"extra_params is a {type(extra_params).__name__}, not an object.",
            'Write an object such as {"alpha": 0.3}.',
        )
    return {str(key): value for key, value in extra_params.items()}


def lines_of(error: ValidationError, name: Callable[[str], str] = str) -> Iterator[str]:
    """Yield a line for each mistake: the name of its setting or option, and what is wrong."""
    for problem in error.errors(include_input=False, include_url=False):
        where = name(".".join(str(part) for part in problem["loc"]))
        text = (
            "unknown option" if problem["type"] == "extra_forbidden" else in_words(problem["msg"])
        )
        yield f"{where}: {text}" if where else text


def in_words(message: str) -> str:
    """Return what pydantic says of a mistake as our own messages say it."""
    return message.removeprefix("Value error, ").replace("Input should be", "expected")
