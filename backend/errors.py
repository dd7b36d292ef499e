"""The tree of this project's errors.

FirstlightError                what happened and how to fix it, safe to show to every user
├── ConfigError                a person must change the environment, an option or a label config
│   ├── UnsupportedLabelConfig   the project's labelling interface is unsupported
│   ├── OptionsError             a key or value in extra_params is wrong
│   └── LacksVariables           Label Studio was started without some environment variables
├── LabelStudioError           Label Studio refused or failed a call
│   ├── Unreachable              no connection, a timeout or a 5xx: worth another try
│   ├── Unauthorized             Label Studio refused the token
│   └── NotFound                 the project, task or entry does not exist
├── ImageError                 one scan cannot be fetched or decoded; the others go on
├── DraftError                 a live draft cannot be drawn; the scan is served without a draft
├── ServerError                a server that `quickstart` runs did not start, or ended
├── StorageError               DATA_DIR or the database cannot be read or written
├── ExportError                one case cannot be exported; the others go on
└── PublishError               a queue was sent but did not arrive complete
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterator, Mapping
from typing import Self


class FirstlightError(Exception):
    """What happened, and the fix. Neither may hold a token, a body or patient data."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what} {self.fix}".strip()


class ConfigError(FirstlightError):
    """A person must change the environment, an option or a label config."""


class UnsupportedLabelConfig(ConfigError):
    """The project's labelling interface is unsupported."""


class OptionsError(ConfigError):
    """A key or value in extra_params is wrong."""


class LacksVariables(ConfigError):
    """Label Studio was started without environment variables that are needed."""

    def __init__(self, what: str, fix: str, variables: Mapping[str, str] | None = None) -> None:
        super().__init__(what, fix)
        self.variables = variables or {}

    @classmethod
    def of(cls, what: str, variables: Mapping[str, str], then: str = "") -> Self:
        """Return the error that asks for these variables.

        Args:
            what: What happened.
            variables: The missing variables and their values.
            then: What ends the sentence that names them.
        """
        lines = " ".join(f"{name}={value}" for name, value in variables.items())
        return cls(what, f"Start Label Studio with {lines}{then}.", variables)


class LabelStudioError(FirstlightError):
    """Label Studio refused or failed a call."""


class Unreachable(LabelStudioError):
    """No connection, a timeout or a 5xx: worth another try."""


class Unauthorized(LabelStudioError):
    """Label Studio refused the token."""


class NotFound(LabelStudioError):
    """The project, task or entry does not exist."""


class ImageError(FirstlightError):
    """One scan cannot be fetched or decoded; the others go on."""


class DraftError(FirstlightError):
    """A live draft cannot be drawn; the scan is served without a draft."""


class ServerError(FirstlightError):
    """A server that `quickstart` runs did not start, or ended."""


class StorageError(FirstlightError):
    """DATA_DIR or the database cannot be read or written."""


class ExportError(FirstlightError):
    """One case cannot be exported; the others go on."""


class PublishError(FirstlightError):
    """A queue was sent but did not arrive complete."""


_OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # these need not name a file


def of_system(error: OSError) -> StorageError:
    """Return what the operating system refused, in plain words: what, why, and what to do."""
    why = error.strerror or type(error).__name__
    if not error.filename and error.errno not in _OF_DISKS:
        return StorageError(
            f"The operating system refused a step of the command ({why}).",
            "Remove the cause in brackets, and run the command again.",
        )
    return StorageError(
        f"{error.filename or 'A file'} cannot be used ({why}).",
        "Let this user read and write the file and its folder, free disk space if there is none, "
        "and run the command again.",
    )


# By the classes of httpx, SQLAlchemy, botocore and s3fs, which are not imported here.
_REASONS = {
    "ConnectError": "no connection: nothing listens there, or the host is unknown",
    "TimeoutException": "it took too long",
    "NetworkError": "the connection broke off",
    "ProtocolError": "the connection broke off",
    "InvalidURL": "the address is not valid",
    "UnsupportedProtocol": "the address does not begin with http:// or https://",
    "OperationalError": "it cannot be reached, opened or written",
    "ModuleNotFoundError": "the package for this kind of database is not installed",
    "EndpointConnectionError": "no connection: nothing listens there, or the host is unknown",
    "NoCredentialsError": "there are no credentials",
    "PermissionError": "access is refused",
    "FileNotFoundError": "there is no such bucket or file",
}


def reason(error: BaseException) -> str:
    """Return why a call to another service failed, in words where they are known.

    Only the classes of the error and of its causes are read: their texts may quote addresses,
    headers and passwords.
    """
    if any(isinstance(cause, ssl.SSLError) for cause in _causes(error)):
        return "its certificate is not trusted, or it does not speak TLS"
    names = [kind.__name__ for kind in type(error).__mro__]
    return next((_REASONS[name] for name in names if name in _REASONS), names[0])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from; httpx wraps the errors of TLS in its own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__  # httpcore raises its own `from None`
