"""Which events count as refused: one table, tested on the API and the metric of both runtimes."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bems.tracker.cells import Limits
from tests.aws.cloud import open_cloud
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

Send = Callable[[Case], tuple[int, int, int]]
"""Send a case. Returns the status, and the numbers of events counted as refused and accepted."""


@contextmanager
def embedded(tmp_path: Path) -> Iterator[Send]:
    limits = Limits(UNLIMITED.key, UNLIMITED.stages, MAX_BATCH)
    with Cell(tmp_path / "cell", limits=limits) as cell:

        def counted() -> dict[str, int]:
            text = cell.ask("GET", "/metrics").body.decode()
            samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
            return {
                one.labels["result"]: int(one.value)
                for one in samples
                if one.name == "bems_events_total" and one.labels["stage"] == "posting"
            }

        def send(case: Case) -> tuple[int, int, int]:
            before = counted()
            path = f"/invoices/posting{'/batch' * case.is_batch}"
            reply = cell.ask("POST", path, case.body, "sender", content_type=case.content_type)
            after = counted()
            return reply.status, after["refused"] - before["refused"], after["accepted"] - before["accepted"]

        yield send


@contextmanager
def aws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Send]:
    with open_cloud(tmp_path, BEMS_MAX_BATCH=str(MAX_BATCH)) as cloud:

        def send(case: Case) -> tuple[int, int, int]:
            read_output(capsys)
            more = {
                "headers": {"Content-Type": case.content_type},
                "body": b64encode(case.body).decode(),
                "isBase64Encoded": True,
            }
            answer = cloud.post("posting", b"", batch=case.is_batch, more=more)
            metrics = read_output(capsys).metrics
            refused, accepted = (
                int(sum(metrics.get((name, "test", "posting"), []))) for name in ("EventsRefused", "EventsAccepted")
            )
            # Duplicates are detected after the bus, so the producer counts each event with the same id.
            return answer["statusCode"], refused, min(accepted, 1)

        yield send


@pytest.fixture(params=["embedded", "aws"])
def send(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Send]:
    with embedded(tmp_path) if request.param == "embedded" else aws(tmp_path, capsys) as send:
        yield send


@pytest.mark.parametrize("case", CASES, ids=[case.what for case in CASES])
def test_runtimes_count_refused_events_alike(send: Send, case: Case) -> None:
    assert send(case) == (case.status, case.refused, case.accepted)
