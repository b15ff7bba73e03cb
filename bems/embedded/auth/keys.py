"""API keys of a cell. The text of a key is shown only once, when the key is created; the file stores its hash.

The text consists of `bems_`, the key's id of eight characters, `_`, and 256 random bits in base64url. So many random
bits cannot be guessed from a SHA-256 hash, so a slow password hash is not needed.
"""

import hashlib
import hmac
import re
import secrets
import threading
from pathlib import Path

import apsw
from msgspec import Struct

from bems.embedded.storage.database_files import Migration, inspect_database, open_database
from bems.embedded.storage.errors import StoreFailed, StoreLost
from bems.embedded.storage.file_guard import FileGuard
from bems.embedded.storage.wal_identity import wal_path
from bems.tracker.instants import Instant
from bems.tracker.requests import KeyName, Role
from bems.validation.field_errors import validate

KEYS_DATABASE = "keys.db"
"""Name of the key file in the cell's folder."""
APPLICATION_ID = 0x42454D4B
"""SQLite application id of the key file."""

_TEXT = re.compile(r"bems_([0-9a-z]{8})_[A-Za-z0-9_-]{43}", re.ASCII)
_NO_HASH = bytes(32)


class Key(Struct, frozen=True):
    """A key without its secret. `name` is unique among keys in force, and names the operator in the key's commands."""

    id: str
    name: str
    role: Role
    created_at: Instant
    created_by: str
    revoked_at: Instant | None = None
    revoked_by: str | None = None


class KeyRefused(ValueError):
    """The key cannot be created or revoked; the message says why."""


def _create(connection: apsw.Connection) -> None:
    connection.execute(
        """CREATE TABLE keys (
            id TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, created_at INTEGER NOT NULL,
            created_by TEXT NOT NULL, revoked_at INTEGER, revoked_by TEXT, hash BLOB NOT NULL
        ) STRICT"""
    )


MIGRATIONS: tuple[Migration, ...] = (_create,)


def inspect_keys(folder: Path) -> None:
    """Raise StoreUnusable if `Keys` would refuse the key file in the folder. Writes nothing."""
    inspect_database(folder / KEYS_DATABASE, MIGRATIONS, APPLICATION_ID)


class Keys:
    """The keys of the cell in a folder. Thread-safe. The caller must hold the folder's lock.

    The constructor raises StoreUnusable if the key file cannot be used. `add` and `revoke` raise StoreFailed if it
    cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        database = folder / KEYS_DATABASE
        self._connection = open_database(database, MIGRATIONS, APPLICATION_ID)
        self._file_guard = FileGuard([database, wal_path(database)])
        self._lock = threading.Lock()
        self._keys: dict[str, tuple[Key, bytes]] = {}
        for *values, key_hash in self._connection.execute("SELECT * FROM keys"):
            key = Key(*values)
            self._keys[key.id] = key, key_hash

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._connection.close()

    def add(self, name: str, role: Role, by: str, now: Instant) -> tuple[Key, str]:
        """Create a key, and return it with its text, which is not stored. Raise KeyRefused for a bad or used name."""
        faults = validate(name, KeyName)
        if faults:
            raise KeyRefused(f"the name {faults[0].detail}")
        with self._lock:
            if any(key.name == name for key in self._in_force()):
                raise KeyRefused(f"there is already a key {name}: revoke it first, or use another name")
            id = secrets.token_hex(4)
            text = f"bems_{id}_{secrets.token_urlsafe(32)}"
            key = Key(id, name, role, now, by)
            self._write(
                "INSERT INTO keys (id, name, role, created_at, created_by, hash) VALUES (?, ?, ?, ?, ?, ?)",
                (id, name, role, now, by, _hash(text)),
            )
            self._keys[id] = key, _hash(text)
        return key, text

    def revoke(self, id: str, by: str, now: Instant) -> Key | None:
        """Revoke the key with this id and return it; return None if there is none. Idempotent.

        Raise KeyRefused if it is the last admin key in force.
        """
        with self._lock:
            key, key_hash = self._keys.get(id, (None, b""))
            if key is None or key.revoked_at is not None:
                return key
            if key.role == "admin" and sum(other.role == "admin" for other in self._in_force()) == 1:
                raise KeyRefused(f"{key.name} is the last admin key: create another one first")
            self._write("UPDATE keys SET revoked_at = ?, revoked_by = ? WHERE id = ?", (now, by, id))
            revoked = Key(key.id, key.name, key.role, key.created_at, key.created_by, now, by)
            self._keys[id] = revoked, key_hash
        return revoked

    def all(self) -> list[Key]:
        """Return all keys, including revoked ones, oldest first."""
        return sorted((key for key, _ in list(self._keys.values())), key=lambda key: (key.created_at, key.id))

    def verify(self, text: str) -> Key | None:
        """Return the key with this text if it is in force, else None. Hashes are compared in constant time."""
        match = _TEXT.fullmatch(text)
        key, key_hash = self._keys.get(match[1], (None, _NO_HASH)) if match else (None, _NO_HASH)
        is_same = hmac.compare_digest(_hash(text), key_hash)
        return key if is_same and key and key.revoked_at is None else None

    def is_in_force(self, id: str) -> bool:
        """Return whether a key with this id exists and is not revoked."""
        key, _ = self._keys.get(id, (None, b""))
        return key is not None and key.revoked_at is None

    def _in_force(self) -> list[Key]:
        return [key for key, _ in self._keys.values() if key.revoked_at is None]

    def _write(self, sql: str, values: tuple[object, ...]) -> None:
        try:
            self._connection.execute(sql, values)
        except apsw.Error as error:
            raise StoreFailed(f"the key could not be stored: {error}") from error
        fault = self._file_guard.find_fault()
        if fault:
            raise StoreLost(fault)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
