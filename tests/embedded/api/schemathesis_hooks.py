"""What schemathesis is told of the rules that no schema can say. It imports this by the name in SCHEMATHESIS_HOOKS.

Only what is meant to be right is brought in line; what is meant to be wrong is sent as it was made up.
"""

import re
from typing import Any

import schemathesis

_DATE_TIME = re.compile(r"\d{4}-")


@schemathesis.hook
def before_call(_: schemathesis.HookContext, case: schemathesis.Case[Any], __: dict[str, Any]) -> None:
    if case.meta is not None and case.meta.generation.mode.is_negative:
        return
    body: Any = case.body
    if case.path.startswith("/invoices/") and isinstance(body, dict):
        for event in body.get("events", [body]):
            _keep_the_clock(event)
            _keep_the_sum(event)
            _keep_whole_numbers(event)
    # Only the page before knows a cursor.
    if case.query:
        case.query.pop("cursor", None)


def _keep_the_clock(event: dict[str, Any]) -> None:
    """Nothing occurs before 1970, or more than a day after now."""
    event["occurred_at"] = _DATE_TIME.sub("2024-", event["occurred_at"].replace("-02-29", "-02-28"), count=1)


def _keep_the_sum(event: dict[str, Any]) -> None:
    """Attributes have 4 kB together."""
    attributes, room = event.get("attributes") or {}, 4096
    for name, value in attributes.items():
        room -= len((name + value).encode())
        if room < 0:
            event["attributes"] = {}
            return


def _keep_whole_numbers(event: dict[str, Any]) -> None:
    """30.0 is a whole number to JSON Schema, and none to the gate."""
    terms = event.get("payment_terms")
    if terms and isinstance(terms.get("days"), float):
        terms["days"] = int(terms["days"])
