"""Killed at any moment, the cell loses nothing that it answered and doubles nothing that is sent again.

A child process runs the writer, reads a log from its standard input and answers on its standard output; the parent
kills it, starts it again and sends again what was not answered, and some that was. The child's clock is driven by the
events, and stands some hours later after each start.
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
from bems.embedded.storage.database_files import LOCK, StoreUnusable
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
IN_FLIGHT, TURN = 40, 16
PATIENCE = 60.0
"""Seconds that a child may take for anything."""


# -- the child


def serve(folder: Path, start: Instant, doom: str) -> None:
    """Read events, submit them, and print `event_id result` for each that is answered, until its doom."""
    clock = VirtualClock(start)
    writer = open_writer(folder, POLICY, clock)
    writer = Writer(writer._cell, writer._store, clock, max_group_items=TURN)
    meet(doom, writer._store)

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


def meet(doom: str, store: SqliteStore) -> None:
    """Die in the middle of a transaction (`step 900`: after so many hundred of SQLite's instructions), or between a
    commit and its answers (`commit 9`)."""
    kind, _, count = doom.partition(" ")
    left = int(count or 0)

    def come_nearer() -> bool:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    if kind == "step":
        store._connection.set_progress_handler(come_nearer, 100)
    elif kind == "commit":
        store._connection.set_wal_hook(lambda *_: int(come_nearer()))


def lines_until_terminated() -> Iterator[bytes]:
    """The lines of standard input. SIGTERM ends them between two, never in the middle of handling one."""
    reading = asked = False

    def terminate(*_: object) -> None:
        nonlocal asked
        asked = True
        if reading:
            raise EOFError

    signal.signal(signal.SIGTERM, terminate)
    while not asked:
        try:
            reading = True
            line = sys.stdin.buffer.readline()
            reading = False
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
    """One life of the cell, fed by a thread of its own."""

    def __init__(self, folder: Path, start: Instant, lines: list[bytes], doom: str = "") -> None:
        command = [sys.executable, "-m", "tests.embedded.test_crash", str(folder), str(start), doom]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=False
        )
        self._lines = lines
        self._feeder = threading.Thread(target=self._feed)
        self._window = threading.Semaphore(IN_FLIGHT)
        self._watchdog = threading.Timer(PATIENCE, self.process.kill)
        self._watchdog.start()
        self._ended: tuple[int, str] | None = None

    def answers(self) -> Iterator[tuple[str, str]]:
        """What it says, from the moment it is ready to its end."""
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
        """Its exit code and what it complained of, once it has ended."""
        if self._ended is None:
            self._ended = self._end()
        return self._ended

    def _end(self) -> tuple[int, str]:
        assert self.process.stdin and self.process.stdout and self.process.stderr
        complaint = self.process.stderr.read().decode()
        code = self.process.wait(PATIENCE)
        self._watchdog.cancel()
        self._window.release(len(self._lines) + 1)
        if self._feeder.ident:
            self._feeder.join(PATIENCE)
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.stderr.close()
        return code, complaint


@contextmanager
def life(folder: Path, start: Instant, lines: list[bytes], doom: str = "") -> Iterator[Child]:
    child = Child(folder, start, lines, doom)
    try:
        yield child
    except BaseException:
        child.process.kill()
        raise
    finally:
        child.end()


@pytest.mark.parametrize("seed", [1])
def test_killed_at_any_moment_it_loses_and_doubles_nothing(tmp_path: Path, seed: int) -> None:
    random = Random(f"crash {seed}")
    log, answered, now = make_log(seed, INVOICES), dict[str, str](), 0
    occurred = {id: parse_event(line).occurred_at for id, line in log.items()}
    for kill in range(KILLS):
        again = [line for id, line in log.items() if id not in answered or random.random() < 0.05]
        # At most half of what is left, so that each finds it at work.
        quota = random.randint(1, (len(log) - len(answered)) // (KILLS + 1 - kill))
        doom = ("answer", f"step {quota * 2}", f"commit {quota // TURN + 1}")[kill % 3]
        with life(tmp_path, now, again, doom) as child:
            for count, (event_id, result) in enumerate(child.answers(), 1):
                record_answer(answered, event_id, result)
                now = max(now, occurred[event_id])
                if doom == "answer" and count == quota:
                    child.process.kill()
        assert child.end()[0] == -signal.SIGKILL
        now += random.randint(0, 36) * HOUR
    last = [line for id, line in log.items() if id not in answered or random.random() < 0.2]
    with life(tmp_path, now, last) as child:
        for event_id, result in child.answers():
            record_answer(answered, event_id, result)
    assert child.end() == (0, "")
    assert answered.keys() == log.keys()
    store = SqliteStore(tmp_path)
    check_store(store, log, max(*occurred.values(), now) + 10 * DAY)
    store.close()


# -- ending well


def test_a_terminated_cell_finishes_what_it_took_and_leaves_one_file(tmp_path: Path) -> None:
    log, answered = make_log(2, INVOICES), dict[str, str]()
    with life(tmp_path, 0, list(log.values())) as child:
        for count, (event_id, result) in enumerate(child.answers(), 1):
            record_answer(answered, event_id, result)
            if count == 50:
                child.process.send_signal(signal.SIGTERM)
        assert child.process.wait(PATIENCE) == 0
    assert 50 <= len(answered) < len(log)
    assert {path.name for path in tmp_path.iterdir()} == {DATABASE, LOCK}
    store = SqliteStore(tmp_path)
    assert {event.event_id for _, event in store.events()} == answered.keys(), "all that it took is answered"
    store.close()


def test_a_second_cell_on_the_same_folder_says_so_and_exits(tmp_path: Path) -> None:
    with life(tmp_path, 0, []) as first:
        assert first.process.stdout
        assert first.process.stdout.readline() == b"ready\n"
        second = Child(tmp_path, 0, [])
        assert list(second.answers()) == []
        code, complaint = second.end()
        assert code == 1
        assert complaint == f"refused: {tmp_path} is in use: another cell runs on this folder\n"
        assert first.process.poll() is None
        first.process.terminate()


if __name__ == "__main__":
    main()
