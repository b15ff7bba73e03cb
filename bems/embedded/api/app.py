"""The ASGI application of the API. Requests that send events bypass Starlette and go straight to EventEndpoint."""

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
from bems.embedded.api.http_protocol import CONNECTION_SCOPE_KEY
from bems.embedded.api.metrics import CONTENT_TYPE, Metrics
from bems.embedded.api.openapi import build_document
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
"""Name, help text, labels and value."""


class ApiApplication:
    """The API of a running cell. Create it in the event loop that serves it."""

    def __init__(self, context: CellContext) -> None:
        self._context = context
        self._access = Access(context.keys, context.limits)
        self._metrics = Metrics()
        self._bridge = WriterBridge(context.writer, asyncio.get_running_loop())
        self._unfinished = UnfinishedBodies()
        self._event_endpoint = EventEndpoint(
            self._bridge, context.clock, self._access, self._metrics, context.limits.max_batch, self._unfinished
        )
        self._document = msgspec.json.encode(build_document())
        self._paths: dict[str, list[Operation]] = {}
        for operation in OPERATIONS:
            self._paths.setdefault(operation.path, []).append(operation)
        own = {"/healthz": self._get_health, "/openapi.json": self._get_openapi, "/metrics": self._get_metrics}
        routes = [Route(path, self._handle_errors(endpoint), methods=["GET"]) for path, endpoint in own.items()]
        # Paths with a target come last, because `/invoices/{target}` matches every path below `/invoices/`.
        for path in sorted(self._paths, key=lambda path: "{" in path):
            methods = [operation.method for operation in self._paths[path]]
            route = path.replace("{target}", "{target:path}")
            routes.append(Route(route, self._handle_errors(self._make_endpoint(self._paths[path])), methods=methods))
        self._starlette = Starlette(routes=routes, exception_handlers={HTTPException: self._handle_routing_error})
        self._starlette.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        if scope["type"] != "http":
            return
        if scope["method"] == "POST" and scope["path"] in PATHS:
            await self._event_endpoint(scope, receive, send)
        elif "\n" in scope["path"]:
            # The `$` in Starlette's path patterns also matches before a newline at the end.
            self._metrics.count_request(scope["method"], 404)
            await send_response(send, _not_found(scope["path"]))
        else:
            await self._starlette(scope, receive, send)

    def _handle_errors(self, endpoint: Any) -> Callable[[Request], Any]:
        """Return the endpoint with its exceptions turned into responses, and its responses counted."""

        async def handle(request: Request) -> Response:
            connection = request.scope[CONNECTION_SCOPE_KEY]
            if request.method in ("GET", "HEAD"):
                # A read is cancelled when its client disconnects; a write runs to completion.
                connection.query_task = asyncio.current_task()
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
                # The server is shutting down and the time limit has passed, or the client has disconnected.
                answer = with_connection_close(responses.unavailable())
            except (Stopped, StoreFailed, apsw.Error) as error:
                log.error("%s %s could not be answered: %s", request.method, format_value(request.scope["path"]), error)
                answer = responses.unavailable(why=str(error) if isinstance(error, StoreLost) else "")
            except Exception:
                log.exception("%s %s failed", request.method, format_value(request.scope["path"]))
                answer = responses.internal_error()
            finally:
                connection.query_task = None
            return self._count_and_convert(request.method, answer)

        return handle

    def _count_and_convert(self, method: str, answer: HttpResponse) -> Response:
        """Count the response in the metrics, and convert it for Starlette."""
        self._metrics.count_request(method, answer.status)
        return Response(answer.body, answer.status, answer.headers)

    async def _handle_routing_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.scope["path"]
        if error.status_code != 405:
            return self._count_and_convert(request.method, _not_found(path))
        allowed = {*(error.headers or {}).get("Allow", "").split(", ")} - {""}
        first, _, rest = path.removeprefix("/").partition("/")
        if first == "invoices" and request.method == "POST" and rest:
            stages = ", ".join(STAGES)
            detail = f"there is no stage {format_value(rest)}: send events to /invoices/ and one of {stages}"
            return self._count_and_convert(request.method, responses.not_found(detail))
        allowed |= {"POST"} if path in PATHS else set()
        return self._count_and_convert(request.method, responses.method_not_allowed(sorted(allowed)))

    def _make_endpoint(self, operations: list[Operation]) -> Callable[[Request], Any]:
        by_method = {operation.method: operation for operation in operations}

        async def operate(request: Request) -> HttpResponse:
            method = "GET" if request.method == "HEAD" else request.method
            return await self._run_operation(by_method[method], request)

        return operate

    async def _run_operation(self, operation: Operation, request: Request) -> HttpResponse:
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
        answer = await operation.handler(ApiRequest(self._context, self._bridge, key, query, target, body))
        if operation.method == "GET" and not self._access.is_in_force(key):
            # The key was revoked during the query.
            return responses.forbidden()
        return answer

    async def _get_health(self, request: Request) -> HttpResponse:
        # Reasons of failures contain addresses and file names, so they require the key of a viewer.
        shows_reasons = find_key(read_headers(request.scope["headers"])) is not None and isinstance(
            self._authorize_viewer(request), Key
        )

        def describe(failure: str | None) -> str:
            return "ok" if not failure else failure if shows_reasons else "failing"

        context, failure = self._context, self._context.writer.failure
        health = views.Health(
            "failing" if failure else "ok",
            context.name,
            render(context.clock.now()),
            describe(failure),
            describe(context.analytics.failure),
            describe(context.deliveries.failure),
        )
        answer = responses.json_response(503 if failure else 200, health)
        return HttpResponse(503, {**answer.headers, "retry-after": "5"}, answer.body) if failure else answer

    def _authorize_viewer(self, request: Request) -> Key | HttpResponse:
        return self._access.authorize(find_key(read_headers(request.scope["headers"])), VIEWERS)

    async def _get_openapi(self, _: Request) -> HttpResponse:
        return HttpResponse(200, {"content-type": responses.JSON}, self._document)

    async def _get_metrics(self, request: Request) -> HttpResponse:
        key = self._authorize_viewer(request)
        if isinstance(key, HttpResponse):
            return key
        query = read_query(request.scope["query_string"], NoQuery)
        if isinstance(query, InvalidEvent):
            return responses.bad_request(query)
        gauges = await self._context.readers.read(
            lambda reader: list(self._read_gauges(reader.counts(), reader.totals())), key.id
        )
        return HttpResponse(200, {"content-type": CONTENT_TYPE}, self._metrics.write(lambda: gauges))

    def _read_gauges(self, counts: Counts, totals: list[Total]) -> Iterator[Gauge]:
        context = self._context
        by_status: dict[str, Counter[str]] = {"invoices": Counter(), "stuck": Counter(), "parked": Counter()}
        for total in totals:
            for name, counter in by_status.items():
                counter[total.status] += getattr(total, name)
        for name, text in (
            ("invoices", "Invoices by status"),
            ("stuck", "Stuck invoices: their current wait has raised an alert, or they are parked"),
            ("parked", "Parked invoices: their last alert was raised, or an operator parked them"),
        ):
            for status, number in by_status[name].items():
                yield f"bems_{name}", text, {"status": status}, number
        for total in totals:
            labels = {"status": total.status, "currency": total.currency}
            yield "bems_invoices_amount", "Total amount of the invoices", labels, float(total.amount)
            yield "bems_stuck_amount", "Total amount of the stuck invoices", labels, float(total.stuck_amount)
        for state, count in (
            ("set_aside", counts.set_aside_dead_letters),
            ("retried", counts.dead_letters - counts.set_aside_dead_letters),
        ):
            yield "bems_dead_letters", "Accepted events whose processing failed", {"state": state}, count
        yield "bems_accepted_events", "Events in the archive", {}, counts.events
        yield "bems_alerts", "Alerts raised", {}, counts.alerts
        behind = counts.transitions - context.analytics.watermark
        yield "bems_analytics_rows_behind", "Time-series rows not yet copied to DuckDB", {}, max(0, behind)
        for state, count in (("waiting", context.deliveries.waiting()), ("failed", context.deliveries.failed())):
            yield "bems_deliveries", "Undelivered alerts, one per destination", {"state": state}, count
        yield "bems_queued", "Events and commands in the writer's queue", {}, context.writer.queued
        yield "bems_store_failing", "1 if the last write to the store failed, else 0", {}, bool(context.writer.failure)


def _not_found(path: str) -> HttpResponse:
    return responses.not_found(f"there is nothing at {format_value(path)}")
