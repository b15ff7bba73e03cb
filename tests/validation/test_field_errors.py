import enum
from datetime import date, datetime
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from bems.tracker.contract import (
    EVENT_TYPES,
    Actor,
    AuthorizationEvent,
    Buyer,
    CashDiscount,
    PaymentBody,
    PaymentTerms,
    PostingEvent,
    Reason,
    Source,
    Vendor,
)
from bems.validation import field_errors
from bems.validation.field_errors import MAX_ERRORS, FieldError, append_pointer, validate
from tests.tracker.samples import VALID


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Circle(Struct, tag="circle", forbid_unknown_fields=True):
    radius: Annotated[float, Meta(gt=0, lt=100)]


class Square(Struct, tag="square"):
    side: Annotated[int, Meta(multiple_of=2)]


class Node(Struct):
    next: "Node | None" = None


class Everything(Struct, forbid_unknown_fields=True):
    shape: Circle | Square | None = None
    shapes: Annotated[list[Circle | Square], Meta(max_length=2)] = []
    color: Color = Color.RED
    day: date | None = None
    moment: datetime | None = None
    either: int | str | None = None
    number: int | float = 0
    mixed: Literal["a", 1, None] = None
    by_day: dict[date, int] = {}
    by_number: dict[int, bool] = {}
    pair: tuple[int, str] = (0, "")
    many: tuple[str, ...] = ()
    names: set[str] = set()
    anything: Any = None
    plain: Annotated[str, Meta(min_length=2)] = "ab"
    always: None = None


class Span(Struct):
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError("ends before it begins")


def kind(value: object) -> str:
    return type(value).__name__


def accepted(data: object, expected: Any) -> bool:
    try:
        msgspec.convert(data, expected)
    except msgspec.ValidationError:
        return False
    return True


def pointers(data: object, expected: Any) -> dict[str, str]:
    return {error.pointer: error.kind for error in validate(data, expected)}


def test_a_valid_value_has_no_errors() -> None:
    assert validate(VALID, AuthorizationEvent) == []


def test_all_errors_are_reported_at_once_with_their_pointers() -> None:
    data = {
        "event_id": "",
        "status": "approvd",
        "occurred_at": "2026-11-23T10:15:00",
        "amount": 12.5,
        "amout": 12,
        "currency": "eur",
        "vendor": {"id": "a b", "country": 3, "a/b~c": 1},
        "payment_terms": {"days": -1, "due_date": "2026-02-30"},
        "source": [],
        "attributes": {"": "x", "k": "\x00", "j": None},
    }
    assert pointers(data, AuthorizationEvent) == {
        "/event_id": "empty",
        "/invoice_id": "missing",
        "/status": "not a choice",
        "/occurred_at": "no offset",
        "/amount": "wrong type",
        "/amout": "unknown field",
        "/currency": "wrong form",
        "/vendor/id": "wrong form",
        "/vendor/country": "wrong type",
        "/vendor/a~1b~0c": "unknown field",
        "/payment_terms/days": "too small",
        "/payment_terms/due_date": "wrong form",
        "/source": "wrong type",
        "/attributes/": "empty",
        "/attributes/k": "wrong form",
        "/attributes/j": "wrong type",
    }


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"status": "approvd"}, '"approvd" is not one of "approved", "rejected"; did you mean "approved"?'),
        (
            {"amount": 1250.0},
            '1250.0 is a number, not a string: use a decimal in a string, such as "1250.00"; '
            "negative for credit notes; at most 18 digits",
        ),
        ({"currency": None}, "null is not a string: use an ISO 4217 code, such as EUR"),
        (
            {"occurred_at": "2026-11-23T10:15:00"},
            '"2026-11-23T10:15:00" has no offset: use RFC 3339 with offset, such as 2026-11-23T10:15:00Z',
        ),
        ({"payment_terms": {"days": True}}, "true is a boolean, not a whole number"),
        ({"payment_terms": {"days": 1.5}}, "1.5 is not a whole number: use 0 to 3650 days until payment"),
        ({"payment_terms": {"due_date": "2026-02-30"}}, '"2026-02-30" is not a date: use YYYY-MM-DD'),
        (
            {"payment_terms": {"cash_discounts": [{"percent": "100", "days": 14}]}},
            '"100" does not have the right form: use a percentage below 100 in a string, such as "2.5"',
        ),
        (
            {"actor": {"id": "kim", "kind": "human"}},
            '"human" is not one of "person", "system"',
        ),
        ({"purchase_orders": ["1"] * 21}, "has 21 items, more than 20: use up to 20 order numbers"),
        ({"issue_date": "20 Nov 2026"}, '"20 Nov 2026" is not a date: use YYYY-MM-DD'),
        ({"vendr": {}}, '"vendr" is not a field here: did you mean "vendor"?'),
        ({"source": {"system": "x" * 65}}, "has 65 characters, more than 64: use 1 to 64 characters"),
        ({"attributes": {str(n): "" for n in range(33)}}, "has 33 entries, more than 32"),
        ({"attributes": []}, "a list is not an object"),
    ],
)
def test_a_detail_says_what_is_wrong_and_how_to_fix_it(change: dict[str, Any], detail: str) -> None:
    (error,) = validate(VALID | change, AuthorizationEvent)
    assert detail in error.detail


