"""`bems replay`: a log of past events, run through the lifecycle."""

import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import date, timedelta

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bems.cli.files import LogFile, WhenParam, load_policy, output_file, refused_line
from bems.cli.mistakes import Failure, Mistake
from bems.cli.report import print_report
from bems.embedded.clock import SystemClock
from bems.embedded.replay import Refused, ReplayError
from bems.embedded.replay import replay as run
from bems.embedded.report import Report
from bems.tracker.answers import as_errors
from bems.tracker.instants import Instant, render
from bems.tracker.policy import Policy


@click.command(
    epilog="Example: bems replay events.jsonl.gz --policy stricter.yaml --invoices-out invoices.jsonl",
)
@click.argument("file", metavar="FILE")
@click.option(
    "--policy", "policy_file", metavar="FILE", help="The SLA policy (YAML). Default: the built-in one, `default`."
)
@click.option(
    "--until",
    type=WhenParam(),
    help="Leave out events that occurred later, and let time go on to here at the end. A date means the end of that "
    "day where the policy's calendar is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.option("--invoices-out", metavar="FILE", help="Write one JSON line per invoice: its status and its alerts.")
@click.option("--refused-out", metavar="FILE", help="Write one JSON line per refused line: its number and every fault.")
@click.option("--processes", type=click.IntRange(1, 64), help="How many to share the work. Default: one a core.")
def replay(
    file: str,
    policy_file: str | None,
    until: Instant | date | None,
    as_json: bool,
    invoices_out: str | None,
    refused_out: str | None,
    processes: int | None,
) -> None:
    """Run a log of past events through the lifecycle and report what would have been stuck.

    FILE holds one JSON object a line, {"stage": ..., "event": {...}}, plain or gzipped; - reads standard input. Time
    runs as the events say it did. An event that occurred more than a day after now is refused.
    """
    policy = load_policy(policy_file)
    log = LogFile(file)
    outs = [out for out in (invoices_out, refused_out) if out is not None]
    for out in outs:
        if log.is_file(out):
            raise Mistake(f"{out}: this is the log itself; write to another file")
    if len(set(map(os.path.realpath, outs))) < len(outs):
        raise Mistake(f"{refused_out}: --invoices-out and --refused-out are the same; write to two files")
    if isinstance(until, date):
        until = policy.calendar.back(until + timedelta(days=1), 0) - 1
    # Opened before the work, so that a path that cannot be written is told at once.
    with (
        output_file(invoices_out) if invoices_out is not None else nullcontext() as invoices_file,
        output_file(refused_out) if refused_out is not None else nullcontext() as refused_file,
    ):

        def refused(one: Refused) -> None:
            assert refused_file is not None
            refused_file.write(refused_line(one.line, one.event_id, as_errors(one.faults)))

        told = refused if refused_file is not None else None
        report, seconds = replay_with_progress(log, policy, until, processes or cores(), told)
        if invoices_file:
            invoices_file.writelines(invoice_lines(report))
    if as_json:
        rate = round((report.accepted + report.duplicate + report.refused) / seconds, 1)
        click.echo(json.dumps(report.summary() | {"events_per_second": rate}))
    else:
        print_report(report, seconds)
    if report.refused and not (report.accepted or report.left_out):
        raise Mistake(f"{file}: no line of it is an event; --refused-out FILE tells why, line by line")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def replay_with_progress(
    log: LogFile,
    policy: Policy,
    until: Instant | None = None,
    processes: int = 1,
    refused: Callable[[Refused], object] | None = None,
) -> tuple[Report, float]:
    """The report and the seconds it took, with a progress bar where a person watches."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
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
            report = run(watched(), policy, SystemClock().now(), until, processes, refused)
            return report, max(time.perf_counter() - started, 1e-9)
        except ReplayError as failure:
            raise Failure(str(failure)) from failure
        finally:
            gc.enable()


def invoice_lines(report: Report) -> Iterator[bytes]:
    """One line per invoice, sorted by id; `at` is the instant at which the alert was due."""
    encoder = msgspec.json.Encoder()
    for invoice in report.invoices:
        line = {
            "invoice_id": invoice.invoice_id,
            "status": invoice.status,
            "alerts": [
                {"stage": a.stage, "severity": a.severity, "kind": a.kind, "at": render(a.due_at)}
                for a in invoice.alerts
            ],
        }
        yield encoder.encode(line) + b"\n"
