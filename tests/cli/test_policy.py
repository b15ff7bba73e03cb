"""`bems policy`, and the policy that `bems up` applies."""

import re
from pathlib import Path

import pytest

from bems.cli.files import read_policy_file
from tests.cli.cli_harness import CliHarness, run
from tests.cli.test_up import cell, read_to_exit

TEXT = """calendar: {country: HU, timezone: Europe/Budapest}
stages:
  authorization:
    give_up_at: 2
    overrides:
      - {when: {vendor_tier: gold, currency: EUR, amount_from: "10000"}, deadline: 1bd}
"""
BAD = """calendar: {country: XX, timezone: Mars, days_off: [2026-12-24], days_on: [2026-12-24]}
stages:
  authorization: {deadline: 3 days, critical_at: 0}
  posting: {overrides: [{when: {amount_from: 5}}]}
  payment: {deadline: 3d}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "sla.yaml"
    path.write_text(TEXT)
    return str(path)


def test_the_policy_in_force_is_printed(harness: CliHarness) -> None:
    result = harness.bems("policy", role="viewer")
    assert (result.code, result.err) == (0, "")
    policy = read_policy_file(None)
    assert result.out.startswith(f"program, digest {policy.digest}, in force since 2026-03-02 10:00:")
    assert re.search(r"posting +due-3bd +20bd, growing x 2 +3 +4", result.out)
    assert "Business days of  NL, Europe/Amsterdam\nWeekend           saturday, sunday\n" in result.out
    assert harness.bems("policy", "show").out == result.out
    answer = harness.bems("policy", "--json").json
    assert (answer["digest"], answer["calendar"]["country"]) == (policy.digest, "NL")
    assert harness.bems("policy", "--at", "2026-03-03", "--json").json == answer
    assert "no policy is known for that time" in harness.bems("policy", "--at", "2026-03-01").error()


def test_policies_are_listed(harness: CliHarness) -> None:
    digest = read_policy_file(None).digest
    result = harness.bems("policy", "history", role="viewer")
    assert re.search(rf"{digest} +2026-03-02 10:00:\d\d +- +program", result.out)
    assert result.out.endswith("1 policy version\n")
    listed = harness.bems("policy", "history", "--json").json
    assert ([one["digest"] for one in listed["items"]], listed["more"]) == ([digest], False)


def test_a_file_is_printed_without_a_cell(file: str) -> None:
    result = run("policy", "--policy", file)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"{file}, digest {read_policy_file(file).digest}\n")
    assert re.search(r"override 1 +1bd +10bd, growing x 2 +3 +2", result.out)
    assert "authorization override 1: vendor_tier gold, currency EUR, amount_from 10000\n" in result.out
    assert all(len(line) <= 80 for line in result.out.splitlines()[1:])
    shown = run("policy", "--policy", "default", "--json").json
    assert (shown["source"], shown["digest"]) == ("default", read_policy_file(None).digest)
    assert shown["in_force_from"] is None
    assert "a file has no history" in run("policy", "--policy", file, "--at", "2026-03-01").error()


def test_every_key_of_a_file_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "sla.yaml"
    path.write_text("""critical_amount_from: {USD: 12000, EUR: "10000.50"}
stages:
  authorization:
    escalate: {every: 1bd, growth: 1.5}
    overrides:
      - {when: {buyer: "1000", has_purchase_order: true}, escalate_every: 2d}
  reconciliation: {not_required: [{when: {has_purchase_order: false}}]}
