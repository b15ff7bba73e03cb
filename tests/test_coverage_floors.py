"""Floors of coverage by package."""

import subprocess

import pytest

from tests import coverage_floors
from tests.coverage_floors import FLOORS, PackageCoverage, by_package, is_below_floor, package_of


def file(covered: int, total: int, covered_branches: int = 0, branches: int = 0) -> dict[str, dict[str, int]]:
    summary = {"covered_lines": covered, "num_statements": total}
    return {"summary": {**summary, "covered_branches": covered_branches, "num_branches": branches}}


def test_every_source_file_has_a_floor() -> None:
    names = subprocess.run(["git", "ls-files", "bems", "handlers", "infra"], capture_output=True, text=True, check=True)
    assert all(package_of(name) in FLOORS for name in names.stdout.split() if name.endswith(".py"))
    with pytest.raises(ValueError, match="belongs to no package of FLOORS"):
        package_of("other/x.py")


def test_a_package_below_its_floor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage_floors, "FLOORS", {"bems": 80, "bems/tracker": 95})
    results = by_package(
        {"bems/a.py": file(8, 10), "bems/tracker/b.py": file(9, 9, 0, 1), "bems/tracker/c/d.py": file(10, 10)}
    )
    assert results == [PackageCoverage("bems", 8, 10), PackageCoverage("bems/tracker", 19, 20)]
    assert [is_below_floor(one) for one in results] == [False, False]
    assert is_below_floor(PackageCoverage("bems/tracker", 18, 20))
