"""An invoice as a virtual object of Restate: a handler per stage, state, and a delayed call to itself as the timer.

The object's state holds the ids of its events, and the server runs one invocation of an object at a time. A duplicate
is therefore always detected. (The ingress's `idempotency-key` header would do the same for a day, and cost more.)
"""

from datetime import timedelta
from typing import Any

import restate

STAGES = ("ingestion", "authorization", "reconciliation", "posting")
DEADLINES = {"authorization": timedelta(days=3), "reconciliation": timedelta(days=5), "posting": timedelta(days=20)}

invoice = restate.VirtualObject("invoice")


async def receive_event(context: restate.ObjectContext, stage: str, event: dict[str, Any]) -> str:
    """Handle an event."""
    state = await context.get("state") or {"waits_for": None, "seen": [], "transitions": []}
    if event["event_id"] in state["seen"]:
        return "duplicate"
    state["seen"].append(event["event_id"])
    state["transitions"].append([stage, event["status"], event["occurred_at"]])
    done = {transition[0] for transition in state["transitions"]}
    waits_for = next((one for one in STAGES if one not in done), None)
    if waits_for != state["waits_for"]:
        state["waits_for"] = waits_for
        if waits_for in DEADLINES:
            arm(context, waits_for)
    context.set("state", state)
    return "accepted"


def arm(context: restate.ObjectContext, stage: str) -> None:
    """Start a timer. When it fires, it checks whether the stage is still awaited; cancelling it would cost more."""
    context.object_send(overdue, key=context.key(), arg=stage, send_delay=DEADLINES[stage])


@invoice.handler()
async def ingestion(context: restate.ObjectContext, event: dict[str, Any]) -> str:
    return await receive_event(context, "ingestion", event)


@invoice.handler()
async def authorization(context: restate.ObjectContext, event: dict[str, Any]) -> str:
    return await receive_event(context, "authorization", event)


@invoice.handler()
async def reconciliation(context: restate.ObjectContext, event: dict[str, Any]) -> str:
    return await receive_event(context, "reconciliation", event)


@invoice.handler()
async def posting(context: restate.ObjectContext, event: dict[str, Any]) -> str:
    return await receive_event(context, "posting", event)


@invoice.handler()
async def overdue(context: restate.ObjectContext, stage: str) -> None:
    state = await context.get("state")
    if state["waits_for"] == stage:
        state["transitions"].append([stage, "overdue", None])
        context.set("state", state)
        arm(context, stage)


@invoice.handler(kind="shared")
async def show(context: restate.ObjectSharedContext) -> Any:
    return await context.get("state")


app = restate.app([invoice], protocol="request_response")
