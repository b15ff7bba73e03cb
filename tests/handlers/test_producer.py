"""The producer: API Gateway requests and the responses of the contract."""

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from bems.aws.messages import decode_message
from handlers import producer
from tests.aws.cloud import Cloud, event_body
from tests.aws.recorded_calls import Context, ServiceError
from tests.handlers.emf import read_output


def body(n: int = 1, **more: Any) -> dict[str, Any]:
    return {**event_body("INV/1", "posted", f"e{n}"), **more}


def content(answer: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer["body"])
    return found


def refusing(*ids: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Fake PutEvents that rejects these events."""

    def put(params: dict[str, Any]) -> dict[str, Any]:
        answers = []
        for entry in params["Entries"]:
            refused = json.loads(entry["Detail"])["event"]["event_id"] in ids
            answers.append({"ErrorCode": "InternalFailure"} if refused else {"EventId": "e"})
        return {"FailedEntryCount": len(ids), "Entries": answers}

    return put


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bems.aws.batching.time.sleep", lambda _: None)


def test_an_event_is_accepted_once_it_is_on_the_bus(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    answer = cloud.post("posting", body())
    assert answer["statusCode"] == 202
    assert content(answer) == {"event_id": "e1", "status": "accepted"}
    assert answer["headers"]["content-type"] == "application/json"
    (message,) = cloud.messages
    event = decode_message(message["body"], cloud.now)
    assert (event.event_id, event.stage, event.received_at) == ("e1", "posting", cloud.now)
    assert json.loads(message["body"])["detail"]["metadata"] == {
        "cell": "test",
        "region": "eu-west-1",
        "account": "123456789012",
        "received_at": "2026-03-02T09:00:00Z",
    }
    assert read_output(capsys).metrics == {("EventsAccepted", "test", "posting"): [1.0]}


@pytest.mark.parametrize("change", ["isBase64Encoded", "a resource with a parameter", "a header in another case"])
def test_other_forms_of_a_request_are_accepted(cloud: Cloud, change: str) -> None:
    forms: dict[str, dict[str, Any]] = {
        "isBase64Encoded": {"body": b64encode(json.dumps(body()).encode()).decode(), "isBase64Encoded": True},
        "a resource with a parameter": {"resource": "/invoices/{stage}", "pathParameters": {"stage": "posting"}},
        "a header in another case": {"headers": {"CONTENT-TYPE": "application/json; charset=utf-8"}},
    }
    assert cloud.post("posting", body(), more=forms[change])["statusCode"] == 202
    assert len(cloud.messages) == 1


def test_every_problem_is_reported_at_once(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    answer = cloud.post("posting", body(status="paid", amount="12,50"))
    assert (answer["statusCode"], answer["headers"]["content-type"]) == (400, "application/problem+json")
    assert {error["pointer"] for error in content(answer)["errors"]} == {"/status", "/amount"}
    assert not cloud.messages
    assert read_output(capsys).metrics == {("EventsRefused", "test", "posting"): [1.0]}


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"", 400), (b"{", 400), (b"\xed\xa0\x80", 400), (b'"' + b"x" * 70_000 + b'"', 413)],
)
def test_a_body_that_is_not_an_event_is_refused(cloud: Cloud, sent: bytes, status: int) -> None:
    more = {"body": b64encode(sent).decode(), "isBase64Encoded": True}
    assert cloud.post("posting", b"", more=more)["statusCode"] == status
    assert cloud.post("posting", b"", batch=True, more=more)["statusCode"] == (400 if status == 413 else status)


@pytest.mark.parametrize("sent", ["x", "e30", "e30=\n", "{}", "ü", "=", "\ud800"])
@pytest.mark.parametrize("batch", [True, False])
def test_invalid_base64_is_refused(cloud: Cloud, capsys: pytest.CaptureFixture[str], sent: str, batch: bool) -> None:
    answer = cloud.post("posting", b"", batch=batch, more={"body": sent, "isBase64Encoded": True})
    assert (answer["statusCode"], answer["headers"]["content-type"]) == (400, "application/problem+json")
    assert content(answer)["detail"] == "the body is not valid base64, although isBase64Encoded is true"
    assert read_output(capsys).metrics == {("EventsRefused", "test", "posting"): [1.0]}


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"body": None}, 400),
        ({"body": None, "isBase64Encoded": True}, 400),
        ({"isBase64Encoded": None}, 202),
        ({"headers": {"Content-Type": None}}, 415),
        ({"headers": None, "multiValueHeaders": {"Content-Type": ["application/json"]}}, 202),
        ({"headers": None, "multiValueHeaders": {"Content-Type": None}}, 415),
        ({"multiValueHeaders": {"content-type": ["text/csv", "application/json"]}}, 415),
        ({"resource": None}, 202),
        ({"resource": None, "path": None}, 404),
        ({"pathParameters": {"stage": None}, "resource": "/invoices/{stage}"}, 404),
        ({"httpMethod": None}, 405),
        ({"headers": []}, 400),
        ({"headers": {"content-type": 1}}, 400),
        ({"body": {}}, 400),
        ({"isBase64Encoded": "yes"}, 400),
        ({"pathParameters": "posting"}, 400),
    ],
)
def test_a_request_with_missing_fields_is_answered(cloud: Cloud, more: dict[str, Any], status: int) -> None:
    assert cloud.post("posting", body(), more=more)["statusCode"] == status


@pytest.mark.parametrize("headers", [None, {}, {"content-type": "text/xml"}, {"Content-Type": "application/xml"}])
def test_only_json_is_accepted(cloud: Cloud, headers: Any) -> None:
    answer = cloud.post("posting", body(), more={"headers": headers})
    assert (answer["statusCode"], answer["headers"]["accept"]) == (415, "application/json")


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_a_content_encoding_is_refused(cloud: Cloud, encoding: str) -> None:
    headers = {"content-type": "application/json", "Content-Encoding": encoding}
    answer = cloud.post("posting", body(), more={"headers": headers})
    assert (answer["statusCode"], answer["headers"]["accept-encoding"]) == (415, "identity")
    assert f'"{encoding}"' in content(answer)["detail"]
    plain = {"content-type": "application/json", "Content-Encoding": "identity"}
    assert cloud.post("posting", body(), more={"headers": plain})["statusCode"] == 202


def test_responses_are_not_cacheable(cloud: Cloud) -> None:
    answers = [cloud.post("posting", body()), cloud.post("posting", {}), cloud.post("posting", body(), batch=True)]
    assert {answer["headers"]["cache-control"] for answer in answers} == {"no-store"}


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"resource": "/invoices/payment"}, 404),
        ({"resource": "/invoices"}, 404),
        ({"resource": "/invoices/posting/batches"}, 404),
        ({"httpMethod": "GET"}, 405),
    ],
)
def test_other_routes_and_methods_are_refused(cloud: Cloud, more: dict[str, str], status: int) -> None:
    assert cloud.post("posting", body(), more=more)["statusCode"] == status
    assert cloud.aws.calls == []


def test_an_event_that_the_bus_rejects_is_answered_503(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.aws.fakes["PutEvents"] = refusing("e1")
    answer = cloud.post("posting", body())
    assert (answer["statusCode"], answer["headers"]["retry-after"]) == (503, "5")
    shown = read_output(capsys)
    assert shown.metrics == {("EventsUnpublished", "test", "posting"): [1.0]}
    (line,) = shown.logs
    assert (line["level"], line["event_id"], line["invoice_id"]) == ("ERROR", "e1", "INV/1")
    assert line["error_code"] == "InternalFailure"


def test_an_unavailable_bus_is_answered_503(cloud: Cloud) -> None:
    def put(_: dict[str, Any]) -> dict[str, Any]:
        raise ServiceError("ThrottlingException")

    cloud.aws.fakes["PutEvents"] = put
    assert cloud.post("posting", body())["statusCode"] == 503


def test_a_batch_is_answered_event_by_event_in_order(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    events = [body(1), body(2, amount="x"), body(3), body(4), {"event_id": "e5"}]
    cloud.aws.fakes["PutEvents"] = refusing("e3")
    answer = cloud.post("posting", {"events": events}, batch=True)
    assert answer["statusCode"] == 207
    results = content(answer)["results"]
    assert [(one["event_id"], one["status"], one["code"]) for one in results] == [
        ("e1", "accepted", 202),
        ("e2", "refused", 400),
        ("e3", "unavailable", 503),
        ("e4", "accepted", 202),
        ("e5", "refused", 400),
    ]
    assert read_output(capsys).metrics == {
        ("EventsAccepted", "test", "posting"): [2.0],
        ("EventsRefused", "test", "posting"): [2.0],
        ("EventsUnpublished", "test", "posting"): [1.0],
    }


def test_a_batch_of_100_is_published_in_calls_of_10(cloud: Cloud) -> None:
    answer = cloud.post("posting", {"events": [body(n) for n in range(100)]}, batch=True)
    assert {one["status"] for one in content(answer)["results"]} == {"accepted"}
    assert [len(call.params["Entries"]) for call in cloud.aws.calls] == [10] * 10
    assert len(cloud.messages) == 100


@pytest.mark.parametrize("sent", [{"events": []}, {"events": 1}, {}, [], {"events": [body()] * 101}])
def test_an_empty_or_too_large_batch_is_refused(cloud: Cloud, sent: Any) -> None:
    assert cloud.post("posting", sent, batch=True)["statusCode"] == 400
    assert not cloud.messages


def test_the_cells_batch_limit_is_enforced(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEMS_MAX_BATCH", "2")
    producer.dependencies.cache_clear()
    answers = [cloud.post("posting", {"events": [body(n) for n in range(count)]}, batch=True) for count in (2, 3)]
    producer.dependencies.cache_clear()
    assert [answer["statusCode"] for answer in answers] == [207, 400]
    assert content(answers[1])["errors"] == [
        {
            "pointer": "/events",
            "detail": "has 3 events, more than 2, the most that this cell takes: send less at once",
        }
    ]


def test_the_custom_bus_is_chosen_by_a_setting(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    arn = "arn:aws:events:eu-west-1:123456789012:event-busv2/bems-test/abcdefghijklmnopqrstuvwxy"
    monkeypatch.setenv("BEMS_BUS", "custom")
    monkeypatch.setenv("BEMS_BUS_NAME", arn)
    producer.dependencies.cache_clear()
    cloud.aws.fakes["PutEvents"] = lambda asked: {
        "FailedEntryCount": 0,
        "Entries": [{"EventId": "e", "SuccessCode": "PUBLISHED"} for _ in asked["Entries"]],
    }
    assert cloud.post("posting", body())["statusCode"] == 202
    producer.dependencies.cache_clear()
    (call,) = cloud.aws.calls
    assert call.params["EventBusArn"] == arn


def test_neither_keys_nor_payloads_are_logged(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    secret = {"attributes": {"memo": "between us"}}
    cloud.post("posting", body(1, **secret))
    cloud.post("posting", body(2, amount="between us", **secret))
    cloud.post("posting", {"events": [body(3, **secret), body(4, amount="between us")]}, batch=True)
    cloud.aws.fakes["PutEvents"] = refusing("e5")
    cloud.post("posting", body(5, **secret))
    shown = read_output(capsys)
    assert len(shown.logs) == 3
    assert "secret-key" not in shown.text
    assert "between us" not in shown.text


def test_a_missing_variable_is_named(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.delenv("BEMS_BUS_NAME")
    producer.dependencies.cache_clear()
    with pytest.raises(RuntimeError, match="BEMS_BUS_NAME"):
        producer.handler({}, Context())
