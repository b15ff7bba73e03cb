"""`bems up`: a cell on this machine."""

import errno
import gc
import logging
import os
import queue
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from bems.calendars import check_country, expand
from bems.cli.checked_commands import CheckedCommand
from bems.cli.errors import Failure, UserError, translate_store_errors
from bems.cli.files import folder_of, load_policy, read_text
from bems.cli.output import print_json
from bems.embedded.alerting.destinations import build_destinations
from bems.embedded.api.server import CannotListen
from bems.embedded.clock import AcceleratedClock, CellClock, SystemClock
from bems.embedded.service import Service
from bems.embedded.storage.file_permissions import private_umask
from bems.embedded.storage.policy_history import DEFAULT, PolicyInForce
from bems.tracker.cells import Cell
from bems.tracker.config import ConfigError, read_cells
from bems.tracker.instants import render
from bems.tracker.policy import Policy
from bems.tracker.policy_warnings import find_warnings

OTHER_PORT = "choose another with --port, or a free one with --port 0"
TAKEN = (errno.EADDRINUSE, errno.EACCES)
"""Another program has the port, or it is one below 1024, which not everybody may have."""

POLL_SECONDS = 1.0
"""Seconds between two looks at whether the writer still lives."""


@click.command(cls=CheckedCommand, epilog="Example: bems up --store /var/lib/bems --policy policy.yaml")
@click.option("--store", "folder", metavar="FOLDER", default=".bems", show_default=True, help="Where all is kept.")
@click.option("--cells", "cells_file", metavar="FILE", help="The configuration. Default: a cell named local.")
@click.option("--cell", "cell_name", metavar="NAME", help="Which cell of it, where there are several.")
@click.option(
    "--policy",
    "policy_file",
    metavar="FILE",
    help="The SLA policy, instead of the cell's; `default` is the built-in one. Without it, and where --cells says of "
    "none, the one that the store keeps from the last start.",
)
@click.option("--host", metavar="HOST", help="What to listen on. Default: as configured, else 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="0 takes a free one. Default: as configured, else 8080.")
@click.option(
    "--speed",
    type=click.FloatRange(0.001, 10_000_000),
    help="For rehearsals: time runs so many times as fast. Use a store of its own.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Say where the cell is, and show its first key, as one JSON object."
)
def up(
    folder: str,
    cells_file: str | None,
    cell_name: str | None,
    policy_file: str | None,
    host: str | None,
    port: int | None,
    speed: float | None,
    as_json: bool,
) -> None:
    """Run a cell on this machine: take events over HTTP, keep them, raise alerts, answer questions.

    The first start makes a key for an admin, and shows it once, on standard output. Where nobody should see it there,
    make one before: bems keys add NAME --role admin --store FOLDER. The log goes to standard error. SIGTERM or Ctrl-C
    ends the cell when what it took is stored.
    """
    cell, named = configure(cells_file, cell_name, policy_file)
    clock: CellClock = SystemClock()
    if speed is not None:
        clock = AcceleratedClock(clock.now(), speed)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    ended = shutdown_signal()
    with private_umask(), translate_store_errors():
        try:
            service = Service(
                folder_of(folder),
                named.policy if named else lambda: load_policy(None),
                policy_source=named.source if named else DEFAULT,
                name=cell.name,
                host=cell.embedded.host if host is None else host,
                port=cell.embedded.port if port is None else port,
                limits=cell.limits,
                destinations=build_destinations(cell.alerts, cell.embedded, cell.name, os.environ),
                clock=clock,
            )
        except CannotListen as wrong:
            hint = f"; {OTHER_PORT}" if isinstance(wrong.__cause__, OSError) and wrong.__cause__.errno in TAKEN else ""
            raise UserError(f"{wrong}{hint}") from wrong
        except ValueError as wrong:
            raise UserError(str(wrong)) from wrong
        with service, tuned_gc():
            print_startup(service, folder, as_json)
            tell_policy(service.in_force)
            while not ended(POLL_SECONDS):
                if not (service.writer.is_alive and service.server.alive):
                    raise Failure("the cell cannot go on; its log says why")
            lost = service.writer.loss
    if lost:
        raise Failure(lost)
    click.echo("The cell has ended; what it took is stored.", err=True)


def shutdown_signal() -> Callable[[float], bool]:
    """What waits so many seconds, and tells whether SIGTERM or SIGINT has come. A handler may run in the middle of
    anything, and an Event's lock would not let it in twice."""
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals.put(number))

    def ended(seconds: float) -> bool:
        try:
            signals.get(timeout=seconds)
        except queue.Empty:
            return False
        return True

    return ended


