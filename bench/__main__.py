"""`python -m bench`: benchmark the embedded cell and write the results."""

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
    """A section of the results, with the function that measures it."""

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
"""Parts that are measured only if they are named."""

HEAD = ("figure", "measured", "must reach", "aim", "", "calibration alone / beside others, ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m bench", description=__doc__, epilog="Example: python -m bench floor --check --dry"
    )
    default_parts = [name for name in PARTS if name not in LONG]
    choices = f"any of {', '.join(PARTS)} (default: all except {', '.join(LONG)})"
    parser.add_argument("parts", nargs="*", metavar="PART", help=choices)
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder for the cells' stores")
    parser.add_argument("--dry", action="store_true", help="print the results without writing bench/RESULTS.md")
    parser.add_argument("--check", action="store_true", help="exit with code 1 if a figure misses its required value")
    parser.add_argument(
        "--budget",
        type=float,
        default=floor.BUDGET,
        help="for floor: maximum multiple (default: %(default)s)",
    )
    parser.add_argument("--minutes", type=float, default=soak.MINUTES, help="for soak: duration (default: %(default)g)")
    parser.add_argument(
        "--rate", type=float, default=soak.RATE, help="for soak: events per second (default: %(default)g)"
    )
    arguments = parser.parse_args()
    parts = PARTS | {
        "floor": PARTS["floor"]._replace(measure=lambda folder: floor.measure(folder, arguments.budget)),
        "soak": PARTS["soak"]._replace(measure=lambda folder: soak.measure(folder, arguments.minutes, arguments.rate)),
    }
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    console = Console(stderr=True)
    missed: list[str] = []
    with console.status("") as status:
        for name in arguments.parts or default_parts:
            status.update(f"Measuring {name} ...")
            started = time.monotonic()
            rows = list(_measure(parts[name], arguments.folder, console, missed))
            if not arguments.dry:
                write_section(name, parts[name].title, table(HEAD, rows))
            console.print(f"[dim]{name}: {time.monotonic() - started:.0f} s[/dim]")
    if arguments.check and missed:
        sys.exit("Figures that miss their required value:\n" + "\n".join(f"- {one}" for one in missed))


def _measure(part: Part, parent: Path | None, console: Console, missed: list[str]) -> Iterator[tuple[str, ...]]:
    folder = Path(tempfile.mkdtemp(prefix="bems-bench-", dir=parent))
    try:
        for figure in part.measure(folder):
            verdict = "" if figure.is_met is None else "reached" if figure.is_met else "**short of it**"
            console.print(f"{figure.name}: {figure.measured.replace('<br>', '; ')} {verdict}", highlight=False)
            if figure.is_met is False:
                missed.append(f"{figure.name}: {figure.measured}; required: {figure.required}")
            yield *figure[:4], verdict, f"{calibrate():.1f} / {calibrate_beside_others():.1f}"
    except BaseException:
        for log in folder.glob("*.log"):
            console.print(f"The end of {log.name}:\n{log.read_text()[-2_000:]}", style="red", markup=False)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
