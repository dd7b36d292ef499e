"""Names that stand for patients and files: the same each time, and no way back without the key."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from backend.errors import ConfigError, StorageError
from backend.imaging.manifest import IMPORTS
from backend.settings import Settings

_KEY = "pseudonyms.key"
_LENGTH = 12  # hex digits: among 10,000 names, two are equal once in 5 million installations


class Pseudonyms:
    """Replaces names by a keyed hash; a bare hash of a short name could be guessed."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of(cls, settings: Settings) -> Pseudonyms:
        """Return those of this installation; the key is made once, readable by its owner alone.

        Raises:
            ConfigError: If the key would be made in IMPORTS_DIR although DATA_DIR has imports.
            StorageError: If the key cannot be read or written.
        """
        path = settings.imports_root / _KEY
        try:
            if not path.exists():
                _check_no_imports_in_data_dir(settings)
            path.parent.mkdir(parents=True, exist_ok=True)
            _make(path)
            return cls(path.read_bytes())
        except OSError as error:
            raise StorageError(
                f"{path} cannot be read or written ({error.strerror}).",
                "Make it readable and writable for this user. Without it volumes get other names.",
            ) from None

    def name(self, kind: str, identity: str) -> str:
        """Return the pseudonym of something, such as volume-3f9a2c81d04e.

        Args:
            kind: Begins the pseudonym; equal identities of two kinds get different ones.
            identity: What stays the same whenever the same thing is imported.
        """
        text = f"{kind}\0{identity}".encode()
        digest = hmac.new(self._key, text, hashlib.sha256).hexdigest()
        return f"{kind}-{digest[:_LENGTH]}"


def _check_no_imports_in_data_dir(settings: Settings) -> None:
    """Raise if a new key would give other names to what was imported before IMPORTS_DIR was set."""
    old, new = settings.data_dir.resolve(), settings.imports_root.resolve()
    there = [name for name in (_KEY, IMPORTS) if (old / name).exists()]
    if old == new or not there:
        return
    copied = " and ".join(f"{old / name} to {new / name}" for name in (_KEY, IMPORTS))
    raise ConfigError(
        f"IMPORTS_DIR is {new}, which has no {_KEY}, but DATA_DIR holds earlier imports: "
        f"{' and '.join(str(old / name) for name in there)}. With a new key they would be imported "
        "a second time, under other names.",
        f"Copy {copied} (what is missing comes from a backup), or leave IMPORTS_DIR "
        "empty. After copying, go on with an earlier import by --out and its old folder.",
    )


def _make(path: Path) -> None:
    """Write a random key, unless there is one; of two processes the first wins."""
    if path.exists():
        return
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(unfinished, path)
        except FileExistsError:
            return
    finally:
        unfinished.unlink()
