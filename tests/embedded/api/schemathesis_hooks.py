"""Schemathesis hooks for rules that no schema can express. Schemathesis imports the module named by SCHEMATHESIS_HOOKS.

Only generated requests that are meant to be valid are adapted; invalid ones are sent unchanged.
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
            _fix_occurred_at(event)
            _limit_attributes(event)
            _convert_whole_floats(event)
    if case.path == "/control-totals" and isinstance(body, dict):
        body["from"], body["to"] = (_fix_year(body[name], year) for name, year in (("from", 2023), ("to", 2025)))
        _convert_whole_float(body, "events")
    if case.path == "/events" and case.query:
        case.query["from"], case.query["to"] = (
            _fix_year(case.query[name], year) for name, year in (("from", 2023), ("to", 2025))
        )
    # A valid cursor comes from a previous page only.
    if case.query:
        case.query.pop("cursor", None)


def _fix_occurred_at(event: dict[str, Any]) -> None:
    """Change the year to a valid one: events before 1970 or more than a day in the future are refused."""
    event["occurred_at"] = _fix_year(event["occurred_at"], 2024)


def _fix_year(time: str, year: int) -> str:
    return _DATE_TIME.sub(f"{year}-", time.replace("-02-29", "-02-28"), count=1)


def _limit_attributes(event: dict[str, Any]) -> None:
    """Remove the attributes if they exceed 4 kB together."""
    attributes, remaining = event.get("attributes") or {}, 4096
    for name, value in attributes.items():
        remaining -= len((name + value).encode())
        if remaining < 0:
            event["attributes"] = {}
            return


def _convert_whole_floats(event: dict[str, Any]) -> None:
    """Convert days to an integer: 30.0 is an integer in JSON Schema, but the parser refuses it."""
    terms = event.get("payment_terms") or {}
    for days in (terms, *terms.get("cash_discounts", ())):
        _convert_whole_float(days, "days")


def _convert_whole_float(content: dict[str, Any], name: str) -> None:
    if isinstance(content.get(name), float):
        content[name] = int(content[name])
