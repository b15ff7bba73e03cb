import hashlib
import re
from pathlib import Path

import apsw
import pytest

from bems.embedded.auth.keys import APPLICATION_ID, KEYS_DATABASE, Key, KeyRefused, Keys
from bems.embedded.storage.database_files import StoreUnusable
from bems.embedded.storage.errors import StoreFailed
from bems.tracker.instants import DAY
from tests.tracker.samples import NOW


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def test_a_key_is_verified_by_its_exact_text(keys: Keys) -> None:
    key, text = keys.add("ann", "operator", "the host", NOW)
    assert key == Key(key.id, "ann", "operator", NOW, "the host")
    assert re.fullmatch(r"bems_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", text)
    assert keys.verify(text) == key
    for wrong in (
        "",
        "bems_",
        key.id,
        text[:-1],
        text + "=",
        text.upper(),
        f" {text}",
        f"{text}\n",
        "\ud800",
        "\xff" * 57,
    ):
        assert keys.verify(wrong) is None


def test_keys_are_unique(keys: Keys) -> None:
    made = [keys.add(f"k{number}", "sender", "x", NOW) for number in range(50)]
    assert len({key.id for key, _ in made}) == len({text.split("_", 2)[2] for _, text in made}) == 50
    assert [keys.verify(text) for _, text in made] == [key for key, _ in made]


def test_the_secret_of_one_key_does_not_verify_another(keys: Keys) -> None:
    (one, first), (_, second) = (keys.add(name, "admin", "x", NOW) for name in ("a", "b"))
    assert keys.verify(f"bems_{one.id}_{second.split('_', 2)[2]}") is None
    assert keys.verify(f"bems_{'0' * 8}_{first.split('_', 2)[2]}") is None


def test_only_a_hash_is_stored(keys: Keys, tmp_path: Path) -> None:
    key, text = keys.add("ann", "viewer", "x", NOW)
    keys.close()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key.id.encode() in content
    assert hashlib.sha256(text.encode()).digest() in content
    secret = text.split("_", 2)[2].encode()
    assert not any(secret[start : start + 8] in content for start in range(36))


def test_keys_survive_a_restart(keys: Keys, tmp_path: Path) -> None:
    kept, text = keys.add("ann", "sender", "eve", NOW)
    gone, old = keys.add("bob", "sender", "eve", NOW + 1)
    revoked = keys.revoke(gone.id, "ann", NOW + DAY)
    keys.close()
    keys.close()
    again = Keys(tmp_path)
    assert again.all() == [kept, revoked]
    assert (again.verify(text), again.verify(old)) == (kept, None)
    again.close()


def test_a_revoked_key_is_kept_with_who_and_when(keys: Keys) -> None:
    key, text = keys.add("ann", "viewer", "eve", NOW)
    revoked = keys.revoke(key.id, "bob", NOW + DAY)
    assert revoked == Key(key.id, "ann", "viewer", NOW, "eve", NOW + DAY, "bob")
    assert keys.verify(text) is None
    assert keys.revoke(key.id, "carl", NOW + 2 * DAY) == revoked, "the first revocation is kept"
    assert keys.revoke("00000000", "bob", NOW) is None


def test_a_name_belongs_to_one_key_in_force(keys: Keys) -> None:
    first, _ = keys.add("ann", "viewer", "x", NOW)
    with pytest.raises(KeyRefused, match="there is already a key ann"):
        keys.add("ann", "admin", "x", NOW)
    keys.revoke(first.id, "x", NOW)
    second, _ = keys.add("ann", "admin", "x", NOW + 1)
    assert [key.id for key in keys.all()] == [first.id, second.id]


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", "a\n", "\u00e4", "a" * 65, "a/b", "a\0"])
def test_invalid_names_are_refused(keys: Keys, name: str) -> None:
    with pytest.raises(KeyRefused, match="the name"):
        keys.add(name, "admin", "x", NOW)
    assert keys.all() == []


@pytest.mark.parametrize("name", ["a", "7", "ann@example.com", "A.b_c-d", "a" * 64])
def test_a_name_may_be_an_email_address(keys: Keys, name: str) -> None:
    assert keys.add(name, "admin", "x", NOW)[0].name == name


def test_the_last_admin_key_cannot_be_revoked(keys: Keys) -> None:
    one, text = keys.add("one", "admin", "x", NOW)
    keys.add("op", "operator", "x", NOW)
    with pytest.raises(KeyRefused, match="one is the last admin key"):
        keys.revoke(one.id, "one", NOW)
    assert keys.verify(text) == one
    two, _ = keys.add("two", "admin", "x", NOW)
    assert keys.revoke(one.id, "two", NOW) is not None
    with pytest.raises(KeyRefused):
        keys.revoke(two.id, "two", NOW)


def test_a_failed_write_changes_no_key(keys: Keys) -> None:
    kept, text = keys.add("kept", "viewer", "x", NOW)
    keys._connection.execute("PRAGMA query_only = on")
    with pytest.raises(StoreFailed):
        keys.add("new", "viewer", "x", NOW)
    with pytest.raises(StoreFailed):
        keys.revoke(kept.id, "x", NOW)
    assert keys.all() == [kept]
    assert keys.verify(text) == kept
    keys._connection.execute("PRAGMA query_only = off")
    assert keys.add("new", "viewer", "x", NOW)[0] in keys.all()


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    other = apsw.Connection(str(tmp_path / KEYS_DATABASE))
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(StoreUnusable, match="another program made it"):
        Keys(tmp_path)


def test_the_file_has_the_application_id(keys: Keys, tmp_path: Path) -> None:
    keys.close()
    assert apsw.Connection(str(tmp_path / KEYS_DATABASE)).pragma("application_id") == APPLICATION_ID