""")
    lines = [" ".join(line.split()) for line in run("policy", "--policy", str(path)).out.splitlines()]
    assert any(line.startswith("authorization 3bd 1bd, growing x 1.5 ") for line in lines)
    assert any(line.startswith("override 1 3bd 2d ") for line in lines)
    for line in (
        "authorization override 1: buyer 1000, has_purchase_order true",
        "reconciliation not required: has_purchase_order false",
        "Critical alerts: only from 10000.50 EUR, 12000 USD; in other currencies, from",
    ):
        assert line in lines


def test_the_policy_of_a_configured_cell_is_printed_without_calling_it(tmp_path: Path, file: str) -> None:
    cells = tmp_path / "cells.yaml"
    cells.write_text(
        "cells:\n  - {name: north, region: eu-west-1, policy: sla.yaml}\n"
        "  - {name: south, region: eu-south-1}\n  - {name: east, region: eu-west-1, policy: {stages: {}}}\n"
    )
    shown = {
        name: run("policy", "--cells", str(cells), "--cell", name, "--json").json for name in ("north", "south", "east")
    }
    default = read_policy_file(None).digest
    assert {name: (one["source"], one["digest"]) for name, one in shown.items()} == {
        "north": (file, read_policy_file(file).digest),
        "south": ("default", default),
        "east": (f"{cells}, cell east", default),
    }
    assert "use --cell with one of north, south, east" in run("policy", "--cells", str(cells)).error()


def test_every_error_of_a_file_is_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    for command in (
        ["policy", "check", str(path)],
        ["policy", "--policy", str(path)],
        ["replay", "-", "--policy", str(path)],
    ):
        result = run(*command)
        assert (result.code, result.out) == (2, "")
        found = re.findall(r"bad\.yaml:(\d): (\S+): ", result.err)
        assert len(found) == result.err.count("\n")
        assert found == [
            ("1", "/calendar/country"),
            ("1", "/calendar/days_on/0"),
            ("1", "/calendar/timezone"),
            ("3", "/stages/authorization/critical_at"),
            ("3", "/stages/authorization/deadline"),
            ("4", "/stages/posting/overrides/0/when"),
            ("5", "/stages/payment"),
        ]
    checked = run("policy", "check", str(path), "--json")
    assert checked.code == 2
    assert [fault["line"] for fault in checked.json["faults"]] == [1, 1, 1, 3, 3, 4, 5]
    assert run("policy", "check", str(tmp_path / "none.yaml")).error().endswith("none.yaml: No such file or directory")


def test_an_unknown_subdivision_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("calendar:\n  country: GB\n  timezone: Europe/London\n  subdivision: BY\n")
    assert ":4: /calendar/subdivision: 'BY' is not a subdivision of GB" in run("policy", "check", str(path)).error()
    cells = tmp_path / "cells.yaml"
    cells.write_text("cells:\n  - name: a\n    region: eu-west-1\n    policy:\n      calendar:\n"
                     "        country: XX\n        timezone: UTC\n")  # fmt: skip
    message = run("up", "--cells", str(cells), "--store", str(tmp_path / "cell")).error()
    assert ":6: /cells/0/policy/calendar/country: 'XX' is not a country" in message


def test_a_suspicious_value_is_a_warning(file: str) -> None:
    result = run("policy", "check", file)
    assert (result.code, result.err) == (0, "")
    assert f"{file}: warning: authorization: give_up_at 2 is below critical_at 3" in result.out
    assert result.out.endswith(f"1 warning; its digest is {read_policy_file(file).digest}\n")
    checked = run("policy", "check", file, "--json").json
    assert (len(checked["warnings"]), checked["faults"]) == (1, [])
    Path(file).write_text("{}")
    assert "valid, no warnings" in run("policy", "check", file).out


def test_a_cell_prints_its_policy_at_the_start(tmp_path: Path, file: str) -> None:
    store, digest = str(tmp_path / "cell"), read_policy_file(file).digest

    def startup_lines(*options: str) -> str:
        with cell("--store", store, *options) as (process, _):
            process.terminate()
            lines = read_to_exit(process)[1].splitlines()
        return "\n".join(line for line in lines if line.startswith(("Policy: ", "Warning: ")))

    since = r"in force since (\S+Z)"
    first = re.fullmatch(
        rf"Policy: {file} \({digest}\), {since}\.\nWarning: .* give_up_at 2 .*", startup_lines("--policy", file)
    )
    assert first
    kept = re.fullmatch(
        rf"Policy: {file} \({digest}\), {since}; kept from the last start, --policy default selects the built-in one"
        r"\.\nWarning: the policy .*: authorization: give_up_at 2 .*",
        startup_lines(),
    )
    assert kept and kept[1] == first[1]
    built_in = re.fullmatch(
        rf"Policy: default \({read_policy_file(None).digest}\), {since}\.", startup_lines("--policy", "default")
    )
    assert built_in and built_in[1] > first[1]
    assert re.fullmatch(rf"Policy: default \(\S+\), {since}; kept from the last start\.", startup_lines())


def test_a_configuration_without_a_policy_keeps_the_last_one(tmp_path: Path, file: str) -> None:
    with cell("--store", str(tmp_path / "cell"), "--policy", file, "--json") as (process, _):
        process.terminate()
        read_to_exit(process)
    cells = tmp_path / "cells.yaml"
    cells.write_text("cells: [{name: north, region: eu-west-1}]\n")
    # A cell without a policy in the configuration keeps the policy of its last start.
    with cell("--store", str(tmp_path / "cell"), "--cells", str(cells)) as (process, _):
        process.terminate()
        assert f"Policy: {file} (" in read_to_exit(process)[1]
    cells.write_text("cells: [{name: north, region: eu-west-1, policy: {}}]\n")
    with cell("--store", str(tmp_path / "cell"), "--cells", str(cells)) as (process, _):
        process.terminate()
        assert f"Policy: {cells}, cell north (" in read_to_exit(process)[1]


def test_help_has_an_example() -> None:
    for command in ([], ["show"], ["history"], ["check"]):
        assert "Example: bems policy" in run("policy", *command, "--help").out
    assert "No such command 'fly'" in run("policy", "fly").error()
