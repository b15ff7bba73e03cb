"""`python -m bench`: measure the embedded cell, and write the results."""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from bench.calibration import calibrate, calibrate_beside_others
from bench.figures import Figure, dashboards, hot_path, million, open_loop, replay, storage, throughput
from bench.results import table, write_section


class Part(NamedTuple):
    """A part of the results."""

    title: str
    measure: Callable[[Path], Iterator[Figure]]


PARTS = {
    "throughput": Part("What an event costs", throughput.measure),
    "open_loop": Part("A month's end, and past capacity", open_loop.measure),
    "storage": Part("Storage", storage.measure),
    "hot_path": Part("The hot path by function", hot_path.measure),
    "replay": Part("Replay", replay.measure),
    "dashboards": Part("Dashboards", dashboards.measure),
    "million": Part("A million open invoices", million.measure),
}

HEAD = ("figure", "measured", "must reach", "aim", "", "calibration alone / beside others, ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m bench", description=__doc__, epilog="Example: python -m bench throughput storage"
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; all, if none is named")
    parser.add_argument("--folder", type=Path, help="where the cells' stores are put for the while")
    parser.add_argument("--dry", action="store_true", help="only print; write nothing into bench/RESULTS.md")
    chosen = parser.parse_args()
    unknown = set(chosen.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    console = Console(stderr=True)
    with console.status("") as status:
        for name in chosen.parts or PARTS:
            status.update(f"Measuring {name} ...")
            begun = time.monotonic()
            rows = list(_measure(PARTS[name], chosen.folder, console))
            if not chosen.dry:
                write_section(name, PARTS[name].title, table(HEAD, rows))
            console.print(f"[dim]{name}: {time.monotonic() - begun:.0f} s[/dim]")


def _measure(part: Part, parent: Path | None, console: Console) -> Iterator[tuple[str, ...]]:
    folder = Path(tempfile.mkdtemp(prefix="bems-bench-", dir=parent))
    try:
        for figure in part.measure(folder):
            verdict = "" if figure.met is None else "reached" if figure.met else "**short of it**"
            console.print(f"{figure.name}: {figure.measured.replace('<br>', '; ')} {verdict}", highlight=False)
            yield *figure[:4], verdict, f"{calibrate():.1f} / {calibrate_beside_others():.1f}"
    except BaseException:
        for log in folder.glob("*.log"):
            console.print(f"The end of {log.name}:\n{log.read_text()[-2_000:]}", style="red", markup=False)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
