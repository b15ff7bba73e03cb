"""The command line, run in child processes where that makes a difference: pipes, signals, a full disk."""

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bems.generator.event_log import generate
from tests.cli.cli_harness import run
from tests.waiting import until

LOG = list(generate(200, 3))


def bems(*arguments: str, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a child process."""
    return subprocess.run(
        [sys.executable, "-m", "bems", *arguments],
        input=stdin,
        capture_output=True,
        timeout=180,
        cwd=cwd,
        check=False,
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(LOG))
    return path


def user_error(result: subprocess.CompletedProcess[bytes]) -> str:
    """Return the one-line message of a user's mistake, which exits with code 2 and no stack trace."""
    assert result.returncode == 2, result
    assert result.stderr.count(b"\n") == 1, result.stderr.decode()
    assert result.stderr.startswith(b"bems: ")
    return result.stderr.decode()


def test_replay_prints_a_report(log: Path) -> None:
    result = bems("replay", str(log))
    assert result.returncode == 0, result.stderr
    text = result.stdout.decode()
    for heading in (
        "Events",
        "Period",
        "Refused, by reason",
        "What became of",
        "Time in each stage",
        "Alerts",
        "The refused lines",
    ):
        assert heading in text
    assert result.stderr == b""


def test_replay_prints_json(log: Path) -> None:
    result = bems("replay", str(log), "--json")
    report = json.loads(result.stdout)
    assert {"events", "invoices", "statuses", "alerts", "stages", "events_per_second"} <= set(report)
    assert set(report["events"]) == {"accepted", "duplicate", "refused"}
    assert sum(report["events"].values()) == len(LOG)
    assert sum(report["statuses"].values()) == report["invoices"]
    assert set(report["stages"]) == {"ingestion", "authorization", "reconciliation", "posting"}
    assert set(report["stages"]["posting"]) == {"p50_s", "p90_s", "p99_s"}


def test_plain_gzipped_and_piped_logs_give_the_same_result(log: Path, tmp_path: Path) -> None:
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
        run("replay", str(log), "--processes", "1", "--json", *options).json["alerts"]["authorization"]
        for options in ([], ["--policy", str(policy)])
    ]
    assert sum(alerts[1].values()) > sum(alerts[0].values())


