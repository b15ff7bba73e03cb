"""Section of the peers in the results."""

from bench.peers.measuring import Outcome, Row
from bench.results import table

HEAD = (
    "engine",
    "durable when answered",
    "in flight",
    "events/s",
    "CPU per event, x the first engine's lowest (core-seconds per 1,000)",
    "p50 / p99",
    "disk per invoice",
    "resident memory",
    "kill -9 to first answer",
    "calibration, ms",
)
METHOD = """\
The engines take turns on this machine, one running at a time. Each gets the same events, as the same bytes, by
the same client over the loopback: one a request, four an invoice, with a timer of days armed for each stage that is
waited for. A connection sends its next event when the last was answered. CPU is that of every process of the engine
(server, service, database), not of the client, and is counted until the engine is idle again. The lower cost of each
engine is in bold; multiples mean the same on other machines, core-seconds do not. Disk is what the files of an engine
have grown by when it was stopped, per four events; of PostgreSQL without its write-ahead log, which is used again, of
Restate with its log, which it cuts by itself. Kill -9 is of all processes of an engine under load; the time runs from
their start again to the first event that is accepted."""
IMPLEMENTATIONS = """How each was built:

- **Restate**: a virtual object per invoice, a short invocation per event, its state and the ids it has seen in the
  object, a delayed call to itself as the timer, which does nothing if its stage is done; four partitions, for few
  processors; Python SDK on granian, in the place of the Hypercorn of its documentation. It keeps the journal of an
  invocation for a day, which is its default and counts as disk here.
- **DBOS**: a workflow per invoice that waits by `recv` with a timeout, events by `send` with the event's id as
  idempotency key; asynchronous, FastAPI on uvicorn, a thread for each of its 20 connections, PostgreSQL with
  its own settings. Its second row is of 64 in flight: at its pace, 200 would be little more than ingestions.
- **moto**: an execution per invoice that waits for task tokens, in process, with its function calls short-circuited
  and its parser cached. It is an emulator for tests and makes no promise of speed; it is here because it runs the
  same States Language."""
DIFFERENCES = """\
Where they do more: Restate and DBOS run any code as durable workflows, with retries, sagas and queues, and in
several languages; Restate replicates over a cluster and fails over, DBOS scales out over PostgreSQL and has its
backups, replicas and SQL. moto emulates the API of Step Functions, and of many other services. Our cell does one thing
on one machine.

Where the cell does more for its figure: it validates each event's fields, money and dates at the gate, checks a key,
tells a repeat from a conflict (the same id with other content), counts deadlines in business days, writes
alerts, and feeds a time series for analytics. None of that was built on the peers; their services trust their
input."""


def render(outcome: Outcome) -> str:
    """Return the table and the text in Markdown."""
    parts = [table(HEAD, [_cells(row, outcome) for row in outcome.rows]), METHOD]
    refused = [f"- {_name(row)}, {row.connections} in flight: {_statuses(row)}" for row in outcome.rows if row.refused]
    if refused:
        parts.append("Not every event was accepted:\n\n" + "\n".join(refused))
    if outcome.unavailable:
        parts.append("Not measured:\n\n" + "\n".join(f"- {name}: {why}" for name, why in outcome.unavailable.items()))
    return "\n\n".join([*parts, IMPLEMENTATIONS, DIFFERENCES])


def describe_row(row: Row) -> str:
    """Return a row as one line for the terminal."""
    return (
        f"{_name(row)}, {row.connections} in flight: {row.result.rate:,.0f} events/s, {row.cost:.2f} core-seconds "
        f"per 1,000, {row.result.latency()}"
    )


def _cells(row: Row, outcome: Outcome) -> tuple[str, ...]:
    lowest_cost = min(one.cost for one in outcome.rows if one.engine is outcome.rows[0].engine)
    # A load too short for the resolution of CPU times has no cost to divide by.
    cost = f"{row.cost / lowest_cost:.1f} x ({row.cost:.2f})" if lowest_cost else f"{row.cost:.2f}"
    if row.cost == min(one.cost for one in outcome.rows if one.engine is row.engine):
        cost = f"**{cost}**"
    recovery = outcome.recoveries.get(row.engine.name)
    return (
        _name(row),
        row.engine.durable,
        str(row.connections),
        f"{row.result.rate:,.0f}",
        cost,
        row.result.latency(),
        "" if row.stored_bytes is None else f"{row.stored_bytes / 1000:.1f} kB",
        f"{row.memory_mb:,.0f} MB",
        "" if recovery is None else f"{recovery:.1f} s",
        f"{min(row.calibrations):.1f} to {max(row.calibrations):.1f}",
    )


def _name(row: Row) -> str:
    return f"{row.engine.name} ({row.version})"


def _statuses(row: Row) -> str:
    return ", ".join(f"{count:,} x {status or 'no answer'}" for status, count in sorted(row.refused.items()))
