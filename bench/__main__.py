"""`python -m bench`: measure the embedded cell, and write the results."""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from bench.calibration import calibrate, calibrate_beside_others
from bench.figures import Figure, dashboards, hot_path, million, open_loop, replay, storage, throughput
from bench.results import table, write_section

FIGURES: dict[str, Callable[[Path], Iterator[Figure]]] = {
    "throughput": throughput.measure,
    "open_loop": open_loop.measure,
    "storage": storage.measure,
    "hot_path": hot_path.measure,
    "replay": replay.measure,
    "dashboards": dashboards.measure,
    "million": million.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m bench", description=__doc__, epilog="Example: python -m bench throughput storage"
    )
    parser.add_argument("figures", nargs="*", help=f"some of {', '.join(FIGURES)}; all of them, if none is named")
    parser.add_argument("--folder", type=Path, help="where the cells' stores are put for the while")
    chosen = parser.parse_args()
    unknown = set(chosen.figures) - set(FIGURES)
    if unknown:
        parser.error(f"no such figure: {', '.join(sorted(unknown))}; choose from {', '.join(FIGURES)}")
    names, console = chosen.figures or list(FIGURES), Console(stderr=True)
    rows = []
    with console.status("") as status:
        for name in names:
            status.update(f"Measuring {name} ...")
            begun, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="bems-bench-", dir=chosen.folder))
            try:
                for figure in FIGURES[name](folder):
                    row = (*figure[:4], _verdict(figure), f"{calibrate():.1f} / {calibrate_beside_others():.1f}")
                    rows.append(row)
                    console.print(f"{figure.name}: {figure.measured.replace('<br>', '; ')} {row[4]}", highlight=False)
            except BaseException:
                for log in folder.glob("*.log"):
                    console.print(f"The end of {log.name}:\n{log.read_text()[-2_000:]}", style="red", markup=False)
                raise
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            console.print(f"[dim]{name}: {time.monotonic() - begun:.0f} s[/dim]")
    if names == list(FIGURES):
        head = ("figure", "measured", "must reach", "aim", "", "calibration alone / beside others, ms")
        write_section("cell", "The embedded cell", table(head, rows))


def _verdict(figure: Figure) -> str:
    return "" if figure.met is None else "reached" if figure.met else "**short of it**"


if __name__ == "__main__":
    main()