def test_the_error_of_a_missing_field_describes_its_value() -> None:
    data = {name: value for name, value in VALID.items() if name != "vendor"}
    assert validate(data, AuthorizationEvent) == [
        FieldError("/vendor", '"vendor" is missing: use an object with "id"', "missing")
    ]


@pytest.mark.parametrize(
    "data", [None, 1, "x", [], True, 1.5, 10**6000, float("nan"), date(2026, 1, 1), object()], ids=kind
)
def test_a_value_that_is_not_an_object_has_one_error_at_the_root(data: object) -> None:
    assert pointers(data, AuthorizationEvent) == {"": "wrong type"}


@pytest.mark.parametrize(
    "text", ["x" * 10**6, "\ud800" * 1000, "\x00\n\u2028", 10**6000, -(10**6000), {"a": 1}, [0] * 10**5], ids=kind
)
def test_values_in_details_are_short_and_printable(text: object) -> None:
    for error in validate({"event_id": text, "vendor": {"id": "x", "name": text}}, AuthorizationEvent):
        assert len(error.detail) < 300
        assert error.detail.encode().decode().isprintable()


def test_pointers_of_long_or_invalid_names_are_short_and_encodable() -> None:
    data = VALID | {"x" * 10**6: 1, "\ud800": 2, 3: 4, None: 5}
    found = validate(data, AuthorizationEvent)
    assert len(found) == 4
    assert all(len(error.pointer) < 140 and error.pointer.encode() for error in found)


def test_a_lone_surrogate_is_an_error_although_msgspec_accepts_it() -> None:
    assert pointers({"system": "\ud800"}, Source) == {"/system": "not text"}
    assert pointers({"days": 1, "due_date": "\ud800"}, PaymentTerms) == {"/due_date": "not text"}
    assert pointers({"side": 2, "\ud800": 1}, Square) == {"/\\ud800": "unknown field"}
    assert pointers({"mixed": "\udfff"}, Everything) == {"/mixed": "not a choice"}


def test_the_number_of_errors_is_bounded() -> None:
    data = VALID | {f"amount{n}": n for n in range(10_000)}
    assert len(validate(data, AuthorizationEvent)) == MAX_ERRORS


def test_the_depth_is_bounded() -> None:
    data: dict[str, Any] = {}
    for _ in range(1000):
        data = {"next": data}
    (error,) = validate(data, Node)
    assert error.kind == "nested too deep"
    data["next"] = data
    assert len(validate(data, Node)) == 1


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"shape": {"radius": 1}}, {"/shape/type": "missing"}),
        ({"shape": {"type": "cirle", "radius": 1}}, {"/shape/type": "not a choice"}),
        ({"shape": {"type": "circle", "radius": 0}}, {"/shape/radius": "too small"}),
        ({"shape": {"type": "circle", "radius": 100}}, {"/shape/radius": "too large"}),
        ({"shape": {"type": "square", "side": 3, "more": 1}}, {"/shape/side": "not a multiple"}),
        ({"shapes": [{"type": "square"}, 1, 2]}, {"/shapes": "too many", "/shapes/0/side": "missing"}),
        ({"color": "blu"}, {"/color": "not a choice"}),
        ({"either": 1.5}, {"/either": "wrong type"}),
        ({"number": "1"}, {"/number": "wrong type"}),
        ({"mixed": True}, {"/mixed": "not a choice"}),
        ({"day": "x", "moment": "2026-01-01"}, {"/day": "wrong form", "/moment": "wrong form"}),
        ({"by_day": {"2026-13-01": "x"}}, {"/by_day/2026-13-01": "wrong type"}),
        ({"pair": [1]}, {"/pair": "not valid"}),
        ({"plain": "a", "always": 0}, {"/plain": "too short", "/always": "wrong type"}),
    ],
)
def test_other_types(data: dict[str, Any], expected: dict[str, str]) -> None:
    assert not accepted(data, Everything)
    assert expected.items() <= pointers(data, Everything).items()


def test_an_error_of_post_init_is_reported_with_others() -> None:
    assert pointers([{"first": 2, "last": 1}, {"first": "x", "last": 1}], list[Span]) == {
        "/0": "not valid",
        "/1/first": "wrong type",
    }


def test_optional_and_plain_types() -> None:
    assert validate(None, int | None) == []
    assert validate("x", int | None)[0].pointer == ""
    assert validate({"a": [1]}, dict[str, list[int]]) == []
    assert pointers({"a": [1, "x"]}, dict[str, list[int]]) == {"/a/1": "wrong type"}


