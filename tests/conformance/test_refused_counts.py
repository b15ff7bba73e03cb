"""Clauses about requests that are refused: which events count as refused, in one table, and what is answered."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bems.tracker.cells import Limits
from handlers import producer
from tests.aws.cloud import Cloud
from tests.conformance.runtime import Reply, as_answered_on_aws
from tests.embedded.api.calls import UNLIMITED, Cell, event_body
from tests.handlers.emf import read_output

MAX_BATCH = 5
_EVENT = json.dumps(event_body("posting", event_id="e1")).encode()
_WRONG = json.dumps(event_body("posting", event_id="e2", amount="x", currency="EURO")).encode()
_OVERSIZED = b'{"x": "' + b"x" * 70_000 + b'"}'


def batch_of(*events: bytes) -> bytes:
    return b'{"events": [' + b", ".join(events) + b"]}"


class Case(NamedTuple):
    """A request, its status, and the numbers of events that count as refused and accepted."""

    what: str
    body: bytes
    status: int
    refused: int
    accepted: int = 0
    is_batch: bool = False
    content_type: str = "application/json"


CASES = (
    Case("an event", _EVENT, 202, 0, 1),
    Case("an event with several faults", _WRONG, 400, 1),
    Case("no JSON", b"{", 400, 1),
    Case("no body", b"", 400, 1),
    Case("an event that is too large", _OVERSIZED, 413, 1),
    Case("an event of another type", _EVENT, 415, 1, content_type="text/csv"),
    Case("a batch", batch_of(_EVENT), 207, 0, 1, is_batch=True),
    Case("a batch with 2 wrong of 4", batch_of(_WRONG, _EVENT, b"null", _EVENT), 207, 2, 1, is_batch=True),
    Case("a batch of wrong events alone", batch_of(_WRONG, _WRONG), 207, 2, is_batch=True),
    Case("a batch with an event that is too large", batch_of(_OVERSIZED), 207, 1, is_batch=True),
    Case("a batch that is no JSON", b'{"events": [', 400, 1, is_batch=True),
    Case("a batch that is none", _EVENT, 400, 1, is_batch=True),
    Case("a batch of none", batch_of(), 400, 1, is_batch=True),
    Case("a batch of too many", batch_of(*[_EVENT] * (MAX_BATCH + 1)), 400, 1, is_batch=True),
    Case("a batch of too many for any cell", batch_of(*[b"1"] * 200), 400, 1, is_batch=True),
    Case("a batch that is too large", b" " * (2 << 20) + batch_of(_EVENT), 413, 1, is_batch=True),
    Case("a batch of another type", batch_of(_EVENT), 415, 1, is_batch=True, content_type="application/xml"),
)


class Result(NamedTuple):
    """The answer to a case, and the numbers of events counted as refused and accepted."""

    reply: Reply
    refused: int
    accepted: int


Send = Callable[[Case], Result]


def body_of(case: Case) -> bytes:
    """Return the body with an event id that no other case uses."""
    return case.body.replace(b'"e1"', b'"e1-%d"' % CASES.index(case))


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    limits = Limits(UNLIMITED.key, UNLIMITED.stages, MAX_BATCH)
    with Cell(tmp_path_factory.mktemp("cell"), limits=limits) as cell:
        yield cell


@pytest.fixture
def send_to_embedded(cell: Cell) -> Send:
    def counted() -> dict[str, int]:
        text = cell.ask("GET", "/metrics").body.decode()
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        return {
            one.labels["result"]: int(one.value)
            for one in samples
            if one.name == "bems_events_total" and one.labels["stage"] == "posting"
        }

    def send(case: Case) -> Result:
        before = counted()
        path = f"/invoices/posting{'/batch' * case.is_batch}"
        reply = cell.ask("POST", path, body_of(case), "sender", content_type=case.content_type)
        after = counted()
        refused, accepted = (after[result] - before[result] for result in ("refused", "accepted"))
        return Result(Reply(reply.status, reply.content), refused, accepted)

    return send


@pytest.fixture
def send_to_aws(cloud: Cloud, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Send]:
    monkeypatch.setenv("BEMS_MAX_BATCH", str(MAX_BATCH))
    producer.dependencies.cache_clear()

    def send(case: Case) -> Result:
        read_output(capsys)
        more = {
            "headers": {"Content-Type": case.content_type},
            "body": b64encode(body_of(case)).decode(),
            "isBase64Encoded": True,
        }
        answer = cloud.post("posting", b"", batch=case.is_batch, more=more)
        metrics = read_output(capsys).metrics
        refused, accepted = (
            int(sum(metrics.get((name, "test", "posting"), []))) for name in ("EventsRefused", "EventsAccepted")
        )
        # Duplicates are detected after the bus, so the producer counts each event with the same id.
        return Result(Reply(answer["statusCode"], json.loads(answer["body"])), refused, min(accepted, 1))

    yield send
    producer.dependencies.cache_clear()


@pytest.mark.parametrize("case", CASES, ids=[case.what for case in CASES])
def test_events_are_refused_and_counted_alike(case: Case, send_to_embedded: Send, send_to_aws: Send) -> None:
    expected = (case.status, case.refused, case.accepted)
    embedded, aws = send_to_embedded(case), send_to_aws(case)
    assert (embedded.reply.status, embedded.refused, embedded.accepted) == expected
    assert (aws.reply.status, aws.refused, aws.accepted) == expected
    # The embedded cell does not read a body that is too large to its end, so it cannot say how large it is.
    if case.status != 413:
        assert as_answered_on_aws(embedded.reply, body_of(case)) == aws.reply
