"""Processor: applies the events of a stage's queue to invoice records. Each stage has its own function with this code.

Idempotent. A message that can never be processed (it is invalid, or its event_id is known with other content) fails
until the queue moves it to its dead-letter queue. After any other error the message is retried with a delay that
doubles each time.
"""

import random
from functools import cache
from typing import Any, NamedTuple

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, SqsFifoPartialProcessor
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from bems.aws.batching import chunks
from bems.aws.clients import client
from bems.aws.errors import is_transient
from bems.aws.messages import InvalidMessage, TooEarly, decode_message
from bems.aws.settings import ProcessorSettings
from bems.tracker.decisions import on_event
from bems.tracker.metrics import CONFLICTS, EVENTS_PROCESSED, PROCESSING_FAILED
from handlers.invoices import InvoiceService, build_service
from handlers.telemetry import entry_point, init_on_cold_start, logger

MIN_BACKOFF_SECONDS = 5
MAX_BACKOFF_SECONDS = 900
"""Delay after the first failure of a message, and the maximum delay. SQS allows 12 hours."""

MAX_BATCH_ENTRIES = 10
"""Maximum number of messages in a ChangeMessageVisibilityBatch call (API reference)."""


class Dependencies(NamedTuple):
    """Objects that a function instance reuses."""

    settings: ProcessorSettings
    invoices: InvoiceService
    queue: Any


class Conflict(Exception):
    """An event with the same event_id and other content is already known. Permanent."""


PERMANENT_ERRORS = (InvalidMessage, Conflict)


class FifoProcessor(SqsFifoPartialProcessor):
    """Batch processor that keeps the order of each message group, which is an invoice.

    After a message fails, later messages of its group fail too. A permanent error does not block its group: every retry
    counts as a receive, so the later messages would reach the dead-letter queue together with it.
    """

    def __init__(self) -> None:
        super().__init__(skip_group_on_error=True)
        self.raise_on_entire_batch_failure = False

    def failure_handler(self, record: SQSRecord, exception: Any) -> Any:
        if isinstance(exception[1], PERMANENT_ERRORS):
            return BatchProcessor.failure_handler(self, record, exception)
        return super().failure_handler(record, exception)


@cache
def dependencies() -> Dependencies:
    """Return the function's dependencies, created once. Raises SettingsError or PolicyMissing."""
    settings, invoices = build_service(ProcessorSettings)
    return Dependencies(settings, invoices, client("sqs"))


@entry_point
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001
    """Process a batch of SQS messages and return those that failed (`batchItemFailures`)."""
    deps = dependencies()
    processor: Any
    if deps.settings.queue_type == "fifo":
        processor = FifoProcessor()
    else:
        processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
    with deps.invoices.meter.flushed():
        with processor(records=event["Records"], handler=lambda record: _process(deps, record)):
            processor.process()
        _set_visibility(deps, list(zip(processor.fail_messages, processor.exceptions, strict=True)))
    answer: dict[str, Any] = processor.response()
    return answer


def _process(deps: Dependencies, record: SQSRecord) -> None:
    is_first_receive = _receive_count(record) == 1
    with logger.append_context_keys(message_id=record.message_id):
        try:
            event = decode_message(record.body, deps.invoices.clock.now())
        except TooEarly as error:
            deps.invoices.meter.add(PROCESSING_FAILED, stage=deps.settings.stage)
            logger.warning("the event was received by a clock ahead of this one", extra={"reason": str(error)})
            raise
        except InvalidMessage as error:
            if is_first_receive:
                deps.invoices.meter.add(EVENTS_PROCESSED, stage=deps.settings.stage, outcome="refused")
            logger.error("the message is invalid", extra={"reason": str(error)})
            raise
        with logger.append_context_keys(stage=event.stage, invoice_id=event.invoice_id, event_id=event.event_id):
            policy = deps.invoices.policy
            try:
                receipt = deps.invoices.decide(event.invoice_id, lambda known, now: on_event(known, event, policy, now))
            except Exception as error:
                deps.invoices.meter.add(PROCESSING_FAILED, stage=event.stage)
                log = logger.warning if is_transient(error) else logger.exception
                log("processing failed", extra={"error": repr(error), "receipts": _receive_count(record)})
                raise
            if receipt.result != "conflict":
                deps.invoices.meter.add(EVENTS_PROCESSED, stage=event.stage, outcome=receipt.result)
                logger.debug("processed", extra={"result": receipt.result})
                return
            if is_first_receive:
                deps.invoices.meter.add(EVENTS_PROCESSED, stage=event.stage, outcome="conflict")
                deps.invoices.meter.add(CONFLICTS, stage=event.stage)
            logger.error("the event_id is known with other content")
            raise Conflict(event.event_id)


def _set_visibility(deps: Dependencies, failures: list[tuple[SQSRecord, Any]]) -> None:
    """Set the delay of each failed message. If that fails, the queue's own visibility timeout applies."""
    for part in chunks(failures, MAX_BATCH_ENTRIES):
        entries = [
            {
                "Id": str(position),
                "ReceiptHandle": record.receipt_handle,
                "VisibilityTimeout": 0
                if isinstance(exception[1], PERMANENT_ERRORS)
                else backoff_seconds(_receive_count(record)),
            }
            for position, (record, exception) in enumerate(part)
        ]
        try:
            answer = deps.queue.change_message_visibility_batch(QueueUrl=deps.settings.queue_url, Entries=entries)
        except Exception as error:
            logger.warning("the retry delay could not be set", extra={"error": repr(error)})
        else:
            if answer.get("Failed"):
                logger.warning("some retry delays could not be set", extra={"failed": answer["Failed"]})


def backoff_seconds(receives: int) -> int:
    """Return the delay in seconds after a failed receive: between half and all of 5, 10, 20, ... 900."""
    longest = min(MIN_BACKOFF_SECONDS * 2 ** min(receives - 1, 30), MAX_BACKOFF_SECONDS)
    return random.randint(-(-longest // 2), longest)


def _receive_count(record: SQSRecord) -> int:
    return int(record.attributes.approximate_receive_count)


init_on_cold_start(dependencies)