def test_append_pointer_escapes_the_name() -> None:
    assert append_pointer("/a", "b/c~d") == "/a/b~1c~0d"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


NESTED: dict[str, type[Struct]] = {
    "vendor": Vendor,
    "source": Source,
    "payment_terms": PaymentTerms,
    "buyer": Buyer,
    "actor": Actor,
    "reason": Reason,
    "payment": PaymentBody,
}


def objects(of: type[Struct], invalid: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Generate objects with the struct's fields, each valid, invalid or absent, and perhaps an unknown field."""
    likely = {
        "event_id": st.sampled_from(["e", "", "a b", "e\n", "é", "x" * 129]),
        "id": st.sampled_from(["V-1", "", "\u0661"]),
        "status": st.sampled_from(["approved", "matched", "received", "posted", "Approved"]),
        "occurred_at": st.sampled_from(
            ["2026-11-23T10:15:00Z", "2026-11-23T10:15:00", "2026-11-23", "0001-01-01T00:00:00+23:59", "x"]
        ),
        "amount": st.sampled_from(["1.00", "-0", "1e5", "٣", "1.", "+1", "1\n", 1, 1.5, "0" * 19]),
        "currency": st.sampled_from(["EUR", "eur", "EUR\n", "XXX"]),
        "country": st.sampled_from(["DE", "de", None, "DE\n"]),
        "days": st.sampled_from([0, 3650, 3651, -1, 1.0, True, None, 2**70, "1"]),
        "percent": st.sampled_from(["2.5", "100", "2.", "٣", 2.5]),
        "kind": st.sampled_from(["person", "robot", None]),
        "code": st.sampled_from(["QUA", "", "x" * 65, 1]),
        "text": st.sampled_from(["broken", "", "x" * 1025, None]),
        "purchase_orders": st.sampled_from([[], ["1"], ["1", ""], ["1"] * 21, "1", None]),
        "attributes": st.dictionaries(st.sampled_from(["", "a", "b\x00", "c"]), st.sampled_from(["", "x", None, "\n"])),
        "shape": st.sampled_from([None, {"type": "circle", "radius": 1}, {"type": "square", "side": 1}, {"radius": 1}]),
        "by_day": st.dictionaries(st.sampled_from(["2026-01-01", "x"]), st.sampled_from([1, "x"])),
        "by_number": st.dictionaries(st.sampled_from([1, "1"]), st.booleans()),
        "pair": st.sampled_from([[1, "x"], [1], ["x", 1], (1, "x"), [1, "x", 2]]),
        "mixed": st.sampled_from(["a", 1, True, 1.0, None, "b"]),
        "color": st.sampled_from(["red", "RED", 1]),
        "many": st.sampled_from([["a"], [1], ("a",)]),
        "moment": st.sampled_from(["2026-11-23T10:15:00Z", "2026-11-23T10:15:00", datetime(2026, 1, 1)]),
    }
    dates = st.sampled_from(["2026-12-23", "2026-2-3", "2026-02-30", None, date(2026, 1, 1)])
    likely |= dict.fromkeys(("due_date", "baseline_date", "issue_date", "paid_on"), dates)
    likely["discount_taken"] = likely["amount"] | st.none()
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for name in of.__struct_fields__:
        usual: st.SearchStrategy[Any]
        if name == "cash_discounts":
            usual = st.lists(objects(CashDiscount, invalid), max_size=4)
        elif name in NESTED:
            usual = objects(NESTED[name], invalid)
        else:
            usual = likely.get(name, st.just(VALID.get(name, "x")))
        fields[name] = usual | usual | usual | invalid
    fields["unknown"] = invalid
    return st.fixed_dictionaries({}, optional=fields)


@pytest.mark.parametrize("expected", [*EVENT_TYPES.values(), *NESTED.values(), CashDiscount, Everything])
def test_validate_agrees_with_msgspec(expected: type[Struct]) -> None:
    mutated = st.builds(lambda change: VALID | change, objects(expected, JSON))

    @settings(max_examples=150, derandomize=True, deadline=None, database=None)
    @given(objects(expected, JSON) | mutated)
    def agree(data: dict[str, Any]) -> None:
        assert (validate(data, expected) == []) is accepted(data, expected)

    agree()


def test_validate_agrees_with_msgspec_on_the_contract_without_its_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field_errors, "_msgspec_error", lambda *_: None)

    @settings(max_examples=400, derandomize=True, deadline=None, database=None)
    @given(st.sampled_from([AuthorizationEvent, PostingEvent]), st.data())
    def agree(expected: type[Struct], draw: st.DataObject) -> None:
        changes = objects(expected, JSON)
        data = draw.draw(changes.map(lambda change: VALID | change) | changes)
        assert (validate(data, expected) == []) is accepted(data, expected)

    agree()
