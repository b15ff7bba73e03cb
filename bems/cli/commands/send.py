"""`bems send`: an event log, sent to a cell."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import get_args

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
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
from bems.cli.refused_events import FirstRefusedLines, RefusedLine
from bems.cli.send_summary import SendSummary
from bems.cli.sender import Sender
from bems.embedded.replay.replay import BYTE_ORDER_MARK
from bems.tracker.parsing import MAX_LINE_BYTES, InvalidEvent, split_log_line
from bems.tracker.responses import Error

EXIT_INTERRUPTED = 130
RETRY_MESSAGE_INTERVAL_SECONDS = 30.0
"""Seconds between two lines about the same trouble."""


@click.command(cls=CheckedCommand, epilog="Example: bems send events.jsonl.gz --rate 500 --refused-out refused.jsonl")
@click.argument("file", metavar="FILE")
@click.option("--batch", type=click.IntRange(1, 100), default=100, show_default=True, help="Events in a request.")
@click.option("--in-flight", type=click.IntRange(1, POOL_SIZE), default=4, show_default=True, help="Requests at once.")
@click.option("--rate", type=click.FloatRange(min=0.01), help="Events a second, at the most. Default: all it takes.")
@click.option(
    "--retries-for",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=300.0,
    show_default=True,
    help="How long to go on where the cell cannot be reached or takes nothing.",
)
@click.option("--refused-out", metavar="FILE", help="Write one JSON line per refused line: its number and every fault.")
@click.option(
    "--past",
    is_flag=True,
    help="These are past events, older than the cell: mark each as imported, unless it says itself whether it is.",
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

    FILE holds one JSON object a line, {"stage": ..., "event": {...}}, plain or gzipped; - reads standard input. The
    order is not kept, because it cannot matter. To send a file again is harmless: what the cell has is a duplicate.
    Ctrl-C waits for the requests under way. Needs a key of a sender or admin.

    With --past, deadlines count from when the events occurred, and are a day from now at the earliest: a finished year,
    sent in any order, raises no alert of a wait, a mismatch or a failed posting. What is still open then does, from
    tomorrow on. Without it every event counts as news.

    Exit code 0 if the cell has every event, accepted now or before; 1 if any was refused, is in conflict with one that
    the cell has, or was not delivered; 130 after Ctrl-C.
    """
    log = LogFile(file)
    if refused_out is not None and log.is_file(refused_out):
        raise UserError(f"{refused_out}: this is the log itself; write to another file")
    interrupted, mistake = False, None
    first_refused, hints = FirstRefusedLines(), dict[int, str | None]()
    with (
        output_file(refused_out) if refused_out is not None else nullcontext() as refused_file,
        progress_reporter(log, retries_for) as watch,
    ):

        def told(one: LineResult) -> None:
            watch.on_result()
            if one.disposition in ("refused", "conflict"):
                # The cell's pointers lead into the event, and it was asked about those only that are lines at all.
                inside = "/event" if one.seconds else ""
                errors = [Error(inside + error.pointer, error.detail) for error in one.errors]
                first_refused.add(RefusedLine(one.line, one.event_id, errors, hints.pop(one.line, None)))
                if refused_file is not None:
                    refused_file.write(encode_refusal(one.line, one.event_id, errors))

        sender = Sender(
            client,
            batch=batch,
            in_flight=in_flight,
            rate=rate,
            retries_for=retries_for,
            on_result=told,
            on_retry=watch.on_retry,
        )
        try:
            try:
                send_lines(sender, watch.lines(), hints, past=past)
            except UserError as unreadable:
                # What could be read of the log is sent.
                mistake = unreadable
            summary = sender.finish()
        except KeyboardInterrupt:
            interrupted = True
            sender.abandon()
            summary = sender.finish()
    fault = mistake or sender.fault
    if summary.requests.count or not fault:
        print_summary(summary, first_refused, refused_out, as_json)
    if interrupted:
        context.exit(EXIT_INTERRUPTED)
    if fault:
        raise fault
    context.exit(0 if summary.all_delivered else 1)


