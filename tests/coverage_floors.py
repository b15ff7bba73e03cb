"""Floors of the coverage of each package by lines and branches: `make coverage` fails below one of them.

    python -m tests.coverage_floors report.json

prints each package of coverage's JSON report beside its floor.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

FLOORS: dict[str, float] = {
    "bems": 80,
    "bems.aws": 40,
    "bems.cli": 60,
    "bems.embedded": 80,
    "bems.engine": 70,
    "bems.generator": 95,
    "bems.tracker": 75,
    "bems.validation": 70,
    "handlers": 35,
    "infra": 90,
}
"""Minimum percentage of each package, a little below what was measured. `bems` is its modules outside packages."""


class Coverage(NamedTuple):
    """Number of lines and branches, and how many of them the tests run."""

    covered: int
    total: int

    @property
    def percent(self) -> float:
        return 100 * self.covered / self.total if self.total else 100.0


def package_of(path: str) -> str:
    """Return the package of a module, such as `bems.tracker` or `handlers`."""
    first, second, *rest = (*Path(path).parts, "")
    return f"{first}.{second}" if first == "bems" and rest[:-1] else first


def by_package(report: Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]) -> dict[str, Coverage]:
    """Return the coverage of each package in coverage's JSON report."""
    packages: dict[str, Coverage] = {}
    for path, file in report["files"].items():
        summary, so_far = file["summary"], packages.get(package_of(path), Coverage(0, 0))
        packages[package_of(path)] = Coverage(
            so_far.covered + summary["covered_lines"] + summary["covered_branches"],
            so_far.total + summary["num_statements"] + summary["num_branches"],
        )
    return dict(sorted(packages.items()))


def main(path: str) -> int:
    packages = by_package(json.loads(Path(path).read_text(encoding="utf-8")))
    below = {name for name, floor in FLOORS.items() if name not in packages or packages[name].percent < floor}
    for name, coverage in packages.items():
        floor = f"floor {FLOORS[name]:.1f}" if name in FLOORS else "no floor"
        print(f"{name:16} {coverage.percent:6.2f} %   {floor}{'   BELOW' * (name in below)}")
    for name in sorted(below - packages.keys()):
        print(f"{name:16} was not measured")
    return 1 if below or packages.keys() - FLOORS.keys() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
