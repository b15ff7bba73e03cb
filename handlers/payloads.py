"""Payloads that the state machine passes to its functions.

They are defined in statemachines/invoice_lifecycle.asl.json.
"""

from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from bems.tracker.contract import Stage

P = TypeVar("P")


class WaitPayload(Struct, frozen=True):
    """Payload of RegisterWait: an execution waits at `stage`. `entered_at` is RFC 3339."""

    invoice_id: str
    run: int
    stage: Stage
    token: str
    entered_at: str
    retry_count: int


class EscalatePayload(Struct, frozen=True):
    """Payload of Escalate: an execution's wait timed out, or the outcome it waited for is disputed."""

    invoice_id: str
    run: int
    stage: Stage
    reason: Literal["timeout", "dispute"]


def read_payload(payload: dict[str, Any], kind: type[P]) -> P:
    """Convert a payload. Raises msgspec's ValidationError, a ValueError, which names what is missing or invalid."""
    return msgspec.convert(payload, kind)
