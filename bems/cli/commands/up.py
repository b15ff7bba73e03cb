"""`bems up`: runs a cell on this machine."""

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
from bems.cli.files import parse_folder, read_policy_file, read_text
from bems.cli.output import print_json
from bems.clock import SystemClock
from bems.embedded.alerting.destinations import build_destinations
from bems.embedded.api.server import CannotListen
from bems.embedded.clock import AcceleratedClock, CellClock
from bems.embedded.service import Service
from bems.embedded.storage.file_permissions import private_umask
from bems.embedded.storage.policy_history import DEFAULT_SOURCE, PolicyInForce
from bems.tracker.cells import CellConfig
from bems.tracker.config import ConfigError, read_cells
from bems.tracker.instants import render
from bems.tracker.policy import Policy
from bems.tracker.policy_warnings import find_warnings

PORT_HINT = "choose another with --port, or a free one with --port 0"
PORT_ERRORS = (errno.EADDRINUSE, errno.EACCES)
"""Errors of a port that another program uses, or that requires privileges (below 1024)."""

POLL_SECONDS = 1.0
"""Seconds between two checks that the writer and the server are alive."""


@click.command(cls=CheckedCommand, epilog="Example: bems up --store /var/lib/bems --policy policy.yaml")
@click.option(
    "--store", "folder", metavar="FOLDER", default=".bems", show_default=True, help="Folder for the cell's data."
)
@click.option(
    "--cells", "cells_file", metavar="FILE", help="Configuration of cells (YAML). Default: a cell named local."
)
@click.option("--cell", "cell_name", metavar="NAME", help="Cell in --cells, if there are several.")
@click.option(
    "--policy",
    "policy_file",
    metavar="FILE",
    help="SLA policy (YAML) instead of the one in --cells; `default` is the built-in one. Without a policy in either, "
    "the cell keeps the one of its last start.",
)
@click.option("--host", metavar="HOST", help="Address to listen on. Default: as configured, else 127.0.0.1.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 chooses a free one. Default: as configured, else 8080.",
)
@click.option(
    "--speed",
    type=click.FloatRange(0.001, 10_000_000),
    help="Speed up time by this factor, for rehearsals. Use a separate store.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the URL, the first key and the policy as one JSON object.")
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
    """Run a cell on this machine.

    The cell accepts events over HTTP, stores them, raises alerts and answers queries. The first start creates an admin
    key and prints it once to standard output. To keep the key out of the output, create one before: bems keys add NAME
    --role admin --store FOLDER. The log is written to standard error. SIGTERM or Ctrl-C stops the cell once every
    accepted event is stored.
    """
    cell, named = load_cell(cells_file, cell_name, policy_file)
    clock: CellClock = SystemClock()
    if speed is not None:
        clock = AcceleratedClock(clock.now(), speed)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop_requested = shutdown_signal()
    with private_umask(), translate_store_errors():
        try:
            service = Service(
                parse_folder(folder),
                named.policy if named else lambda: read_policy_file(None),
                policy_source=named.source if named else DEFAULT_SOURCE,
                name=cell.name,
                host=cell.embedded.host if host is None else host,
                port=cell.embedded.port if port is None else port,
                limits=cell.limits,
                destinations=build_destinations(cell.alerts, cell.embedded, cell.name, os.environ),
                clock=clock,
            )
        except CannotListen as wrong:
            hint = (
                f"; {PORT_HINT}"
                if isinstance(wrong.__cause__, OSError) and wrong.__cause__.errno in PORT_ERRORS
                else ""
            )
            raise UserError(f"{wrong}{hint}") from wrong
        except ValueError as wrong:
            raise UserError(str(wrong)) from wrong
        with service, tuned_gc():
            print_startup(service, folder, as_json)
            print_policy(service.in_force)
            while not stop_requested(POLL_SECONDS):
                if not (service.writer.is_alive and service.server.is_alive):
                    raise Failure("the cell cannot continue; see its log")
            lost = service.writer.loss
    if lost:
        raise Failure(lost)
    click.echo("The cell has stopped; every accepted event is stored.", err=True)


def shutdown_signal() -> Callable[[float], bool]:
    """Return a function that waits up to a number of seconds and returns whether SIGTERM or SIGINT arrived.

    Uses a SimpleQueue because its `put` is reentrant: a handler may interrupt any code, and the lock of a
    `threading.Event` could deadlock.
    """
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals.put(number))

    def stop_requested(seconds: float) -> bool:
        try:
            signals.get(timeout=seconds)
        except queue.Empty:
            return False
        return True

    return stop_requested


class NamedPolicy(NamedTuple):
    """A policy named by an option or a configuration, and its source."""

    policy: Policy
    source: str


def load_cell(
    cells_file: str | None, cell_name: str | None, policy_file: str | None
) -> tuple[CellConfig, NamedPolicy | None]:
    """Return the chosen cell, and the policy named for it; None without one."""
    cell = CellConfig(name="local", region="eu-west-1")
    if cells_file is not None:
        cell = _find_cell(cells_file, cell_name)
    elif cell_name is not None:
        raise UserError(f"--cell {cell_name} needs --cells FILE")
    if policy_file is not None:
        return cell, NamedPolicy(read_policy_file(policy_file), policy_file)
    if cells_file is None or cell.policy is None:
        return cell, None
    if isinstance(cell.policy, str):
        path = str(Path(cells_file).parent / cell.policy)
        return cell, NamedPolicy(read_policy_file(path), path)
    try:
        return cell, NamedPolicy(expand(cell.policy), f"{cells_file}, cell {cell.name}")
    except ValueError as wrong:
        raise UserError(f"{cells_file}: the policy of {cell.name}: {wrong}") from wrong


def _find_cell(cells_file: str, cell_name: str | None) -> CellConfig:
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
    """Print the URL of the cell, and on the first start create an admin key and print it."""
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
    click.echo(f"The cell listens on {service.server.url} and stores its data in {folder}. Ctrl-C stops it.")
    if key:
        click.echo(f"The first admin key, which is shown only once:\n\n    export BEMS_API_KEY={key}\n")


def print_policy(in_force: PolicyInForce) -> None:
    """Print the policy in force and its warnings to standard error."""
    policy, source, since, is_resumed = in_force
    kept = "; kept from the last start" if is_resumed else ""
    other = ", --policy default selects the built-in one" if is_resumed and source != DEFAULT_SOURCE else ""
    click.echo(f"Policy: {source} ({policy.digest}), in force since {render(since or 0)}{kept}{other}.", err=True)
    for warning in find_warnings(policy):
        click.echo(f"Warning: the policy {source}: {warning}.", err=True)


@contextmanager
def tuned_gc() -> Iterator[None]:
    """Freeze existing objects and run the garbage collector less often: the cell makes few reference cycles."""
    gc.collect()
    gc.freeze()
    usual = gc.get_threshold()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()
