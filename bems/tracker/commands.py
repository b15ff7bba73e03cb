"""Commands: what an operator may do to an invoice.

A command carries an id, so that sending it again is harmless. One that states an outcome counts as an event that
occurred when the command was accepted, or just after the register that it overrules.
"""

from msgspec import Struct

from bems.tracker.contract import Stage
from bems.tracker.instants import Instant


class Complete(Struct, frozen=True, tag="complete"):
    """The stage is complete: its positive outcome, on the operator's word."""

    stage: Stage


class Cancel(Struct, frozen=True, tag="cancel"):
    """The invoice is cancelled."""


class Extend(Struct, frozen=True, tag="extend"):
    """The wait's deadline moves to a later instant; alerts already raised stay raised."""

    until: Instant


class Park(Struct, frozen=True, tag="park"):
    """Nobody is to be alerted any more until the invoice's next event."""


class Revive(Struct, frozen=True, tag="revive"):
    """A parked invoice is waited for again, from now."""


class Acknowledge(Struct, frozen=True, tag="acknowledge"):
    """An operator has seen the wait's alerts so far. Later steps still come."""


Verb = Complete | Cancel | Extend | Park | Revive | Acknowledge


class Command(Struct, frozen=True):
    """One operator's command. `accepted_at` is fixed when a cell takes it in, so a redelivery means the same."""

    id: str
    invoice_id: str
    operator: str
    accepted_at: Instant
    verb: Verb
    note: str = ""

    @property
    def name(self) -> str:
        """The verb's name, such as `extend`."""
        return str(self.verb.__struct_config__.tag)

    @property
    def event_id(self) -> str:
        """Its id among the invoice's events. The space keeps it apart from theirs, which have none."""
        return f"command {self.id}"
