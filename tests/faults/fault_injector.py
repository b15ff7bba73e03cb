"""The weather: what goes wrong that no client does. The clock jumps, the disk fails or is full, receivers are down,
some handling raises, the process ends."""

from typing import TYPE_CHECKING

from bems.tracker.instants import DAY, HOUR, MINUTE
from tests.faults.disk import NEVER

if TYPE_CHECKING:
    from tests.faults.environment import Environment


class FaultInjector:
    """Of one world, as its seed has it."""

    def __init__(self, world: "Environment") -> None:
        self._world = world
        self._calm = False
        self._poisoned: set[str] = set()
        """Invoices whose events raise."""
        self._poison_rates = {"redrive": self._rarely(0.05), "fire": self._rarely(0.2), "command": self._rarely(0.2)}
        self._crash_rate = world.random.choice((0.0, 0.02, 0.1, 0.3))

    def _rarely(self, most: float) -> float:
        return self._world.random.choice((0.0, 0.0, most / 4, most))

    def calm(self) -> None:
        """Nothing goes wrong any more."""
        self._calm = True
        disk = self._world.disk
        disk.rates, disk.room, disk.dies_at, disk.dies_at_sync = {}, None, NEVER, False
        for receiver in self._world.receivers:
            receiver.moody = receiver.down = False

    def maybe_raise(self, kind: str, key: str) -> None:
        """Raise where the handling of this should."""
        if self._calm:
            return
        if (kind == "redrive" and key in self._poisoned) or self._world.random.random() < self._poison_rates[kind]:
            self._world.say(f"POISON in {kind} of {key}")
            raise ValueError("poison")

    def before_opening(self) -> None:
        """The process may end before it has begun."""
        if not self._calm and self._world.random.random() < self._crash_rate:
            self._world.disk.die_after(self._world.random.randrange(120))

    def next_fault(self) -> None:
        """It changes, three times a day."""
        world, random = self._world, self._world.random
        disk = world.disk
        draw = random.random()
        if draw < 0.06:
            world.clock.ahead += random.choice((-3 * DAY, -HOUR, -MINUTE, MINUTE, HOUR, 3 * DAY, 10 * DAY))
            world.say(f"CLOCK is {world.clock.ahead / HOUR:+.2f} hours ahead")
        elif draw < 0.12:
            rate = random.choice((0.001, 0.02, 0.3))
            disk.rates = {random.choice(("read", "write", "sync", "sync", "cut", "open", "delete")): rate}
            world.say(f"DISK fails: {disk.rates}")
        elif draw < 0.17:
            disk.room = random.choice((0, 5_000, 50_000))
            world.say(f"DISK has room for {disk.room}")
        elif draw < 0.4:
            disk.rates, disk.room = {}, None
        elif draw < 0.45:
            receiver = random.choice(world.receivers)
            receiver.down = not receiver.down
            world.say(f"RECEIVER {receiver.key} is {'down' if receiver.down else 'up'}")
        elif draw < 0.5:
            for receiver in world.receivers:
                receiver.down = False
        elif draw < 0.53:
            self._poisoned.add(random.choice(world.network.invoices))
        elif draw < 0.56:
            self._poisoned.clear()
        elif draw < 0.6 and world.life:
            world.say("STOP")
            world.stop()
        elif draw < 0.63:
            world.retry_deliveries()
        if random.random() < self._crash_rate and world.life and disk.dies_at == NEVER:
            if random.random() < 0.3:
                disk.dies_at_sync = True
            else:
                disk.die_after(random.choice((1, 10, 100, 300)) + random.randrange(30))
