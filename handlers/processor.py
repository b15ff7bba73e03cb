"""Processor: takes a stage's events from its queue into their invoices' records. One code, a function per stage.

A repeat is as good as the first time. What can never be processed (nothing that can be read, another content under a
known event_id) fails until the queue moves it to its dead-letter queue. Whatever else goes wrong is tried again after
a pause, which doubles each time.
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
"""Seconds that a message is left alone after its first failure, and at most. SQS allows 12 hours."""

MAX_BATCH_ENTRIES = 10
"""Messages in one ChangeMessageVisibilityBatch call (API reference)."""


class Dependencies(NamedTuple):
    """What an instance of the function keeps."""

    settings: ProcessorSettings
    invoices: InvoiceService
    queue: Any


class Conflict(Exception):
    """Another event of this event_id is known: it will be no different next time."""


PERMANENT = (InvalidMessage, Conflict)


class FifoProcessor(SqsFifoPartialProcessor):
    """Once a message fails, those of its invoice behind it wait too; but not behind one that can never be processed:
    each wait counts as a receipt, and they would go to the dead-letter queue with it."""

    def __init__(self) -> None:
        super().__init__(skip_group_on_error=True)
        self.raise_on_entire_batch_failure = False

    def failure_handler(self, record: SQSRecord, exception: Any) -> Any:
        if isinstance(exception[1], PERMANENT):
            return BatchProcessor.failure_handler(self, record, exception)
        return super().failure_handler(record, exception)


@cache
def dependencies() -> Dependencies:
    """Made once. SettingsError, PolicyMissing."""
    settings, invoices = build_service(ProcessorSettings)
    return Dependencies(settings, invoices, client("sqs"))


@entry_point
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001
    """A batch of the queue's messages to those that failed."""
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
    first = _receipts(record) == 1
    with logger.append_context_keys(message_id=record.message_id):
        try:
            event = decode_message(record.body, deps.invoices.clock.now())
        except TooEarly as error:
            deps.invoices.meter.add(PROCESSING_FAILED, stage=deps.settings.stage)
            logger.warning("an event from a clock ahead of this one", extra={"reason": str(error)})
            raise
        except InvalidMessage as error:
            if first:
                deps.invoices.meter.add(EVENTS_PROCESSED, stage=deps.settings.stage, outcome="refused")
            logger.error("a message that cannot be read", extra={"reason": str(error)})
            raise
        with logger.append_context_keys(stage=event.stage, invoice_id=event.invoice_id, event_id=event.event_id):
            policy = deps.invoices.policy
            try:
                receipt = deps.invoices.decide(event.invoice_id, lambda known, now: on_event(known, event, policy, now))
            except Exception as error:
                deps.invoices.meter.add(PROCESSING_FAILED, stage=event.stage)
                log = logger.warning if is_transient(error) else logger.exception
                log("processing failed", extra={"error": repr(error), "receipts": _receipts(record)})
                raise
            if receipt.result != "conflict":
                deps.invoices.meter.add(EVENTS_PROCESSED, stage=event.stage, outcome=receipt.result)
                logger.debug("processed", extra={"result": receipt.result})
                return
            if first:
                deps.invoices.meter.add(EVENTS_PROCESSED, stage=event.stage, outcome="conflict")
                deps.invoices.meter.add(CONFLICTS, stage=event.stage)
            logger.error("another content under a known event_id")
            raise Conflict(event.event_id)


def _set_visibility(deps: Dependencies, failures: list[tuple[SQSRecord, Any]]) -> None:
    """Set when each failed message comes again. Where that fails, it comes after the queue's own visibility timeout."""
    for together in chunks(failures, MAX_BATCH_ENTRIES):
        entries = [
            {
                "Id": str(position),
                "ReceiptHandle": record.receipt_handle,
                "VisibilityTimeout": 0 if isinstance(exception[1], PERMANENT) else backoff_seconds(_receipts(record)),
            }
            for position, (record, exception) in enumerate(together)
        ]
        try:
            answer = deps.queue.change_message_visibility_batch(QueueUrl=deps.settings.queue_url, Entries=entries)
        except Exception as error:
            logger.warning("the pause could not be set", extra={"error": repr(error)})
        else:
            if answer.get("Failed"):
                logger.warning("some pauses could not be set", extra={"failed": answer["Failed"]})


def backoff_seconds(receipts: int) -> int:
    """Seconds until the next try, the n-th receipt having failed: from half to all of 5, 10, 20, ... 900."""
    most = min(MIN_BACKOFF_SECONDS * 2 ** min(receipts - 1, 30), MAX_BACKOFF_SECONDS)
    return random.randint(-(-most // 2), most)


def _receipts(record: SQSRecord) -> int:
    return int(record.attributes.approximate_receive_count)


init_on_cold_start(dependencies)
