"""Control totals: parsing, comparison, when the alert is raised, and its messages."""

import json
from decimal import Decimal
from typing import Any

import pytest
from msgspec import structs

from bems.tracker.alert_messages import headline, json_body, summary_line, text_body
from bems.tracker.control_totals import (
    ALERT_GRACE,
    LATE_RECHECK_INTERVAL,
    MAX_CONTROL_TOTAL_BYTES,
    RECHECK_INTERVAL,
    RECHECK_PERIOD,
    CompletenessAlert,
    ControlTotal,
    ControlTotalState,
    EventTotals,
    TotalDifference,
    find_total_differences,
    on_count,
    on_statement,
    parse_control_total,
)
from bems.tracker.instants import DAY, HOUR, MINUTE, SECOND, parse
from bems.tracker.parsing import InvalidEvent

NOW = parse("2026-03-03T06:00:00Z")
BODY: dict[str, Any] = {
    "source": "sap-ecc",
    "stage": "posting",
    "from": "2026-03-02T00:00:00Z",
    "to": "2026-03-03T00:00:00Z",
    "events": 3,
    "amounts": {"EUR": "100.50", "JPY": "7000"},
}
STATED = EventTotals(3, {"EUR": Decimal("100.50"), "JPY": Decimal(7000)})
TOTAL = ControlTotal("sap-ecc", "posting", NOW - 30 * HOUR, NOW - 6 * HOUR, STATED)
SHORT = EventTotals(2, {"EUR": Decimal("100.50"), "JPY": Decimal(5000)})


def read(**changes: Any) -> ControlTotal | InvalidEvent:
    return parse_control_total(json.dumps(BODY | changes).encode(), NOW)


def pointers(**changes: Any) -> dict[str, str]:
    """Return the kind of each error by its pointer."""
    refused = read(**changes)
    assert isinstance(refused, InvalidEvent), refused
    return {error.pointer: error.kind for error in refused.errors}


def test_a_valid_control_total_is_read() -> None:
    assert read() == TOTAL
    offset = read(**{"from": "2026-03-02T01:00:00+01:00", "to": "2026-03-03T00:00:00.000Z"})
    assert offset == TOTAL and isinstance(offset, ControlTotal) and offset.id == TOTAL.id


def test_every_fault_is_reported_with_its_pointer() -> None:
    assert pointers(
        source="",
        stage="payment",
        events=-1,
        amounts={"EUR": "1.005", "XAU": "1.00", "ABC": "1", "eur": "1", "JPY": 5, "USD": "1e5"},
        extra=1,
        to="2026-03-02T00:00:00Z",
    ) == {
        "/source": "empty",
        "/stage": "not a choice",
        "/events": "too small",
        "/amounts/EUR": "too many decimals",
        "/amounts/XAU": "unknown currency",
        "/amounts/ABC": "unknown currency",
        "/amounts/eur": "wrong form",
        "/amounts/JPY": "wrong type",
        "/amounts/USD": "wrong form",
        "/extra": "unknown field",
        "/to": "not after from",
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"from": "2026-03-03T00:00:00Z"}, {"/to": "not after from"}),
        ({"from": "1969-12-31T23:59:59Z"}, {"/from": "before 1970"}),
        ({"from": "2026-03-02"}, {"/from": "wrong form"}),
        ({"from": "0001-01-01T00:00:00+23:00", "to": "9999-12-31T23:59:59-23:00"},
         {"/from": "before 1970", "/to": "in the future"}),
        ({"to": "2026-03-04T06:00:01Z"}, {"/to": "in the future"}),
        ({"source": "a\u0007"}, {"/source": "wrong form"}),
        ({"events": "3"}, {"/events": "wrong type"}),
        ({"events": 1.5}, {"/events": "wrong type"}),
        ({"amounts": None}, {"/amounts": "wrong type"}),
    ],
)  # fmt: skip
def test_a_fault_names_its_field(changes: dict[str, Any], expected: dict[str, str]) -> None:
    assert pointers(**changes) == expected


def test_missing_fields_are_named_together() -> None:
    refused = parse_control_total(b"{}", NOW)
    assert isinstance(refused, InvalidEvent)
    assert {error.pointer for error in refused.errors} == {f"/{name}" for name in BODY}


