"""Producer: takes events in over HTTP, and publishes those that pass the gate.

API Gateway's REST proxy calls it for `POST /invoices/{stage}` and `POST /invoices/{stage}/batch`. Whoever is answered
202 has its event on the bus; whoever is answered 503 sends it again.
"""

from base64 import b64decode
from functools import cache
from typing import Any, NamedTuple

from bems.aws.buses import Bus, ClassicBus, CustomBus
from bems.aws.clients import client
from bems.aws.clock import SystemClock
from bems.aws.messages import Origin
from bems.aws.settings import ProducerSettings, read_settings
from bems.tracker import answers
from bems.tracker.answers import HttpAnswer
from bems.tracker.contract import STAGES, Event, Stage
from bems.tracker.faults import Fault
from bems.tracker.gate import Refusal, read_batch, read_event
from bems.tracker.metrics import EVENTS_ACCEPTED, EVENTS_REFUSED, EVENTS_UNPUBLISHED
from bems.tracker.ports import Clock
from handlers.telemetry import Meter, entry_point, logger, warm


class Home(NamedTuple):
    """What an instance of the function keeps."""

    settings: ProducerSettings
    bus: Bus
    meter: Meter
    clock: Clock


class Request(NamedTuple):
    """A request that is for us."""

    stage: Stage
    batch: bool
    body: bytes
    origin: Origin


@cache
def home() -> Home:
    """Made once. SettingsError."""
    settings = read_settings(ProducerSettings)
    bus: Bus
    if settings.bus == "classic":
        bus = ClassicBus(client("events"), settings.bus_name)
    else:
        bus = CustomBus(client("eventbridgev2"), settings.bus_name)
    return Home(settings, bus, Meter(settings.cell), SystemClock())


@entry_point
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """An API Gateway proxy request to its answer."""
    made = home()
    # arn:aws:lambda:REGION:ACCOUNT:function:NAME
    region, account = context.invoked_function_arn.split(":")[3:5]
    with made.meter.flushed():
        answer = _answer(made, event, Origin(made.settings.cell, region, account))
    return {
        "statusCode": answer.status,
        "headers": {**answer.headers, "cache-control": "no-store"},
        "body": answer.body.decode(),
        "isBase64Encoded": False,
    }


def _answer(made: Home, event: dict[str, Any], origin: Origin) -> HttpAnswer:
    route = _route(event)
    if route is None:
        return answers.not_found()
    stage, batch = route
    if event.get("httpMethod") != "POST":
        return answers.method_not_allowed(["POST"])
    content_type = _header(event, "content-type")
    if not answers.is_json(content_type):
        made.meter.add(EVENTS_REFUSED, stage=stage)
        return answers.unsupported_media_type(content_type)
    encoding = _header(event, "content-encoding")
    if encoding is not None and encoding.strip().lower() != "identity":
        made.meter.add(EVENTS_REFUSED, stage=stage)
        return answers.unsupported_encoding(encoding)
    request = Request(stage, batch, _body(event), origin)
    return _take_batch(made, request) if batch else _take_one(made, request)


def _take_one(made: Home, request: Request) -> HttpAnswer:
    read = read_event(request.stage, request.body, made.clock.now())
    if isinstance(read, Refusal):
        _count_refusal(made, request.stage, read)
        return answers.refused(read)
    (error,) = _publish(made, request, [read])
    return answers.unavailable() if error else answers.accepted(read.event_id)


def _take_batch(made: Home, request: Request) -> HttpAnswer:
    read = read_batch(request.stage, request.body, made.clock.now())
    if isinstance(read, Refusal):
        _count_refusal(made, request.stage, read)
        return answers.refused(read)
    most = made.settings.max_batch
    if len(read) > most:
        refusal = Refusal(400, "the batch is not valid: 1 fault", [_too_many(len(read), most)])
        _count_refusal(made, request.stage, refusal)
        return answers.refused(refusal)
    errors = iter(_publish(made, request, [one for one in read if not isinstance(one, Refusal)]))
    results = []
    for one in read:
        if isinstance(one, Refusal):
            _count_refusal(made, request.stage, one)
            results.append(answers.refused_result(one))
        else:
            results.append(answers.result(one.event_id, "unavailable" if next(errors) else "accepted"))
    return answers.batch(results)


def _publish(made: Home, request: Request, events: list[Event]) -> list[str | None]:
    errors = made.bus.publish(events, request.origin)
    for event, error in zip(events, errors, strict=True):
        with logger.append_context_keys(stage=event.stage, invoice_id=event.invoice_id, event_id=event.event_id):
            if error:
                made.meter.add(EVENTS_UNPUBLISHED, stage=event.stage)
                logger.error("the bus did not take the event", extra={"error_code": error})
            else:
                made.meter.add(EVENTS_ACCEPTED, stage=event.stage)
                logger.debug("published")
    return errors


def _count_refusal(made: Home, stage: Stage, refusal: Refusal) -> None:
    made.meter.add(EVENTS_REFUSED, stage=stage)
    # The reasons name fields and kinds of fault, never a value that was sent.
    logger.info("refused", extra={"stage": stage, "event_id": refusal.event_id, "reasons": refusal.reasons})


def _too_many(given: int, most: int) -> Fault:
    return Fault("/events", f"has {given} events, more than {most}: send less at once", "too many")


def _route(event: dict[str, Any]) -> tuple[Stage, bool] | None:
    """Stage and form of `/invoices/posting` or `/invoices/posting/batch`, from the API's resource: unlike the path it
    has no prefix of a custom domain."""
    resource = str(event.get("resource") or event.get("path") or "")
    for name, value in (event.get("pathParameters") or {}).items():
        resource = resource.replace(f"{{{name}}}", value)
    match resource.strip("/").split("/"):
        case ["invoices", name]:
            batch = False
        case ["invoices", name, "batch"]:
            batch = True
        case _:
            return None
    return next(((stage, batch) for stage in STAGES if stage == name), None)


def _header(event: dict[str, Any], name: str) -> str | None:
    """A header by its name in lower case; API Gateway hands them over as they were sent."""
    headers = event.get("headers") or {}
    return next((value for given, value in headers.items() if given.lower() == name), None)


def _body(event: dict[str, Any]) -> bytes:
    body = event.get("body") or ""
    return b64decode(body) if event.get("isBase64Encoded") else body.encode("utf-8", "surrogatepass")


warm(home)
