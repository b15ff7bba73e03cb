"""`bems send`: sends a log of events to a cell."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import get_args

import click
import msgspec
from rich.progress import Progress, TaskProgressColumn
from rich.text import Text

from bems.cli.batches import Disposition, LineResult
from bems.cli.checked_commands import CheckedCommand
from bems.cli.client import POOL_SIZE, Client
from bems.cli.errors import UserError
from bems.cli.files import LogFile, encode_refusal, output_file
from bems.cli.http_errors import read_json, to_one_line
from bems.cli.input_diagnosis import diagnose_line
from bems.cli.options import connected
from bems.cli.output import format_duration, make_console, print_json
from bems.cli.progress import progress_bar
from bems.cli.refused_events import FirstRefusedLines, RefusedLine
from bems.cli.send_summary import SendSummary
from bems.cli.sender import Sender
from bems.embedded.replay.replay import BYTE_ORDER_MARK
from bems.tracker.parsing import MAX_LINE_BYTES, InvalidEvent, split_log_line
from bems.tracker.responses import Error

EXIT_INTERRUPTED = 130
RETRY_MESSAGE_INTERVAL_SECONDS = 30.0
"""Seconds before the same retry reason is printed again."""


@click.command(cls=CheckedCommand, epilog="Example: bems send events.jsonl.gz --rate 500 --refused-out refused.jsonl")
@click.argument("file", metavar="FILE")
@click.option(
    "--batch", type=click.IntRange(1, 100), default=100, show_default=True, help="Maximum number of events per request."
)
@click.option(
    "--in-flight",
    type=click.IntRange(1, POOL_SIZE),
    default=4,
    show_default=True,
    help="Maximum number of concurrent requests.",
)
@click.option(
    "--rate", type=click.FloatRange(min=0.01), help="Maximum number of events per second. Default: unlimited."
)
@click.option(
    "--retries-for",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=300.0,
    show_default=True,
    help="Seconds to retry while the cell cannot be reached or accepts nothing.",
)
@click.option("--refused-out", metavar="FILE", help="Write one JSON line per refused line: its number and every error.")
@click.option(
    "--past",
    is_flag=True,
    help="Import past events, older than the cell: mark each as imported, unless it has that field already.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@connected
@click.pass_context
def send(
    context: click.Context,
    client: Client,
    file: str,
    batch: int,
    in_flight: int,
    rate: float | None,
    retries_for: float,
    refused_out: str | None,
    past: bool,
    as_json: bool,
) -> None:
    """Send a log of events to a cell.

    FILE has one JSON object per line, {"stage": ..., "event": {...}}, plain or gzipped; - reads standard input. Events
    are not sent in order, which does not affect the result. Sending a file again is safe: events that the cell already
    has count as duplicates. Ctrl-C waits for the requests in flight. Requires a sender or admin key.

    With --past, deadlines count from when the events occurred, and are at least a day from now: a completed year, sent
    in any order, raises no alert about a wait, a mismatch or a failed posting. Invoices that are still open raise
    alerts from tomorrow on. Without --past every event counts as new.

    The exit code is 0 if the cell has every event, accepted now or before; 1 if any was refused, conflicts with an
    event of the cell, or was not delivered; 130 after Ctrl-C.
    """
    log = LogFile(file)
    if refused_out is not None and log.is_file(refused_out):
        raise UserError(f"{refused_out}: this is the log itself; write to another file")
    is_interrupted, log_error = False, None
    first_refused, hints = FirstRefusedLines(), dict[int, str | None]()
    with (
        output_file(refused_out) if refused_out is not None else nullcontext() as refused_file,
        progress_reporter(log, retries_for) as watch,
    ):

        def on_result(one: LineResult) -> None:
            watch.on_result()
            if one.disposition in ("refused", "conflict"):
                # Pointers from the cell are relative to the event, those of a line that was not sent to the line.
                prefix = "/event" if one.seconds else ""
                errors = [Error(prefix + error.pointer, error.detail) for error in one.errors]
                first_refused.add(RefusedLine(one.line, one.event_id, errors, hints.pop(one.line, None)))
                if refused_file is not None:
                    refused_file.write(encode_refusal(one.line, one.event_id, errors))

        sender = Sender(
            client,
            batch=batch,
            in_flight=in_flight,
            rate=rate,
            retries_for=retries_for,
            on_result=on_result,
            on_retry=watch.on_retry,
        )
        try:
            try:
                send_lines(sender, watch.lines(), hints, past=past)
            except UserError as unreadable:
                # The lines before the unreadable part are still sent.
                log_error = unreadable
            summary = sender.finish()
        except KeyboardInterrupt:
            is_interrupted = True
            sender.abandon()
            summary = sender.finish()
    fault = log_error or sender.fault
    if summary.requests.count or not fault:
        print_summary(summary, first_refused, refused_out, as_json)
    if is_interrupted:
        context.exit(EXIT_INTERRUPTED)
    if fault:
        raise fault
    context.exit(0 if summary.all_delivered else 1)


def send_lines(
    sender: Sender, lines: Iterator[tuple[int, bytes]], hints: dict[int, str | None], *, past: bool = False
) -> None:
    """Send each line that has an event; the cell validates the event by its own clock.

    Other lines are refused here, and `hints` says what they are, by line number, if that is recognized. `past` marks
    each event as imported.
    """
    for number, line in lines:
        split = split_log_line(line)
        if isinstance(split, InvalidEvent):
            hints[number] = diagnose_line(line)
            sender.refuse(number, split)
            continue
        stage, event = split
        if not sender.send(stage, mark_imported(event) if past else event, number):
            return


class _ImportedField(msgspec.Struct):
    """The field `imported` of an event, unset if the event has none."""

    imported: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_IMPORTED_FIELD = msgspec.json.Decoder(_ImportedField)


def mark_imported(event: bytes) -> bytes:
    """Return the event with `imported` set to true, unless it has the field. Other JSON is returned unchanged."""
    field = read_json(event, _IMPORTED_FIELD)
    if field is None or field.imported is not msgspec.UNSET:
        return event
    rest = event.lstrip()[1:].lstrip()
    return b'{"imported":true' + (b"" if rest.startswith(b"}") else b",") + rest


class ProgressReporter:
    """Shows a progress bar, and from time to time the reason of retries."""

    def __init__(self, log: LogFile, progress: Progress, retries_for: float) -> None:
        self._log, self._progress, self._retries_for = log, progress, retries_for
        self._task = progress.add_task("Sending", total=log.size, lines=0)
        self._count = 0
        self._last_reason, self._reason_printed_at = "", 0.0

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the lines of the log that are not blank, with their numbers, counted from 1."""
        for number, line in enumerate(self._log, 1):
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if len(line) > MAX_LINE_BYTES or line.strip():
                yield number, line

    def on_result(self) -> None:
        self._count += 1
        if self._count % 100 == 0:
            self._progress.update(self._task, completed=self._log.position(), lines=self._count)

    def on_retry(self, reason: str) -> None:
        now = time.monotonic()
        if reason != self._last_reason or now - self._reason_printed_at > RETRY_MESSAGE_INTERVAL_SECONDS:
            self._last_reason, self._reason_printed_at = reason, now
            retrying = f"retrying for up to {self._retries_for:.0f} seconds"
            self._progress.console.print(Text(f"bems: {to_one_line(reason)}; {retrying}"), soft_wrap=True)


