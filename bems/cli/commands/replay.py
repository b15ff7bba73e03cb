"""`bems replay`: replays a log of past events through the lifecycle, in memory."""

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
from rich.progress import TaskProgressColumn

from bems.cli import options
from bems.cli.checked_commands import CheckedCommand
from bems.cli.errors import ErrorCollector, Failure, UserError
from bems.cli.files import LogFile, TimeParam, encode_refusal, output_file, read_policy_file
from bems.cli.input_diagnosis import diagnose_line
from bems.cli.output import make_console
from bems.cli.policy_comparison import BUILT_IN, ReplayResult, compare, print_comparison
from bems.cli.progress import progress_bar
from bems.cli.refused_events import FirstRefusedLines
from bems.cli.refused_events import RefusedLine as RefusedLine
from bems.cli.replay_report import as_document, print_report
from bems.clock import SystemClock
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
    "--policy", "policy_file", metavar="FILE", help="SLA policy (YAML). Default: the built-in one, `default`."
)
@click.option(
    "--until",
    type=TimeParam(),
    help="Ignore events that occurred after this time, and replay until it. A date means the end of that day in the "
    "time zone of the policy's calendar.",
)
@click.option(
    "--compare",
    "compared_file",
    metavar="POLICY",
    help="Also replay under this policy, and print both side by side: alerts by stage and severity, stuck, parked.",
)
@options.wide
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.option("--invoices-out", metavar="FILE", help="Write one JSON line per invoice: its status and its alerts.")
@click.option("--refused-out", metavar="FILE", help="Write one JSON line per refused line: its number and every error.")
@click.option("--processes", type=click.IntRange(1, 64), help="Number of processes. Default: one per core.")
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
    """Replay past events and report which invoices were stuck.

    FILE has one JSON object per line, {"stage": ..., "event": {...}}, plain or gzipped; - reads standard input. The
    clock follows the times of the events. An event that occurred more than a day after now is refused.
    """
    with ErrorCollector() as errors:
        policies = [errors.attempt(read_policy_file, policy_file)]
        if compared_file is not None:
            policies.append(errors.attempt(read_policy_file, compared_file))
        log = errors.attempt(LogFile, file)
        outs = [out for out in (invoices_out, refused_out) if out is not None]
        for out in outs:
            if log is not None and log.is_file(out):
                errors.add(f"{out}: this is the log itself; write to another file")
        if len(set(map(os.path.realpath, outs))) < len(outs):
            errors.add(f"{refused_out}: --invoices-out and --refused-out are the same; use two files")
    assert log is not None
    # Open the files first, so that a path that cannot be written is reported at once.
    with (
        output_file(invoices_out) if invoices_out is not None else nullcontext() as invoices_file,
        output_file(refused_out) if refused_out is not None else nullcontext() as refused_file,
        rereadable_log(log, is_needed=compared_file is not None) as kept,
    ):
        first_refused = FirstRefusedLines()

        def on_refused(one: Refusal) -> None:
            errors = to_error_list(one.errors)
            first_refused.add(RefusedLine(one.line, one.event_id, errors, diagnose_line(kept.line)))
            if refused_file is not None:
                refused_file.write(encode_refusal(one.line, one.event_id, errors))

        replayed: list[ReplayResult] = []
        if isinstance(until, date):
            assert policies[0] is not None
            until = policies[0].calendar.subtract(until + timedelta(days=1), 0) - 1
        for number, (policy, name) in enumerate(zip(policies, (policy_file, compared_file), strict=False)):
            assert policy is not None
            on_line = on_refused if number == 0 else None
            report, seconds = replay_with_progress(kept, policy, until, processes or count_cores(), on_line)
            replayed.append(ReplayResult(name or BUILT_IN, report, seconds))
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
        raise UserError(f"{file}: no line is an event{why}; --refused-out FILE writes the reason for each line")


class RereadableLog:
    """The lines of a log, which can be iterated again if `copy` is given. `line` is the current line."""

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
                # A line that is too long is cut and has no line break.
                self._copy.write(line if line.endswith(b"\n") else line + b"\n")
            yield line
        self._is_copied = True

    def position(self) -> int:
        """Return the reading position in bytes, in the unit of `size`."""
        return self._log.position()


@contextmanager
def rereadable_log(log: LogFile, *, is_needed: bool = True) -> Iterator[RereadableLog]:
    """Yield the log, with a copy of its lines if it is read twice: standard input can be read only once."""
    if not is_needed:
        yield RereadableLog(log, None)
        return
    with tempfile.TemporaryFile() as copy:
        yield RereadableLog(log, copy)


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def replay_with_progress(
    log: RereadableLog,
    policy: Policy,
    until: Instant | None = None,
    processes: int = 1,
    on_refused: Callable[[Refusal], object] | None = None,
) -> tuple[Report, float]:
    """Replay the log and return the report and the seconds it took. Shows a progress bar on a terminal."""
    with progress_bar("{task.description}", TaskProgressColumn(), "{task.fields[lines]:,} lines") as progress:
        task = progress.add_task("Replaying", total=log.size, lines=0)

        def with_progress() -> Iterator[bytes]:
            for number, line in enumerate(log, 1):
                if number % 1000 == 0:
                    progress.update(task, completed=log.position(), lines=number)
                yield line

        # The replay makes no reference cycles, and the garbage collector would take a tenth of its time.
        gc.disable()
        try:
            started = time.perf_counter()
            report = run(with_progress(), policy, SystemClock().now(), until, processes, on_refused)
            return report, max(time.perf_counter() - started, 1e-9)
        except ReplayError as failure:
            raise Failure(str(failure)) from failure
        finally:
            gc.enable()


def invoice_lines(report: Report) -> Iterator[bytes]:
    """Yield one JSON line per invoice, sorted by id; an alert's `at` is the time at which it was due."""
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
