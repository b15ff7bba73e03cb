"""Receivers of alerts, which may be down, reject an alert, time out, or accept an alert and report a failure."""

from collections import Counter
from random import Random

from bems.embedded.alerting.delivery import NotDelivered
from bems.tracker.actions import Alert
from bems.tracker.control_totals import AlertMessage
from bems.tracker.instants import HOUR
from tests.faults.invariants import require


class Receiver:
    """A Destination. `is_unreliable`: each alert may fail in any way; `is_down`: every alert fails."""

    def __init__(self, key: str, random: Random) -> None:
        self.key = key
        self.is_unreliable = True
        self.is_down = False
        self.given_up: set[str] = set()
        """Ids of alerts that the cell gave up; they may be missing or out of order."""
        self.allowed_repeats: Counter[str] = Counter()
        """How often each alert may be repeated: the receiver may have accepted it without the cell getting a
        response."""
        self.violation = ""
        self._random = random
        self._accepted: dict[str, list[str]] = {}
        self._times: Counter[str] = Counter()

    def send(self, alert: AlertMessage) -> None:
        draw = self._random.random() if self.is_unreliable else 1.0
        if self.is_down:
            raise NotDelivered("no response", outage=True)
        if draw < 0.05:
            self._accept(alert)
            self.allowed_repeats[alert.id] += 1
            raise NotDelivered("it accepted the alert, then timed out", outage=True)
        if draw < 0.1:
            pause = self._random.choice((None, HOUR))
            raise NotDelivered("it is overloaded", outage=True, retry_after=pause)
        if draw < 0.13:
            raise NotDelivered("it rejects this alert", outage=False)
        if draw < 0.15:
            raise ZeroDivisionError
        self._accept(alert)

    def _accept(self, alert: AlertMessage) -> None:
        assert isinstance(alert, Alert), "the simulation sends no control totals"
        before = self._accepted.setdefault(alert.invoice_id, [])
        self._times[alert.id] += 1
        if self._times[alert.id] > 1 + self.allowed_repeats[alert.id]:
            # Do not raise here: the dispatcher would treat that as an error of the receiver.
            self.violation = (
                f"9: {self.key} got alert {alert.id} {self._times[alert.id]} times, more often than allowed"
            )
        if alert.id not in self.given_up and (not before or before[-1] != alert.id):
            before.append(alert.id)

    def check(self, alerts: list[Alert]) -> None:
        """Check that all alerts were received, in order per invoice."""
        require(not self.violation, self.violation)
        for alert in alerts:
            require(self._times[alert.id], f"9: {self.key} never got alert {alert.id} of {alert.invoice_id}")
        for id, accepted in self._accepted.items():
            expected = [alert.id for alert in alerts if alert.invoice_id == id and alert.id not in self.given_up]
            came = [one for one in accepted if one not in self.given_up]
            require(came == expected, f"9: {self.key} got the alerts of {id} in another order: {came}, not {expected}")
