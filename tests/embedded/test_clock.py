from freezegun import freeze_time

from bems.embedded.clock import SystemClock, VirtualClock
from bems.tracker.instants import parse


def test_the_system_clock_is_the_machines() -> None:
    with freeze_time("2026-11-23T10:15:00Z"):
        assert SystemClock().now() == parse("2026-11-23T10:15:00Z")


def test_a_virtual_clock_never_goes_back() -> None:
    clock = VirtualClock(5)
    clock.move_to(9)
    clock.move_to(7)
    assert clock.now() == 9
