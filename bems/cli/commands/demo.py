"""`bems demo`: starts a fresh cell and sends it a generated month of invoices over HTTP."""

import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

import click
from rich.progress import MofNCompleteColumn

from bems.cli.batches import LineResult
from bems.cli.checked_commands import CheckedCommand
from bems.cli.client import Client, quote_path
from bems.cli.commands.up import POLL_SECONDS, shutdown_signal
from bems.cli.demo_report import as_document, collect, print_result
from bems.cli.errors import Failure, translate_store_errors
from bems.cli.files import read_policy_file
from bems.cli.output import print_json
from bems.cli.pacing import ReplayPacer
from bems.cli.progress import progress_bar
from bems.cli.send_summary import SendSummary
from bems.cli.sender import Sender
from bems.cli.worst_invoice import WorstInvoice
from bems.clock import SystemClock
from bems.embedded.api.access import VIEWERS
from bems.embedded.api.server import CannotListen
from bems.embedded.clock import AcceleratedClock
from bems.embedded.service import Service
from bems.embedded.storage.file_permissions import private_umask
from bems.embedded.storage.policy_history import DEFAULT_SOURCE
from bems.generator.event_log import generate
from bems.tracker.cells import Limits, Rate, StageRates
from bems.tracker.contract import Event
from bems.tracker.instants import DAY, LATEST, SECOND, from_datetime, to_datetime
from bems.tracker.parsing import InvalidEvent, split_log_line

INVOICES, SEED, DEMO_START, DEMO_DAYS = 2_500, 1, date(2026, 1, 1), 31
SPEED = 20 * DAY / SECOND
"""Twenty days per second, if the cell and the sender keep up."""

DEMO_IN_FLIGHT = 6
EVENTS_PER_SAMPLE = 25
"""One of this many events is read back once accepted, to check that it is visible at once."""

CELL_STOPPED = """The cell has stopped. Run make demo (or bems demo) in a terminal, without --exit, to keep it running;
it then prints its URL and key for these commands:"""

PORT = 8080
UNTHROTTLED = Rate(100_000, 100_000)


class SendResult(NamedTuple):
    """The summary of the send, and the ids of sampled events that were accepted but not visible at once."""

    summary: SendSummary
    not_visible: list[str]


@click.command(cls=CheckedCommand, epilog="Example: bems demo --exit")
@click.option(
    "--invoices", type=click.IntRange(1, 1_000_000), default=INVOICES, show_default=True, help="Number of invoices."
)
@click.option("--exit", "leave", is_flag=True, help="Stop after the report, which is the default without a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object, and stop.")
def demo(invoices: int, leave: bool, as_json: bool) -> None:
    """Run a fresh cell with a generated month of invoices.

    Sends the events of the month over HTTP and reports the result. The cell listens on port 8080, or on a free port if
    that is taken. Its clock runs fast until the last event is sent. The report ends with the stuck invoices, the worst
    of them (the greatest amount in the currency of the most stuck invoices), and three commands to try. The cell keeps
    running until Ctrl-C, and its data is then deleted.
    """
    keeps_running = not (leave or as_json) and sys.stdin.isatty() and sys.stdout.isatty()
    lines = list(generate(invoices, SEED, start=DEMO_START, days=DEMO_DAYS))
    clock = AcceleratedClock(
        from_datetime(datetime(DEMO_START.year, DEMO_START.month, DEMO_START.day, tzinfo=UTC)), SPEED
    )
    with (
        private_umask(),
        translate_store_errors(),
        tempfile.TemporaryDirectory(prefix="bems-demo-") as folder,
        _service(Path(folder), clock) as service,
    ):
        _, key = service.keys.add("demo", "admin", "bems demo", clock.now())
        click.echo(f"A fresh cell listens on {service.server.url}.", err=as_json)
        click.echo(
            f"Sending it a generated month over HTTP: {len(lines):,} events of {invoices:,} invoices, one per request, "
            "at up to twenty days per second.",
            err=as_json,
        )
        sent = send_paced(service, key, lines, clock)
        clock.set_speed(1.0)
        clock.run_until(LATEST)
        with closing(Client(service.server.url, key)) as client:
            result = collect(client, service.analytics)
        if as_json:
            print_json({**as_document(sent.summary, result), "commands": example_commands(result.worst)})
        else:
            print_result(sent.summary, result)
        commands = example_commands(result.worst)
        if keeps_running:
            _run_until_ctrl_c(service, key, commands)
        elif not as_json:
            click.echo(f"\n{CELL_STOPPED}\n\n" + "\n".join(f"    {command}" for command in commands))
    if sent.not_visible:
        raise Failure(
            f"{len(sent.not_visible)} accepted events were not visible at once, such as {sent.not_visible[0]}"
        )
    if not result.is_consistent_with(sent.summary):
        raise Failure("not every event is accounted for")


