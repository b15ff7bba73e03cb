"""`bems demo`: a fresh cell, and a generated month of invoices sent to it over HTTP."""

import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bems.cli.batches import LineResult
from bems.cli.checked_commands import CheckedCommand
from bems.cli.client import Client, quote_path
from bems.cli.commands.up import POLL_SECONDS, shutdown_signal
from bems.cli.demo_report import as_document, collect, print_result
from bems.cli.errors import Failure, translate_store_errors
from bems.cli.files import load_policy
from bems.cli.output import print_json
from bems.cli.pacing import ReplayPacer
from bems.cli.send_summary import SendSummary
from bems.cli.sender import Sender
from bems.cli.worst_invoice import WorstInvoice
from bems.embedded.api.access import VIEWERS
from bems.embedded.api.server import CannotListen
from bems.embedded.clock import AcceleratedClock, SystemClock
from bems.embedded.service import Service
from bems.embedded.storage.file_permissions import private_umask
from bems.embedded.storage.policy_history import DEFAULT
from bems.generator.event_log import generate
from bems.tracker.cells import Limits, Rate, StageRates
from bems.tracker.contract import Event
from bems.tracker.instants import DAY, LATEST, SECOND, from_datetime, to_datetime
from bems.tracker.parsing import InvalidEvent, split_log_line

INVOICES, SEED, START, DAYS = 2_500, 1, date(2026, 1, 1), 31
SPEED = 20 * DAY / SECOND
"""Twenty days in a second, where the cell and the sender keep up."""

IN_FLIGHT = 6
EVENTS_PER_SAMPLE = 25
"""Of every so many accepted events, one is looked for in the next question."""

NOT_LEFT_RUNNING = """Nothing is left running. Run make demo (or bems demo) in a terminal, without --exit: the
cell then keeps running, and its address and key are shown for these commands:"""

PORT = 8080
UNTHROTTLED = Rate(100_000, 100_000)


class SendResult(NamedTuple):
    """What came of the sending. `unseen` are accepted events that the next question did not show."""

    summary: SendSummary
    not_visible: list[str]


@click.command(cls=CheckedCommand, epilog="Example: bems demo --exit")
@click.option("--invoices", type=click.IntRange(1, 1_000_000), default=INVOICES, show_default=True, help="How many.")
@click.option("--exit", "leave", is_flag=True, help="End after the summary; without a terminal that is so anyway.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object, and end.")
def demo(invoices: int, leave: bool, as_json: bool) -> None:
    """Start a fresh cell, send it a generated month of invoice events over HTTP, and report what became of them.

    The cell listens on port 8080, or on a free one where that is taken. Time in it runs fast until the last story has
    ended. The report ends with what is stuck, the worst of it (the greatest amount in the currency of the most stuck
    invoices), and three commands. Then the cell keeps running, so that you can try them, until Ctrl-C; what it kept is
    then gone.
    """
    stay = not (leave or as_json) and sys.stdin.isatty() and sys.stdout.isatty()
    lines = list(generate(invoices, SEED, start=START, days=DAYS))
    clock = AcceleratedClock(from_datetime(datetime(START.year, START.month, START.day, tzinfo=UTC)), SPEED)
    with (
        private_umask(),
        translate_store_errors(),
        tempfile.TemporaryDirectory(prefix="bems-demo-") as folder,
        _service(Path(folder), clock) as service,
    ):
        _, key = service.keys.add("demo", "admin", "bems demo", clock.now())
        click.echo(f"A fresh cell listens on {service.server.url}.", err=as_json)
        click.echo(
            f"A generated month, {len(lines):,} events of {invoices:,} invoices, is sent to it over HTTP, one by one, "
            "at up to twenty days a second:",
            err=as_json,
        )
        walk = send_paced(service, key, lines, clock)
        clock.set_speed(1.0)
        clock.run_until(LATEST)
        with closing(Client(service.server.url, key)) as client:
            takings = collect(client, service.analytics)
        if as_json:
            print_json({**as_document(walk.summary, takings), "commands": example_commands(takings.worst)})
        else:
            print_result(walk.summary, takings)
        commands = example_commands(takings.worst)
        if stay:
            _serve_on(service, key, commands)
        elif not as_json:
            click.echo(f"\n{NOT_LEFT_RUNNING}\n\n" + "\n".join(f"    {command}" for command in commands))
    if walk.not_visible:
        raise Failure(
            f"{len(walk.not_visible)} accepted events could not be seen at once, such as {walk.not_visible[0]}"
        )
    if not takings.is_consistent_with(walk.summary):
        raise Failure("not every event is accounted for")


