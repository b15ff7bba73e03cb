"""`python -m bench.peers`: benchmark the strongest alternatives next to our cell and write the results.

Each engine is installed first. One that is not available here is left out, and the results give the reason.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bench.peers.dbos import Dbos
from bench.peers.embedded import Embedded
from bench.peers.engine import Engine, kill_children
from bench.peers.measuring import measure
from bench.peers.moto import Moto
from bench.peers.report import describe_row, render
from bench.peers.restate import Restate
from bench.results import write_section

ENGINES: dict[str, type[Engine]] = {"bems": Embedded, "restate": Restate, "dbos": Dbos, "moto": Moto}


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m bench.peers", description=__doc__, epilog="Example: python -m bench.peers bems restate --rounds 1"
    )
    names = ", ".join(ENGINES)
    parser.add_argument("engines", nargs="*", help=f"any of {names} (default: all, which also writes the results)")
    parser.add_argument("--rounds", type=int, default=2, help="number of turns per engine (default: 2)")
    parser.add_argument("--seconds", type=float, default=10, help="duration of each load (default: 10)")
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder for the engines' data")
    arguments = parser.parse_args()
    unknown = set(arguments.engines) - set(ENGINES)
    if unknown:
        parser.error(f"unknown engine: {', '.join(sorted(unknown))}; choose from {names}")
    engines = [ENGINES[name]() for name in arguments.engines or ENGINES]
    console = Console(stderr=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    folder = Path(tempfile.mkdtemp(prefix="bems-peers-", dir=arguments.folder))
    try:
        with console.status("") as status:
            outcome = measure(engines, folder, arguments.rounds, arguments.seconds, status.update)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        kill_children()
        shutil.rmtree(folder, ignore_errors=True)
    for row in outcome.rows:
        console.print(describe_row(row), highlight=False, soft_wrap=True)
    for name, why in outcome.unavailable.items():
        console.print(f"{name}: not measured: {why}", highlight=False, soft_wrap=True)
    if not arguments.engines:
        write_section("peers", "Beside others", render(outcome))


if __name__ == "__main__":
    main()
