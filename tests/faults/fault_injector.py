"""Faults that clients do not cause: clock jumps, disk failures, a full disk, receivers that are down, errors while
handling an item, crashes."""

from typing import TYPE_CHECKING

from bems.tracker.instants import DAY, HOUR, MINUTE
from tests.faults.disk import NEVER

if TYPE_CHECKING:
    from tests.faults.environment import Environment


class FaultInjector:
    """Draws the faults of a simulation from its seed."""

    def __init__(self, environment: "Environment") -> None:
        self._environment = environment
        self._is_stopped = False
        self._failing_invoices: set[str] = set()
        """Invoices whose events fail."""
        self._failure_rates = {
            "redrive": self._draw_rate(0.05),
            "fire": self._draw_rate(0.2),
            "command": self._draw_rate(0.2),
        }
        self._crash_rate = environment.random.choice((0.0, 0.02, 0.1, 0.3))

    def _draw_rate(self, maximum: float) -> float:
        return self._environment.random.choice((0.0, 0.0, maximum / 4, maximum))

    def stop(self) -> None:
        """Stop all faults."""
        self._is_stopped = True
        disk = self._environment.disk
        disk.rates, disk.free_bytes, disk.dies_at, disk.dies_at_sync = {}, None, NEVER, False
        for receiver in self._environment.receivers:
            receiver.is_unreliable = receiver.is_down = False

    def maybe_raise(self, kind: str, key: str) -> None:
        """Raise ValueError if the handling of this item shall fail."""
        if self._is_stopped:
            return
        if (
            kind == "redrive" and key in self._failing_invoices
        ) or self._environment.random.random() < self._failure_rates[kind]:
            self._environment.trace(f"HANDLING of {kind} {key} fails")
            raise ValueError("injected")

    def before_opening(self) -> None:
        """Crash the process during its start, sometimes."""
        if not self._is_stopped and self._environment.random.random() < self._crash_rate:
            self._environment.disk.die_after(self._environment.random.randrange(120))

    def next_fault(self) -> None:
        """Draw the next fault. Runs three times a day."""
        environment, random = self._environment, self._environment.random
        disk = environment.disk
        draw = random.random()
        if draw < 0.06:
            environment.clock.ahead += random.choice((-3 * DAY, -HOUR, -MINUTE, MINUTE, HOUR, 3 * DAY, 10 * DAY))
            environment.trace(f"CLOCK is {environment.clock.ahead / HOUR:+.2f} hours ahead")
        elif draw < 0.12:
            rate = random.choice((0.001, 0.02, 0.3))
            disk.rates = {random.choice(("read", "write", "sync", "sync", "cut", "open", "delete")): rate}
            environment.trace(f"DISK fails: {disk.rates}")
        elif draw < 0.17:
            disk.free_bytes = random.choice((0, 5_000, 50_000))
            environment.trace(f"DISK has {disk.free_bytes} free bytes")
        elif draw < 0.4:
            disk.rates, disk.free_bytes = {}, None
        elif draw < 0.45:
            receiver = random.choice(environment.receivers)
            receiver.is_down = not receiver.is_down
            environment.trace(f"RECEIVER {receiver.key} is {'down' if receiver.is_down else 'up'}")
        elif draw < 0.5:
            for receiver in environment.receivers:
                receiver.is_down = False
        elif draw < 0.53:
            self._failing_invoices.add(random.choice(environment.network.invoices))
        elif draw < 0.56:
            self._failing_invoices.clear()
        elif draw < 0.6 and environment.cell:
            environment.trace("STOP")
            environment.restart_cell()
        elif draw < 0.63:
            environment.retry_deliveries()
        if random.random() < self._crash_rate and environment.cell and disk.dies_at == NEVER:
            if random.random() < 0.3:
                disk.dies_at_sync = True
            else:
                disk.die_after(random.choice((1, 10, 100, 300)) + random.randrange(30))