def test_bodies_that_are_no_control_total_are_refused() -> None:
    for body in (b"", b"[]", b"null", b'"x"', b"{", b"\xff", b'{"events": 1, "events": 2}'):
        assert isinstance(parse_control_total(body, NOW), InvalidEvent), body
    repeated = json.dumps(BODY).replace('"events": 3', '"events": 3, "events": 4').encode()
    refused = parse_control_total(repeated, NOW)
    assert isinstance(refused, InvalidEvent) and [error.pointer for error in refused.errors] == ["/events"]
    large = parse_control_total(b" " * (MAX_CONTROL_TOTAL_BYTES + 1), NOW)
    assert isinstance(large, InvalidEvent) and large.status == 413


def test_an_interval_may_end_up_to_a_day_ahead() -> None:
    assert isinstance(read(to="2026-03-04T06:00:00Z"), ControlTotal)


def test_a_leap_second_counts_as_the_second_before_it() -> None:
    found = read(**{"from": "2016-12-31T23:59:60Z"})
    assert isinstance(found, ControlTotal) and found.since == parse("2016-12-31T23:59:59Z")


# -- comparison


def test_equal_totals_have_no_difference() -> None:
    assert find_total_differences(STATED, STATED) == []
    scaled = EventTotals(3, {"JPY": Decimal("7000.0000"), "EUR": Decimal("100.5000")})
    assert find_total_differences(STATED, scaled) == []
    assert find_total_differences(EventTotals(0, {}), EventTotals(0, {"EUR": Decimal(0)})) == []


def test_each_value_that_differs_is_listed_with_both_values() -> None:
    found = EventTotals(4, {"EUR": Decimal("100.51"), "BHD": Decimal("1.5")})
    assert find_total_differences(STATED, found) == [
        TotalDifference("/events", 3, 4),
        TotalDifference("/amounts/BHD", "0.000", "1.500"),
        TotalDifference("/amounts/EUR", "100.50", "100.51"),
        TotalDifference("/amounts/JPY", "7000", "0"),
    ]


# -- states


def count(state: ControlTotalState, found: EventTotals, now: int) -> tuple[ControlTotalState, CompletenessAlert | None]:
    return on_count(state, state.total, found, now)


def test_a_new_control_total_waits_for_its_first_comparison() -> None:
    state = on_statement(None, TOTAL, NOW)
    assert (state.status, state.check_at, state.differences) == ("waiting", NOW, [])


def test_a_complete_control_total_is_not_compared_again() -> None:
    state, alert = count(on_statement(None, TOTAL, NOW), STATED, NOW)
    assert (state.status, state.check_at, state.checked_at, alert) == ("complete", None, NOW, None)


def test_a_difference_raises_one_alert_after_the_grace() -> None:
    state = on_statement(None, TOTAL, NOW)
    assert state.alert_due_at == NOW + ALERT_GRACE
    now, alerts = NOW, []
    while state.check_at is not None:
        assert state.check_at >= now
        now = state.check_at
        state, alert = count(state, SHORT, now)
        alerts += [(alert, now)] if alert else []
        assert state.status == "different"
    ((alert, raised_at),) = alerts
    assert raised_at == NOW + ALERT_GRACE and alert.raised_at == raised_at == state.alerted_at
    assert (alert.severity, alert.control_total, alert.found) == ("warning", TOTAL, SHORT)
    assert now >= NOW + ALERT_GRACE + RECHECK_PERIOD


def test_the_interval_between_comparisons_grows_after_the_grace() -> None:
    state, _ = count(on_statement(None, TOTAL, NOW), SHORT, NOW)
    assert state.check_at == NOW + RECHECK_INTERVAL
    state, _ = count(state, SHORT, NOW + ALERT_GRACE - MINUTE)
    assert state.check_at == NOW + ALERT_GRACE, "the alert is not late"
    state, alert = count(state, SHORT, NOW + ALERT_GRACE)
    assert alert is not None and state.check_at == NOW + ALERT_GRACE + LATE_RECHECK_INTERVAL


def test_the_grace_counts_from_the_end_of_an_interval_that_is_not_over() -> None:
    total = structs.replace(TOTAL, until=NOW + DAY)
    assert on_statement(None, total, NOW).alert_due_at == NOW + DAY + ALERT_GRACE