@contextmanager
def _service(folder: Path, clock: AcceleratedClock) -> Iterator[Service]:
    """Run a cell on the default port, or on a free one if that is taken."""
    limits = Limits(UNTHROTTLED, StageRates(UNTHROTTLED, UNTHROTTLED, UNTHROTTLED, UNTHROTTLED))
    policy = read_policy_file(None)
    try:
        service = Service(
            folder, policy, policy_source=DEFAULT_SOURCE, name="demo", port=PORT, limits=limits, clock=clock
        )
    except CannotListen:
        service = Service(folder, policy, policy_source=DEFAULT_SOURCE, name="demo", port=0, limits=limits, clock=clock)
    with service:
        yield service


def send_paced(service: Service, key: str, lines: Sequence[bytes], clock: AcceleratedClock) -> SendResult:
    """Send each line when the clock reaches its time. Shows a progress bar on a terminal."""
    client, today = Client(service.server.url, key), SystemClock().now()
    pacer, sample, not_visible = ReplayPacer(clock, today), dict[int, Event](), list[str]()
    with _progress(len(lines), clock) as advance:

        def on_result(result: LineResult) -> None:
            pacer.acknowledge(result.line)
            advance()
            event = sample.pop(result.line, None)
            if event and result.disposition == "accepted" and not _is_visible(client, event):
                not_visible.append(event.event_id)

        sender = Sender(client, batch=1, in_flight=DEMO_IN_FLIGHT, on_result=on_result)
        try:
            for number, line, event in pacer.schedule(lines):
                split = split_log_line(line)
                if isinstance(split, InvalidEvent):
                    sender.refuse(number, split)
                    continue
                if isinstance(event, Event) and number % EVENTS_PER_SAMPLE == 0:
                    sample[number] = event
                if not sender.send(*split, number):
                    break
        except BaseException:
            sender.abandon()
            raise
        finally:
            summary = sender.finish()
    client.close()
    if sender.fault:
        raise sender.fault
    return SendResult(summary, not_visible)


def _is_visible(client: Client, event: Event) -> bool:
    details = client.request_json("GET", f"/invoices/{quote_path(event.invoice_id)}", VIEWERS)
    return any(row.get("event_id") == event.event_id for row in details["transitions"])


@contextmanager
def _progress(total: int, clock: AcceleratedClock) -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal, and yield the callback that advances it by one event."""
    with progress_bar("{task.fields[day]}", MofNCompleteColumn(), "events") as progress:
        task = progress.add_task("", total=total, day="")
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            if done % 20 == 0:
                progress.update(task, completed=done, day=f"{to_datetime(clock.now()):%Y-%m-%d}")

        yield advance


def example_commands(worst: WorstInvoice | None) -> list[str]:
    """Return shell commands to look at the worst invoice and to act on it."""
    if worst is None:
        return ["bems dashboard backlog", "bems alerts", "bems check"]
    invoice_id = shlex.quote(worst.invoice.invoice_id)
    return [
        "bems stuck --by value",
        f"bems invoice {invoice_id}",
        f'bems act complete {invoice_id} --stage {worst.stage} --note "done by hand"',
    ]


def _run_until_ctrl_c(service: Service, key: str, commands: Sequence[str]) -> None:
    exports = [f"export BEMS_URL={service.server.url} BEMS_API_KEY={key}"]
    if sys.prefix != sys.base_prefix:
        # Another terminal may not have this virtual environment active.
        exports.insert(0, f"export PATH={shlex.quote(str(Path(sys.prefix, 'bin')))}:$PATH")
    shown = "\n".join(f"    {line}" for line in (*exports, *commands))
    click.echo(f"\nThe cell keeps running, now in real time. In another terminal:\n\n{shown}\n\nCtrl-C stops it.")
    stop_requested = shutdown_signal()
    while not stop_requested(POLL_SECONDS):
        pass
