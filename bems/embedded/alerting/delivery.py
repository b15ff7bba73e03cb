"""A delivery: one alert on its way to one destination."""

from collections.abc import Callable
from typing import Literal, Protocol

from msgspec import Struct

from bems.clock import SystemClock
from bems.tracker.actions import Alert
from bems.tracker.instants import Instant

Now = Callable[[], Instant]

time_of_day: Now = SystemClock().now
"""Deliveries live by the world's time, whatever the cell's clock says."""

State = Literal["failed", "waiting"]


class Delivery(Struct, frozen=True):
    """An alert that its destination has not taken yet.

    `seq`       the number of the alert in the store, which is the order of one invoice's alerts.
    `attempts`  how often it was tried itself.
    `due`       when it may be tried next.
    `tried_at`  when it was first tried, or since when others are tried for it; a day later it is given up.
    `state`     `failed`: given up, until somebody has it tried again.
    `error`     why it was not taken the last time.
    """

    destination: str
    seq: int
    alert: Alert
    attempts: int
    due: Instant
    tried_at: Instant | None
    state: State
    error: str | None


class NotDelivered(Exception):
    """The alert was not taken, as far as is known; the message says why, in words without a secret.

    `outage`: the next alert would fare no better now. `retry_after`: microseconds that the receiver asked to wait.
    """

    def __init__(self, why: str, *, outage: bool, retry_after: Instant | None = None) -> None:
        self.outage = outage
        self.retry_after = retry_after
        super().__init__(why)


class Destination(Protocol):
    """One place that alerts are sent to, by several threads at once."""

    @property
    def key(self) -> str:
        """Its name in the queue, without a secret, and the same after a restart: `webhook https://example.com/hook`,
        `webhook $CHAT_URL`, `email a@example.com, b@example.com`, `log`."""
        ...

    def send(self, alert: Alert) -> None:
        """Send it; it was taken when this returns. NotDelivered where it was not, or may not have been."""
        ...


def reason(error: BaseException | None) -> str:
    """What the operating system says, without the addresses that an exception's text may hold."""
    told = error.strerror if isinstance(error, OSError) else None
    return told or type(error).__name__
