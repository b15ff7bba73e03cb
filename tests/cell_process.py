"""`bems up` in a child process, which is killed when its test ends, even if the test fails."""

import re
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

from bems.tracker.contract import STAGES

TIMEOUT_SECONDS = 60.0
SPEED = 5 * 86_400
"""Five days per second, so that alerts come due all the time."""

POLICY = "stages:\n" + "".join(
    f"  {stage}: {{deadline: 2d, escalate_every: 1d, critical_at: 2, give_up_at: 4, overrides: []}}\n"
    for stage in STAGES
)


class CellProcess:
    """A process that runs a cell. Its standard error is appended to `log`.

    The process is killed after `timeout` seconds. `max_open_files` limits its file descriptors.
    """

    def __init__(
        self,
        folder: Path,
        log: Path,
        *options: str,
        timeout: float = TIMEOUT_SECONDS,
        max_open_files: int | None = None,
    ) -> None:
        limits = max_open_files, max_open_files
        limited = f"import resource as r; r.setrlimit(r.RLIMIT_NOFILE, {limits}); from bems.cli import main; main()"
        program = ["-m", "bems"] if max_open_files is None else ["-c", limited]
        command = [sys.executable, *program, "up", "--store", str(folder), "--port", "0", *options]
        self._log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        self._watchdog = threading.Timer(timeout, self.process.kill)
        self._watchdog.start()
        try:
            self.url = self._wait_for_output(r"http://\S+")
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> "CellProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def read_admin_key(self) -> str:
        """Read the admin's key from the output. Only the first start on a folder shows it."""
        return self._wait_for_output(r"bems_\S+")

    def end(self, signal_number: int) -> int:
        """Send the signal, wait for the process, and return its exit code."""
        self.process.send_signal(signal_number)
        return self.process.wait(TIMEOUT_SECONDS)

    def _wait_for_output(self, pattern: str) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            if found := re.search(pattern, line):
                return found[0]
        raise AssertionError(f"the output has no {pattern}: {self._log.read_text()}")

    def _close(self) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT_SECONDS)
        self._watchdog.cancel()
        assert self.process.stdout
        self.process.stdout.close()