def test_events_that_arrive_within_the_grace_prevent_the_alert() -> None:
    state, _ = count(on_statement(None, TOTAL, NOW), SHORT, NOW)
    state, alert = count(state, STATED, NOW + 2 * ALERT_GRACE)
    assert (state.status, state.check_at, alert) == ("complete", None, None)


def test_events_that_arrive_after_the_alert_complete_the_control_total() -> None:
    state, alert = count(on_statement(None, TOTAL, NOW), SHORT, NOW + ALERT_GRACE)
    assert alert is not None
    state, again = count(state, STATED, NOW + 2 * ALERT_GRACE)
    assert (state.status, state.alerted_at, again) == ("complete", NOW + ALERT_GRACE, None)


def test_sending_the_same_again_is_compared_at_once_and_keeps_the_alert() -> None:
    state, alert = count(on_statement(None, TOTAL, NOW), SHORT, NOW + ALERT_GRACE)
    again = on_statement(state, TOTAL, NOW + DAY)
    assert again == structs.replace(state, check_at=NOW + DAY)
    assert alert is not None and count(again, SHORT, NOW + DAY)[1] is None


def test_other_values_for_the_interval_replace_it_and_have_an_alert_of_their_own() -> None:
    state, first = count(on_statement(None, TOTAL, NOW), SHORT, NOW + ALERT_GRACE)
    other = structs.replace(TOTAL, stated=EventTotals(9, {}))
    assert other.id == TOTAL.id
    state = on_statement(state, other, NOW + DAY)
    assert (state.status, state.alerted_at) == ("waiting", None)
    assert count(state, SHORT, NOW + DAY)[1] is None, "it has its own grace"
    second = count(state, SHORT, NOW + DAY + ALERT_GRACE)[1]
    assert first and second and first.id != second.id


def test_a_count_of_a_replaced_control_total_changes_nothing() -> None:
    state = on_statement(None, TOTAL, NOW)
    assert on_count(state, structs.replace(TOTAL, stated=EventTotals(9, {})), SHORT, NOW) == (state, None)


# -- messages

ALERT = CompletenessAlert("abc", structs.replace(TOTAL, source="S\u00fcd <b>\u2028"), SHORT, NOW + 5 * SECOND)


def test_the_headline_is_one_line_of_printable_ascii() -> None:
    assert headline(ALERT) == (
        "posting of S?d <b>? from 2026-03-02T00:00:00Z to 2026-03-03T00:00:00Z is not complete: "
        "events 3 sent, 2 here; JPY 7000 sent, 5000 here"
    )


def test_the_headline_has_the_first_differences_only() -> None:
    found = EventTotals(1, {code: Decimal(1) for code in ("AED", "CHF", "GBP", "USD")})
    assert headline(structs.replace(ALERT, found=found)).endswith(
        "events 3 sent, 1 here; AED 0.00 sent, 1.00 here; CHF 0.00 sent, 1.00 here; and 4 more"
    )


def test_the_summary_line_has_no_brackets_of_chat_services() -> None:
    line = summary_line(ALERT, "eu")
    assert line.startswith("warning: posting of S?d \u2039b\u203a? from ") and line.endswith("5000 here, cell eu")


def test_the_text_lists_every_difference() -> None:
    lines = text_body(ALERT, "eu").splitlines()
    assert lines[0] == headline(ALERT)
    assert lines[2] == "Source:        S\u00fcd <b> "
    assert "Events:        3 sent, 2 here" in lines and "JPY:           7000 sent, 5000 here" in lines
    assert lines[-1] == "Alert:         abc (messages with the same id are one alert)"


def test_the_json_body_names_the_interval_and_the_differences() -> None:
    body = json_body(ALERT, "eu")
    assert next(iter(body)) == "text" and body.pop("text") == summary_line(ALERT, "eu")
    assert body == {
        "id": "abc",
        "incident": "abc",
        "kind": "completeness",
        "source": "S\u00fcd <b>\u2028",
        "stage": "posting",
        "severity": "warning",
        "from": "2026-03-02T00:00:00Z",
        "to": "2026-03-03T00:00:00Z",
        "raised_at": "2026-03-03T06:00:05Z",
        "differences": [
            {"pointer": "/events", "expected": 3, "found": 2},
            {"pointer": "/amounts/JPY", "expected": "7000", "found": "5000"},
        ],
        "cell": "eu",
    }
