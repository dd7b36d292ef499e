"""Settings of the service: the only reader of the environment, with the options in `options`."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backend.errors import ConfigError
from backend.options import Encoder, ProjectOptions, lines_of


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
    imports_dir: Path | None = None
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
    click_model: Path | None = None
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

    @field_validator("imports_dir")
    @classmethod
    def _mounted(cls, value: Path | None) -> Path | None:
        # Never made here: a share that is not mounted would look like an empty folder.
        if value is not None and not value.is_dir():
            raise ValueError("expected a folder that exists, such as a share that is mounted")
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
    def imports_root(self) -> Path:
        """The folder of what `import` keeps: manifests, slices, and the key of pseudonyms."""
        return self.imports_dir or self.data_dir

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
        problems += [f"FIRSTLIGHT_{line}" for line in lines_of(error, name=str.upper)]
    try:
        settings = Settings()
    except ValidationError as error:
        problems += lines_of(error, name=str.upper)
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


def require_click_model(settings: Settings) -> None:
    """Raise if CLICK_MODEL is no folder: a process that answers clicks must not start without it.

    Other processes do not use it, so their machines need not have the folder.
    """
    if settings.click_model is not None and not settings.click_model.is_dir():
        raise ConfigError(
            f"CLICK_MODEL is {settings.click_model}, which is no folder on this machine.",
            "Name the folder with the encoder and the decoder of a network, or leave "
            "CLICK_MODEL empty.",
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
