"""HTTP server: serves the API on a port, in its own thread.

The server accepts connections itself, a few at a time. asyncio accepts all pending connections before other code runs,
so a flood of connections could use up the file descriptors of the process, including those needed to deliver alerts.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from bems.embedded.api.bodies import send_response, with_connection_close
from bems.embedded.api.file_descriptors import limit_connections
from bems.embedded.api.http_protocol import CONNECTION_SCOPE_KEY, Connections, Protocol, encode_response
from bems.tracker.responses import unavailable

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 2_000
"""Maximum number of connections served at once. Requests on further connections get 503, and `Connection: close`."""

MAX_REFUSED_CONNECTIONS = 64
"""Maximum number of connections beyond MAX_CONNECTIONS whose requests are read and answered 503. A still newer
connection replaces the oldest one that has sent no complete head. If there is none, the new connection gets a 503
without being read."""

MAX_ACCEPTS_PER_TURN = 16
"""Maximum number of connections accepted in one turn of the event loop. The number of open connections may exceed its
limit briefly by as many."""

ACCEPT_RETRY_SECONDS = 0.5
"""Delay before the server accepts connections again after an error."""

SHUTDOWN_TIMEOUT_SECONDS = 10
"""Time for running requests to finish at shutdown."""

LISTEN_BACKLOG = 2_048
"""Maximum number of connections that wait to be accepted."""

KEEP_ALIVE_SECONDS = 75
"""Maximum idle time between two requests. It exceeds the 60 seconds for which proxies and load balancers keep idle
connections, so that they do not send a request on a connection that the server is closing."""


class CannotListen(Exception):
    """The server cannot listen on the address; the message says why."""


class Server:
    """Server of an ASGI application.

    `make_app` is called in the event loop that serves the application. The constructor binds the port, and raises
    CannotListen if that fails.
    """

    def __init__(self, make_app: Callable[[], ASGIApp], host: str, port: int) -> None:
        self._make_app = make_app
        self._socket = _listen(host, port)
        self.host, self.port = self._socket.getsockname()[:2]
        self._thread = threading.Thread(target=self._run, name="bems-http")
        self._started: Future[None] = Future()
        self._server: uvicorn.Server | None = None

    @property
    def url(self) -> str:
        """Base URL of the server."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def start(self) -> "Server":
        """Start the thread, and return when the server answers requests."""
        self._thread.start()
        self._started.result()
        return self

    @property
    def is_alive(self) -> bool:
        """Whether the server thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Accept no more connections, answer running requests, and stop. Idempotent."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        try:
            # Same choice as uvicorn: uvloop if it is installed.
            with asyncio.Runner(loop_factory=uvicorn.Config("", loop="auto").get_loop_factory()) as runner:
                runner.run(self._serve())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            else:
                raise

    async def _serve(self) -> None:
        api = self._make_app()
        max_open = limit_connections(MAX_CONNECTIONS + MAX_REFUSED_CONNECTIONS)
        max_served = min(MAX_CONNECTIONS, max(1, max_open - MAX_REFUSED_CONNECTIONS))
        if max_served < MAX_CONNECTIONS:
            log.warning(
                "the limit of open files is low (ulimit -n): serving at most %d connections at once instead of %d",
                max_served,
                MAX_CONNECTIONS,
            )

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if scope[CONNECTION_SCOPE_KEY].connection_number > max_served:
                await send_response(send, with_connection_close(unavailable(1)))
            else:
                await api(scope, receive, send)

        config = uvicorn.Config(
            serve,
            http=Protocol,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            # Responses are valid only now, and only for the holder of the key.
            headers=[("cache-control", "no-store")],
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_SECONDS,
        )
        self._server = server = _Server(config, self._socket, max_open)
        server.on_startup = lambda: self._started.set_result(None)
        await server.serve(sockets=[])


class _Server(uvicorn.Server):
    """Uvicorn server that keeps at most `max_open` connections open, and calls `on_startup` when it has started.

    It handles no signals, because it does not run in the main thread; Server.stop ends it.
    """

    on_startup: Callable[[], None]

    def __init__(self, config: uvicorn.Config, listening: socket.socket, max_open: int) -> None:
        super().__init__(config)
        self._listening, self._max_open = listening, max_open
        self._shared = Connections()
        self._is_listening = True
        self._accepting: asyncio.Task[None] | None = None
        self._opening: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening.setblocking(False)
        self._listen()
        self.on_startup()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._is_listening = False
        if self._accepting is not None:
            self._accepting.cancel()
        else:
            asyncio.get_running_loop().remove_reader(self._listening)
        self._listening.close()
        await super().shutdown(sockets)

    def _listen(self) -> None:
        if not self._is_listening:
            return
        try:
            asyncio.get_running_loop().add_reader(self._listening, self._accept)
        except NotImplementedError:
            # The proactor event loop of Windows has no add_reader.
            self._accepting = asyncio.create_task(self._accept_one_by_one())

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(MAX_ACCEPTS_PER_TURN):
            try:
                connection, _ = self._listening.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                # The client has disconnected already.
                continue
            except OSError as error:
                # No file descriptor is left. Pending connections stay in the backlog.
                log.error("a connection could not be accepted: %s", error)
                loop.remove_reader(self._listening)
                loop.call_later(ACCEPT_RETRY_SECONDS, self._listen)
                return
            self._open(connection)

    async def _accept_one_by_one(self) -> None:
        while True:
            try:
                connection, _ = await asyncio.get_running_loop().sock_accept(self._listening)
            except OSError as error:
                log.error("a connection could not be accepted: %s", error)
                await asyncio.sleep(ACCEPT_RETRY_SECONDS)
                continue
            self._open(connection)

    def _open(self, connection: socket.socket) -> None:
        if (
            len(self.server_state.connections) + len(self._opening) >= self._max_open
            and not self._shared.abort_oldest_silent()
        ):
            _refuse(connection)
            return
        connection.setblocking(False)
        opening = asyncio.create_task(self._connect(connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, connection)
        except OSError:
            connection.close()

    def _make_protocol(self) -> Protocol:
        return Protocol(self.config, self.server_state, self.lifespan.state, shared=self._shared)


_UNAVAILABLE = encode_response(unavailable(1))


def _refuse(connection: socket.socket) -> None:
    """Answer 503 without reading the request, and close."""
    with connection, suppress(OSError):
        connection.setblocking(False)
        connection.send(_UNAVAILABLE)
        connection.shutdown(socket.SHUT_WR)
        # Closing with unread data sends a reset, which makes the client lose the response.
        connection.recv(65_536)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotListen(f"{host}: {error.strerror}") from error
    except ValueError as error:
        # The name is malformed, such as `a..b`.
        raise CannotListen(f"{host!r}: this is not a host name") from error
    try:
        # Allows an immediate restart of the cell on the same port.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # Not left to the event loop: if two processes have bound the port, only listen() refuses the second.
        listening.listen(LISTEN_BACKLOG)
    except OSError as error:
        listening.close()
        raise CannotListen(f"{host}:{port}: {error.strerror}") from error
    return listening
