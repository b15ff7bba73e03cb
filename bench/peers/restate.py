"""Restate: its server from npm, and a service with its Python SDK, served by granian.

It is one server with the default configuration, except for the folder, loopback ports, disabled telemetry, and four
partitions instead of 24, which suits two processors better. The service uses the request-response protocol, in which an
invocation that never waits is one HTTP exchange; the SDK's other protocol had the same cost here, within the noise.

At its start, the server asks GitHub for its newest version, even without telemetry. If that fails, it only logs it.
"""

import json
import platform
from pathlib import Path
from urllib.parse import quote

from bench.client import Client, Connection
from bench.events import Event
from bench.peers.engine import SERVICES, Engine, EngineUnavailable, free_port, request_status
from bench.peers.setup import install_node_modules, install_python, locked_version
from bench.processes import bytes_in

PLATFORMS = {
    ("Linux", "x86_64"): "linux-x64",
    ("Linux", "aarch64"): "linux-arm64",
    ("Darwin", "arm64"): "darwin-arm64",
    ("Darwin", "x86_64"): "darwin-x64",
}
CONFIGURATION = """node-name = "bench"
cluster-name = "bench"
base-dir = "{folder}/data"
default-num-partitions = 4
disable-telemetry = true
log-filter = "warn"
listen-mode = "tcp"
bind-address = "127.0.0.1:{fabric}"
advertised-address = "http://127.0.0.1:{fabric}"

[ingress]
bind-address = "127.0.0.1:{ingress}"

[admin]
bind-address = "127.0.0.1:{admin}"
disable-web-ui = true
"""


class Restate(Engine):
    name = "Restate"
    durable = "yes, fsync"
    connections = (20, 200)

    def __init__(self) -> None:
        super().__init__()
        self._server = self._granian = Path()
        self._empty_bytes: dict[Path, int] = {}

    def prepare(self) -> str:
        target = PLATFORMS.get((platform.system(), platform.machine()))
        if target is None:
            raise EngineUnavailable(f"Restate has no server for {platform.system()} on {platform.machine()}")
        package = install_node_modules() / "@restatedev" / f"restate-server-{target}"
        self._server = package / "bin" / "restate-server"
        if not self._server.exists():
            raise EngineUnavailable(f"npm installed no server for {target}")
        self._granian = install_python("restate-sdk", "granian", "uvloop").with_name("granian")
        version = json.loads((package / "package.json").read_text(encoding="utf-8"))["version"]
        return f"{version}, Python SDK {locked_version('restate-sdk')}"

    def start(self, folder: Path) -> Client:
        file = folder / "restate.toml"
        is_restart = file.exists()
        if is_restart:
            ports = json.loads((folder / "ports.json").read_text(encoding="utf-8"))
        else:
            # The ports must survive a restart, because the server remembers the address of the service.
            ports = {name: free_port() for name in ("fabric", "ingress", "admin", "service")}
            (folder / "ports.json").write_text(json.dumps(ports), encoding="utf-8")
            file.write_text(CONFIGURATION.format(folder=folder, **ports), encoding="utf-8")
        log, admin, service = folder / "restate.log", ports["admin"], ports["service"]
        serve: list[str | Path] = [self._granian, "--interface", "asgi", "--loop", "uvloop", "--log-level", "error"]
        serve += ["--host", "127.0.0.1", "--port", str(service), "--working-dir", SERVICES, "on_restate:app"]
        self.processes.start(serve, log)
        self.processes.start([self._server, "--config-file", file], log)
        self.processes.wait_until(lambda: request_status(service, "GET", "/") != 0, log)
        self.processes.wait_until(lambda: request_status(admin, "GET", "/health") == 200, log)
        if not is_restart:
            body = json.dumps({"uri": f"http://127.0.0.1:{service}", "use_http_11": True}).encode()
            self.processes.wait_until(lambda: request_status(admin, "POST", "/deployments", body) in (200, 201), log)
            self._empty_bytes[folder] = bytes_in(folder / "data")
        return Client(f"http://127.0.0.1:{ports['ingress']}", {"content-type": "application/json"}, post)

    def stored_bytes(self, folder: Path) -> int:
        """Return the growth of the data, including the logs, which the server trims itself."""
        return bytes_in(folder / "data") - self._empty_bytes[folder]


async def post(connection: Connection, event: Event) -> int:
    """Call the handler of the stage. The response follows when the invocation is complete and durable."""
    path = f"/invoice/{quote(event.invoice_id, safe='')}/{event.stage}"
    status, _ = await connection.request("POST", path, event.body)
    return status