def send_lines(
    sender: Sender, lines: Iterator[tuple[int, bytes]], hints: dict[int, str | None], *, past: bool = False
) -> None:
    """Send each line, unless it is not even one: then `hints` says what it is instead, where that can be told. Whether
    its event is good is for the cell to judge, by its clock. `past`: mark each event as imported."""
    for number, line in lines:
        split = split_log_line(line)
        if isinstance(split, InvalidEvent):
            hints[number] = diagnose_line(line)
            sender.refuse(number, split)
            continue
        stage, event = split
        if not sender.send(stage, mark_imported(event) if past else event, number):
            return


class _Stated(msgspec.Struct):
    """Whether an event says of itself that it is imported."""

    imported: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_STATED = msgspec.json.Decoder(_Stated)


def mark_imported(event: bytes) -> bytes:
    """The event with `imported` set, unless it states that itself. What is no event stays as it is, to be refused."""
    stated = read_json(event, _STATED)
    if stated is None or stated.imported is not msgspec.UNSET:
        return event
    rest = event.lstrip()[1:].lstrip()
    return b'{"imported":true' + (b"" if rest.startswith(b"}") else b",") + rest


class ProgressReporter:
    """What a person sees meanwhile: a progress bar, or a line now and then where something is in the way."""

    def __init__(self, log: LogFile, progress: Progress, retries_for: float) -> None:
        self._log, self._progress, self._retries_for = log, progress, retries_for
        self._task = progress.add_task("Sending", total=log.size, lines=0)
        self._count = 0
        self._said, self._said_at = "", 0.0

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines of the log that are not blank, with their numbers."""
        for number, line in enumerate(self._log, 1):
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if len(line) > MAX_LINE_BYTES or line.strip():
                yield number, line

    def on_result(self) -> None:
        self._count += 1
        if self._count % 100 == 0:
            self._progress.update(self._task, completed=self._log.position(), lines=self._count)

    def on_retry(self, trouble: str) -> None:
        now = time.monotonic()
        if trouble != self._said or now - self._said_at > RETRY_MESSAGE_INTERVAL_SECONDS:
            self._said, self._said_at = trouble, now
            going_on = f"tried again for up to {self._retries_for:.0f} seconds"
            self._progress.console.print(Text(f"bems: {to_one_line(trouble)}; {going_on}"), soft_wrap=True)


@contextmanager
def progress_reporter(log: LogFile, retries_for: float) -> Iterator[ProgressReporter]:
    """Somebody may be looking."""
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[lines]:,} events"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield ProgressReporter(log, progress, retries_for)


def print_summary(
    summary: SendSummary, first_refused: FirstRefusedLines, refused_out: str | None, as_json: bool
) -> None:
    """What became of the events, and how fast."""
    fates: tuple[Disposition, ...] = get_args(Disposition)
    half, most = (summary.requests.percentile(percent) for percent in (50, 99))
    if as_json:
        print_json(
            {
                "events": {"sent": summary.sent, **{str(fate): summary.dispositions[fate] for fate in fates}},
                "refused_by": dict(summary.refused_fields.most_common()),
                "first_refused": first_refused.as_document(),
                "requests": {
                    "answered": summary.requests.count,
                    "repeated": summary.retries,
                    "p50_ms": None if half is None else round(half * 1000, 1),
                    "p99_ms": None if most is None else round(most * 1000, 1),
                },
                "seconds": round(summary.seconds, 3),
                "events_per_second": round(summary.rate, 1),
            }
        )
        return
    click.echo(f"{'Sent':<12}{summary.sent:>12,}  in {format_duration(summary.seconds)}, {summary.rate:,.0f} a second")
    meanings: dict[Disposition, str] = {
        "conflict": "another event with that id was accepted before",
        "undelivered": "send the file again; a repeat is harmless",
    }
    for fate in fates:
        if summary.dispositions[fate] or fate == "accepted":
            click.echo(f"  {fate:<10}{summary.dispositions[fate]:>12,}  {meanings.get(fate, '')}".rstrip())
    for place, count in summary.refused_fields.most_common():
        click.echo(f"    {place:<20}{count:>12,}")
    if half is not None and most is not None:
        repeated = f", {summary.retries:,} repeated" if summary.retries else ""
        click.echo(
            f"{'Requests':<12}{summary.requests.count:>12,}  half within {format_duration(half)}, 99% within "
            f"{format_duration(most)}{repeated}"
        )
    first_refused.print(make_console(), refused_out)
