"""Which responses count as accepted. The benchmark's claim that no event was lost depends on it."""

import asyncio
from typing import cast

import pytest

from bench.cell import post
from bench.client import Connection
from bench.events import Event

ACCEPTED, REFUSED, UNAVAILABLE = b'{"status":"accepted"}', b'{"status":"refused"}', b'{"status":"unavailable"}'


class FakeConnection:
    def __init__(self, status: int, body: bytes) -> None:
        self._answer = status, body

    async def request(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        assert (method, path, body) == ("POST", "/invoices/ingestion/batch", b"{}")
        return self._answer


@pytest.mark.parametrize(
    ("status", "results", "counted"),
    [
        (207, [ACCEPTED, ACCEPTED], 207),
        (207, [ACCEPTED, REFUSED], 400),
        (207, [ACCEPTED, UNAVAILABLE], 503),
        (207, [b'{"status":"duplicate"}', ACCEPTED], 400),
        (429, [], 429),
        (503, [], 503),
    ],
)
def test_a_batch_counts_as_accepted_only_if_all_its_events_were(
    status: int, results: list[bytes], counted: int
) -> None:
    connection = cast(Connection, FakeConnection(status, b'{"results":[' + b",".join(results) + b"]}"))
    assert asyncio.run(post(connection, Event("ingestion/batch", "", "", b"{}", 2))) == counted
