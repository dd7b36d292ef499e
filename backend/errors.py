"""Everything that can go wrong and whom it concerns, in one place.

FirstlightError                what happened and how to fix it, safe to show to anybody
├── ConfigError                the environment, an option or a label config must be changed
│   ├── UnsupportedLabelConfig   the project's labelling interface cannot be served
│   └── OptionsError             a key or value in extra_params is wrong
├── LabelStudioError           Label Studio did not do what was asked
│   ├── Unreachable              no connection, a timeout or a 5xx: worth another try
│   ├── Unauthorized             the token was refused
│   └── NotFound                 the project, task or entry is gone
├── ImageError                 one scan cannot be fetched or decoded; the others go on
├── DraftError                 a live draft cannot be drawn; the scan is served without one
├── StorageError               DATA_DIR or the database cannot be read or written
└── PublishError               a queue went out but did not arrive whole
"""

from __future__ import annotations


class FirstlightError(Exception):
    """What happened, and the fix. Neither may hold a token, a body or patient data."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what} {self.fix}".strip()


class ConfigError(FirstlightError):
    """The environment, an option or a label config must be changed by a person."""


class UnsupportedLabelConfig(ConfigError):
    """The project's labelling interface cannot be served."""


class OptionsError(ConfigError):
    """A key or value in extra_params is wrong."""


class LabelStudioError(FirstlightError):
    """Label Studio did not do what was asked."""


class Unreachable(LabelStudioError):
    """No connection, a timeout or a 5xx: worth another try."""


class Unauthorized(LabelStudioError):
    """The token was refused."""


class NotFound(LabelStudioError):
    """The project, task or entry is gone."""


class ImageError(FirstlightError):
    """One scan cannot be fetched or decoded; the others go on."""


class DraftError(FirstlightError):
    """A live draft cannot be drawn; the scan is served without one."""


class StorageError(FirstlightError):
    """DATA_DIR or the database cannot be read or written."""


class PublishError(FirstlightError):
    """A queue went out but did not arrive whole."""
