"""Summary of a send: the number of events by disposition, and the speed."""

from collections import Counter
from dataclasses import dataclass, field

from bems.cli.batches import Disposition, LineResult
from bems.cli.latency import LatencyHistogram
from bems.tracker.contract import EventBody, PaymentTerms, Source, Vendor

_NESTED = {"vendor": Vendor, "payment_terms": PaymentTerms, "source": Source}


@dataclass
class SendSummary:
    """Counts of all events sent: sent = accepted + duplicate + conflict + refused + undelivered.

    `dispositions` counts events, `refused_fields` the refused ones by the fields of their errors. `requests` has the
    latency of each request whose response decided about an event. `retries` counts the requests that were repeated, at
    least for some of their events. `seconds` is the time from the first event to the end.
    """

    dispositions: Counter[Disposition] = field(default_factory=Counter)
    refused_fields: Counter[str] = field(default_factory=Counter)
    requests: LatencyHistogram = field(default_factory=LatencyHistogram)
    retries: int = 0
    seconds: float = 0.0

    @property
    def sent(self) -> int:
        return self.dispositions.total()

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.sent / self.seconds if self.seconds else 0.0

    @property
    def all_delivered(self) -> bool:
        """Whether the cell has every event, accepted now or before."""
        return self.sent == self.dispositions["accepted"] + self.dispositions["duplicate"]

    def add(self, result: LineResult) -> None:
        self.dispositions[result.disposition] += 1
        if result.disposition == "refused":
            # Count a field once per event, even if it has several errors.
            self.refused_fields.update({field_of(error.pointer) for error in result.errors})


def field_of(pointer: str) -> str:
    """Return the field of a JSON Pointer into an event or a log line, such as `vendor.country`.

    Names that senders choose are left out, so that the number of fields is bounded.
    """
    first, _, rest = pointer.removeprefix("/event/").removeprefix("/").partition("/")
    if first not in EventBody.__struct_fields__ and first not in ("status", "stage"):
        return "event"
    known = _NESTED.get(first)
    return f"{first}.{rest}" if known is not None and rest in known.__struct_fields__ else first
