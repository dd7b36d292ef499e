"""Settings of the service and options of a project: the only reader of the environment."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backend.errors import ConfigError, OptionsError
from model.registry import (
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


class Settings(BaseSettings):
    """The settings of this installation, read once at the start and never changed."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    label_studio_url: str = "http://127.0.0.1:8080"
    label_studio_public_url: str = ""
    label_studio_api_key: SecretStr = SecretStr("")
    host: str = "127.0.0.1"
    port: int = Field(default=9090, ge=1, le=65535)
    backend_url: str = ""
    pages_url: str = ""
    notify_url: SecretStr = SecretStr("")
    data_dir: Path = Path("data")
    database_url: str = ""
    artifacts_url: str = ""
    basic_auth_user: str = ""
    basic_auth_pass: SecretStr = SecretStr("")
    webhook_secret: SecretStr = SecretStr("")
    trusted_user_header: str = ""
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    image_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    max_image_bytes: int = Field(default=200_000_000, ge=1)
    max_image_pixels: int = Field(default=80_000_000, ge=1)
    reconcile_seconds: float = Field(default=60.0, gt=0)
    encoder: Encoder = "auto"
    encoder_weights: Path | None = None
    network_weights: Path | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("image_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("trusted_user_header")
    @classmethod
    def _header_name(cls, value: str) -> str:
        # No underscore: servers take X_User and X-User for the same header.
        if not re.fullmatch(r"[A-Za-z0-9-]*", value):
            raise ValueError("expected the name of a header, such as X-Forwarded-User")
        return value

    @field_validator("label_studio_url", "label_studio_public_url", "backend_url", "pages_url")
    @classmethod
    def _web_address(cls, value: str) -> str:
        _check_address(value)
        return value.rstrip("/")

    @field_validator("notify_url")
    @classmethod
    def _secret_address(cls, value: SecretStr) -> SecretStr:
        _check_address(value.get_secret_value())
        return value

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str) -> str:
        if value:
            from sqlalchemy import exc, make_url  # slow to import, and rarely needed

            try:
                make_url(value)
            except (exc.ArgumentError, ValueError):
                # Quote neither the URL nor the reason, which may repeat it: it holds a password.
                raise ValueError(
                    "expected sqlite:///file or postgresql+psycopg://user:password@host/database"
                ) from None
        return value

    @field_validator("artifacts_url")
    @classmethod
    def _store_or_folder(cls, value: str) -> str:
        # A folder's path, or a protocol followed by a bucket or host; file:// has no host.
        if not re.fullmatch(r"|(file://)?/.*|(?!file:)[a-z][a-z0-9+.-]*://[^/].*", value):
            raise ValueError("expected an address such as s3://bucket/prefix, or a folder's path")
        urlsplit(value)
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("basic_auth_user", "basic_auth_pass", "webhook_secret")
    @classmethod
    def _fits_a_header(cls, value: str | SecretStr) -> str | SecretStr:
        # Label Studio encodes credentials in Latin-1, browsers in UTF-8: ASCII works in both.
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not (text.isascii() and text.isprintable() and text == text.strip()):
            raise ValueError("expected printable ASCII characters without spaces at the ends")
        return value

    @field_validator("basic_auth_user")
    @classmethod
    def _ends_before_the_password(cls, value: str) -> str:
        if ":" in value:
            raise ValueError('expected no ":", because it separates the user from the password')
        return value

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if bool(self.basic_auth_user) != bool(self.basic_auth_pass.get_secret_value()):
            raise ValueError(
                "BASIC_AUTH_USER and BASIC_AUTH_PASS belong together: set both or neither"
            )
        return self

    @model_validator(mode="after")
    def _header_needs_proxies(self) -> Self:
        if self.trusted_user_header and not self.trusted_proxies:
            raise ValueError(
                "TRUSTED_USER_HEADER needs TRUSTED_PROXIES: the addresses of the proxies that sign "
                "people in and set this header"
            )
        return self

    @property
    def public_url(self) -> str:
        """The address that `connect` registers in Label Studio."""
        host = f"[{self.host}]" if ":" in self.host else self.host  # an IPv6 address
        return self.backend_url or f"http://{host}:{self.port}"

    def page(self, project_id: int) -> str:
        """Return the address of a project's page in people's browsers."""
        return f"{self.pages_url or self.public_url}/projects/{project_id}"

    @property
    def database(self) -> str:
        """The URL of the database; by default SQLite in DATA_DIR."""
        return self.database_url or f"sqlite:///{self.data_dir / 'firstlight.sqlite'}"

    @property
    def jobs_database(self) -> str:
        """The URL of DBOS's database: on SQLite a second file, so that neither waits."""
        if self.database_url and not self.database_url.startswith("sqlite"):
            return self.database_url
        return f"sqlite:///{self.data_dir / 'dbos.sqlite'}"

    def project_folder(self, project_id: int) -> Path:
        """Return the folder of a project's files."""
        return self.data_dir / "projects" / str(project_id)

    @property
    def api_key(self) -> str:
        """The token for Label Studio, legacy or personal."""
        return self.label_studio_api_key.get_secret_value()


