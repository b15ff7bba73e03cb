"""Files of released versions: every later version opens them, and an upgraded store can be rolled back.

`tests/data/README.md` describes the files. `tests/embedded/storage/test_versions.py` has more tests of the stores.
"""

import gzip
import re
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest
from msgspec import json

from bems.calendars import check_country, expand
from bems.embedded.backup import back_up
from bems.embedded.clock import VirtualClock
from bems.embedded.restore import restore
from bems.embedded.storage.database_files import StoreUnusable, open_database
from bems.embedded.storage.schema import APPLICATION_ID, DATABASE, MIGRATIONS
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.writer import open_writer
from bems.tracker.config import ConfigError, read_cells, read_policy
from bems.tracker.policy import Policy
from bems.tracker.policy_file import policy_from_json, policy_to_json
from tests.data.store import POLICY, list_stored_versions, read_contents, unpack

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"


class Release(NamedTuple):
    """A released version: its name, the version of its store, and the digest that its program gave to `policy.yaml`."""

    name: str
    store: int
    digest: str

    @property
    def folder(self) -> Path:
        return DATA / self.name

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


RELEASES = [Release("0.1.0", store=4, digest="b2666063d3121fdd")]


@pytest.fixture(params=RELEASES, ids=lambda release: release.name)
def release(request: pytest.FixtureRequest) -> Release:
    found: Release = request.param
    return found


def test_every_released_version_has_its_files() -> None:
    released = re.findall(r"^## \[([0-9.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sorted(released) == sorted(release.name for release in RELEASES)
    assert all(release.store in list_stored_versions() for release in RELEASES)


# -- policies


def test_a_policy_file_gives_the_policy_that_it_gave(release: Release) -> None:
    """It may fail after an update of the holidays library, which then changes the policies of cells."""
    policy = expand(read_policy(release.read("policy.yaml"), "policy.yaml", check_country))
    assert policy.digest == release.digest
    assert policy == policy_from_json(release.read("policy.json").encode())


def test_an_expanded_policy_is_read_and_written_unchanged(release: Release) -> None:
    """The functions' package and the store hold policies in this form."""
    document = release.read("policy.json").encode()
    policy = policy_from_json(document)
    assert policy.digest == release.digest
    assert policy_to_json(policy) == document


def test_a_cell_continues_with_the_policy_in_its_store(release: Release, tmp_path: Path) -> None:
    def never() -> Policy:
        raise AssertionError("the default policy is made only if none is stored")

    folder = unpack(list_stored_versions()[release.store], tmp_path / "cell")
    with open_writer(folder, never, VirtualClock()) as writer:
        assert writer.in_force.is_resumed
        assert writer.in_force.policy == POLICY
        assert writer.in_force.policy.digest == POLICY.digest


# -- cells.yaml


def test_keys_of_cells_that_have_moved_are_reported_with_the_new_ones() -> None:
    text = RELEASES[0].read("cells.yaml")
    with pytest.raises(ConfigError) as raised:
        read_cells(text, "cells.yaml")
    lines = {line.split(":")[0].strip(): number for number, line in enumerate(text.splitlines(), 1)}
    assert str(raised.value).splitlines() == [
        f"cells.yaml:{lines['provisioned_concurrency']}: /cells/1/provisioned_concurrency: "
        '"provisioned_concurrency" is now "provisioned" of "concurrency": use "concurrency: {provisioned: NUMBER}"',
        f'cells.yaml:{lines["policy_file"]}: /cells/3/policy_file: "policy_file" is now "policy": use "policy: PATH"',
    ]


def test_cells_are_read_after_the_moved_keys_are_renamed() -> None:
    text = RELEASES[0].read("cells.yaml").replace("policy_file:", "policy:")
    text = re.sub(r"\n    provisioned_concurrency: .*", "", text)
    text = text.replace("      recorder: 100\n", "      recorder: 100\n      provisioned: 2\n")
    cells = {cell.name: cell for cell in read_cells(text, "cells.yaml").cells}
    assert list(cells) == ["first", "eu-west", "us-east", "eu-central"]
    assert cells["eu-west"].concurrency.provisioned == 2
    assert cells["eu-central"].policy == "policy.yaml"


# -- roll back


def add_table(connection: apsw.Connection) -> None:
    """Migrate as the program of a next version might."""
    connection.execute("CREATE TABLE colours (name TEXT)")


def test_an_upgraded_store_is_refused_and_the_backup_made_before_is_restored(release: Release, tmp_path: Path) -> None:
    stored = list_stored_versions()[release.store]
    folder, backup, restored = unpack(stored, tmp_path / "cell"), tmp_path / "backup", tmp_path / "restored"
    back_up(folder, backup)
    newest = len(MIGRATIONS)
    open_database(folder / DATABASE, (*MIGRATIONS, add_table), APPLICATION_ID).close()
    refusal = f"is of version {newest + 1}, and this program knows versions up to {newest}: use the newer program"
    with pytest.raises(StoreUnusable, match=refusal):
        SqliteStore(folder)
    restore(backup, restored)
    contents = json.decode(gzip.decompress((stored / "held.json.gz").read_bytes()))
    assert read_contents(restored)["statuses"] == contents["statuses"]
