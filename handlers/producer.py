"""Producer: receives events over HTTP, validates them and publishes them to the event bus.

API Gateway's REST proxy calls it for `POST /invoices/{stage}` and `POST /invoices/{stage}/batch`. A 202 means that the
event is on the bus; after a 503 the sender must send it again.
"""

import binascii
from base64 import b64decode
from functools import cache
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from bems.aws.buses import Bus, ClassicBus, CustomBus
from bems.aws.clients import client
from bems.aws.messages import Origin
from bems.aws.settings import ProducerSettings, read_settings
from bems.clock import SystemClock
from bems.tracker import responses
from bems.tracker.contract import STAGES, Event, Stage
from bems.tracker.metrics import EVENTS_ACCEPTED, EVENTS_REFUSED, EVENTS_UNPUBLISHED
from bems.tracker.parsing import InvalidEvent, parse_batch, parse_event
from bems.tracker.ports import Clock
from bems.tracker.responses import HttpResponse
from handlers.telemetry import MetricsBuffer, entry_point, init_on_cold_start, logger


class Dependencies(NamedTuple):
    """Objects that a function instance reuses."""

    settings: ProducerSettings
    bus: Bus
    meter: MetricsBuffer
    clock: Clock


class ProxyRequest(Struct, frozen=True, rename="camel"):
    """An API Gateway proxy request. Other callers may omit fields or set them to null."""

    http_method: str | None = None
    resource: str | None = None
    path: str | None = None
    path_parameters: dict[str, str | None] | None = None
    headers: dict[str, str | None] | None = None
    multi_value_headers: dict[str, list[str] | None] | None = None
    body: str | None = None
    is_base64_encoded: bool | None = None


class Request(NamedTuple):
    """A valid request for one of the two routes."""

    stage: Stage
    batch: bool
    body: bytes
    origin: Origin


@cache
def dependencies() -> Dependencies:
    """Return the function's dependencies, created once. Raises SettingsError."""
    settings = read_settings(ProducerSettings)
    bus: Bus
    if settings.bus == "classic":
        bus = ClassicBus(client("events"), settings.bus_name)
    else:
        bus = CustomBus(client("eventbridgev2"), settings.bus_name)
    return Dependencies(settings, bus, MetricsBuffer(settings.cell), SystemClock())


@entry_point
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Handle an API Gateway proxy request and return the proxy response."""
    deps = dependencies()
    # arn:aws:lambda:REGION:ACCOUNT:function:NAME
    region, account = context.invoked_function_arn.split(":")[3:5]
    with deps.meter.flushed():
        answer = _answer(deps, event, Origin(deps.settings.cell, region, account))
    return {
        "statusCode": answer.status,
        "headers": {**answer.headers, "cache-control": "no-store"},
        "body": answer.body.decode(),
        "isBase64Encoded": False,
    }


def _answer(deps: Dependencies, event: dict[str, Any], origin: Origin) -> HttpResponse:
    try:
        proxied = msgspec.convert(event, ProxyRequest)
    except msgspec.ValidationError as error:
        return responses.problem(400, f"not an API Gateway proxy request: {error}")
    route = _route(proxied)
    if route is None:
        return responses.not_found()
    stage, batch = route
    if proxied.http_method != "POST":
        return responses.method_not_allowed(["POST"])
    answer = _handle(deps, proxied, stage, batch, origin)
    if answer.status in responses.REFUSED_STATUSES:
        deps.meter.add(EVENTS_REFUSED, stage=stage)
    return answer


def _handle(deps: Dependencies, proxied: ProxyRequest, stage: Stage, batch: bool, origin: Origin) -> HttpResponse:
    content_type = _header(proxied, "content-type")
    if not responses.is_json(content_type):
        return responses.unsupported_media_type(content_type)
    encoding = _header(proxied, "content-encoding")
    if encoding is not None and encoding.strip().lower() != "identity":
        return responses.unsupported_encoding(encoding)
    try:
        request = Request(stage, batch, _body(proxied), origin)
    except (binascii.Error, ValueError):
        return responses.problem(400, "the body is not valid base64, although isBase64Encoded is true")
    return _handle_batch(deps, request) if batch else _handle_event(deps, request)


def _handle_event(deps: Dependencies, request: Request) -> HttpResponse:
    read = parse_event(request.stage, request.body, deps.clock.now())
    if isinstance(read, InvalidEvent):
        _log_refusal(request.stage, read)
        return responses.bad_request(read)
    (error,) = _publish(deps, request, [read])
    return responses.unavailable() if error else responses.accepted(read.event_id)


def _handle_batch(deps: Dependencies, request: Request) -> HttpResponse:
    read = parse_batch(request.stage, request.body, deps.clock.now(), deps.settings.max_batch)
    if isinstance(read, InvalidEvent):
        _log_refusal(request.stage, read)
        return responses.bad_request(read)
    errors = iter(_publish(deps, request, [event for event in read if not isinstance(event, InvalidEvent)]))
    results = []
    for event in read:
        if isinstance(event, InvalidEvent):
            deps.meter.add(EVENTS_REFUSED, stage=request.stage)
            _log_refusal(request.stage, event)
            results.append(responses.invalid_event_result(event))
        else:
            results.append(responses.event_result(event.event_id, "unavailable" if next(errors) else "accepted"))
    return responses.batch_results(results)


def _publish(deps: Dependencies, request: Request, events: list[Event]) -> list[str | None]:
    errors = deps.bus.publish(events, request.origin)
    for event, error in zip(events, errors, strict=True):
        with logger.append_context_keys(stage=event.stage, invoice_id=event.invoice_id, event_id=event.event_id):
            if error:
                deps.meter.add(EVENTS_UNPUBLISHED, stage=event.stage)
                logger.error("the bus did not accept the event", extra={"error_code": error})
            else:
                deps.meter.add(EVENTS_ACCEPTED, stage=event.stage)
                logger.debug("published")
    return errors


def _log_refusal(stage: Stage, refusal: InvalidEvent) -> None:
    # Safe to log: the reasons name fields and kinds of error, but no values that were sent.
    logger.info("refused", extra={"stage": stage, "event_id": refusal.event_id, "reasons": refusal.reasons})


def _route(proxied: ProxyRequest) -> tuple[Stage, bool] | None:
    """Return the stage and whether it is a batch, or None for another route.

    Uses the API's resource, because the path may have the prefix of a custom domain.
    """
    resource = proxied.resource or proxied.path or ""
    for name, value in (proxied.path_parameters or {}).items():
        resource = resource.replace(f"{{{name}}}", value or "")
    match resource.strip("/").split("/"):
        case ["invoices", name]:
            batch = False
        case ["invoices", name, "batch"]:
            batch = True
        case _:
            return None
    return next(((stage, batch) for stage in STAGES if stage == name), None)


def _header(proxied: ProxyRequest, name: str) -> str | None:
    """Return a header by its lower-case name; API Gateway keeps the case that was sent.

    Joins several headers with the same name, as RFC 9110, section 5.3, requires; `headers` has only the last of them.
    """
    for given, values in (proxied.multi_value_headers or {}).items():
        if given.lower() == name and values:
            return ", ".join(values)
    return next((value for given, value in (proxied.headers or {}).items() if given.lower() == name), None)


def _body(proxied: ProxyRequest) -> bytes:
    """Return the body as bytes. Raises binascii.Error or ValueError if it is not valid base64."""
    body = proxied.body or ""
    return b64decode(body, validate=True) if proxied.is_base64_encoded else body.encode("utf-8", "surrogatepass")


init_on_cold_start(dependencies)
