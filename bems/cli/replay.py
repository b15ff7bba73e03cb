"""`bems replay`: a log of past events, run through the lifecycle."""

import gc
import json
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bems.cli.files import InstantParam, LogFile, load_policy, output_file
from bems.cli.report import print_report
from bems.embedded.clock import SystemClock
from bems.embedded.replay import replay as run
from bems.embedded.report import Report
from bems.tracker.instants import Instant, render
from bems.tracker.policy import Policy


@click.command(
    epilog="Example: bems replay events.jsonl.gz --policy stricter.yaml --invoices-out stuck.jsonl",
)
@click.argument("file", metavar="FILE")
@click.option("--policy", "policy_file", metavar="FILE", help="The SLA policy (YAML). Default: the built-in one.")
@click.option("--until", type=InstantParam(), help="Leave out later events, and let time go on to here at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.option(
    "--processes", type=click.IntRange(1, 64), help="How many to share the invoices over. Default: one a core."
)
@click.option("--invoices-out", metavar="FILE", help="Write one JSON line per invoice: its status and its alerts.")
def replay(
    file: str,
    policy_file: str | None,
    until: Instant | None,
    as_json: bool,
    processes: int | None,
    invoices_out: str | None,
) -> None:
    """Run a log of past events through the lifecycle and report what would have been stuck.

    FILE holds one JSON object a line, {"stage": ..., "event": {...}}, plain or gzipped; - reads standard input. Time
    runs as the events say it did: the same log and policy give the same report.
    """
    policy = load_policy(policy_file)
    log = LogFile(file)
    # Opened before the work, so that a path that cannot be written is told at once.
    with output_file(invoices_out) if invoices_out else nullcontext() as out:
        report, seconds = replay_with_progress(log, policy, until, processes or 0)
        if out:
            out.writelines(invoice_lines(report))
    if as_json:
        rate = round((report.accepted + report.duplicate + report.refused) / seconds, 1)
        click.echo(json.dumps(report.summary() | {"events_per_second": rate}))
    else:
        print_report(report, seconds)
    if report.refused and not report.accepted:
        raise click.ClickException(f"{file}: no line of it is an event; the reasons are in the report")


def replay_with_progress(
    log: LogFile, policy: Policy, until: Instant | None = None, processes: int = 0
) -> tuple[Report, float]:
    """The report and the seconds it took, with a progress bar where a person watches."""
    processes = processes or len(
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn() if log.size else MofNCompleteColumn(),
        TextColumn("{task.fields[lines]:,} lines"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Replaying", total=log.size, lines=0)

        def watched() -> Iterator[bytes]:
            for number, line in enumerate(log, 1):
                if number % 1000 == 0:
                    progress.update(task, completed=log.position(), lines=number)
                yield line

        # The replay makes no reference cycles, so looking for them would only cost a tenth of its time.
        gc.disable()
        try:
            started = time.perf_counter()
            report = run(watched(), policy, SystemClock().now(), until, processes)
            return report, max(time.perf_counter() - started, 1e-9)
        finally:
            gc.enable()


def invoice_lines(report: Report) -> Iterator[bytes]:
    """One line per invoice, sorted by id; `at` is the instant at which the alert was due."""
    encoder = msgspec.json.Encoder()
    for invoice_id, status, alerts in report.invoices:
        line = {
            "invoice_id": invoice_id,
            "status": status,
            "alerts": [
                {"stage": a.stage, "severity": a.severity, "kind": a.kind, "at": render(a.due_at)} for a in alerts
            ],
        }
        yield encoder.encode(line) + b"\n"
