"""The emulator: a ministack process that listens only on the loopback interface and keeps its files in one folder."""

import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import urllib3

from bems.tracker.instants import Instant
from tests.e2e.polling import wait_until

ACCOUNT = "000000000000"
REGION = "us-east-1"
CLOCK = Path(__file__).parent / "clock"


class Emulator:
    """A running ministack.

    `environment` is the virtual environment in which it is installed; `home` is an empty folder for its files;
    `variables` are further environment variables of the functions.
    """

    def __init__(self, environment: Path, home: Path, variables: Mapping[str, str]) -> None:
        self.home = home
        self._more_variables = variables
        self._clients: dict[str, Any] = {}
        self.port = _free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.log = home / "ministack.log"
        self._clock = home / "clock"
        self.set_clock_offset(0)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [environment / "bin" / "ministack"],
                env=self._variables(),
                cwd=home,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until("the emulator is ready", self._ready, seconds=30)
        except BaseException:
            self.stop()
            raise

    def _variables(self) -> dict[str, str]:
        """Return the complete environment of the emulator, which the functions' workers inherit."""
        return {
            "PATH": os.defpath,
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            # By default ministack listens on every address of the machine.
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            # Keeps ministack from looking for its old containers in the machine's Docker.
            "DOCKER_HOST": f"unix://{self.home}/no-docker",
            "S3_DATA_DIR": str(self.home / "s3"),
            "STATE_DIR": str(self.home / "state"),
            "PYTHONPATH": str(CLOCK),
            "BEMS_E2E_CLOCK": str(self._clock),
            **self._more_variables,
        }

    def _ready(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"the emulator ended:\n{self.log.read_text()}")
        try:
            return urllib3.request("GET", f"{self.endpoint}/_ministack/health", retries=False).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def stop(self) -> None:
        """Kill the emulator and its functions' workers, which are in its process group."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def client(self, service: str) -> Any:
        """Return the boto3 client of a service that calls the emulator."""
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service,
                endpoint_url=self.endpoint,
                region_name=REGION,
                aws_access_key_id="test",
                aws_secret_access_key="test",
            )
        return self._clients[service]

    def physical_ids(self, stack: str, type: str | None = None) -> dict[str, str]:
        """Return the physical ids of a stack's resources by logical id, of one type or of all."""
        pages = self.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
        return {
            resource["LogicalResourceId"]: resource["PhysicalResourceId"]
            for page in pages
            for resource in page["StackResourceSummaries"]
            if type in (None, resource["ResourceType"])
        }

    def set_clock_offset(self, ahead: Instant) -> None:
        """Set the functions' clocks ahead of the machine's clock by `ahead` microseconds."""
        new = self._clock.with_suffix(".new")
        new.write_text(str(ahead * 1000))
        new.replace(self._clock)

    def addresses(self) -> set[str]:
        """Return the addresses on which the emulator and its workers listen (proc(5), /proc/net/tcp)."""
        sockets = {link for process in self._processes() for link in _links(process / "fd")}
        return {
            _address(fields[1].partition(":")[0])
            for table in ("/proc/net/tcp", "/proc/net/tcp6")
            for fields in map(str.split, Path(table).read_text().splitlines()[1:])
            if fields[3] == _LISTEN and f"socket:[{fields[9]}]" in sockets
        }

    def _processes(self) -> list[Path]:
        processes = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.getpgid(int(process.name)) == self._process.pid:
                    processes.append(process)
            except ProcessLookupError:
                continue
        return processes


_LISTEN = "0A"


def _links(folder: Path) -> list[str]:
    try:
        return [os.readlink(link) for link in folder.iterdir()]
    except FileNotFoundError:
        return []


def _address(text: str) -> str:
    """Decode an address in /proc/net/tcp, whose 32-bit words are in host byte order."""
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, b"".join(words))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
