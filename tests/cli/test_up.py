"""`bems up`: its start, refusals and shutdown."""

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

TIMEOUT_SECONDS = 60


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bems", "up", *arguments]


@contextmanager
def cell(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a cell, and yield its process and URL."""
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
        process.wait(TIMEOUT_SECONDS)
        process.stdout.close()
        process.stderr.close()


def read_to_exit(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return the remaining stdout and stderr. `communicate` would miss what is buffered after the first line."""
    assert process.stdout and process.stderr
    stdout, stderr = process.stdout.read(), process.stderr.read()
    process.wait(TIMEOUT_SECONDS)
    return stdout, stderr


def startup_error(*arguments: str, cwd: Path, code: int = 2) -> str:
    """Return the one-line error of a cell that does not start."""
    result = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=TIMEOUT_SECONDS, cwd=cwd, check=False
    )
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("bems: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_first_key_is_printed_once_and_a_signal_stops_the_cell(tmp_path: Path, end: signal.Signals) -> None:
    store = str(tmp_path / "cell")
    with cell("--store", store) as (process, url):
        process.send_signal(end)
        stdout, stderr = read_to_exit(process)
        assert process.returncode == 0
        assert stderr.endswith("The cell has stopped; every accepted event is stored.\n") and "Traceback" not in stderr
    key = re.findall(r"^    export BEMS_API_KEY=(bems_\S+)$", stdout, re.MULTILINE)
    assert len(key) == 1 and key[0] not in stderr
    with cell("--store", store) as (process, url):
        answer = urllib3.request("GET", f"{url}/keys", headers={"x-api-key": key[0]})
        assert [item["name"] for item in answer.json()["items"]] == ["admin"]
        process.send_signal(end)
        assert read_to_exit(process)[0] == ""


def test_json_has_the_url_and_the_first_key(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("--port", "0", "--store", str(tmp_path), "--json"), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        try:
            startup = json.loads(process.stdout.readline())
            assert (
                urllib3.request("GET", f"{startup['url']}/check", headers={"x-api-key": startup["key"]}).status == 200
            )
        finally:
            process.terminate()
    assert startup["store"] == str(tmp_path)
    assert process.returncode == 0


def test_a_second_cell_on_the_folder_is_refused(tmp_path: Path) -> None:
    with cell("--store", str(tmp_path / "cell")) as (first, _):
        message = startup_error("--store", "cell", "--port", "0", cwd=tmp_path, code=1)
        assert message == "bems: cell is in use: another cell runs on this folder\n"
        assert first.poll() is None


def test_a_store_with_foreign_deliveries_is_refused(tmp_path: Path) -> None:
    with cell("--store", str(tmp_path / "cell")) as (process, _):
        process.terminate()
        read_to_exit(process)
    outbox = apsw.Connection(str(tmp_path / "cell" / "deliveries.db"))
    outbox.execute("UPDATE progress SET seq = 7, alert_id = 'another'")
    outbox.close()
    assert "deliveries.db belongs to another store" in startup_error(
        "--store", "cell", "--port", "0", cwd=tmp_path, code=1
    )


def test_a_second_server_on_a_port_is_refused() -> None:
    first = Server(lambda: None, "127.0.0.1", 0)  # type: ignore[arg-type, return-value]
    try:
        with pytest.raises(CannotListen, match="in use"):
            Server(lambda: None, "127.0.0.1", first.port)  # type: ignore[arg-type, return-value]
    finally:
        first.stop()


def test_users_mistakes_are_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text(
        "cells:\n  - {name: north, region: eu-west-1}\n"
        "  - {name: south, region: eu-south-1, alerts: {critical: [{webhook: {url_env: NOT_SET}}]}}\n"
    )
    (tmp_path / "bad.yaml").write_text("cells:\n  - {name: north, region: nowhere}\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = startup_error("--port", port, cwd=tmp_path)
        assert f"127.0.0.1:{port}: " in message and "choose another with --port" in message
    assert "'a..b': this is not a host name" in run("up", "--host", "a..b").error()
    assert "several cells: use --cell with one of north, south" in run("up", "--cells", "two.yaml").error()
    assert "no cell east: use one of north, south" in run("up", "--cells", "two.yaml", "--cell", "east").error()
    assert "NOT_SET" in run("up", "--cells", "two.yaml", "--cell", "south").error()
    assert "bad.yaml:2: /cells/0/region: " in run("up", "--cells", "bad.yaml").error()
    assert "needs --cells FILE" in run("up", "--cell", "north").error()
    assert "none.yaml: No such file" in run("up", "--policy", "none.yaml").error()
    assert "two.yaml cannot be used: it is a file" in run("up", "--store", "two.yaml").error(1)


def test_a_cell_has_its_name_and_policy_from_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "north.yaml").write_text("stages: {authorization: {deadline: 7d}}\n")
    (tmp_path / "cells.yaml").write_text("cells:\n  - {name: north, region: eu-west-1, policy: north.yaml}\n")
    with cell("--store", str(tmp_path / "cell"), "--cells", str(tmp_path / "cells.yaml")) as (_, url):
        assert urllib3.request("GET", f"{url}/healthz").json()["cell"] == "north"


@pytest.mark.parametrize("error", [apsw.FullError("database or disk is full"), apsw.IOError("disk I/O error")])
def test_a_full_disk_at_the_start_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: apsw.Error
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(database_files, "_migrate", fail)
    with pytest.raises(StoreUnusable, match=r"cannot be written: d.*full"):
        database_files.open_database(tmp_path / DATABASE, MIGRATIONS, APPLICATION_ID)


def test_an_unreadable_store_at_the_start_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Writer) -> int:
        raise StoreFailed("the store could not be read: disk I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(Writer, "latest", fail)
        message = run("up", "--store", str(tmp_path), "--port", "0").error(1)
    assert message == "the store could not be read: disk I/O error"
    # The cell has stopped and released its folder.
    lock_folder(tmp_path).close()


def test_a_store_ahead_of_the_clock_is_reported(tmp_path: Path) -> None:
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
        assert process.wait(TIMEOUT_SECONDS) == 0
    with cell("--store", store) as (process, _):
        process.terminate()
        _, stderr = read_to_exit(process)
        assert "ahead of the clock: did a cell with an accelerated clock run here?" in stderr
