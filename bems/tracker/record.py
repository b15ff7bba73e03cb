"""The record of an invoice: the truth. An execution is a timer with a picture, and can be started again at any time."""

from typing import Literal

from msgspec import Struct

from bems.tracker.actions import Action
from bems.tracker.contract import Facts, Stage
from bems.tracker.instants import Instant
from bems.tracker.projection import Outcome
from bems.tracker.transitions import Transition

SEEN = 32
"""How many of the newest event ids a record remembers. An older repeat changes nothing either: its register stands."""

Stamp = tuple[Instant, int]
"""When a state was entered and how often it was retried (`$$.State.EnteredTime`, `$$.State.RetryCount`)."""


Mark = Literal["parked", "dormant"]
"""Parked: given up after its last alert. Dormant: waited for without an execution, until its next event or alert."""


class Run(Struct, frozen=True, omit_defaults=True):
    """The newest execution of the invoice's state machine, and what it registered last.

    `closing`: it has been given, or owes itself, its end. `number` 0: there has been none.
    """

    number: int = 0
    state: Literal["none", "open", "closing"] = "none"
    started_at: Instant = 0
    token: str | None = None
    stage: Stage | None = None
    stamp: Stamp = (0, 0)


class Wait(Struct, frozen=True, omit_defaults=True):
    """What the invoice waits for. `step` alerts have been raised, the next is due at `due`; `acknowledged` of them an
    operator has seen; `ended_runs` executions ended by themselves meanwhile.

    `due` is kept and not asked of the policy each time, so a new policy holds from the next alert on, and business days
    are counted once an alert."""

    stage: Stage
    since: Instant
    deadline: Instant
    due: Instant
    step: int = 0
    acknowledged: int = 0
    ended_runs: int = 0


class InvoiceRecord(Struct, frozen=True, omit_defaults=True):
    """Everything that is known of an invoice. `version` counts its writes; a write is conditional on the one before.

    `facts` are those of the newest event (`facts_of`: its occurred_at and event_id), but payment terms and the vendor's
    tier stay those of the newest event that stated any (`terms_of`, and `tier_of` with the vendor's id and tier): a
    system that does not know them must not erase them.
    """

    invoice_id: str
    facts: Facts
    facts_of: tuple[Instant, str]
    terms_of: tuple[Instant, str] | None = None
    tier_of: tuple[Instant, str, str, str] | None = None
    version: int = 0
    outcomes: dict[Stage, Outcome] = {}
    seen: tuple[tuple[str, str], ...] = ()
    run: Run = Run()
    wait: Wait | None = None
    mark: Mark | None = None
    reported: dict[Stage, str] = {}
    pending: tuple[Action, ...] = ()
    check_at: Instant | None = None
    changes: tuple[Transition, ...] = ()
    recorded_at: Instant = 0

    @property
    def stuck(self) -> bool:
        """Whether an alert of its present wait is out."""
        return self.wait is not None and self.wait.step > 0
