"""Optional fields of an event body: a sample, and strategies of valid values, and of values of which some are not."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

from hypothesis import strategies as st

from bems.tracker.contract import STAGES, STATUSES, Stage

Strategy = st.SearchStrategy[Any]

OPTIONAL_FIELDS: dict[str, Any] = {
    "number": "RE-2026-0815",
    "issue_date": "2026-11-20",
    "buyer": {"id": "1000", "name": "Acme Nederland BV"},
    "purchase_orders": ["4500012345", "4500012346"],
    "actor": {"id": "kim@example.com", "kind": "person"},
    "reason": {"code": "QUA", "text": "two of ten are broken"},
}
PAYMENT = {"paid_on": "2026-12-20", "amount": "1218.75", "discount_taken": "31.25"}

identifiers = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128)
labels = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=20)
dates = st.dates(date(1970, 1, 1), date(2999, 12, 31)).map(date.isoformat)
instants = st.datetimes(datetime(1970, 1, 2), datetime(2026, 2, 1)).map(lambda at: at.replace(tzinfo=UTC).isoformat())
days = st.integers(0, 3650)
percents = st.from_regex(r"\A[0-9]{1,2}(\.[0-9]{1,4})?\Z")
euros = st.tuples(st.integers(-(10**15), 10**15), st.integers(0, 99)).map(
    lambda n: f"{n[0]}.{n[1]:02}"
) | st.sampled_from(["-0", "007", "0.5", "9" * 18, "-1" + "0" * 17, "9" * 16 + ".99", "9" * 17 + ".5"])

WRONG_LABELS = st.sampled_from(["", "a\x00", "\x85b", "x" * 1025])
WRONG_TEXTS: Strategy = WRONG_LABELS | st.sampled_from([None, 1, []])
WRONG_DATES = st.sampled_from(["", "1969-12-31", "3000-01-01", "2026-02-30", "2026-1-1", "2026-01-01\n", "today", 1])
WRONG_DAYS = st.sampled_from([-1, 3651, "30", True])
WRONG_PERCENTS = st.sampled_from(["100", "-1", "2.", ".5", "2,5", "1.23456", "", "1e1", 2.5])
WRONG_AMOUNTS = st.sampled_from(["1.234", "1.2345", "9" * 19, "1" * 17 + ".01", "", "+1", "1e5", "NaN", 1, None])
WRONG_OBJECTS = st.sampled_from([{}, [], "x", {"id": "a b"}, {"id": "V", "more": 1}])


def optional_fields(choose: Callable[[Strategy, Strategy], Strategy]) -> dict[str, Strategy]:
    """Return strategies of the fields. `choose` combines those of a field's valid and of its wrong values."""
    label, day, discount_days = choose(labels, WRONG_TEXTS), choose(dates, WRONG_DATES), choose(days, WRONG_DAYS)
    discounts = st.fixed_dictionaries({"percent": choose(percents, WRONG_PERCENTS), "days": discount_days})
    terms = {
        "days": st.none() | discount_days,
        "due_date": st.none() | day,
        "baseline_date": st.none() | day,
        "cash_discounts": choose(st.lists(discounts, max_size=3), st.lists(discounts, min_size=4, max_size=4)),
    }
    buyer = st.fixed_dictionaries({"id": identifiers}, optional={"name": st.none() | label})
    actor = st.fixed_dictionaries({"id": label, "kind": choose(st.sampled_from(["person", "system"]), labels)})
    reason = st.fixed_dictionaries({"code": label}, optional={"text": st.none() | label})
    return {
        "attributes": st.dictionaries(choose(labels, WRONG_LABELS), labels, max_size=5),
        "number": st.none() | label,
        "issue_date": st.none() | day,
        "buyer": st.none() | choose(buyer, WRONG_OBJECTS),
        "purchase_orders": choose(st.lists(label, max_size=20), st.lists(label, min_size=21, max_size=21)),
        "actor": st.none() | choose(actor, WRONG_OBJECTS),
        "reason": st.none() | choose(reason, WRONG_OBJECTS),
        "payment_terms": st.none() | choose(st.fixed_dictionaries({}, optional=terms), WRONG_OBJECTS),
        "imported": st.booleans(),
    }


def payments(choose: Callable[[Strategy, Strategy], Strategy]) -> Strategy:
    """Return a strategy of the field `payment`, with amounts in euros."""
    amounts = choose(euros, WRONG_AMOUNTS)
    fields = {"paid_on": choose(dates, WRONG_DATES), "amount": amounts}
    payment = st.fixed_dictionaries(fields, optional={"discount_taken": st.none() | amounts})
    return st.none() | choose(payment, WRONG_OBJECTS)


def only_valid(valid: Strategy, _: Strategy) -> Strategy:
    return valid


def sometimes_wrong(valid: Strategy, wrong: Strategy) -> Strategy:
    """Choose a wrong value of about every eighth field, so that many bodies are valid."""
    return st.integers(0, 7).flatmap(lambda number: wrong if number == 3 else valid)


@st.composite
def event_bodies(
    draw: st.DrawFn, choose: Callable[[Strategy, Strategy], Strategy] = only_valid
) -> tuple[Stage, dict[str, Any]]:
    """Return a stage and a body in euros with any of its optional fields."""
    stage = draw(st.sampled_from(STAGES))
    status = draw(st.sampled_from(STATUSES[stage]))
    body = {
        "event_id": draw(identifiers),
        "invoice_id": draw(identifiers),
        "status": status,
        "occurred_at": draw(instants),
        "amount": draw(choose(euros, WRONG_AMOUNTS)),
        "currency": "EUR",
        "vendor": draw(st.fixed_dictionaries({"id": identifiers}, optional={"name": labels, "tier": labels})),
        "source": draw(st.fixed_dictionaries({"system": labels}, optional={"region": labels, "account_id": labels})),
        **draw(st.fixed_dictionaries({}, optional=optional_fields(choose))),
    }
    if draw(choose(st.just(status == "posted"), st.just(stage == "posting"))) and draw(st.booleans()):
        body["payment"] = draw(payments(choose))
    return stage, body
