"""`bems demo` in a terminal: the commands that it prints can be copied and work."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests.waiting import until

COMMANDS = ("bems stuck --by value", "bems invoice ", "bems act complete ")


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX terminal")
def test_the_printed_commands_work_while_the_cell_runs() -> None:
    import pty

    terminal, end = pty.openpty()
    demo = subprocess.Popen(
        [sys.executable, "-m", "bems", "demo", "--invoices", "300"],
        stdin=end, stdout=end, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(end)
    printed: list[bytes] = []
    reading = threading.Thread(target=read_all, args=(terminal, printed))
    reading.start()
    try:
        until(lambda: b"Ctrl-C stops it." in b"".join(printed) or demo.poll() is not None, seconds=120)
        text = b"".join(printed).decode().replace("\r", "")
        assert demo.poll() is None, text
        exports = [line.strip() for line in text.splitlines() if line.startswith("    export ")]
        commands = [line.strip() for line in text.splitlines() if line.startswith("    bems ")]
        assert [command.startswith(start) for command, start in zip(commands, COMMANDS, strict=True)] == [True] * 3
        port = int(re.findall(r"BEMS_URL=http://127\.0\.0\.1:(\d+)", text)[0])
        ran = subprocess.run(
            ["sh", "-ec", "\n".join([*exports, *commands])], capture_output=True, timeout=60, check=False
        )
        assert (ran.returncode, ran.stderr) == (0, b""), ran
        (stuck,) = re.findall(r"^(\d+ are stuck[,:]) ", text, re.MULTILINE)
        assert f"\n{stuck} ".encode() in ran.stdout
        (after,) = re.findall(r"would move it to (\w+)", text)
        assert f"Status: {after}, ".encode() in ran.stdout
        demo.send_signal(signal.SIGINT)
        assert demo.wait(timeout=60) == 0
    finally:
        demo.kill()
        demo.wait()
        reading.join()
        os.close(terminal)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def read_all(terminal: int, printed: list[bytes]) -> None:
    """Read until the other side is closed."""
    try:
        while read := os.read(terminal, 65536):
            printed.append(read)
    except OSError:
        pass