class Named(NamedTuple):
    """A policy that a start names, and where it was found."""

    policy: Policy
    source: str


def configure(cells_file: str | None, cell_name: str | None, policy_file: str | None) -> tuple[Cell, Named | None]:
    """The cell that is meant, and the policy that is named for it."""
    cell = Cell(name="local", region="eu-west-1")
    if cells_file is not None:
        cell = _find(cells_file, cell_name)
    elif cell_name is not None:
        raise UserError(f"--cell {cell_name}: this needs --cells FILE, which describes it")
    if policy_file is not None:
        return cell, Named(load_policy(policy_file), policy_file)
    if cells_file is not None and cell.policy_file is not None:
        path = str(Path(cells_file).parent / cell.policy_file)
        return cell, Named(load_policy(path), path)
    if cell.policy is None:
        return cell, None
    try:
        return cell, Named(expand(cell.policy), f"{cells_file}, cell {cell.name}")
    except ValueError as wrong:
        raise UserError(f"{cells_file}: the policy of {cell.name}: {wrong}") from wrong


def _find(cells_file: str, cell_name: str | None) -> Cell:
    try:
        cells = read_cells(read_text(cells_file), cells_file, check_country).cells
    except ConfigError as wrong:
        raise UserError(str(wrong)) from wrong
    names = ", ".join(cell.name for cell in cells)
    if cell_name is None:
        if len(cells) > 1:
            raise UserError(f"{cells_file} describes several cells: use --cell with one of {names}")
        return cells[0]
    for cell in cells:
        if cell.name == cell_name:
            return cell
    raise UserError(f"{cells_file} describes no cell {cell_name}: use one of {names}")


def print_startup(service: Service, folder: str, as_json: bool) -> None:
    """Say where the cell is and which policy it goes by, and show the first key, this once."""
    key = None
    if not service.keys.all():
        _, key = service.keys.add("admin", "admin", "bems up", service.clock.now())
    if as_json:
        policy = {
            "digest": service.in_force.policy.digest,
            "source": service.in_force.source,
            "in_force_from": render(service.in_force.since or 0),
            "is_resumed": service.in_force.is_resumed,
        }
        print_json({"url": service.server.url, "store": folder, "key": key, "policy": policy})
        return
    click.echo(f"The cell listens on {service.server.url} and keeps everything in {folder}. Ctrl-C ends it.")
    if key:
        click.echo(f"The first key, an admin's, is shown this once:\n\n    export BEMS_API_KEY={key}\n")


def tell_policy(in_force: PolicyInForce) -> None:
    """Say which policy the cell goes by, and what is odd about it."""
    policy, source, since, is_resumed = in_force
    kept = "; kept from the last start" if is_resumed else ""
    other = ", --policy default takes the built-in one" if is_resumed and source != DEFAULT else ""
    click.echo(f"Policy: {source} ({policy.digest}), in force since {render(since or 0)}{kept}{other}.", err=True)
    for warning in find_warnings(policy):
        click.echo(f"Warning: the policy {source}: {warning}.", err=True)


@contextmanager
def tuned_gc() -> Iterator[None]:
    """What is there now stays. The cell makes few reference cycles, so looking for them may be rare."""
    gc.collect()
    gc.freeze()
    usual = gc.get_threshold()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()
