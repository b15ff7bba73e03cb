"""Sweeper: the safety net for invoices whose execution does not report in time.

It runs every minute for the invoices that are due, and at once for the invoice of an execution that failed, timed out
or was stopped.

A sweep reads the 64 shards of the index `checks` page by page in rounds, and starts at another shard each minute. It
ends when no invoice is due or its time is up; the next sweep continues. Sweeping an invoice is idempotent.

The sweeper also estimates the number of open executions, because Step Functions has no API for it: every invoice with
an open execution has a check_at, and few others do (orphans, dormant invoices, invoices with pending actions). It
counts shards until it has seen 20,000 invoices, and assumes that the other shards have as many: the count of a small
cell is exact, and the expected error for a large cell is below one percent (1 / sqrt(20,000)). Alarms compare it with
the quota.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import msgspec

from bems.aws.clients import client
from bems.aws.records import SHARDS
from bems.aws.settings import InvoiceSettings
from bems.tracker.contract import STAGES
from bems.tracker.decisions import on_sweep
from bems.tracker.eventbridge_names import FAILED_EXECUTION_STATUSES
from bems.tracker.instants import MINUTE, Instant
from bems.tracker.metrics import EVENTS_ACCEPTED, OPEN_EXECUTIONS, SWEEP_BACKLOG, SWEEP_COMPLETED, SWEEP_FAILED
from handlers.invoices import InvoiceService, build_service
from handlers.telemetry import entry_point, init_on_cold_start, logger

PAGE_SIZE = 25
"""Maximum number of invoices in a query."""

MAX_INVOICES = 5000
"""Maximum number of invoices in a sweep."""

RESERVED_MS = 15_000
"""Remaining time of the invocation at which the sweep stops: enough for one invoice and for the count."""

SAMPLE_TARGET = 20_000
"""Number of invoices after which the count of open executions is extrapolated."""


class Dependencies(NamedTuple):
    """Objects that a function instance reuses."""

    invoices: InvoiceService
    states: Any


class SweepResult(NamedTuple):
    """Numbers of invoices that a sweep processed, failed on, and left for the next sweep."""

    done: int
    failed: int
    left: int


@cache
def dependencies() -> Dependencies:
    """Return the function's dependencies, created once. Raises SettingsError or PolicyMissing."""
    return Dependencies(build_service(InvoiceSettings)[1], client("stepfunctions"))


@entry_point
def handler(event: dict[str, Any], context: Any) -> dict[str, int]:
    """Handle EventBridge's `Step Functions Execution Status Change`; any other event is the schedule, and starts a
    sweep.
    """
    deps = dependencies()
    with deps.invoices.meter.flushed():
        if event.get("source") == "aws.states":
            return _ended(deps, event["detail"])
        meter = deps.invoices.meter
        for stage in STAGES:
            # Without a zero, the metric of a stage without events would have no data, and its alarm would not evaluate.
            meter.add(EVENTS_ACCEPTED, 0, stage=stage)
        swept = sweep(deps.invoices, context.get_remaining_time_in_millis)
        open_executions = count_open(deps.invoices, context.get_remaining_time_in_millis)
        meter.add(SWEEP_BACKLOG, swept.left)
        meter.add(SWEEP_FAILED, swept.failed)
        if open_executions is not None:
            meter.add(OPEN_EXECUTIONS, open_executions)
        meter.add(SWEEP_COMPLETED)
        logger.info("swept", extra=swept._asdict())
        return swept._asdict()


def sweep(invoices: InvoiceService, milliseconds_left: Callable[[], int]) -> SweepResult:
    """Sweep the invoices that are due now. An invoice that fails is left for the next sweep and does not block
    others."""
    now = invoices.clock.now()
    done = failed = 0
    starts: dict[int, dict[str, Any] | None] = dict.fromkeys(_shards(now))
    while starts:
        for shard in list(starts):
            page = invoices.records.due(shard, now, PAGE_SIZE, starts.pop(shard))
            for position, invoice_id in enumerate(page.invoice_ids):
                if done + failed >= MAX_INVOICES or milliseconds_left() < RESERVED_MS:
                    others = [other for other in starts if other != shard]
                    left = len(page.invoice_ids) - position
                    return SweepResult(
                        done, failed, left + sum(invoices.records.count_due(other, now, PAGE_SIZE) for other in others)
                    )
                try:
                    _sweep_one(invoices, invoice_id)
                    done += 1
                except Exception:
                    failed += 1
                    logger.exception("sweeping failed", extra={"invoice_id": invoice_id})
            if page.next:
                starts[shard] = page.next
    return SweepResult(done, failed, 0)


def count_open(invoices: InvoiceService, milliseconds_left: Callable[[], int]) -> int | None:
    """Return the estimated number of open executions, or None if there was no time to count."""
    counted = shards = 0
    for shard in _shards(invoices.clock.now()):
        if counted >= SAMPLE_TARGET or milliseconds_left() < RESERVED_MS // 2:
            break
        counted += invoices.records.count_open(shard)
        shards += 1
    return counted * SHARDS // shards if shards else None


def _ended(deps: Dependencies, detail: dict[str, Any]) -> dict[str, int]:
    """Sweep the invoice of an execution that has ended.

    Raises any error: the invocation is asynchronous, so Lambda retries it twice within an hour and then sends the event
    to the queue of undelivered events (`infra.compute.sweep_schedule`).
    """
    if detail["status"] not in FAILED_EXECUTION_STATUSES:
        return {"done": 0}
    started = _input_of(deps, detail)
    if started is None:
        return {"done": 0}
    invoice_id, run = started
    with logger.append_context_keys(invoice_id=invoice_id, run=run):
        logger.warning(
            "an execution failed, timed out or was stopped",
            extra={"status": detail["status"], "execution": detail["executionArn"]},
        )
        _sweep_one(deps.invoices, invoice_id, run)
    return {"done": 1}


def _input_of(deps: Dependencies, detail: dict[str, Any]) -> tuple[str, int] | None:
    """Return the invoice id and run of an execution, or None if it was not started for an invoice.

    The event has no input if the state machine uses a customer managed key; then the input is read from the execution.
    """
    text = detail.get("input")
    if not text:
        text = deps.states.describe_execution(executionArn=detail["executionArn"]).get("input")
    try:
        started_with = msgspec.json.decode(text or "")
        return str(started_with["invoice_id"]), int(started_with["run"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        logger.error("the execution was not started for an invoice", extra={"execution": detail["executionArn"]})
        return None


def _sweep_one(invoices: InvoiceService, invoice_id: str, ended_run: int | None = None) -> None:
    invoices.decide(invoice_id, lambda record, now: on_sweep(record, invoices.policy, now, ended_run))


def _shards(now: Instant) -> list[int]:
    """Return all shards, starting at another one each minute."""
    first = now // MINUTE % SHARDS
    return [*range(first, SHARDS), *range(first)]


init_on_cold_start(dependencies)
