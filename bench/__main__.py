"""`python -m bench`: measure the embedded cell, and write the results."""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from bench.calibration import calibrate, calibrate_beside_others
from bench.figures import Figure, dashboards, floor, hot_path, million, open_loop, replay, soak, storage, throughput
from bench.results import table, write_section


class Part(NamedTuple):
    """A part of the results."""

    title: str
    measure: Callable[[Path], Iterator[Figure]]


PARTS = {
    "floor": Part("What an event costs, over the least that it could", floor.measure),
    "throughput": Part("What an event costs", throughput.measure),
    "open_loop": Part("A month's end, and past capacity", open_loop.measure),
    "storage": Part("Storage", storage.measure),
    "hot_path": Part("The hot path by function", hot_path.measure),
    "replay": Part("Replay", replay.measure),
    "dashboards": Part("Dashboards", dashboards.measure),
    "million": Part("A million open invoices", million.measure),
    "soak": Part("An hour", soak.measure),
}
LONG = {"soak"}
"""Measured where they are named, and otherwise not."""

HEAD = ("figure", "measured", "must reach", "aim", "", "calibration alone / beside others, ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m bench", description=__doc__, epilog="Example: python -m bench floor --check --dry"
    )
    usual = [name for name in PARTS if name not in LONG]
    named = f"some of {', '.join(PARTS)}; all but {', '.join(LONG)}, if none is named"
    parser.add_argument("parts", nargs="*", metavar="PART", help=named)
    parser.add_argument("--folder", type=Path, help="where the cells' stores are put for the while")
    parser.add_argument("--dry", action="store_true", help="only print; write nothing into bench/RESULTS.md")
    parser.add_argument(
        "--check", action="store_true", help="end with exit code 1 where a figure falls short of what it must reach"
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=floor.BUDGET,
        help="of floor: the multiple that is allowed (default: %(default)s)",
    )
    parser.add_argument("--minutes", type=float, default=soak.MINUTES, help="of soak (default: %(default)g)")
    parser.add_argument("--rate", type=float, default=soak.RATE, help="of soak: events a second (default: %(default)g)")
    arguments = parser.parse_args()
    parts = PARTS | {
        "floor": PARTS["floor"]._replace(measure=lambda folder: floor.measure(folder, arguments.budget)),
        "soak": PARTS["soak"]._replace(measure=lambda folder: soak.measure(folder, arguments.minutes, arguments.rate)),
    }
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    console = Console(stderr=True)
    short: list[str] = []
    with console.status("") as status:
        for name in arguments.parts or usual:
            status.update(f"Measuring {name} ...")
            begun = time.monotonic()
            rows = list(_measure(parts[name], arguments.folder, console, short))
            if not arguments.dry:
                write_section(name, parts[name].title, table(HEAD, rows))
            console.print(f"[dim]{name}: {time.monotonic() - begun:.0f} s[/dim]")
    if arguments.check and short:
        sys.exit("Short of what must be reached:\n" + "\n".join(f"- {one}" for one in short))


def _measure(part: Part, parent: Path | None, console: Console, short: list[str]) -> Iterator[tuple[str, ...]]:
    folder = Path(tempfile.mkdtemp(prefix="bems-bench-", dir=parent))
    try:
        for figure in part.measure(folder):
            verdict = "" if figure.is_met is None else "reached" if figure.is_met else "**short of it**"
            console.print(f"{figure.name}: {figure.measured.replace('<br>', '; ')} {verdict}", highlight=False)
            if figure.is_met is False:
                short.append(f"{figure.name}: {figure.measured}; {figure.required} must be reached")
            yield *figure[:4], verdict, f"{calibrate():.1f} / {calibrate_beside_others():.1f}"
    except BaseException:
        for log in folder.glob("*.log"):
            console.print(f"The end of {log.name}:\n{log.read_text()[-2_000:]}", style="red", markup=False)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
