"""`bems restore`: its output and errors, and a cell that runs on the restored folder."""

from pathlib import Path

import pytest

from tests.cli.cli_harness import CliHarness, event, run, running


def test_a_cell_runs_on_a_restored_folder(harness: CliHarness, tmp_path: Path) -> None:
    harness.send(event("1"), event("2"), event("3", invoice_id="INV/1"))
    assert run("backup", "--store", str(tmp_path / "cell"), str(tmp_path / "copy")).code == 0
    harness.send(event("4"))
    restored = tmp_path / "new cell"
    done = run("restore", str(tmp_path / "copy"), "--store", str(restored))
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{restored} holds the cell until 2026-03-02 10:00:")
    assert "UTC: 2 invoices, 3 events, no alerts" in done.out
    assert done.out.endswith(f"\nStart it with: bems up --store '{restored}'\n")
    with running(restored) as other:
        other._keys |= harness._keys
        other.send(event("3", invoice_id="INV/1"), event("4"))
        assert other.bems("check", "--json").json["accepted"] == 4
    again = run("restore", "--json", str(tmp_path / "copy"), "--store", str(tmp_path / "other"))
    assert (again.json["store"], again.json["events"], again.json["invoices"]) == (str(tmp_path / "other"), 3, 2)


@pytest.mark.usefixtures("harness")
def test_errors_are_reported_in_one_line(tmp_path: Path) -> None:
    def error(code: int, source: Path, folder: Path) -> str:
        return run("restore", str(source), "--store", str(folder)).error(code)

    assert run("backup", "--store", str(tmp_path / "cell"), str(tmp_path / "copy")).code == 0
    assert "is not empty" in error(2, tmp_path / "copy", tmp_path / "cell")
    assert "is not a folder" in error(2, tmp_path / "none", tmp_path / "new")
    assert "holds no cell.db" in error(2, tmp_path, tmp_path / "new")
    (tmp_path / "copy" / "keys.db").write_bytes(b"\0" * 5000)
    assert "keys.db is not a store of a cell" in error(1, tmp_path / "copy", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_help_shows_an_example() -> None:
    assert "Example: bems restore" in run("restore", "--help").out