def _check_address(value: str) -> None:
    try:
        parts = urlsplit(value)
        whole = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:  # such as http://[
        whole = False
    if value and not whole:
        raise ValueError("expected an address such as http://127.0.0.1:8080")


def load_settings() -> Settings:
    """Read the environment once.

    Raises:
        ConfigError: Names every wrong variable.
    """
    problems = []
    try:
        ProjectOptions()
    except ValidationError as error:
        problems += [f"FIRSTLIGHT_{line}" for line in _lines(error, name=str.upper)]
    try:
        settings = Settings()
    except ValidationError as error:
        problems += _lines(error, name=str.upper)
    if problems:
        raise ConfigError(
            f"The environment is wrong. {'; '.join(problems)}.",
            "Correct these variables, and start again.",
        )
    return settings


def override(chosen: Mapping[str, object]) -> None:
    """Let options of the command line win over the environment, in child processes too.

    Args:
        chosen: Values by the names of fields of Settings; None means that nothing was chosen.
    """
    for name, value in chosen.items():
        if value is not None:
            os.environ[name.upper()] = str(value)


def cache_folder() -> Path:
    """Return the folder of this user for what can be made anew at any time."""
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "firstlight"


def tame_threads() -> None:
    """Let idle maths threads sleep: spinning threads slow all other work on a small machine.

    Call it before the first import of torch or onnxruntime.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def own_python() -> list[str]:
    """Return the beginning of a command line that runs a command of this installation."""
    # Unlike `python -m`, the command `firstlight` does not import from the working folder.
    safe = [] if str(Path.cwd()) in sys.path else ["-P"]
    return [sys.executable, *safe, "-m", "backend"]


def keep_private() -> None:
    """Make new files of this process readable for this user only; they hold scans and labels.

    In a folder with a default ACL, Linux takes the permissions of new files from the ACL instead.
    """
    os.umask(0o077)


def require_api_key(settings: Settings) -> None:
    """Raise if there is no token: a process that calls Label Studio must not start without it."""
    if not settings.api_key:
        raise ConfigError(
            "LABEL_STUDIO_API_KEY is not set.",
            "Set it to a token from Label Studio (Account & Settings > Personal Access Token).",
        )


def prepare_data_dir(settings: Settings) -> None:
    """Make DATA_DIR, and check at the start, not in mid-round, that it can be written.

    A DATA_DIR of an earlier release loses the permissions for users outside of its owner and group.
    """
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        _close_to_others(settings.data_dir)
        probe = settings.data_dir / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"DATA_DIR {settings.data_dir} cannot be written ({error.strerror}).",
            "Point DATA_DIR at a folder that this user may write.",
        ) from None


def _close_to_others(folder: Path) -> None:
    """Remove a folder's permissions for others. The group keeps its own: a person chose it."""
    status = folder.stat()
    # Only the owner may do this, and a shared folder such as /tmp must stay open.
    if (
        status.st_uid == os.geteuid()
        and status.st_mode & 0o007
        and not status.st_mode & stat.S_ISVTX
    ):
        with suppress(OSError):  # a file system without permissions
            folder.chmod(stat.S_IMODE(status.st_mode) & ~0o007)


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
        "network": "auto",
        "random_fraction": 0.0,
        "source_by": "",
    },
}


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
    projection: Projection = "none"
    encoder: Encoder | None = None
    batch_size: int = Field(default=10, ge=1)
    horizon: int = Field(default=1000, ge=1)
    group_by: str = ""
    source_by: str = ""
    training: Literal["scratch", "warm"] = "scratch"
    retrain_after: int = Field(default=1, ge=1)
    min_seconds_between_rounds: float | None = Field(default=None, ge=0)
    max_train_seconds: float = Field(default=300.0, gt=0)
    score_limit: int = Field(default=2000, ge=0)
    refine: bool = True
    max_refine_seconds: float = Field(default=900.0, gt=0)
    network: Network = AUTO
    image_size: int | None = Field(default=None, ge=32, le=2048, multiple_of=32)
    random_fraction: float = Field(default=0.0, ge=0, le=1)
    merge: Literal["majority", "staple"] = "majority"
    second_reading: float = Field(default=0.0, ge=0, le=1)
    prelabels: bool = True
    prelabel_after: int = Field(default=5, ge=1)
    prelabel_min_dice: float = Field(default=0.5, ge=0, le=1)
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
                values stand beside the network's features.
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
        raise _wrong_options(_lines(error)) from None
    return options


def _wrong_options(lines: Iterable[str]) -> OptionsError:
    known = ", ".join(sorted(ProjectOptions.model_fields))
    return OptionsError(
        f"extra_params: {'; '.join(lines)}.",
        f"Correct them in the project's Settings > Model. Known options: {known}.",
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


def _lines(error: ValidationError, name: Callable[[str], str] = str) -> Iterator[str]:
    for problem in error.errors(include_input=False, include_url=False):
        where = name(".".join(str(part) for part in problem["loc"]))
        text = "unknown option" if problem["type"] == "extra_forbidden" else problem["msg"]
        yield f"{where}: {text}" if where else text
