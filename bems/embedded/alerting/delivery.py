"""Delivery of one alert to one destination."""

from collections.abc import Callable
from typing import Literal, Protocol

from msgspec import Struct

from bems.clock import SystemClock
from bems.tracker.control_totals import AlertMessage, CompletenessAlert
from bems.tracker.instants import Instant

Now = Callable[[], Instant]

time_of_day: Now = SystemClock().now
"""Deliveries use the system clock, even in a cell whose own clock is accelerated."""

DeliveryState = Literal["failed", "waiting"]


class Delivery(Struct, frozen=True):
    """An alert that its destination has not accepted yet.

    `seq`       number of the alert in the store; it orders the alerts of one invoice.
    `attempts`  number of failed attempts for this delivery itself.
    `due`       earliest instant of the next attempt.
    `tried_at`  instant of the first attempt, or start of the outage during which other deliveries were attempted
                instead; the delivery is given up a day later.
    `state`     `failed` means given up, until an operator retries it.
    `error`     error of the last attempt.
    """

    destination: str
    seq: int
    alert: AlertMessage
    attempts: int
    due: Instant
    tried_at: Instant | None
    state: DeliveryState
    error: str | None

    @property
    def invoice_id(self) -> str | None:
        """Invoice of the alert; None for an alert that belongs to no invoice."""
        return None if isinstance(self.alert, CompletenessAlert) else self.alert.invoice_id


class NotDelivered(Exception):
    """The destination did not accept the alert, or may not have. The message gives the reason and holds no secret.

    `outage` is true if the next alert would fail for the same reason. `retry_after` is the pause that the receiver
    asked for, in microseconds.
    """

    def __init__(self, why: str, *, outage: bool, retry_after: Instant | None = None) -> None:
        self.outage = outage
        self.retry_after = retry_after
        super().__init__(why)


class Destination(Protocol):
    """A receiver of alerts. Several threads call `send` at the same time."""

    @property
    def key(self) -> str:
        """Name in the outbox. It holds no secret and is the same after a restart: `webhook https://example.com/hook`,
        `webhook $CHAT_URL`, `email a@example.com, b@example.com`, `log`."""
        ...

    def send(self, alert: AlertMessage) -> None:
        """Deliver the alert. Raises NotDelivered if the receiver did not accept it, or may not have."""
        ...


def os_error_text(error: BaseException | None) -> str:
    """Return the operating system's message, without the addresses that the exception's own text may hold."""
    text = error.strerror if isinstance(error, OSError) else None
    return text or type(error).__name__
