"""`bems up` killed under load at random moments: every accepted event is stored once, and invoices continue.

The load is HTTP from several threads. The clock runs at five days per second, so that alerts are due all the time.
"""

import json
import os
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random

import duckdb
import pytest
import urllib3

from bems.embedded.analytics.feeder import ANALYTICS
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.tracker.instants import DAY, to_datetime
from tests.cell_process import POLICY, SPEED, TIMEOUT_SECONDS, CellProcess
from tests.embedded.event_log import make_log, parse_event
from tests.embedded.invariants import check_store, record_answer
from tests.faults.conftest import Figures

KILLS = 100 if os.environ.get("BEMS_LONG") else 5
THREADS = 6


class Killer:
    """Records the answers of a cell process, and kills it after a number of them."""

    def __init__(self, server: CellProcess, answered: dict[str, str], max_answers: int) -> None:
        self._server, self._answered, self._left = server, answered, max_answers
        self.first = self.killed = 0.0

    def note(self, event_id: str, status: str) -> bool:
        """Record an answer. Returns whether the process was killed."""
        self.first = self.first or time.monotonic()
        record_answer(self._answered, event_id, status)
        self._left -= 1
        if self._left == 0:
            self._server.process.kill()
            self.killed = time.monotonic()
        return self._left <= 0


def load(url: str, key: str, lines: list[bytes], answered: Callable[[str, str], bool]) -> None:
    """Send the lines alone and in batches until all are sent, the cell stops answering, or `answered` returns True."""
    todo, lock, random = deque(lines), threading.Lock(), Random(len(lines))
    stop = threading.Event()

    def take() -> list[bytes]:
        with lock:
            stage = json.loads(todo[0])["stage"] if todo else None
            several = random.choice((1, 1, 20))
            taken: list[bytes] = []
            while todo and len(taken) < several and json.loads(todo[0])["stage"] == stage:
                taken.append(todo.popleft())
            return taken

    def send() -> None:
        with urllib3.PoolManager(retries=False, timeout=TIMEOUT_SECONDS) as pool:
            while not stop.is_set() and (taken := take()):
                body = json.loads(taken[0])
                path, content = f"/invoices/{body['stage']}", body["event"]
                if len(taken) > 1:
                    path, content = f"{path}/batch", {"events": [json.loads(line)["event"] for line in taken]}
                try:
                    answer = pool.request("POST", url + path, json=content, headers={"x-api-key": key})
                except urllib3.exceptions.HTTPError:
                    return  # the cell was killed
                results = answer.json()["results"] if len(taken) > 1 else [answer.json()]
                assert answer.status in (202, 207), answer.data
                for result in results:
                    with lock:
                        if answered(result["event_id"], result["status"]):
                            stop.set()

    threads = [threading.Thread(target=send) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)


@pytest.mark.parametrize("seed", [7])
def test_a_cell_killed_under_load_loses_and_duplicates_nothing(tmp_path: Path, seed: int, figures: Figures) -> None:
    random, log, answered = Random(f"kill {seed}"), make_log(seed, 70 * (KILLS + 1)), dict[str, str]()
    killed, recoveries = 0.0, list[float]()
    policy, errors, folder = tmp_path / "policy.yaml", tmp_path / "errors.log", tmp_path / "cell"
    policy.write_text(POLICY)
    key = ""
    for kill in range(KILLS + 1):
        left = [line for id, line in log.items() if id not in answered]
        again = [line for id, line in log.items() if id in answered and random.random() < 0.05]
        max_answers = random.randint(1, len(left) // (KILLS + 1 - kill))
        last = kill == KILLS
        with CellProcess(folder, errors, "--policy", str(policy), "--speed", str(SPEED)) as server:
            key = key or server.read_admin_key()
            killer = Killer(server, answered, len(log) * 2 if last else max_answers)
            lines = left + again
            if not last:
                random.shuffle(lines)
            load(server.url, key, lines, killer.note)
            if kill:
                recoveries.append(killer.first - killed)
            killed = killer.killed
            assert server.end(signal.SIGTERM if last else signal.SIGKILL) == (0 if last else -signal.SIGKILL)
    assert answered.keys() == log.keys()
    assert "Traceback" not in errors.read_text()
    store = SqliteStore(folder)
    rows = store.transitions(limit=1_000_000)
    with duckdb.connect(str(folder / ANALYTICS), read_only=True) as analytics:
        columns = "seq, transition_id, invoice_id, kind, stage, to_status, recorded_at, step"
        copied = analytics.execute(f"SELECT {columns} FROM transitions ORDER BY seq").fetchall()
    assert copied == [
        (seq, r.transition_id, r.invoice_id, r.kind, r.stage, r.to_status,
         to_datetime(r.recorded_at).replace(tzinfo=None), r.step)
        for seq, r in rows
    ]  # fmt: skip
    end = max(*(parse_event(line).occurred_at for line in log.values()), rows[-1][1].recorded_at) + 10 * DAY
    check_store(store, log, end)
    alerts = store.counts().alerts
    store.close()
    figures.record(
        "kill -9 under full load",
        f"{KILLS} times",
        f"{len(log):,} events each once, {alerts:,} alerts each once by id, DuckDB row for row; from the kill to the "
        f"next answer {statistics.median(recoveries):.2f} s, at most {max(recoveries):.2f} s",
    )
