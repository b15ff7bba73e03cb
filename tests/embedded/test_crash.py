"""A cell killed at any moment loses no event that it answered, and applies no event twice that is sent again.

A child process runs the writer, reads events from its standard input and writes the results to its standard output. The
parent kills it, starts it again, and sends the unanswered events again, and some of the answered ones. The events drive
the child's clock, which is some hours later after each start.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import pytest
from msgspec import structs

from bems.embedded.clock import VirtualClock
from bems.embedded.storage.database_files import LOCK_FILE, StoreUnusable
from bems.embedded.storage.schema import DATABASE
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.writer import Writer, open_writer
from bems.tracker.contract import Event
from bems.tracker.decisions import Receipt
from bems.tracker.instants import DAY, HOUR, Instant
from tests.embedded.event_log import make_log, parse_event
from tests.embedded.invariants import POLICY, check_store, record_answer
from tests.embedded.submit import submit

KILLS = 30 if os.environ.get("BEMS_LONG") else 5
INVOICES = 70 * (KILLS + 1)
ROOT = Path(__file__).parents[2]
MAX_IN_FLIGHT, MAX_GROUP_ITEMS = 40, 16
TIMEOUT_SECONDS = 60.0
"""Maximum duration of each step of a child."""


# -- the child


def serve(folder: Path, start: Instant, kill_at: str) -> None:
    """Submit events from standard input, and print `event_id result` for each answer. For `kill_at`, see `die_at`."""
    clock = VirtualClock(start)
    writer = open_writer(folder, POLICY, clock)
    writer = Writer(writer._cell, writer._store, clock, max_group_items=MAX_GROUP_ITEMS)
    die_at(kill_at, writer._store)

    def acknowledge(event: Event) -> Callable[["Future[Receipt]"], None]:
        def done(future: "Future[Receipt]") -> None:
            print(event.event_id, future.result().result, flush=True)

        return done

    with writer:
        print("ready", flush=True)
        for line in lines_until_terminated():
            event = parse_event(line)
            clock.move_to(event.occurred_at)
            future = submit(writer, structs.replace(event, received_at=clock.now()))
            future.add_done_callback(acknowledge(event))


def die_at(kill_at: str, store: SqliteStore) -> None:
    """Make this process kill itself at a given point.

    `step 900` is after 900 times 100 instructions of SQLite, in the middle of a transaction. `commit 9` is after the
    ninth commit and before its answers.
    """
    kind, _, count = kill_at.partition(" ")
    left = int(count or 0)

    def count_down() -> bool:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    if kind == "step":
        store._connection.set_progress_handler(count_down, 100)
    elif kind == "commit":
        store._connection.set_wal_hook(lambda *_: int(count_down()))


def lines_until_terminated() -> Iterator[bytes]:
    """Yield the lines of standard input. SIGTERM ends them between two lines, never while one is handled."""
    is_reading = is_terminated = False

    def terminate(*_: object) -> None:
        nonlocal is_terminated
        is_terminated = True
        if is_reading:
            raise EOFError

    signal.signal(signal.SIGTERM, terminate)
    while not is_terminated:
        try:
            is_reading = True
            line = sys.stdin.buffer.readline()
            is_reading = False
        except EOFError:
            return
        if not line:
            return
        yield line


def main() -> None:
    try:
        serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    except StoreUnusable as error:
        sys.exit(f"refused: {error}")


# -- the parent


class Child:
    """A child process that runs the cell. A separate thread feeds it."""

    def __init__(self, folder: Path, start: Instant, lines: list[bytes], kill_at: str = "") -> None:
        command = [sys.executable, "-m", "tests.embedded.test_crash", str(folder), str(start), kill_at]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=False
        )
        self._lines = lines
        self._feeder = threading.Thread(target=self._feed)
        self._window = threading.Semaphore(MAX_IN_FLIGHT)
        self._watchdog = threading.Timer(TIMEOUT_SECONDS, self.process.kill)
        self._watchdog.start()
        self._ended: tuple[int, str] | None = None

    def answers(self) -> Iterator[tuple[str, str]]:
        """Yield event id and result of each answer, until the process ends. Starts to feed it when it is ready."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line == b"ready\n":
                self._feeder.start()
            elif line.endswith(b"\n"):
                event_id, result = line.decode().split()
                self._window.release()
                yield event_id, result

    def _feed(self) -> None:
        assert self.process.stdin
        with suppress(BrokenPipeError):
            for line in self._lines:
                self._window.acquire()
                self.process.stdin.write(line)
                self.process.stdin.flush()
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def end(self) -> tuple[int, str]:
        """Wait for the end of the process, and return its exit code and standard error."""
        if self._ended is None:
            self._ended = self._end()
        return self._ended

    def _end(self) -> tuple[int, str]:
        assert self.process.stdin and self.process.stdout and self.process.stderr
        errors = self.process.stderr.read().decode()
        code = self.process.wait(TIMEOUT_SECONDS)
        self._watchdog.cancel()
        self._window.release(len(self._lines) + 1)
        if self._feeder.ident:
            self._feeder.join(TIMEOUT_SECONDS)
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.stderr.close()
        return code, errors


