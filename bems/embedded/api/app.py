"""The application: every path of the API, as ASGI. What sends events goes straight to the intake."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import apsw
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from bems.embedded.api import views
from bems.embedded.api.access import VIEWERS, Access, find_key
from bems.embedded.api.bodies import (
    ClientDisconnected,
    UnfinishedBodies,
    read_body,
    read_headers,
    send_response,
    with_connection_close,
)
from bems.embedded.api.cell_context import CellContext
from bems.embedded.api.event_endpoint import PATHS, EventEndpoint
from bems.embedded.api.http_protocol import CONNECTION
from bems.embedded.api.metrics import CONTENT_TYPE, Metrics
from bems.embedded.api.openapi import document
from bems.embedded.api.operations import OPERATIONS, ApiRequest, Operation
from bems.embedded.api.queries import NoQuery, read_query
from bems.embedded.api.writer_bridge import WriterBridge
from bems.embedded.auth.keys import Key
from bems.embedded.storage.errors import QueueFull, StoreFailed, StoreLost
from bems.embedded.storage.reader import Counts, Total
from bems.embedded.storage.reader_pool import KeyBusy, QueryDropped
from bems.embedded.writer import Stopped
from bems.tracker import responses
from bems.tracker.contract import STAGES
from bems.tracker.instants import render
from bems.tracker.parsing import InvalidEvent
from bems.tracker.requests import MAX_REQUEST_BYTES
from bems.tracker.responses import HttpResponse
from bems.validation.error_messages import format_value

log = logging.getLogger(__name__)

Gauge = tuple[str, str, dict[str, str], float]


class Api:
    """The API over a running cell's parts. It is made in the event loop that it serves in."""

    def __init__(self, parts: CellContext) -> None:
        self._parts = parts
        self._access = Access(parts.keys, parts.limits)
        self._metrics = Metrics()
        self._landing = WriterBridge(parts.writer, asyncio.get_running_loop())
        self._unfinished = UnfinishedBodies()
        self._intake = EventEndpoint(
            self._landing, parts.clock, self._access, self._metrics, parts.limits.max_batch, self._unfinished
        )
        self._document = msgspec.json.encode(document())
        self._paths: dict[str, list[Operation]] = {}
        for operation in OPERATIONS:
            self._paths.setdefault(operation.path, []).append(operation)
        own = {"/healthz": self._health, "/openapi.json": self._openapi, "/metrics": self._write_metrics}
        routes = [Route(path, self._handle_errors(endpoint), methods=["GET"]) for path, endpoint in own.items()]
        # Those with a target last: `/invoices/{target}` takes whatever begins with `/invoices/`.
        for path in sorted(self._paths, key=lambda path: "{" in path):
            methods = [operation.method for operation in self._paths[path]]
            route = path.replace("{target}", "{target:path}")
            routes.append(Route(route, self._handle_errors(self._operate(self._paths[path])), methods=methods))
        self._starlette = Starlette(routes=routes, exception_handlers={HTTPException: self._no_route})
        self._starlette.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An HTTP request."""
        if scope["type"] != "http":
            return
        if scope["method"] == "POST" and scope["path"] in PATHS:
            await self._intake(scope, receive, send)
        elif "\n" in scope["path"]:
            # Starlette's patterns would overlook one at the end.
            self._metrics.answered(scope["method"], 404)
            await send_response(send, _nothing_at(scope["path"]))
        else:
            await self._starlette(scope, receive, send)

    def _handle_errors(self, endpoint: Any) -> Callable[[Request], Any]:
        """An endpoint whose failures are answered, and which is counted."""

        async def answered(request: Request) -> Response:
            connection = request.scope[CONNECTION]
            if request.method in ("GET", "HEAD"):
                # What only looks is given up where nobody is left who waits for it; what acts is done to its end.
                connection.question = asyncio.current_task()
            try:
                answer = await endpoint(request)
            except ClientDisconnected:
                answer = responses.timed_out()
            except QueueFull:
                answer = responses.unavailable(1)
            except KeyBusy as busy:
                answer = responses.too_many_requests(1, str(busy))
            except QueryDropped:
                answer = responses.forbidden()
            except asyncio.CancelledError:
                # The server ends, and this took too long; or whoever asked has hung up.
                answer = with_connection_close(responses.unavailable())
            except (Stopped, StoreFailed, apsw.Error) as error:
                log.error("%s %s could not be answered: %s", request.method, format_value(request.scope["path"]), error)
                answer = responses.unavailable(why=str(error) if isinstance(error, StoreLost) else "")
            except Exception:
                log.exception("%s %s failed", request.method, format_value(request.scope["path"]))
                answer = responses.internal_error()
            finally:
                connection.question = None
            return self._response(request.method, answer)

        return answered

    def _response(self, method: str, answer: HttpResponse) -> Response:
        self._metrics.answered(method, answer.status)
        return Response(answer.body, answer.status, answer.headers)

    async def _no_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.scope["path"]
        if error.status_code != 405:
            return self._response(request.method, _nothing_at(path))
        allowed = {*(error.headers or {}).get("Allow", "").split(", ")} - {""}
        first, _, rest = path.removeprefix("/").partition("/")
        if first == "invoices" and request.method == "POST" and rest:
            stages = ", ".join(STAGES)
            detail = f"there is no stage {format_value(rest)}: events are sent to /invoices/ and one of {stages}"
            return self._response(request.method, responses.not_found(detail))
        allowed |= {"POST"} if path in PATHS else set()
        return self._response(request.method, responses.method_not_allowed(sorted(allowed)))

    def _operate(self, operations: list[Operation]) -> Callable[[Request], Any]:
        by_method = {operation.method: operation for operation in operations}

        async def operate(request: Request) -> HttpResponse:
            method = "GET" if request.method == "HEAD" else request.method
            return await self._answer(by_method[method], request)

        return operate

    async def _answer(self, operation: Operation, request: Request) -> HttpResponse:
        headers = read_headers(request.scope["headers"])
        key = self._access.authorize(find_key(headers), operation.allowed_roles)
        if isinstance(key, HttpResponse):
            return key
        query: Any = read_query(request.scope["query_string"], operation.query)
        if isinstance(query, InvalidEvent):
            return responses.bad_request(query)
        body = b""
        if operation.body is not None:
            content_type = headers.get(b"content-type", b"").decode("latin-1")
            if not responses.is_json(content_type):
                return responses.unsupported_media_type(content_type)
            read = await read_body(headers, request.receive, MAX_REQUEST_BYTES, self._unfinished, key)
            if isinstance(read, HttpResponse):
                return read
            body = read
        target = request.path_params.get("target", "")
        answer = await operation.handler(ApiRequest(self._parts, self._landing, key, query, target, body))
        if operation.method == "GET" and not self._access.is_in_force(key):
            # It was revoked while this was looked up.
            return responses.forbidden()
        return answer

    async def _health(self, request: Request) -> HttpResponse:
        """Why something fails tells of addresses and files: that is for those with a key."""
        told = find_key(read_headers(request.scope["headers"])) is not None and isinstance(self._admit(request), Key)

        def state(failing: str | None) -> str:
            return "ok" if not failing else failing if told else "failing"

        parts, failing = self._parts, self._parts.writer.failure
        health = views.Health(
            "failing" if failing else "ok",
            parts.name,
            render(parts.clock.now()),
            state(failing),
            state(parts.analytics.failure),
            state(parts.deliveries.failure),
        )
        answer = responses.json_response(503 if failing else 200, health)
        return HttpResponse(503, {**answer.headers, "retry-after": "5"}, answer.body) if failing else answer

    def _admit(self, request: Request) -> Key | HttpResponse:
        return self._access.authorize(find_key(read_headers(request.scope["headers"])), VIEWERS)

    async def _openapi(self, _: Request) -> HttpResponse:
        return HttpResponse(200, {"content-type": responses.JSON}, self._document)

    async def _write_metrics(self, request: Request) -> HttpResponse:
        key = self._admit(request)
        if isinstance(key, HttpResponse):
            return key
        query = read_query(request.scope["query_string"], NoQuery)
        if isinstance(query, InvalidEvent):
            return responses.bad_request(query)
        gauges = await self._parts.readers.read(
            lambda reader: list(self._gauges(reader.counts(), reader.totals())), key.id
        )
        return HttpResponse(200, {"content-type": CONTENT_TYPE}, self._metrics.write(lambda: gauges))

    def _gauges(self, counts: Counts, totals: list[Total]) -> Iterator[Gauge]:
        parts = self._parts
        by_status: dict[str, Counter[str]] = {"invoices": Counter(), "stuck": Counter(), "parked": Counter()}
        for total in totals:
            for name, counter in by_status.items():
                counter[total.status] += getattr(total, name)
        for name, text in (
            ("invoices", "Invoices, by status"),
            ("stuck", "Invoices that are stuck: an alert is out in their present wait, or they are parked"),
            ("parked", "Invoices that are parked: their last alert was raised, or an operator gave them up"),
        ):
            for status, number in by_status[name].items():
                yield f"bems_{name}", text, {"status": status}, number
        for total in totals:
            labels = {"status": total.status, "currency": total.currency}
            yield "bems_invoices_amount", "What the invoices are worth", labels, float(total.amount)
            yield "bems_stuck_amount", "What the stuck invoices are worth", labels, float(total.stuck_amount)
        for state, count in (
            ("set_aside", counts.set_aside_dead_letters),
            ("retried", counts.dead_letters - counts.set_aside_dead_letters),
        ):
            yield "bems_dead_letters", "Accepted events whose handling failed", {"state": state}, count
        yield "bems_accepted_events", "Events in the archive", {}, counts.events
        yield "bems_alerts", "Alerts that were raised", {}, counts.alerts
        behind = counts.transitions - parts.analytics.watermark
        yield "bems_analytics_rows_behind", "Rows of the series that DuckDB does not have yet", {}, max(0, behind)
        for state, count in (("waiting", parts.deliveries.waiting()), ("failed", parts.deliveries.failed())):
            yield "bems_deliveries", "Alerts that a destination has not taken", {"state": state}, count
        yield "bems_queued", "Events and commands that wait for the writer", {}, parts.writer.queued
        yield "bems_store_failing", "Whether the store could not be written last", {}, bool(parts.writer.failure)


def _nothing_at(path: str) -> HttpResponse:
    return responses.not_found(f"there is nothing at {format_value(path)}")
