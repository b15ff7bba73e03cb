"""`bems policy`: shows the SLA policies of a cell, and checks policy files."""

from datetime import date
from textwrap import fill
from typing import Any

import click
import msgspec

from bems.calendars import check_country, expand
from bems.cli import options
from bems.cli.checked_commands import CheckedGroup
from bems.cli.client import Client, decode_as
from bems.cli.commands.replay import count_cores, replay_with_progress, rereadable_log
from bems.cli.commands.up import load_cell
from bems.cli.errors import UserError
from bems.cli.files import LogFile, TimeParam, output_file, read_policy_file, read_text
from bems.cli.listing import ItemTable, Listing, with_listing
from bems.cli.options import connected
from bems.cli.output import format_duration, format_time, make_console, pluralize_count, print_json
from bems.cli.policy_comparison import BUILT_IN, ReplayResult, compare, print_comparison
from bems.cli.policy_suggestion import MIN_INVOICES, as_document, render_policy, suggest_deadlines, with_deadlines
from bems.cli.table_layout import Column, print_prose, print_table
from bems.clock import SystemClock
from bems.embedded.api.access import VIEWERS
from bems.embedded.api.policies import Policy, PolicyCalendar, PolicyRule, PolicyStage, PolicySummary, view_policy
from bems.embedded.storage.policy_history import DEFAULT_SOURCE
from bems.tracker.config import ConfigError, ConfigFieldError, read_policy
from bems.tracker.instants import Instant, render, to_datetime
from bems.tracker.policy import DEFAULT_STAGES, PolicySpec, WhenSpec
from bems.tracker.policy_warnings import find_warnings

RULE_COLUMNS = (
    Column("Stage"),
    Column("Deadline"),
    Column("Then every"),
    Column("Critical from", is_right=True),
    Column("Gives up at", is_right=True),
)
POLICY_HISTORY_COLUMNS = (
    Column("Digest"),
    Column("In force from (UTC)"),
    Column("Until (UTC)", 2),
    Column("Source", 1, is_prose=True),
)
YEARS_SHOWN = 2
"""Number of years of days off that are printed, from the current year; --json has all."""

_NO_BREAK = "\u00a0"