@contextmanager
def run_child(folder: Path, start: Instant, lines: list[bytes], kill_at: str = "") -> Iterator[Child]:
    child = Child(folder, start, lines, kill_at)
    try:
        yield child
    except BaseException:
        child.process.kill()
        raise
    finally:
        child.end()


@pytest.mark.parametrize("seed", [1])
def test_a_cell_killed_at_any_moment_loses_and_duplicates_nothing(tmp_path: Path, seed: int) -> None:
    random = Random(f"crash {seed}")
    log, answered, now = make_log(seed, INVOICES), dict[str, str](), 0
    occurred = {id: parse_event(line).occurred_at for id, line in log.items()}
    for kill in range(KILLS):
        again = [line for id, line in log.items() if id not in answered or random.random() < 0.05]
        # At most half of what is left, so that every kill meets a busy cell.
        quota = random.randint(1, (len(log) - len(answered)) // (KILLS + 1 - kill))
        kill_at = ("answer", f"step {quota * 2}", f"commit {quota // MAX_GROUP_ITEMS + 1}")[kill % 3]
        with run_child(tmp_path, now, again, kill_at) as child:
            for count, (event_id, result) in enumerate(child.answers(), 1):
                record_answer(answered, event_id, result)
                now = max(now, occurred[event_id])
                if kill_at == "answer" and count == quota:
                    child.process.kill()
        assert child.end()[0] == -signal.SIGKILL
        now += random.randint(0, 36) * HOUR
    last = [line for id, line in log.items() if id not in answered or random.random() < 0.2]
    with run_child(tmp_path, now, last) as child:
        for event_id, result in child.answers():
            record_answer(answered, event_id, result)
    assert child.end() == (0, "")
    assert answered.keys() == log.keys()
    store = SqliteStore(tmp_path)
    check_store(store, log, max(*occurred.values(), now) + 10 * DAY)
    store.close()


# -- ending normally


def test_a_terminated_cell_answers_every_accepted_event_and_leaves_one_database(tmp_path: Path) -> None:
    log, answered = make_log(2, INVOICES), dict[str, str]()
    with run_child(tmp_path, 0, list(log.values())) as child:
        for count, (event_id, result) in enumerate(child.answers(), 1):
            record_answer(answered, event_id, result)
            if count == 50:
                child.process.send_signal(signal.SIGTERM)
        assert child.process.wait(TIMEOUT_SECONDS) == 0
    assert 50 <= len(answered) < len(log)
    assert {path.name for path in tmp_path.iterdir()} == {DATABASE, LOCK_FILE}
    store = SqliteStore(tmp_path)
    assert {event.event_id for _, event in store.events()} == answered.keys(), "every accepted event is answered"
    store.close()


def test_a_second_cell_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with run_child(tmp_path, 0, []) as first:
        assert first.process.stdout
        assert first.process.stdout.readline() == b"ready\n"
        second = Child(tmp_path, 0, [])
        assert list(second.answers()) == []
        code, errors = second.end()
        assert code == 1
        assert errors == f"refused: {tmp_path} is in use: another cell runs on this folder\n"
        assert first.process.poll() is None
        first.process.terminate()


if __name__ == "__main__":
    main()
