"""Waits: what the state machine hands to its functions.

The payloads are those of statemachines/invoice_lifecycle.asl.json.
"""

from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from bems.tracker.contract import Stage

P = TypeVar("P")


class WaitPayload(Struct, frozen=True):
    """An execution waits at `stage`. `entered_at` is RFC 3339."""

    invoice_id: str
    run: int
    stage: Stage
    token: str
    entered_at: str
    retry_count: int


class EscalatePayload(Struct, frozen=True):
    """An execution's wait ran out, or what it waited for is disputed."""

    invoice_id: str
    run: int
    stage: Stage
    reason: Literal["timeout", "dispute"]


def read_payload(payload: dict[str, Any], kind: type[P]) -> P:
    """ValueError (msgspec's) names what is missing or wrong."""
    return msgspec.convert(payload, kind)
