"""The floors of the coverage: every package has one, and `make coverage` fails below it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import coverage_floors
from tests.coverage_floors import FLOORS, by_package, main, package_of

ROOT = Path(__file__).parents[1]


def report(**percents: float) -> dict[str, Any]:
    """Return a report with a module of 50 lines and 50 branches in each package. `.` is written as `__` in names."""
    return {
        "files": {
            f"{name.replace('__', '/')}/module.py": {
                "summary": {
                    "covered_lines": 50,
                    "num_statements": 50,
                    "covered_branches": percent - 50,
                    "num_branches": 50,
                }
            }
            for name, percent in percents.items()
        }
    }


def test_every_package_has_a_floor() -> None:
    modules = [path.relative_to(ROOT) for name in ("bems", "handlers", "infra") for path in (ROOT / name).rglob("*.py")]
    assert sorted({package_of(str(path)) for path in modules}) == sorted(FLOORS)


@pytest.mark.parametrize(
    ("path", "package"),
    [
        ("bems/clock.py", "bems"),
        ("bems/cli/commands/up.py", "bems.cli"),
        ("bems/tracker/status.py", "bems.tracker"),
        ("handlers/producer.py", "handlers"),
        ("infra/compute/packaging.py", "infra"),
    ],
)
def test_the_package_of_a_module(path: str, package: str) -> None:
    assert package_of(path) == package


def test_lines_and_branches_of_a_package_are_added() -> None:
    two = report(bems__cli=90, bems__cli__commands=60)
    assert {name: coverage.percent for name, coverage in by_package(two).items()} == {"bems.cli": 75.0}


@pytest.mark.parametrize(
    ("measured", "code", "printed"),
    [
        ({"handlers": 80, "infra": 95}, 0, "handlers          80.00 %   floor 80.0\ninfra"),
        ({"handlers": 79, "infra": 95}, 1, "handlers          79.00 %   floor 80.0   BELOW\ninfra"),
        ({"handlers": 80}, 1, "infra            was not measured\n"),
        ({"handlers": 80, "infra": 95, "console": 95}, 1, "console           95.00 %   no floor\n"),
    ],
)
def test_it_fails_below_a_floor(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    measured: dict[str, float],
    code: int,
    printed: str,
) -> None:
    monkeypatch.setattr(coverage_floors, "FLOORS", {"handlers": 80.0, "infra": 90.0})
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report(**measured)))
    assert main(str(path)) == code
    assert printed in capsys.readouterr().out
