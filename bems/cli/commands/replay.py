"""`bems replay`: a log of past events, run through the lifecycle."""

import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import date, timedelta
from typing import IO

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bems.cli import options
from bems.cli.checked_commands import CheckedCommand
from bems.cli.errors import Failure, Mistakes, UserError
from bems.cli.files import LogFile, WhenParam, load_policy, output_file, refused_line
from bems.cli.input_diagnosis import what_line
from bems.cli.output import make_console
from bems.cli.policy_comparison import BUILT_IN, Replayed, compare, print_comparison
from bems.cli.refused_events import FirstRefused
from bems.cli.refused_events import Refused as RefusedLine
from bems.cli.replay_report import as_document, print_report
from bems.embedded.clock import SystemClock
from bems.embedded.replay.replay import Refusal, ReplayError
from bems.embedded.replay.replay import replay as run
from bems.embedded.replay.report import Report
from bems.tracker.instants import Instant, render
from bems.tracker.policy import Policy
from bems.tracker.responses import to_error_list


@click.command(
    cls=CheckedCommand,
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
@click.option(
    "--compare",
    "compared_file",
    metavar="POLICY",
    help="Replay under this policy too, and show the two side by side: alerts by stage and severity, stuck, parked.",
)
@options.wide
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.option("--invoices-out", metavar="FILE", help="Write one JSON line per invoice: its status and its alerts.")
@click.option("--refused-out", metavar="FILE", help="Write one JSON line per refused line: its number and every fault.")
@click.option("--processes", type=click.IntRange(1, 64), help="How many to share the work. Default: one a core.")
def replay(
    file: str,
    policy_file: str | None,
    until: Instant | date | None,
    compared_file: str | None,
    wide: bool,
    as_json: bool,
    invoices_out: str | None,
    refused_out: str | None,
    processes: int | None,
) -> None:
    """Run a log of past events through the lifecycle and report what would have been stuck.

    FILE holds one JSON object a line, {"stage": ..., "event": {...}}, plain or gzipped; - reads standard input. Time
    runs as the events say it did. An event that occurred more than a day after now is refused.
    """
    with Mistakes() as mistakes:
        policies = [mistakes.of(load_policy, policy_file)]
        if compared_file is not None:
            policies.append(mistakes.of(load_policy, compared_file))
        log = mistakes.of(LogFile, file)
        outs = [out for out in (invoices_out, refused_out) if out is not None]
        for out in outs:
            if log is not None and log.is_file(out):
                mistakes.add(f"{out}: this is the log itself; write to another file")
        if len(set(map(os.path.realpath, outs))) < len(outs):
            mistakes.add(f"{refused_out}: --invoices-out and --refused-out are the same; write to two files")
    assert log is not None
    # Opened before the work, so that a path that cannot be written is told at once.
    with (
        output_file(invoices_out) if invoices_out is not None else nullcontext() as invoices_file,
        output_file(refused_out) if refused_out is not None else nullcontext() as refused_file,
        _kept(log, is_needed=compared_file is not None) as kept,
    ):
        first_refused = FirstRefused()

        def refused(one: Refusal) -> None:
            errors = to_error_list(one.errors)
            first_refused.add(RefusedLine(one.line, one.event_id, errors, what_line(kept.line)))
            if refused_file is not None:
                refused_file.write(refused_line(one.line, one.event_id, errors))

        replayed: list[Replayed] = []
        if isinstance(until, date):
            assert policies[0] is not None
            until = policies[0].calendar.subtract(until + timedelta(days=1), 0) - 1
        for number, (policy, name) in enumerate(zip(policies, (policy_file, compared_file), strict=False)):
            assert policy is not None
            told = refused if number == 0 else None
            report, seconds = replay_with_progress(kept, policy, until, processes or cores(), told)
            replayed.append(Replayed(name or BUILT_IN, report, seconds))
        report, seconds = replayed[0][1:]
        if invoices_file:
            invoices_file.writelines(invoice_lines(report))
    if compared_file is not None:
        if as_json:
            click.echo(json.dumps(compare(*replayed)))
        else:
            print_comparison(*replayed)
    elif as_json:
        click.echo(json.dumps(as_document(report, seconds) | {"first_refused": first_refused.as_document()}))
    else:
        print_report(report, seconds, wide=wide)
        first_refused.print(make_console(), refused_out)
    if report.refused and not (report.accepted or report.left_out):
        hint = next((one.hint for one in first_refused.lines if one.hint), None)
        why = f": {hint}" if hint else ""
        raise UserError(f"{file}: no line of it is an event{why}; --refused-out FILE tells why, line by line")


class Kept:
    """The lines of a log, which may be gone through more than once. `line` is the one that was given last."""

    def __init__(self, log: LogFile, copy: IO[bytes] | None) -> None:
        self._log, self._copy = log, copy
        self._is_copied = False
        self.size = log.size
        self.line = b""

    def __iter__(self) -> Iterator[bytes]:
        if self._copy is not None and self._is_copied:
            self._copy.seek(0)
        for line in self._copy if self._copy is not None and self._is_copied else self._log:
            self.line = line
            if self._copy is not None and not self._is_copied:
                # One that is too long has only its beginning, and no end.
                self._copy.write(line if line.endswith(b"\n") else line + b"\n")
            yield line
        self._is_copied = True

    def position(self) -> int:
        """How far it has been read, as `size` counts it."""
        return self._log.position()


@contextmanager
def _kept(log: LogFile, *, is_needed: bool) -> Iterator[Kept]:
    """The log, with a copy of its lines where it is gone through twice: standard input can be read only once."""
    if not is_needed:
        yield Kept(log, None)
        return
    with tempfile.TemporaryFile() as copy:
        yield Kept(log, copy)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def replay_with_progress(
    log: Kept,
    policy: Policy,
    until: Instant | None = None,
    processes: int = 1,
    refused: Callable[[Refusal], object] | None = None,
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