@contextmanager
def _service(folder: Path, clock: AcceleratedClock) -> Iterator[Service]:
    """A cell on the usual port, or on another one where that is taken."""
    limits = Limits(UNTHROTTLED, StageRates(UNTHROTTLED, UNTHROTTLED, UNTHROTTLED, UNTHROTTLED))
    policy = load_policy(None)
    try:
        service = Service(folder, policy, policy_source=DEFAULT, name="demo", port=PORT, limits=limits, clock=clock)
    except CannotListen:
        service = Service(folder, policy, policy_source=DEFAULT, name="demo", port=0, limits=limits, clock=clock)
    with service:
        yield service


def send_paced(service: Service, key: str, lines: Sequence[bytes], clock: AcceleratedClock) -> SendResult:
    """Send the lines, each when its time has come, with a progress bar where a person watches."""
    client, today = Client(service.server.url, key), SystemClock().now()
    pace, sample, unseen = ReplayPacer(clock, today), dict[int, Event](), list[str]()
    with _progress(len(lines), clock) as advance:

        def told(told: LineResult) -> None:
            pace.acknowledge(told.line)
            advance()
            event = sample.pop(told.line, None)
            if event and told.disposition == "accepted" and not _is_seen(client, event):
                unseen.append(event.event_id)

        sender = Sender(client, batch=1, in_flight=IN_FLIGHT, on_result=told)
        try:
            for number, line, event in pace.schedule(lines):
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
    return SendResult(summary, unseen)


def _is_seen(client: Client, event: Event) -> bool:
    details = client.request_json("GET", f"/invoices/{quote_path(event.invoice_id)}", VIEWERS)
    return any(row.get("event_id") == event.event_id for row in details["transitions"])


@contextmanager
def _progress(total: int, clock: AcceleratedClock) -> Iterator[Callable[[], None]]:
    """What advances the bar by one."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.fields[day]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("events"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, day="")
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            if done % 20 == 0:
                progress.update(task, completed=done, day=f"{to_datetime(clock.now()):%Y-%m-%d}")

        yield advance


def example_commands(worst: WorstInvoice | None) -> list[str]:
    """What to look at, and what to do, for a shell."""
    if worst is None:
        return ["bems dashboard backlog", "bems alerts", "bems check"]
    invoice_id = shlex.quote(worst.invoice.invoice_id)
    return [
        "bems stuck --by value",
        f"bems invoice {invoice_id}",
        f'bems act complete {invoice_id} --stage {worst.stage} --note "done by hand"',
    ]


def _serve_on(service: Service, key: str, commands: Sequence[str]) -> None:
    exports = [f"export BEMS_URL={service.server.url} BEMS_API_KEY={key}"]
    if sys.prefix != sys.base_prefix:
        # Another terminal need not know this environment.
        exports.insert(0, f"export PATH={shlex.quote(str(Path(sys.prefix, 'bin')))}:$PATH")
    shown = "\n".join(f"    {line}" for line in (*exports, *commands))
    click.echo(f"\nThe cell keeps running, now in real time. In another terminal:\n\n{shown}\n\nCtrl-C ends it.")
    ended = shutdown_signal()
    while not ended(POLL_SECONDS):
        pass
