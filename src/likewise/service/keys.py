"""Keys of clients: made once, kept hashed in a file, known again by their hash."""

import hashlib
import logging
import secrets
import time
from pathlib import Path
from typing import Literal

import msgspec

from likewise._files import Lock, read_regular, whole
from likewise.errors import ArtifactError, InputError

Scope = Literal["read", "write"]
LARGEST = 2**20  # bytes of a file of keys
LOOKED_AGAIN = 1.0  # seconds between two looks at the file

_log = logging.getLogger(__name__)


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key as it is kept: whose it is and what it may, but not the key itself.

    Attributes:
        name: Name of the client, as logs and limits know it.
        scope: "read" to ask, "write" to change known items too.
        sha256: Of the key. A key is random and long, so that a plain hash cannot be undone.
        made: When, in seconds since 1970.
    """

    name: str
    scope: Scope
    sha256: str
    made: float


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[Key]


def make_key(path: str | Path, name: str, scope: Scope = "read") -> str:
    """A new key, which is told only now; its hash goes into the file, made if it is not there.

    Args:
        path: The file of keys. Only its owner may read it.
        name: Name of the client; each has one key.
        scope: "read", or "write", which may read too.

    Raises:
        InputError: The name is taken or empty, or the scope is neither.
        ArtifactError: The file is no file of keys.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "keys.json"
        >>> key = make_key(path, "till 4", "read")
        >>> Keys(path).find(key).name
        'till 4'
        >>> folder.cleanup()
    """
    if not name.strip() or len(name) > 100:
        raise InputError(f"must have 1 to 100 characters, got {name[:100]!r}.", argument="name")
    if scope not in ("read", "write"):
        raise InputError(f"must be read or write, got {scope!r}.", argument="scope")
    path = Path(path)
    with _locked(path):
        known = _read(path) if path.exists() else []
        if any(key.name == name for key in known):
            raise InputError(
                f"name must be free, got {name!r}, which has a key. Remove that one first, or "
                "choose another name."
            )
        secret = f"lw_{secrets.token_urlsafe(32)}"
        _write(path, [*known, Key(name, scope, _hash(secret), time.time())])
    return secret


def remove_key(path: str | Path, name: str) -> None:
    """Take a client's key out of the file; a service that runs follows within a second.

    Raises:
        InputError: No key has this name.
        ArtifactError: The file is no file of keys.
    """
    path = Path(path)
    with _locked(path):
        known = _read(path)
        left = [key for key in known if key.name != name]
        if len(left) == len(known):
            names = ", ".join(key.name for key in known) or "none"
            raise InputError(f"name must be one of {names}, got {name!r}.")
        _write(path, left)


class Keys:
    """The keys of a file, read again when it changes.

    A file that cannot be read any more leaves the keys as they were, and is told in the log.

    Args:
        path: The file.

    Raises:
        InputError: It is not there, or is empty of keys.
        ArtifactError: It is no file of keys.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._by_hash: dict[str, Key] = {}
        self._seen: tuple[int, int, int] | None = None
        self._looked = 0.0
        if not self.path.exists():
            raise InputError(
                f"must be a file of keys, got {str(path)!r}, which is not there.",
                argument="keys",
                command="Make a key with likewise key FILE NAME.",
            )
        self._load()

    def find(self, secret: str) -> Key | None:
        """Whose key it is; None if nobody's."""
        now = time.monotonic()
        if now - self._looked > LOOKED_AGAIN:
            self._looked = now
            try:
                if self._stamp() != self._seen:
                    self._load()
            except (OSError, InputError):
                _log.exception("the file of keys cannot be read; the keys stay as they were")
        # A look-up by the hash of what was sent tells nothing about keys that were not sent.
        return self._by_hash.get(_hash(secret))

    def _load(self) -> None:
        stamp = self._stamp()
        self._by_hash = {key.sha256: key for key in _read(self.path)}
        self._seen = stamp

    def _stamp(self) -> tuple[int, int, int]:
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path) -> list[Key]:
    try:
        return msgspec.json.decode(read_regular(path, LARGEST), type=_File).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(
            f"keys must be a file that likewise key made, got {str(path)!r}: {error}."
        ) from error


def _write(path: Path, keys: list[Key]) -> None:
    with whole(path) as part:
        part.touch(mode=0o600)  # unreadable to others before it holds anything
        part.write_bytes(msgspec.json.format(msgspec.json.encode(_File(keys))) + b"\n")


def _locked(path: Path) -> Lock:
    return Lock(path.with_name(f".{path.name}.lock"), patience=5.0)
