"""Clocks of the embedded runtime."""

import threading

import pytest
from freezegun import freeze_time

from bems.clock import SystemClock
from bems.embedded.clock import AcceleratedClock, VirtualClock
from bems.tracker.instants import SECOND, Instant, parse


def test_the_system_clock_shows_the_machine_time() -> None:
    with freeze_time("2026-11-23T10:15:00Z"):
        assert SystemClock().now() == parse("2026-11-23T10:15:00Z")


def test_a_virtual_clock_never_goes_back() -> None:
    clock = VirtualClock(5)
    clock.move_to(9)
    clock.move_to(7)
    assert clock.now() == 9


class Watch:
    """Replacement for `time.perf_counter`, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 50.0
        monkeypatch.setattr("bems.embedded.clock.time.perf_counter", lambda: self.seconds)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def test_an_accelerated_clock_multiplies_elapsed_time_by_its_speed(watch: Watch) -> None:
    clock = AcceleratedClock(1000, 3600)
    assert (clock.now(), clock.speed) == (1000, 3600)
    watch.seconds += 1.5
    assert clock.now() == 1000 + 5400 * SECOND
    clock.set_speed(2)
    watch.seconds += 1
    assert (clock.now(), clock.speed) == (1000 + 5402 * SECOND, 2)


def test_a_new_speed_applies_only_to_later_time(watch: Watch) -> None:
    clock = AcceleratedClock(0, 1)
    watch.seconds += 10
    clock.set_speed(100)
    assert clock.now() == 10 * SECOND, "earlier time counts at the earlier speed"


def test_an_accelerated_clock_stops_at_its_limit(watch: Watch) -> None:
    clock = AcceleratedClock(0, 1, 5 * SECOND)
    watch.seconds += 60
    assert clock.now() == 5 * SECOND
    clock.run_until(8 * SECOND)
    assert clock.now() == 5 * SECOND, "the time that it stood still is not made up for"
    watch.seconds += 2
    assert clock.now() == 7 * SECOND
    watch.seconds += 2
    assert clock.now() == 8 * SECOND


def test_a_limit_in_the_past_stops_the_clock_where_it_is(watch: Watch) -> None:
    clock = AcceleratedClock(0, 1)
    watch.seconds += 7
    clock.run_until(3 * SECOND)
    watch.seconds += 7
    assert clock.now() == 7 * SECOND
    clock.run_until(9 * SECOND)
    watch.seconds += 7
    assert clock.now() == 9 * SECOND


def test_an_accelerated_clock_never_goes_back_under_concurrent_use() -> None:
    clock = AcceleratedClock(0, 1e6, SECOND)
    together = threading.Barrier(6)
    seen: list[list[Instant]] = [[] for _ in range(4)]

    def look(mine: list[Instant]) -> None:
        together.wait()
        mine += [clock.now() for _ in range(3_000)]

    def move(step: Instant) -> None:
        together.wait()
        for number in range(1_000):
            clock.run_until(number * step)
            clock.set_speed(1e6 + number % 7)

    threads = [threading.Thread(target=look, args=(mine,)) for mine in seen]
    threads += [threading.Thread(target=move, args=(step,)) for step in (SECOND, -SECOND)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in seen)
    assert clock.now() >= max(mine[-1] for mine in seen)