def test_until_takes_dates_and_times(log: Path) -> None:
    # A date means the end of that day in Amsterdam, the time zone of the built-in policy.
    untils = ("2026-01-08", "2026-01-09T00:00:00+01:00", "2026-01-08T23:00:00Z", "2026-01-09T00:00:00Z")
    day, there, utc, later = (
        run("replay", str(log), "--processes", "1", "--json", "--until", until).json["events"] for until in untils
    )
    assert day == there == utc
    assert 0 < day["accepted"] < len(LOG) / 2
    assert later["accepted"] >= day["accepted"]
    noon, same = (
        run("replay", str(log), "--processes", "1", "--json", "--until", until).json["events"]
        for until in ("2026-01-08T12:00:00+05:00", "2026-01-08T07:00:00Z")
    )
    assert noon == same != day


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay", "missing.jsonl"], "missing.jsonl: No such file or directory"),
        (["replay", "."], ".: Is a directory"),
        (["replay", "log.jsonl", "--until", "soon"], "'soon' is not a time; use 2026-03-31 or"),
        (["replay", "log.jsonl", "--until", "2026-03-31T10:00:00"], "is not a time"),
        (["replay", "log.jsonl", "--policy", "missing.yaml"], "missing.yaml: No such file"),
        (["replay", "log.jsonl", "--policy", "log.gz"], "log.gz: not UTF-8 text"),
        (["replay", "log.jsonl", "--policy", "bad.yaml"], "bad.yaml:2: /stages/authorization/deadline: "),
        (["replay", "log.jsonl", "--policy", "nowhere.yaml"], "nowhere.yaml:1: /calendar/country: "),
        (["replay", "log.jsonl", "--invoices-out", "."], ".: Is a directory"),
        (["replay", "log.jsonl", "--invoices-out", ""], ": "),
        (["replay", "log.jsonl", "--until", "3500-01-01"], "is not between 1970 and 3000"),
        (["replay", "log.jsonl", "--invoices-out", "no/such/folder"], "no/such/folder: No such file"),
        (["replay"], "Missing argument 'FILE'"),
        (["replay", "log.jsonl", "--jsn"], "No such option '--jsn'"),
        (["generate", "--invoices", "0"], "0 is not in the range"),
        (["generate", "--start", "1066-10-14", "--out", "x"], "1971"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_a_users_mistake_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.jsonl").write_bytes(b"".join(LOG))
    (tmp_path / "log.gz").write_bytes(gzip.compress(b"".join(LOG)))
    (tmp_path / "bad.yaml").write_text("stages:\n  authorization: {deadline: 3 days}\n")
    (tmp_path / "nowhere.yaml").write_text("calendar: {country: XX, timezone: UTC}\n")
    assert message in run(*arguments).error()
    assert not (tmp_path / "x").exists()


def test_mistakes_are_reported_in_one_line_by_a_process(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(LOG))
    (tmp_path / "torn.gz").write_bytes(packed[: len(packed) // 2])
    for arguments, message in (
        (["replay", "torn.gz"], "torn.gz: the compressed data is damaged"),
        (["replay", "missing.jsonl"], "missing.jsonl: No such file or directory"),
        (["fly"], "No such command 'fly'"),
    ):
        assert message in user_error(bems(*arguments, cwd=tmp_path))


def test_until_may_lie_before_the_first_event(log: Path) -> None:
    result = bems("replay", str(log), "--until", "2025-01-01")
    assert result.returncode == 0, result.stderr
    assert b"after --until left out" in result.stdout


def test_refused_out_says_which_line_and_why(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "refused.jsonl"
    report = json.loads(bems("replay", str(log), "--json", "--refused-out", str(out)).stdout)
    refused = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(refused) == report["events"]["refused"] > 0
    for one in refused:
        assert set(one) == {"line", "event_id", "errors"}
        assert one["errors"]
        assert set(one["errors"][0]) == {"pointer", "detail"}
    repeated = [one for one in refused if "sent before" in one["errors"][0]["detail"]]
    for one in repeated:
        assert json.loads(LOG[one["line"] - 1])["event"]["event_id"] == one["event_id"]


def test_the_log_itself_is_not_overwritten(log: Path) -> None:
    before = log.read_bytes()
    assert "this is the log itself" in run("replay", str(log), "--invoices-out", str(log)).error()
    assert log.read_bytes() == before


@pytest.mark.parametrize(("first", "second"), [("out", "./out"), ("out", "link"), ("-", "-")])
def test_two_outputs_are_not_written_to_one_file(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("out")
    message = run("replay", str(log), "--invoices-out", first, "--refused-out", second).error()
    assert f"{second}: --invoices-out and --refused-out are the same" in message
    assert not (tmp_path / "out").exists()


def test_an_overwritten_file_keeps_its_mode_and_links_and_other_files(tmp_path: Path) -> None:
    private = tmp_path / "private.jsonl"
    private.write_text("old")
    private.chmod(0o600)
    (tmp_path / "private.jsonl.part").write_text("mine")
    (tmp_path / "link").symlink_to(private)
    assert run("generate", "--invoices", "3", "--out", str(tmp_path / "link"), "--force").code == 0
    assert (tmp_path / "link").is_symlink()
    assert private.read_bytes() == b"".join(generate(3, 1))
    assert private.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "private.jsonl", "private.jsonl.part"]
    assert run("generate", "--invoices", "3", "--out", "/dev/null").code == 0
    assert not Path("/dev/null").is_file()


def test_a_line_of_any_length_counts_as_one_line(tmp_path: Path) -> None:
    event = LOG[0]
    log = tmp_path / "long.jsonl"
    log.write_bytes(b"x" * 3_000_000 + event + b" " * 1_500_000 + event + event)
    report = json.loads(bems("replay", str(log), "--json").stdout)
    assert report["events"] == {"accepted": 1, "duplicate": 0, "refused": 2}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see a process's children")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_replay_leaves_no_process_behind(end: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-m", "bems", "replay", "-", "--processes", "2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdin
    parent.stdin.write(b"".join(LOG[:10]))
    parent.stdin.flush()
    children = until(lambda: found if len(found := children_of(parent.pid)) == 2 else [])
    parent.send_signal(end)
    parent.communicate(timeout=30)  # returns only when no child holds the pipe open
    until(lambda: not any(Path(f"/proc/{child}/stat").exists() for child in children))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see a process's children")
def test_a_killed_worker_is_reported() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-m", "bems", "replay", "-", "--processes", "2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert parent.stdin
    parent.stdin.write(LOG[0])
    parent.stdin.flush()
    children = until(lambda: found if len(found := children_of(parent.pid)) == 2 else [])
    os.kill(children[0], signal.SIGKILL)
    _, stderr = parent.communicate(b"".join(LOG), timeout=30)
    assert parent.returncode == 1
    assert stderr == b"bems: a worker process of the replay was killed: it may have run out of memory\n"


def children_of(pid: int) -> list[int]:
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # the process has exited
        if int(fields[1]) == pid:
            children.append(int(stat.parent.name))
    return children


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_reported_in_one_line(log: Path) -> None:
    for command in (["generate"], ["replay", str(log)]):
        with open("/dev/full", "wb") as full:
            result = subprocess.run(
                [sys.executable, "-m", "bems", *command],
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=60,
                check=False,
            )
        assert result.returncode == 1
        assert result.stderr == b"bems: output: No space left on device\n"


def test_a_log_without_an_event_says_so(tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("It was a dark\nand stormy night.\n")
    result = bems("replay", "prose.txt", cwd=tmp_path)
    assert "prose.txt: no line is an event; --refused-out FILE writes the reason" in user_error(result)
    assert b"event: not JSON" in result.stdout


def test_every_command_shows_an_example() -> None:
    for command in ("replay", "generate", "demo"):
        result = run(command, "--help")
        assert result.code == 0
        assert f"Example: bems {command}" in result.out
    assert bems("--help").returncode == 0
    assert bems("--version").stdout.startswith(b"bems ")


def test_generate_is_reproducible(tmp_path: Path) -> None:
    assert bems("generate", "--invoices", "200", "--seed", "3").stdout == b"".join(LOG)
    assert bems("generate", "--invoices", "200", "--seed", "3", "--out", "log", cwd=tmp_path).returncode == 0
    assert (tmp_path / "log").read_bytes() == b"".join(LOG)


def test_demo_prints_what_the_readme_says() -> None:
    result = bems("demo")
    assert result.returncode == 0, result.stderr
    printed = [" ".join(line.split()) for line in result.stdout.decode().splitlines()]
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    quoted = readme.split("`make demo` prints this")[1].split("```")[1]
    rows = [" ".join(line.split()) for line in quoted.splitlines() if line.strip(" ─.")]
    assert len(rows) > 10
    assert [row for row in rows if row not in printed] == []
    # Without a terminal the cell stops, and the output says how to keep it running.
    assert any(line.startswith("The cell has stopped.") for line in printed)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_demo_reports_a_full_disk_in_one_line() -> None:
    command = f"ulimit -f 8; exec {sys.executable} -m bems demo --exit --invoices 10"
    result = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=False)
    assert (result.returncode, result.stdout, result.stderr.count(b"\n")) == (1, b"", 1), result.stderr
    assert b"is the disk full?" in result.stderr


def test_demo_json_reports_a_balanced_cell() -> None:
    result = bems("demo", "--invoices", "60", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["balanced"] is True
    assert report["sent"]["events"] == len(list(generate(60, 1))) == sum(report["events"].values())
    assert sum(report["statuses"].values()) >= 60
    assert report["check"]["accepted"] == report["events"]["accepted"] > 0 == report["events"]["undelivered"]
    assert sum(report["alerts"][stage]["warning"] for stage in report["alerts"]) > 0 < report["stuck"]
    assert report["stuck"] >= report["parked"]
    assert report["stuck_amounts"]
    worst = report["worst"]
    assert worst["if_completed"]["stuck"] == report["stuck"] - 1
    assert report["commands"] == [
        "bems stuck --by value",
        f"bems invoice {worst['invoice_id']}",
        f'bems act complete {worst["invoice_id"]} --stage {worst["stage"]} --note "done by hand"',
    ]


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_a_closed_pipe_causes_no_stack_trace() -> None:
    command = f"{sys.executable} -m bems generate --invoices 5000 | head -n 1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=False)
    assert result.stderr == b""
    assert result.stdout.count(b"\n") == 1