@contextmanager
def progress_reporter(log: LogFile, retries_for: float) -> Iterator[ProgressReporter]:
    """Yield a reporter whose progress bar is shown on a terminal."""
    with progress_bar("{task.description}", TaskProgressColumn(), "{task.fields[lines]:,} events") as progress:
        yield ProgressReporter(log, progress, retries_for)


def print_summary(
    summary: SendSummary, first_refused: FirstRefusedLines, refused_out: str | None, as_json: bool
) -> None:
    """Print the number of events by disposition, and the speed."""
    dispositions: tuple[Disposition, ...] = get_args(Disposition)
    p50, p99 = (summary.requests.percentile(percent) for percent in (50, 99))
    if as_json:
        print_json(
            {
                "events": {
                    "sent": summary.sent,
                    **{str(disposition): summary.dispositions[disposition] for disposition in dispositions},
                },
                "refused_by": dict(summary.refused_fields.most_common()),
                "first_refused": first_refused.as_document(),
                "requests": {
                    "answered": summary.requests.count,
                    "repeated": summary.retries,
                    "p50_ms": None if p50 is None else round(p50 * 1000, 1),
                    "p99_ms": None if p99 is None else round(p99 * 1000, 1),
                },
                "seconds": round(summary.seconds, 3),
                "events_per_second": round(summary.rate, 1),
            }
        )
        return
    click.echo(f"{'Sent':<12}{summary.sent:>12,}  in {format_duration(summary.seconds)}, {summary.rate:,.0f} a second")
    meanings: dict[Disposition, str] = {
        "conflict": "a different event with the same id was accepted before",
        "undelivered": "send the file again; duplicates are ignored",
    }
    for disposition in dispositions:
        if summary.dispositions[disposition] or disposition == "accepted":
            click.echo(
                f"  {disposition:<10}{summary.dispositions[disposition]:>12,}  {meanings.get(disposition, '')}".rstrip()
            )
    for place, count in summary.refused_fields.most_common():
        click.echo(f"    {place:<20}{count:>12,}")
    if p50 is not None and p99 is not None:
        repeated = f", {summary.retries:,} repeated" if summary.retries else ""
        click.echo(
            f"{'Requests':<12}{summary.requests.count:>12,}  half within {format_duration(p50)}, 99% within "
            f"{format_duration(p99)}{repeated}"
        )
    first_refused.print(make_console(), refused_out)
