"""`bems replay`: --json has every printed figure, and --compare shows two policies side by side."""

import json
from pathlib import Path

import pytest

from bems.generator.event_log import generate
from tests.cli.cli_harness import Result, run

LOG = b"".join(generate(300, 3))


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("policy") / "strict.yaml"
    path.write_text(
        "stages: {authorization: {deadline: 1h, escalate_every: 1h, critical_at: 1, give_up_at: 1}}\n"
        "critical_amount_from: {}\n"
    )
    return str(path)


def replay(*options: str, log: bytes = LOG) -> Result:
    result = run("replay", "-", "--processes", "1", *options, stdin=log)
    assert (result.code, result.err) == (0, "")
    return result


def test_json_has_every_printed_figure() -> None:
    report = replay("--json").json
    printed = [line.split() for line in replay().out.splitlines()]
    assert report["period"]["first"][:10] in [row[1] for row in printed if row[:1] == ["Period"]]
    assert report["reasons"]
    for reason, count in report["reasons"].items():
        assert [*reason.split(), str(count)] in printed
    assert ["of", "these", "parked", str(report["parked"])] in [row[:4] for row in printed]
    for stage, count in report["passed"].items():
        assert [stage, f"{count:,}"] in [row[:2] for row in printed]
    for stage, severities in report["alerts"].items():
        counts = report["alerted_invoices"][stage], severities.get("warning", 0), severities.get("critical", 0)
        assert [stage, *(f"{count:,}" for count in counts)] in printed
    assert ["Stuck", "at", "the", "end:", str(len(report["stuck"])), "invoices"] in [row[:6] for row in printed] or [
        f"{len(report['stuck'])}"
    ]
    one = report["stuck"][0]
    (row,) = [row for row in printed if row[:1] == [one["invoice_id"]]]
    assert row[1:3] == [one["status"], one["waiting_since"][:10]]
    assert {
        "invoice_id",
        "status",
        "stage",
        "waiting_since",
        "alerts",
        "parked",
        "amount",
        "currency",
        "vendor",
    } == set(one)
    assert {"left_out", "jump", "alerts_per_100_invoices", "first_refused", "seconds"} <= set(report)


def test_two_policies_are_compared(strict: str) -> None:
    both = replay("--compare", strict, "--json").json
    first, second = both["policies"]
    assert (first["policy"], second["policy"]) == ("built-in", strict)
    alone = replay("--policy", strict, "--json").json
    for name in ("alerts", "stuck", "parked", "statuses", "alerts_per_100_invoices"):
        assert second[name] == alone[name]
    compared = both["comparison"]
    parked = compared["of these parked"]
    assert parked["difference"] == parked["second"] - parked["first"]
    assert parked["second"] == second["parked"]
    assert parked["first"] == first["parked"]
    shown = [" ".join(line.split()) for line in replay("--compare", strict).out.splitlines()]
    assert "Figure First Second Difference" in shown
    assert f"Second {strict}" in shown
    a, b = (one["alerts"]["authorization"].get("critical", 0) for one in (first, second))
    assert f"authorization, critical alerts {a:,} {b:,} {b - a:+,}" in shown
    assert any(line.startswith("alerts per 100 invoices ") for line in shown)


def test_every_error_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("stages: {authorization: {deadline: x}, posting: {critical_at: 0}}\n")
    result = run(
        *("replay", str(tmp_path / "none"), "--policy", str(tmp_path / "bad.yaml"), "--compare", "no.yaml"),
        *("--invoices-out", str(tmp_path / "out"), "--refused-out", str(tmp_path / "out")),
    )
    assert (result.code, result.out) == (2, "")
    for part in ("/stages/authorization/deadline", "/stages/posting/critical_at", "no.yaml: No such", "none: No such"):
        assert part in result.err
    assert "--invoices-out and --refused-out are the same" in result.err


def test_refused_lines_are_written_once(strict: str, tmp_path: Path) -> None:
    out = tmp_path / "refused"
    replay("--compare", strict, "--refused-out", str(out))
    numbers = [json.loads(line)["line"] for line in out.read_text().splitlines()]
    assert len(numbers) == len(set(numbers)) > 0
