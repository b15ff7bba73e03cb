"""RegisterWait: an execution of the state machine now waits; its token goes into the invoice's record.

An invoice that is further already answers the token at once. Called twice, it registers the same token twice.
"""

from functools import cache
from typing import Any

from bems.aws.errors import retryable
from bems.aws.messages import MAX_CLOCK_SKEW
from bems.aws.settings import InvoiceSettings
from bems.tracker.decisions import WaitRequest, on_wait
from bems.tracker.instants import clamp, parse
from handlers.invoices import InvoiceService, build_service
from handlers.payloads import WaitPayload, read_payload
from handlers.telemetry import entry_point, init_on_cold_start, logger


@cache
def dependencies() -> InvoiceService:
    """Made once. SettingsError, PolicyMissing."""
    return build_service(InvoiceSettings)[1]


@entry_point
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001
    """A `WaitPayload`. The result is not looked at: the task ends by its token. Unavailable: to be retried."""
    invoices = dependencies()
    wait = read_payload(event, WaitPayload)
    # A stamp of a later time would be newer than those of all waits until then.
    entered_at = clamp(parse(wait.entered_at), invoices.clock.now() + MAX_CLOCK_SKEW)
    request = WaitRequest(wait.run, wait.stage, wait.token, (entered_at, wait.retry_count))
    with (
        retryable(),
        invoices.meter.flushed(),
        logger.append_context_keys(invoice_id=wait.invoice_id, run=wait.run, stage=wait.stage),
    ):
        invoices.decide(wait.invoice_id, lambda record, now: on_wait(record, request, invoices.policy, now))
        logger.debug("waits")
    return {}


init_on_cold_start(dependencies)
