"""Sweeper: the safety net. Every minute it looks after the invoices that are due, and at once after an execution that
ended by itself.

A sweep goes round the 64 shards of the index `checks`, a page of each at a time, from another shard each minute, until
nothing is due or its time is up; what it leaves, the next one finds. Sweeping an invoice twice is harmless.

How many executions are open it tells from the same index, because Step Functions has no call for it: every invoice with
an open execution has a check_at, and few others have (orphans, dormant ones, those with something pending). It counts
shards until it has seen 20,000 invoices, and takes the others to be as full: a small cell is counted whole, and of a
large one the error to expect is under a percent (1 / sqrt(20,000)). Alarms hold it against the quota.
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
from bems.tracker.eventbridge_names import ENDED
from bems.tracker.instants import MINUTE, Instant
from bems.tracker.metrics import EVENTS_ACCEPTED, OPEN_EXECUTIONS, SWEEP_BACKLOG, SWEEP_COMPLETED, SWEEP_FAILED
from handlers.invoices import InvoiceService, build_service
from handlers.telemetry import entry_point, init_on_cold_start, logger

PAGE_SIZE = 25
MAX_INVOICES = 5000
"""Invoices asked for at once, and swept at most."""

RESERVED_MS = 15_000
"""What is left of the function's time when it stops sweeping: enough for one invoice and for counting."""

SAMPLE_TARGET = 20_000


class Dependencies(NamedTuple):
    """What an instance of the function keeps."""

    invoices: InvoiceService
    states: Any


class SweepResult(NamedTuple):
    """What a sweep did and left."""

    done: int
    failed: int
    left: int


@cache
def dependencies() -> Dependencies:
    """Made once. SettingsError, PolicyMissing."""
    return Dependencies(build_service(InvoiceSettings)[1], client("stepfunctions"))


@entry_point
def handler(event: dict[str, Any], context: Any) -> dict[str, int]:
    """A `Step Functions Execution Status Change` of EventBridge, or a schedule's tick, which is anything else."""
    deps = dependencies()
    with deps.invoices.meter.flushed():
        if event.get("source") == "aws.states":
            return _ended(deps, event["detail"])
        meter = deps.invoices.meter
        for stage in STAGES:
            # Without it a stage that has fallen silent would have no number, and its alarm nothing to look at.
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
    """Sweep what is due now. An invoice whose sweeping raises is left for the next time, and keeps nobody waiting."""
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
                        done, failed, left + sum(invoices.records.count_due(one, now, PAGE_SIZE) for one in others)
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
    """About how many executions are open; None where there was no time to count."""
    counted = shards = 0
    for shard in _shards(invoices.clock.now()):
        if counted >= SAMPLE_TARGET or milliseconds_left() < RESERVED_MS // 2:
            break
        counted += invoices.records.count_open(shard)
        shards += 1
    return counted * SHARDS // shards if shards else None


def _ended(deps: Dependencies, detail: dict[str, Any]) -> dict[str, int]:
    """An execution ended. What raises is raised: Lambda, which was called asynchronously, calls again, twice within the
    hour, and then puts the notice into the queue of what is undelivered (`infra.compute.sweep_schedule`)."""
    if detail["status"] not in ENDED:
        return {"done": 0}
    started = _input_of(deps, detail)
    if started is None:
        return {"done": 0}
    invoice_id, run = started
    with logger.append_context_keys(invoice_id=invoice_id, run=run):
        logger.warning(
            "an execution ended by itself", extra={"status": detail["status"], "execution": detail["executionArn"]}
        )
        _sweep_one(deps.invoices, invoice_id, run)
    return {"done": 1}


def _input_of(deps: Dependencies, detail: dict[str, Any]) -> tuple[str, int] | None:
    """Invoice and run of an execution. The event leaves its input out where the machine has a key of the customer's."""
    text = detail.get("input")
    if not text:
        text = deps.states.describe_execution(executionArn=detail["executionArn"]).get("input")
    try:
        given = msgspec.json.decode(text or "")
        return str(given["invoice_id"]), int(given["run"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        logger.error("an execution that no invoice started", extra={"execution": detail["executionArn"]})
        return None


def _sweep_one(invoices: InvoiceService, invoice_id: str, ended_run: int | None = None) -> None:
    invoices.decide(invoice_id, lambda record, now: on_sweep(record, invoices.policy, now, ended_run))


def _shards(now: Instant) -> list[int]:
    """All shards, from another one each minute."""
    first = now // MINUTE % SHARDS
    return [*range(first, SHARDS), *range(first)]


init_on_cold_start(dependencies)
