"""`bems demo`: a generated year, replayed."""

import tempfile
from datetime import date
from pathlib import Path

import click

from bems.cli.files import LogFile, load_policy
from bems.cli.replay import cores, replay_with_progress
from bems.cli.report import print_report
from bems.embedded.generator import generate

INVOICES, SEED, START, DAYS = 10_000, 1, date(2025, 1, 1), 365


@click.command(epilog="Example: bems demo")
def demo() -> None:
    """Generate a year of invoice events, run it through the lifecycle, and report what was stuck."""
    click.echo(f"A generated year of {INVOICES:,} invoices, through the state machine that is made for AWS:")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        with path.open("wb") as file:
            file.writelines(generate(INVOICES, SEED, start=START, days=DAYS))
        report, seconds = replay_with_progress(LogFile(str(path)), load_policy(None), processes=cores())
    print_report(report, seconds)
    click.echo("\nYour own log: bems replay FILE. Another policy: --policy FILE. All options: bems replay --help.")
