import json
from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft4Validator, Draft202012Validator

from bems.tracker import responses
from bems.tracker.contract import STAGES, STATUSES, SUCCESS_STATUS, Event, Stage
from bems.tracker.instants import parse
from bems.tracker.parsing import InvalidEvent, parse_event
from bems.tracker.schemas import batch_name, components, event_name, gateway_models
from tests.tracker.event_bodies import OPTIONAL_FIELDS, PAYMENT, event_bodies
from tests.tracker.samples import VALID

NOW = parse("2026-11-23T10:16:00Z")
TEMPLATE = "#/$defs/{name}"

FULL: dict[str, Any] = {name: value for name, value in VALID.items() if name != "status"}
FULL |= OPTIONAL_FIELDS
OPTIONAL = ("payment_terms", "attributes", *OPTIONAL_FIELDS)
ACCEPTED: list[dict[str, Any]] = [
    FULL,
    {name: FULL[name] for name in FULL if name not in OPTIONAL},
    FULL | {name: type(FULL[name])() if name in ("attributes", "purchase_orders") else None for name in OPTIONAL},
    FULL | {"buyer": {"id": "1000", "name": None}, "reason": {"code": "our own code", "text": None}},
    FULL | {"payment_terms": {"baseline_date": "2026-11-21", "cash_discounts": [{"percent": "2.5", "days": 14}] * 3}},
    FULL | {"purchase_orders": ["4500012345"] * 20, "actor": {"id": "3-way match", "kind": "system"}},
    FULL | {"payment_terms": {"days": None, "due_date": None}},
    FULL | {"amount": "-0.5", "vendor": {"id": "V", "name": "Ä 😀" * 50, "tier": None}},
    FULL | {"attributes": {f"n{n}": "ü" * 20 for n in range(32)}},
    FULL | {"occurred_at": "2026-11-23 10:15:00.123456789+05:45"},
]
WRONG: list[dict[str, Any]] = [
    {},
    {name: FULL[name] for name in FULL if name != "vendor"},
    FULL | {"amount": 1250.0},
    FULL | {"status": "paid"},
    FULL | {"more": 1},
    FULL | {"vendor": {"id": "V", "more": 1}},
    FULL | {"vendor": "V-42"},
    FULL | {"payment_terms": {"days": "30"}},
    FULL | {"attributes": {"po": 4500012345}},
    FULL | {"source": {}},
    FULL | {"number": 815},
    FULL | {"issue_date": 20261120},
    FULL | {"buyer": {"name": "Acme Nederland BV"}},
    FULL | {"purchase_orders": "4500012345"},
    FULL | {"purchase_orders": [4500012345]},
    FULL | {"purchase_orders": None},
    FULL | {"actor": {"id": "kim@example.com"}},
    FULL | {"actor": {"id": "kim@example.com", "kind": "robot"}},
    FULL | {"reason": {"text": "two of ten are broken"}},
    FULL | {"reason": {"code": "QUA", "more": 1}},
    FULL | {"payment_terms": {"cash_discounts": [{"percent": "2.5"}]}},
    FULL | {"payment_terms": {"cash_discounts": [{"percent": 2.5, "days": 14}]}},
    FULL | {"payment_terms": {"cash_discounts": {"percent": "2.5", "days": 14}}},
]
ONLY_WHOLE_SCHEMA_REFUSES: list[dict[str, Any]] = [
    FULL | {"event_id": "a b"},
    FULL | {"currency": "eur"},
    FULL | {"amount": "1e5"},
    FULL | {"payment_terms": {"days": 3651}},
    FULL | {"attributes": {f"n{n}": "" for n in range(33)}},
    FULL | {"number": ""},
    FULL | {"buyer": {"id": "a b"}},
    FULL | {"purchase_orders": ["4500012345"] * 21},
    FULL | {"reason": {"code": "x" * 65}},
    FULL | {"payment_terms": {"cash_discounts": [{"percent": "100", "days": 14}]}},
    FULL | {"payment_terms": {"cash_discounts": [{"percent": "2.5", "days": 14}] * 4}},
]


GATEWAY_VALIDATORS = {stage: Draft4Validator(gateway_models()[event_name(stage)]) for stage in STAGES}


def with_status(stage: Stage, event: dict[str, Any]) -> dict[str, Any]:
    return {"status": SUCCESS_STATUS[stage]} | event


