"""File of the results: each command replaces its own section and keeps the others."""

import re
from pathlib import Path

import pytest

from bench.results import describe_run, table, write_section


def test_a_section_replaces_its_last_version_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    write_section("faults", "Faults", "| a |\n| b |", path)
    write_section("throughput", "The cell", "first", path)
    write_section("peers", "Beside others", "peers' table", path)
    write_section("throughput", "The cell", "second", path)
    text = path.read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["The cell", "Beside others", "Faults"]
    assert "second" in text and "first" not in text
    assert "peers' table" in text and "| a |\n| b |" in text
    assert text.startswith("# Results\n") and text.count("# Results\n") == 1
    before = text
    write_section("throughput", "The cell", "second", path)
    assert re.sub(r"\d\d:\d\d", "", path.read_text()) == re.sub(r"\d\d:\d\d", "", before)


def test_machine_versions_and_date_are_in_every_section() -> None:
    description = describe_run()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC, ", description)
    for name in ("processors", "CPython 3.", "apsw 3.", "duckdb 2.", "uvicorn 0."):
        assert name in description, name


@pytest.mark.parametrize("rows", [[], [("a", 1), ("b", 2.5)]])
def test_a_table_is_markdown(rows: list[tuple[object, ...]]) -> None:
    lines = table(("name", "value"), rows).splitlines()
    assert lines[:2] == ["| name | value |", "| --- | --- |"]
    assert lines[2:] == [f"| {name} | {value} |" for name, value in rows]
