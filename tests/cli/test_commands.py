"""The command line, as a person or a script meets it."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bems.embedded.generator import generate

LOG = list(generate(200, 3))


def bems(*arguments: str, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "bems.cli", *arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
        cwd=cwd,
        check=False,
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(LOG))
    return path


def mistake(result: subprocess.CompletedProcess[bytes]) -> str:
    """A user's mistake: exit code 2, one line, no stack trace."""
    assert result.returncode == 2, result
    assert result.stderr.count(b"\n") == 1, result.stderr.decode()
    assert result.stderr.startswith(b"bems: ")
    return result.stderr.decode()


def test_replay_prints_a_report(log: Path) -> None:
    result = bems("replay", str(log))
    assert result.returncode == 0, result.stderr
    text = result.stdout.decode()
    for heading in ("Events", "Period", "Refused, by reason", "What became of", "Time in each stage", "Alerts"):
        assert heading in text
    assert result.stderr == b""


def test_replay_prints_json(log: Path) -> None:
    result = bems("replay", str(log), "--json")
    report = json.loads(result.stdout)
    assert set(report) == {"events", "invoices", "statuses", "alerts", "stages", "events_per_second"}
    assert set(report["events"]) == {"accepted", "duplicate", "refused"}
    assert sum(report["events"].values()) == len(LOG)
    assert sum(report["statuses"].values()) == report["invoices"]
    assert set(report["stages"]) == {"ingestion", "authorization", "reconciliation", "posting"}
    assert set(report["stages"]["posting"]) == {"p50_s", "p90_s", "p99_s"}


def test_plain_gzipped_and_piped_logs_give_the_same(log: Path, tmp_path: Path) -> None:
    packed = tmp_path / "events.jsonl.gz"
    packed.write_bytes(gzip.compress(log.read_bytes()))
    outs = []
    for number, (file, stdin) in enumerate([(str(log), b""), (str(packed), b""), ("-", packed.read_bytes())]):
        out = tmp_path / f"{number}.jsonl"
        assert bems("replay", file, "--json", "--invoices-out", str(out), stdin=stdin).returncode == 0
        outs.append(out.read_bytes())
    assert outs[0] == outs[1] == outs[2]


def test_invoices_out_has_a_line_per_invoice_sorted(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "invoices.jsonl"
    report = json.loads(bems("replay", str(log), "--json", "--invoices-out", str(out)).stdout)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == report["invoices"]
    assert [line["invoice_id"] for line in lines] == sorted(line["invoice_id"] for line in lines)
    alerts = [alert for line in lines for alert in line["alerts"]]
    assert len(alerts) == sum(n for by_severity in report["alerts"].values() for n in by_severity.values()) > 0
    assert all(set(alert) == {"stage", "severity", "kind", "at"} and alert["at"].endswith("Z") for alert in alerts)


def test_a_policy_changes_the_alerts(log: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("stages: {authorization: {deadline: 1h}}\n")
    alerts = [
        json.loads(bems("replay", str(log), "--json", *options).stdout)["alerts"]["authorization"]
        for options in ([], ["--policy", str(policy)])
    ]
    assert sum(alerts[1].values()) > sum(alerts[0].values())


def test_until_takes_dates_and_times(log: Path) -> None:
    day = json.loads(bems("replay", str(log), "--json", "--until", "2026-01-08").stdout)
    time = json.loads(bems("replay", str(log), "--json", "--until", "2026-01-08T00:00:00Z").stdout)
    assert day["events"] == time["events"]
    assert day["events"]["accepted"] < len(LOG) / 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["replay", "missing.jsonl"], "missing.jsonl: No such file or directory"),
        (["replay", "."], ".: Is a directory"),
        (["replay", "log.jsonl", "--until", "soon"], "'soon' is not a time; 2026-03-31 or"),
        (["replay", "log.jsonl", "--until", "2026-03-31T10:00:00"], "is not a time"),
        (["replay", "log.jsonl", "--policy", "missing.yaml"], "missing.yaml: No such file"),
        (["replay", "log.jsonl", "--policy", "log.gz"], "log.gz: not UTF-8 text"),
        (["replay", "log.jsonl", "--policy", "bad.yaml"], "bad.yaml:2: /stages/authorization/deadline: "),
        (["replay", "log.jsonl", "--policy", "nowhere.yaml"], "XX"),
        (["replay", "log.jsonl", "--invoices-out", "no/such/folder"], "no/such/folder: No such file"),
        (["replay", "torn.gz"], "torn.gz: the compressed data is damaged"),
        (["replay"], "Missing argument 'FILE'"),
        (["replay", "log.jsonl", "--jsn"], "No such option '--jsn'"),
        (["generate", "--invoices", "0"], "0 is not in the range"),
        (["generate", "--start", "1066-10-14", "--out", "x"], "1971"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path: Path, arguments: list[str], told: str) -> None:
    (tmp_path / "log.jsonl").write_bytes(b"".join(LOG))
    packed = gzip.compress(b"".join(LOG))
    (tmp_path / "log.gz").write_bytes(packed)
    (tmp_path / "torn.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "bad.yaml").write_text("stages:\n  authorization: {deadline: 3 days}\n")
    (tmp_path / "nowhere.yaml").write_text("calendar: {country: XX, timezone: UTC}\n")
    assert told in mistake(bems(*arguments, cwd=tmp_path))
    assert not (tmp_path / "x").exists()


def test_a_log_without_an_event_says_so(tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("It was a dark\nand stormy night.\n")
    result = bems("replay", "prose.txt", cwd=tmp_path)
    assert "prose.txt: no line of it is an event" in mistake(result)
    assert b"event: not JSON" in result.stdout


def test_every_command_shows_an_example() -> None:
    for command in ("replay", "generate", "demo"):
        result = bems(command, "--help")
        assert result.returncode == 0
        assert f"Example: bems {command}".encode() in result.stdout
    assert bems("--help").returncode == 0
    assert bems("--version").stdout.startswith(b"bems ")


def test_generate_is_reproducible(tmp_path: Path) -> None:
    assert bems("generate", "--invoices", "200", "--seed", "3").stdout == b"".join(LOG)
    assert bems("generate", "--invoices", "200", "--seed", "3", "--out", "log", cwd=tmp_path).returncode == 0
    assert (tmp_path / "log").read_bytes() == b"".join(LOG)


def test_demo_shows_what_was_stuck() -> None:
    result = bems("demo")
    assert result.returncode == 0, result.stderr
    assert b"What became of" in result.stdout
    assert b"Alerts" in result.stdout


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs a POSIX shell")
def test_a_reader_who_has_seen_enough_gets_no_stack_trace() -> None:
    command = f"{sys.executable} -m bems.cli generate --invoices 5000 | head -n 1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=False)
    assert result.stderr == b""
    assert result.stdout.count(b"\n") == 1