class _DefaultGroup(CheckedGroup):
    """A group whose default command is `show`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_DefaultGroup, epilog="Example: bems policy")
def policy() -> None:
    """Show the SLA policies of a cell, and check policy files.

    `bems policy` without a command means `bems policy show`.
    """


@policy.command(epilog="Example: bems policy show --at 2026-03-31T18:00:00+02:00")
@click.option(
    "--at", type=TimeParam(), help="Show the policy in force at this time. A date means its beginning in UTC."
)
@click.option(
    "--policy", "file", metavar="FILE", help="Show the policy in a file, or `default`, without calling a cell."
)
@click.option(
    "--cells",
    "cells_file",
    metavar="FILE",
    help="Show the policy of a cell in this configuration, without calling the cell.",
)
@click.option("--cell", "cell_name", metavar="NAME", help="Cell in --cells, if there are several.")
@options.as_json
@connected
def show(
    client: Client,
    at: Instant | date | None,
    file: str | None,
    cells_file: str | None,
    cell_name: str | None,
    as_json: bool,
) -> None:
    """Show the policy in force in full: each stage, its overrides in order, and the calendar.

    Requires a viewer, operator or admin key. With --policy or --cells no cell is called and no key is needed; use them
    for a cell on AWS.
    """
    if file is not None or cells_file is not None or cell_name is not None:
        if at is not None:
            raise click.UsageError("--at needs a running cell: a file has no history")
        _, named = load_cell(cells_file, cell_name, file)
        answer: Any = (
            view_policy(named.policy, named.source) if named else view_policy(read_policy_file(None), DEFAULT_SOURCE)
        )
    else:
        query = {"at": f"{at}T00:00:00Z" if isinstance(at, date) else at if at is None else render(at)}
        answer = client.request_json("GET", "/policy", VIEWERS, query=query)
    if as_json:
        print_json(answer)
        return
    _print(answer if isinstance(answer, Policy) else decode_as(answer, Policy))


@policy.command(epilog="Example: bems policy history")
@with_listing
def history(listing: Listing) -> None:
    """List every policy that was in force, newest first. `bems policy show --at` prints one of them.

    Requires a viewer, operator or admin key.
    """
    listing.print_items(listing.read("/policies", VIEWERS, {}), POLICY_HISTORY_TABLE)


def _version_row(one: PolicySummary) -> tuple[str, ...]:
    return one.digest, format_time(one.in_force_from), format_time(one.in_force_until), one.source


POLICY_HISTORY_TABLE = ItemTable(list[PolicySummary], "policy version", POLICY_HISTORY_COLUMNS, _version_row)


@policy.command(epilog="Example: bems policy check policy.yaml")
@click.argument("file", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print the errors and warnings as one JSON object.")
@click.pass_context
def check(context: click.Context, file: str, as_json: bool) -> None:
    """Check a policy file, and print every error with its line, or the warnings.

    The exit code is 0 if a cell would accept the file, with or without warnings, and 2 if not. No cell is called.
    """
    try:
        made = expand(read_policy(read_text(file), file, check_country))
        faults, warnings, digest = list[ConfigFieldError](), find_warnings(made), made.digest
    except ConfigError as wrong:
        if not as_json:
            raise UserError(str(wrong)) from wrong
        faults, warnings, digest = wrong.errors, [], None
    except ValueError as wrong:
        if not as_json:
            raise UserError(f"{file}: {wrong}") from wrong
        faults, warnings, digest = [ConfigFieldError(1, "", str(wrong))], [], None
    if as_json:
        print_json({"file": file, "digest": digest, "faults": faults, "warnings": warnings})
        context.exit(2 if faults else 0)
    for warning in warnings:
        click.echo(f"{file}: warning: {warning}")
    click.echo(f"{file}: valid, {pluralize_count(len(warnings), 'warning')}; its digest is {digest}")


SUGGESTION_COLUMNS = (
    Column("Stage"),
    Column("Invoices", is_right=True),
    Column("Took at most", is_right=True),
    Column("Deadline", is_right=True),
    Column("Default", is_right=True),
)


@policy.command(epilog="Example: bems policy suggest events.jsonl.gz --percent 90 --out policy.yaml")
@click.argument("file", metavar="LOG")
@click.option(
    "--percent",
    type=click.IntRange(50, 99),
    default=90,
    show_default=True,
    help="Share of the invoices that shall keep each deadline.",
)
@click.option("--out", metavar="FILE", help="Write the suggested policy to FILE.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@click.option("--processes", type=click.IntRange(1, 64), help="Number of processes. Default: one per core.")
@options.wide
@options.as_json
def suggest(
    file: str, percent: int, out: str | None, force: bool, processes: int | None, wide: bool, as_json: bool
) -> None:
    """Suggest deadlines from a log of past events.

    Replays LOG (see bems replay) and takes, for each stage, the time within which --percent of the invoices that waited
    for it completed it, in business days. Then it replays LOG under the suggested deadlines, and prints what they would
    have raised beside the default policy.
    """
    workers = processes or count_cores()
    with rereadable_log(LogFile(file)) as log:
        report, seconds = replay_with_progress(log, read_policy_file(None), processes=workers)
        suggested = suggest_deadlines(report, percent)
        spec = with_deadlines(PolicySpec(), suggested)
        second, second_seconds = replay_with_progress(log, expand(spec), processes=workers)
    default, own = ReplayResult(BUILT_IN, report, seconds), ReplayResult("suggested", second, second_seconds)
    text = render_policy(suggested, percent)
    if out is not None:
        with output_file(out, is_private=False, must_be_new=not force) as written:
            written.write(text.encode())
    if as_json:
        print_json(as_document(suggested, percent, {"policy": text, **compare(default, own)}))
        return
    rows = [
        (
            one.stage,
            f"{one.invoices:,}",
            "-" if one.seconds is None else format_duration(one.seconds),
            one.deadline or f"fewer than {MIN_INVOICES}",
            getattr(DEFAULT_STAGES, one.stage).deadline,
        )
        for one in suggested
    ]
    console = make_console()
    click.echo(f"Within these times, {percent}% of the invoices that waited for a stage completed it:\n")
    print_table(console, SUGGESTION_COLUMNS, rows, wide=wide)
    print_comparison(default, own)
    click.echo(f"\nWritten to {out}" if out is not None else f"\n{text}", nl=out is not None)


def _print(shown: Policy) -> None:
    if shown.in_force_from is None:
        click.echo(f"{shown.source}, digest {shown.digest}")
    else:
        until = f" until {format_time(shown.in_force_until)}" if shown.in_force_until else ""
        click.echo(
            f"{shown.source}, digest {shown.digest}, in force since {format_time(shown.in_force_from)}{until} UTC"
        )
    click.echo()
    year = (shown.in_force_until or to_datetime(SystemClock().now())).year
    _print_calendar(shown.calendar, year)
    print_table(
        make_console(), RULE_COLUMNS, [row for name, stage in shown.stages.items() for row in _rows(name, stage)]
    )
    for name, stage in shown.stages.items():
        for number, override in enumerate(stage.overrides, 1):
            click.echo(f"{name} override {number}: {_conditions(override.when)}")
        for exemption in stage.not_required:
            click.echo(f"{name} not required: {_conditions(exemption.when)}")
    if shown.critical_amount_from:
        amounts = ", ".join(f"{amount} {currency}" for currency, amount in shown.critical_amount_from.items())
        print_prose(make_console(), f"Critical alerts: only from {amounts}; in other currencies, from any amount")
    for verb, rule in msgspec.structs.asdict(shown.acts).items():
        if rule is not None:
            amount = f" from {rule.amount_from} {rule.currency}, and in other currencies" if rule.currency else ""
            click.echo(f"Second person: for {verb}{amount}")
    begins = {"decision": "the cell receives an event", "occurrence": "an event occurred, by its source's time"}
    click.echo(f"Deadlines count from when {begins[shown.waits_from]}")
    click.echo(f"Identity alerts: {'on' if shown.identity else 'off'}")


def _print_calendar(calendar: PolicyCalendar, year: int) -> None:
    place = "-".join(filter(None, (calendar.country, calendar.subdivision)))
    lines = [
        ("Business days of", f"{place or 'no country'}, {calendar.timezone}"),
        ("Weekend", ", ".join(calendar.weekend) or "none"),
    ]
    for number in range(year, year + YEARS_SHOWN):
        for label, days in ((f"Days off {number}", calendar.all_days_off), (f"Worked {number}", calendar.all_days_on)):
            text = ", ".join(f"{day.day}{_NO_BREAK}{day:%b}" for day in days if day.year == number)
            lines += [(label, text)] if text else []
    for label, text in lines:
        click.echo(fill(f"{label:<18}{text}", 80, subsequent_indent=" " * 18).replace(_NO_BREAK, " "))
    click.echo()


def _rows(name: str, stage: PolicyStage) -> list[tuple[str, ...]]:
    """Return the row of a stage, followed by those of its overrides in order."""
    rules = [(name, stage), *((f"  override {number}", one) for number, one in enumerate(stage.overrides, 1))]
    return [
        (label, rule.deadline, _intervals(rule), str(rule.critical_at), str(rule.give_up_at)) for label, rule in rules
    ]


def _intervals(rule: PolicyRule) -> str:
    """Return `1bd`, or `1bd, growing x 2` if each interval is twice as long as the one before."""
    return rule.escalate_every + (f", growing x {rule.growth}" if rule.growth != 1 else "")


def _conditions(when: WhenSpec) -> str:
    """Return text such as `currency EUR, has_purchase_order false`."""
    return ", ".join(
        f"{key} {str(value).lower() if isinstance(value, bool) else value}"
        for key, value in msgspec.to_builtins(when).items()
    )
