"""Tests that `make synth` reports every mistake in `cells.yaml` at once, and without a stack trace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from aws_cdk import App

from infra.assembly import InvalidCells, add_stacks
from tests.infra.conftest import ROOT, copy_app


def mistakes(folder: Path) -> list[str]:
    # No stack is added for invalid cells, so no app is needed.
    with pytest.raises(InvalidCells) as raised:
        add_stacks(None, folder)  # type: ignore[arg-type]
    return str(raised.value).splitlines()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cells.yaml: No such file or directory"),
        (b"\xff", "cells.yaml: not UTF-8 text: invalid start byte at byte 0"),
        (b"", "cells.yaml:1: the file: is empty: write at least one key"),
    ],
)
def test_an_unreadable_file_is_reported(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "cells.yaml").write_bytes(content)
    assert mistakes(tmp_path) == [message]


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("stages: {posting: {deadline: x, critical_at: 0}}\n")
    (tmp_path / "cells.yaml").write_text(
        "cells:\n  - {name: a, region: eu-west-1, policy: none.yaml}\n"
        "  - {name: b, region: eu-west-1, policy: bad.yaml}\n"
        "  - {name: c, region: us-east-1, policy: {calendar: {country: XX, timezone: UTC}}}\n"
    )
    reported = mistakes(tmp_path)
    assert reported[0].startswith("cells.yaml: the cells a, b of eu-west-1 reserve 1620 of the 1000 Lambda instances")
    assert reported[1] == "none.yaml: No such file or directory"
    assert [line.partition(": ")[0] for line in reported[2:4]] == ["bad.yaml:1"] * 2
    assert reported[4].startswith("cells.yaml: the policy of c: 'XX' is not a country")


@pytest.mark.xdist_group("cdk")
def test_a_mistake_that_only_a_construct_finds_is_reported(tmp_path: Path) -> None:
    hook = '{critical: [{webhook: {url: "http://localhost:1/"}}]}'
    (tmp_path / "cells.yaml").write_text(f"cells:\n  - {{name: a, region: eu-west-1, alerts: {hook}}}\n")
    with pytest.raises(InvalidCells, match="is not https: use an https URL for a cell on AWS"):
        add_stacks(App(analytics_reporting=False, outdir=str(tmp_path / "out")), tmp_path)


def test_the_app_ends_without_a_stack_trace(tmp_path: Path) -> None:
    app = copy_app(tmp_path, "cells:\n  - {name: A, region: nowhere}\n")
    completed = subprocess.run(
        [sys.executable, str(app)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (completed.returncode, completed.stderr.count("\n")) == (1, 2), completed.stderr
    assert "cells.yaml:2: /cells/0/name: " in completed.stderr and "Traceback" not in completed.stderr
