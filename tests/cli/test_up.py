"""`bems up`: how it starts, what it refuses, how it ends."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
import urllib3

from bems.embedded.api.server import CannotListen, Server
from bems.embedded.storage import database_files
from bems.embedded.storage.database_files import StoreUnusable, lock_folder
from bems.embedded.storage.errors import StoreFailed
from bems.embedded.storage.schema import APPLICATION_ID, DATABASE, MIGRATIONS
from bems.embedded.writer import Writer
from tests.cli.cli_harness import run

PATIENCE = 60


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bems.cli", "up", *arguments]


@contextmanager
def cell(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A cell that listens, and its address."""
    process = subprocess.Popen(
        command("--port", "0", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stderr
    try:
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, process.stderr.read()
        yield process, found[0]
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()
        process.stderr.close()


def rest(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it says from here to its end. (`communicate` would miss what was read ahead with the first line.)"""
    assert process.stdout and process.stderr
    shown, said = process.stdout.read(), process.stderr.read()
    process.wait(PATIENCE)
    return shown, said


def refused(*arguments: str, cwd: Path, code: int = 2) -> str:
    """What it says, in one line, where it does not start."""
    result = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=PATIENCE, cwd=cwd, check=False)
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("bems: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_it_shows_the_first_key_once_and_ends_well(tmp_path: Path, end: signal.Signals) -> None:
    store = str(tmp_path / "cell")
    with cell("--store", store) as (process, url):
        process.send_signal(end)
        shown, said = rest(process)
        assert process.returncode == 0
        assert said.endswith("The cell has ended; what it took is stored.\n") and "Traceback" not in said
    key = re.findall(r"^    export BEMS_API_KEY=(bems_\S+)$", shown, re.MULTILINE)
    assert len(key) == 1 and key[0] not in said
    with cell("--store", store) as (process, url):
        answer = urllib3.request("GET", f"{url}/keys", headers={"x-api-key": key[0]})
        assert [item["name"] for item in answer.json()["items"]] == ["admin"]
        process.send_signal(end)
        assert rest(process)[0] == ""


def test_it_tells_programs_where_it_is(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("--port", "0", "--store", str(tmp_path), "--json"), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        try:
            told = json.loads(process.stdout.readline())
            assert urllib3.request("GET", f"{told['url']}/check", headers={"x-api-key": told["key"]}).status == 200
        finally:
            process.terminate()
    assert told["store"] == str(tmp_path)
    assert process.returncode == 0


def test_a_second_cell_on_the_folder_is_refused(tmp_path: Path) -> None:
    with cell("--store", str(tmp_path / "cell")) as (first, _):
        told = refused("--store", "cell", "--port", "0", cwd=tmp_path, code=1)
        assert told == "bems: cell is in use: another cell runs on this folder\n"
        assert first.poll() is None


def test_a_store_whose_deliveries_are_of_another_time_is_refused(tmp_path: Path) -> None:
    with cell("--store", str(tmp_path / "cell")) as (process, _):
        process.terminate()
        rest(process)
    outbox = apsw.Connection(str(tmp_path / "cell" / "deliveries.db"))
    outbox.execute("UPDATE progress SET seq = 7, alert_id = 'another'")
    outbox.close()
    assert "deliveries.db belongs to another store" in refused("--store", "cell", "--port", "0", cwd=tmp_path, code=1)


def test_of_two_servers_on_one_port_the_second_is_refused() -> None:
    first = Server(lambda: None, "127.0.0.1", 0)  # type: ignore[arg-type, return-value]
    try:
        with pytest.raises(CannotListen, match="in use"):
            Server(lambda: None, "127.0.0.1", first.port)  # type: ignore[arg-type, return-value]
    finally:
        first.stop()


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(
        "cells:\n  - {name: north, region: eu-west-1}\n"
        "  - {name: south, region: eu-south-1, alerts: {critical: [{webhook: {url_env: NOT_SET}}]}}\n"
    )
    (tmp_path / "bad.yaml").write_text("cells:\n  - {name: north, region: nowhere}\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = refused("--port", port, cwd=tmp_path)
        assert f"127.0.0.1:{port}: " in told and "choose another with --port" in told
    assert "'a..b': this is no host name" in refused("--host", "a..b", cwd=tmp_path)
    assert "several cells: use --cell with one of north, south" in refused("--cells", "two.yaml", cwd=tmp_path)
    assert "no cell east: use one of north, south" in refused("--cells", "two.yaml", "--cell", "east", cwd=tmp_path)
    assert "NOT_SET" in refused("--cells", "two.yaml", "--cell", "south", cwd=tmp_path)
    assert "bad.yaml:2: /cells/0/region: " in refused("--cells", "bad.yaml", cwd=tmp_path)
    assert "needs --cells FILE" in refused("--cell", "north", cwd=tmp_path)
    assert "none.yaml: No such file" in refused("--policy", "none.yaml", cwd=tmp_path)
    assert "two.yaml cannot be used: it is a file" in refused("--store", "two.yaml", cwd=tmp_path, code=1)


def test_a_cell_takes_its_name_and_its_policy_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "north.yaml").write_text("stages: {authorization: {deadline: 7d}}\n")
    (tmp_path / "cells.yaml").write_text("cells:\n  - {name: north, region: eu-west-1, policy_file: north.yaml}\n")
    with cell("--store", str(tmp_path / "cell"), "--cells", str(tmp_path / "cells.yaml")) as (_, url):
        assert urllib3.request("GET", f"{url}/healthz").json()["cell"] == "north"


@pytest.mark.parametrize("error", [apsw.FullError("database or disk is full"), apsw.IOError("disk I/O error")])
def test_a_full_disk_at_the_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: apsw.Error) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(database_files, "_migrate", fail)
    with pytest.raises(StoreUnusable, match=r"cannot be written: d.*full"):
        database_files.open_database(tmp_path / DATABASE, MIGRATIONS, APPLICATION_ID)


def test_a_store_that_cannot_be_read_at_the_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Writer) -> int:
        raise StoreFailed("the store could not be read: disk I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(Writer, "latest", fail)
        told = run("up", "--store", str(tmp_path), "--port", "0").mistake(1)
    assert told == "the store could not be read: disk I/O error"
    # The cell has stopped, and so given up its folder.
    lock_folder(tmp_path).close()


def test_time_that_ran_ahead_is_told(tmp_path: Path) -> None:
    store = str(tmp_path / "cell")
    event = {
        "event_id": "e", "invoice_id": "i", "status": "received", "occurred_at": "2026-01-05T10:15:00Z", "amount": "1",
        "currency": "EUR", "vendor": {"id": "V"}, "source": {"system": "s"},
    }  # fmt: skip
    with cell("--store", store, "--speed", "10000000") as (process, url):
        assert process.stdout
        key = next(found[0] for line in process.stdout if (found := re.search(r"bems_\S+", line)))
        answer = urllib3.request("POST", f"{url}/invoices/ingestion", json=event, headers={"x-api-key": key})
        assert answer.status == 202
        process.terminate()
        assert process.wait(PATIENCE) == 0
    with cell("--store", store) as (process, _):
        process.terminate()
        _, said = rest(process)
        assert "ahead of the clock: was time made to run faster here?" in said