def whole(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": TEMPLATE.format(name=name), "$defs": components(TEMPLATE)})


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", range(len(ACCEPTED)))
def test_schemas_accept_what_the_parser_accepts(stage: Stage, number: int) -> None:
    event = with_status(stage, ACCEPTED[number])
    assert not isinstance(parse_event(stage, json.dumps(event).encode(), NOW), InvalidEvent)
    whole(event_name(stage)).validate(event)
    whole(batch_name(stage)).validate({"events": [event]})
    Draft4Validator(gateway_models()[event_name(stage)]).validate(event)
    Draft4Validator(gateway_models()[batch_name(stage)]).validate({"events": [event]})


@pytest.mark.parametrize("event", WRONG, ids=range(len(WRONG)))
@pytest.mark.parametrize("stage", STAGES)
def test_obvious_errors_are_refused_by_parser_and_schemas(stage: Stage, event: dict[str, Any]) -> None:
    event = with_status(stage, event)
    assert isinstance(parse_event(stage, json.dumps(event).encode(), NOW), InvalidEvent)
    assert not whole(event_name(stage)).is_valid(event)
    assert not Draft4Validator(gateway_models()[event_name(stage)]).is_valid(event)


@pytest.mark.parametrize(
    ("stage", "payment", "expected"),
    [
        ("posting", PAYMENT, True),
        ("posting", PAYMENT | {"discount_taken": None}, True),
        ("posting", None, True),
        ("posting", {"paid_on": "2026-12-20"}, False),
        ("posting", PAYMENT | {"amount": 1218.75}, False),
        ("posting", PAYMENT | {"more": 1}, False),
        ("authorization", PAYMENT, False),
        ("authorization", None, False),
    ],
)
def test_only_a_posting_has_a_payment(stage: Stage, payment: Any, expected: bool) -> None:
    event = with_status(stage, FULL | {"payment": payment})
    assert isinstance(parse_event(stage, json.dumps(event).encode(), NOW), InvalidEvent) is not expected
    assert whole(event_name(stage)).is_valid(event) is expected
    assert Draft4Validator(gateway_models()[event_name(stage)]).is_valid(event) is expected


@pytest.mark.parametrize("stage", STAGES)
def test_schemas_have_every_outcome(stage: Stage) -> None:
    for status in {status for statuses in STATUSES.values() for status in statuses}:
        expected = status in STATUSES[stage]
        event = FULL | {"status": status}
        assert isinstance(parse_event(stage, json.dumps(event).encode(), NOW), InvalidEvent) is not expected
        assert whole(event_name(stage)).is_valid(event) is expected
        assert Draft4Validator(gateway_models()[event_name(stage)]).is_valid(event) is expected


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(event_bodies())
def test_parser_and_schemas_accept_every_valid_event(drawn: tuple[Stage, dict[str, Any]]) -> None:
    stage, event = drawn
    assert isinstance(parse_event(stage, json.dumps(event).encode(), NOW), Event)
    whole(event_name(stage)).validate(event)
    GATEWAY_VALIDATORS[stage].validate(event)


@pytest.mark.parametrize("event", ONLY_WHOLE_SCHEMA_REFUSES, ids=range(len(ONLY_WHOLE_SCHEMA_REFUSES)))
def test_gateway_models_leave_details_to_the_parser(event: dict[str, Any]) -> None:
    event = with_status("posting", event)
    assert isinstance(parse_event("posting", json.dumps(event).encode(), NOW), InvalidEvent)
    assert not whole("PostingEvent").is_valid(event)
    assert Draft4Validator(gateway_models()["PostingEvent"]).is_valid(event)


@pytest.mark.parametrize("body", [{}, [], {"events": []}, {"events": {}}, {"events": [{}], "x": 1}])
def test_both_schemas_refuse_an_invalid_batch(body: Any) -> None:
    assert not whole("IngestionBatch").is_valid(body)
    assert not Draft4Validator(gateway_models()["IngestionBatch"]).is_valid(body)


def test_gateway_models_leave_the_number_of_events_to_the_parser() -> None:
    body: dict[str, Any] = {"events": [{}] * 101}
    assert not whole("IngestionBatch").is_valid(body)
    Draft4Validator(gateway_models()["IngestionBatch"]).validate(body)


def test_one_invalid_event_does_not_make_the_gateway_refuse_its_batch() -> None:
    Draft4Validator(gateway_models()["IngestionBatch"]).validate({"events": [{"amount": 1}, None]})


@pytest.mark.parametrize("name", sorted(gateway_models()))
def test_gateway_models_are_draft_04_without_references(name: str) -> None:
    model = gateway_models()[name]
    Draft4Validator.check_schema(model)
    text = json.dumps(model)
    for newer in (
        '"$ref"',
        '"$defs"',
        '"const"',
        '"examples"',
        '"propertyNames"',
        '"format"',
        '"default"',
        '"pattern"',
    ):
        assert newer not in text


def test_there_is_a_model_and_a_component_for_each_endpoint() -> None:
    names = {f"{stage.capitalize()}{kind}" for stage in STAGES for kind in ("Event", "Batch")}
    assert gateway_models().keys() == names
    assert names < components().keys()


def test_components_are_valid_and_their_references_resolve() -> None:
    for name, schema in components().items():
        Draft202012Validator.check_schema(schema)
        for reference in json.dumps(schema).split('"$ref": "')[1:]:
            assert reference.partition('"')[0].removeprefix("#/components/schemas/") in components(), name


def test_responses_match_their_schemas() -> None:
    invalid = parse_event("ingestion", b"{}", NOW)
    assert isinstance(invalid, InvalidEvent)
    whole("EventAccepted").validate(json.loads(responses.accepted("e").body))
    whole("Problem").validate(json.loads(responses.bad_request(invalid).body))
    results = [responses.event_result("e", "conflict"), responses.invalid_event_result(invalid)]
    whole("BatchResults").validate(json.loads(responses.batch_results(results).body))
