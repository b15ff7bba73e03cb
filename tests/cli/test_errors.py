"""Invalid arguments and files: every command reports them in plain lines, without a stack trace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bems.cli import bulk_commands, client
from tests.cli.cli_harness import CliHarness, run

COMMANDS: dict[str, tuple[str, ...]] = {
    "act complete": ("I", "--stage", "posting", "--note", "x"),
    "act extend": ("I", "--until", "friday"),
    "act park": ("I", "J", "--note", "x"),
    "act snooze": ("I", "--until", "friday"),
    "act assign": ("I", "--to", "jane"),
    "act note": ("I", "J", "--note", "x"),
    "alerts": (),
    "backup": ("to",),
    "check": (),
    "dashboard": ("backlog",),
    "deliveries": (),
    "dlq list": (),
    "dlq redrive": ("--all",),
    "generate": ("--invoices", "1"),
    "invoice": ("I",),
    "keys add": ("me", "--role", "viewer"),
    "keys list": (),
    "keys revoke": ("me",),
    "replay": ("log",),
    "send": ("log",),
    "stuck": (),
    "up": ("--port", "0"),
}
CELL_COMMANDS = [name for name in COMMANDS if name not in ("backup", "generate", "replay", "up")]
FILES = [
    ("act park", "--from"),
    ("act extend", "--policy"),
    ("backup", "--store"),
    ("generate", "--out"),
    ("keys add", "--store"),
    ("replay", "--policy"),
    ("replay", "--compare"),
    ("replay", "--invoices-out"),
    ("replay", "--refused-out"),
    ("send", "--refused-out"),
    ("up", "--store"),
    ("up", "--cells"),
    ("up", "--policy"),
]


@pytest.fixture(autouse=True)
def without_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable retries, so that a command ends at once when no cell answers."""
    monkeypatch.setattr(client, "RETRY_PAUSES_SECONDS", ())
    monkeypatch.setattr(bulk_commands, "RETRIES_FOR_SECONDS", 0.0)


def assert_reported(code: int, out: str, err: str) -> None:
    assert code in (1, 2), (code, out, err)
    assert err.startswith("bems: "), err
    assert "Traceback" not in err
    assert err.count("\n") <= 5, err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "extra", ["--no-such-option", "--json=x", "surplus words here", "--limit x", "--url", "\udcff"]
)
def test_invalid_arguments_are_reported(command: str, extra: str) -> None:
    result = run(*command.split(), *COMMANDS[command], *extra.split())
    # Some commands accept several ids; then no cell answers.
    assert_reported(result.code, result.out, result.err)


@pytest.mark.parametrize("command", CELL_COMMANDS)
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "https://127.0.0.1:1",
        "http://[",
        "nowhere",
        "file:///etc/passwd",
        "http://127.0.0.1:99999",
    ],
)
def test_urls_without_a_cell_are_reported(command: str, url: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b'{"stage": "ingestion", "event": {}}\n')
    arguments = [str(tmp_path / "log") if one == "log" else one for one in COMMANDS[command]]
    more = ("--retries-for", "0") if command == "send" else ()
    result = run(*command.split(), *arguments, *more, "--url", url)
    assert_reported(result.code, result.out, result.err)


@pytest.mark.parametrize(("command", "option"), FILES)
@pytest.mark.parametrize("kind", ["missing/in/nowhere", "folder", "latin.txt", "empty.txt", "binary.bin", ""])
def test_unusable_files_are_reported(tmp_path: Path, command: str, option: str, kind: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "full").write_text("")
    (tmp_path / "latin.txt").write_bytes("Müller\n".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)))
    (tmp_path / "log").write_bytes(b"")
    path = str(tmp_path / kind) if kind else ""
    is_written = option in ("--out", "--invoices-out", "--refused-out")
    is_folder = option == "--store"
    if (is_folder and kind in ("folder", "missing/in/nowhere")) or (is_written and kind.endswith((".txt", ".bin"))):
        pytest.skip("this is valid")
    given = {"log": str(tmp_path / "log"), "to": str(tmp_path / "to")}
    arguments = [given.get(one, one) for one in COMMANDS[command]]
    if command == "act park" and kind == "empty.txt":
        arguments, option = [], "--from"
        assert run("act", "park", "--note", "x", option, path).out.startswith("0 in all\n")
        return
    result = run(*command.split(), *arguments, option, path)
    assert_reported(result.code, result.out, result.err)


def test_every_invalid_option_is_reported_at_once() -> None:
    result = run("send", "--batch", "0", "--rate", "x", "--retries-for", "-1")
    assert (result.code, result.out) == (2, "")
    assert [line.partition(":")[0] for line in result.err.splitlines()] == ["bems"] * 4
    for name in ("'--batch'", "'--rate'", "'--retries-for'", "'FILE'"):
        assert name in result.err


def test_generate_does_not_overwrite_without_force(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("mine")
    message = run("generate", "--invoices", "1", "--out", str(log)).error()
    assert message == f"{log}: it already exists; choose another file, or overwrite it with --force"
    assert log.read_text() == "mine"
    assert run("generate", "--invoices", "1", "--out", str(log), "--force").code == 0
    assert log.read_text() != "mine"


def test_times_in_the_wrong_order_are_reported(harness: CliHarness) -> None:
    times = "--since", "2026-03-03", "--until", "2026-03-01"
    both = "--since 2026-03-03T00:00:00Z is not before --until 2026-03-02T00:00:00Z"
    assert both in harness.bems("dashboard", "volume", *times).error()
    # The cell refuses them too; --until defaults to now.
    late = harness.bems("dashboard", "volume", "--since", "2027-01-01").error()
    assert "/since: 2027-01-01T00:00:00Z is not before until, 2026-03-0" in late


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_characters_outside_the_output_encoding_are_replaced(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "log").write_bytes(b'{"stage": "ingestion", "event": {"event_id": "\xe6\x97\xa5"}}\n' * 2)
    result = subprocess.run(
        [sys.executable, "-m", "bems", "replay", str(tmp_path / "log"), "--processes", "1"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert b"Traceback" not in result.stderr
    assert result.returncode == 2
    assert b"Reason" in result.stdout
