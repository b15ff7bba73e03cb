"""The summary of a sending: what became of how many events, and how fast."""

from collections import Counter
from dataclasses import dataclass, field

from bems.cli.batches import Disposition, LineResult
from bems.cli.latency import LatencyHistogram
from bems.tracker.contract import EventBody, PaymentTerms, Source, Vendor

_NESTED = {"vendor": Vendor, "payment_terms": PaymentTerms, "source": Source}


@dataclass
class SendSummary:
    """What came of all that was sent: sent = accepted + duplicate + conflict + refused + undelivered.

    `fates` counts events, `places` the refused ones by where their faults are. `requests` are those whose answer told
    of an event, `retries` those that had to be repeated, in part at least. `seconds` is the time from first to last.
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
        """Events a second."""
        return self.sent / self.seconds if self.seconds else 0.0

    @property
    def all_delivered(self) -> bool:
        """Whether the cell has every event."""
        return self.sent == self.dispositions["accepted"] + self.dispositions["duplicate"]

    def add(self, told: LineResult) -> None:
        self.dispositions[told.disposition] += 1
        if told.disposition == "refused":
            # An event may have several faults in one place.
            self.refused_fields.update({field_of(error.pointer) for error in told.errors})


def field_of(pointer: str) -> str:
    """The field that a pointer into an event, or a line with one, leads to, such as `vendor.country`.

    There are few of them, whatever is sent: names that senders choose are left out.
    """
    first, _, rest = pointer.removeprefix("/event/").removeprefix("/").partition("/")
    if first not in EventBody.__struct_fields__ and first not in ("status", "stage"):
        return "event"
    known = _NESTED.get(first)
    return f"{first}.{rest}" if known is not None and rest in known.__struct_fields__ else first
