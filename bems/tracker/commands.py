"""Commands: what an operator can do to an invoice.

A command has an id, so sending it again is idempotent. A command that states an outcome (`complete`, `cancel`) counts
as an event that occurred when the command was accepted, or just after the outcome that it overrules.
"""

from msgspec import Struct

from bems.tracker.contract import Stage
from bems.tracker.instants import DAY, Instant


class Complete(Struct, frozen=True, tag="complete"):
    """Mark a stage complete by hand: record its positive outcome."""

    stage: Stage


class Cancel(Struct, frozen=True, tag="cancel"):
    """Cancel the invoice."""


class Extend(Struct, frozen=True, tag="extend"):
    """Move the current wait's deadline to a later instant. Alerts that were raised before stay raised."""

    until: Instant


class Park(Struct, frozen=True, tag="park"):
    """Raise no more alerts until the invoice's next event."""


class Revive(Struct, frozen=True, tag="revive"):
    """End the parking of an invoice and start a new wait now."""


class Acknowledge(Struct, frozen=True, tag="acknowledge"):
    """Confirm that an operator has seen the wait's alerts so far. Later alerts are still raised."""


class Snooze(Struct, frozen=True, tag="snooze"):
    """Raise no alert of the current wait until an instant. Then the alert of the step reached by then is raised."""

    until: Instant


class Assign(Struct, frozen=True, tag="assign"):
    """Make somebody responsible for the invoice; None for nobody."""

    assignee: str | None


class AddNote(Struct, frozen=True, tag="note"):
    """Only leave a note, which every command may carry."""


Verb = Complete | Cancel | Extend | Park | Revive | Acknowledge | Snooze | Assign | AddNote

NEED_NOTE = ("complete", "cancel", "park", "note")
"""Names of the verbs that are refused without a note."""


class Command(Struct, frozen=True):
    """Command of an operator. `accepted_at` is set when a cell accepts it and does not change on redelivery.

    `confirmed_by` is the second person who confirmed it, if the policy requires one; `accepted_at` is then the time of
    the confirmation.
    """

    id: str
    invoice_id: str
    operator: str
    accepted_at: Instant
    verb: Verb
    note: str = ""
    confirmed_by: str | None = None

    @property
    def name(self) -> str:
        """Name of the verb, such as `extend`."""
        return str(self.verb.__struct_config__.tag)

    @property
    def event_id(self) -> str:
        """Id among the invoice's event ids. It contains a space, so it never equals an event's id, which has none."""
        return f"command {self.id}"


CONFIRMATION_PERIOD = DAY
"""Time (in microseconds) within which a second person must confirm a command."""


class Confirmation(Struct, frozen=True):
    """Confirmation of a requested command by another operator."""

    command_id: str
    operator: str
    at: Instant
