"""The server: the API on a port, in a thread of its own.

It accepts connections itself, a few at a time, because asyncio accepts as many as come before it lets anybody look: a
crowd would take every descriptor that the process may open, and with them those that alerts go out by.
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
from bems.embedded.api.file_descriptors import room_for_connections
from bems.embedded.api.http_protocol import CONNECTION, Connections, Protocol, refusal
from bems.tracker.responses import unavailable

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 2_000
"""What comes by more of them at once is answered 503, and closed; those that were there before go on."""

COURTESY = 64
"""Connections beyond those are read from, so that their requests are answered 503. What comes by still more takes the
place of one that has sent nothing yet, or is answered and closed unread."""

ACCEPTED_AT_ONCE = 16
"""Connections, before others have their turn; so many may be beyond the limit for a moment."""

ACCEPT_RETRY_SECONDS = 0.5
"""Seconds until connections are accepted again where one could not be."""

SHUTDOWN_TIMEOUT_SECONDS = 10
"""Seconds that requests under way have at the end."""

BACKLOG = 2_048
"""Connections that may wait to be accepted."""

KEEP_ALIVE = 75
"""Seconds that a connection may lie idle between two requests: longer than the minute for which proxies and load
balancers keep one, so that none sends a request on a connection that is just being closed here."""


class CannotListen(Exception):
    """The address cannot be listened on; the message says why."""


class Server:
    """Serves what `make` makes in the event loop that it is called in. CannotListen: at once, when it is made."""

    def __init__(self, make: Callable[[], ASGIApp], host: str, port: int) -> None:
        self._make = make
        self._socket = _listen(host, port)
        self.host, self.port = self._socket.getsockname()[:2]
        self._thread = threading.Thread(target=self._run, name="bems-http")
        self._started: Future[None] = Future()
        self._server: uvicorn.Server | None = None

    @property
    def url(self) -> str:
        """Where it is found."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def start(self) -> "Server":
        """Begin; it answers from now on."""
        self._thread.start()
        self._started.result()
        return self

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Take no more connections, answer what was asked, and end. Twice is harmless."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        try:
            # uvloop where there is one, as uvicorn would choose.
            with asyncio.Runner(loop_factory=uvicorn.Config("", loop="auto").get_loop_factory()) as runner:
                runner.run(self._serve())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            else:
                raise

    async def _serve(self) -> None:
        api = self._make()
        room = room_for_connections(MAX_CONNECTIONS + COURTESY)
        served = min(MAX_CONNECTIONS, max(1, room - COURTESY))
        if served < MAX_CONNECTIONS:
            told = "few files may be open here (ulimit -n): %d connections are served at once, and not %d"
            log.warning(told, served, MAX_CONNECTIONS)

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if scope[CONNECTION].place > served:
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
            # What a cell answers is true for the moment, and for those who have its key.
            headers=[("cache-control", "no-store")],
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_SECONDS,
        )
        self._server = server = _Server(config, self._socket, room)
        server.on_startup = lambda: self._started.set_result(None)
        await server.serve(sockets=[])


class _Server(uvicorn.Server):
    """Accepts connections while there are fewer than `room`, and tells when it has started. Signals are not its
    business, as it is in no main thread: who starts it ends it."""

    on_startup: Callable[[], None]

    def __init__(self, config: uvicorn.Config, listening: socket.socket, room: int) -> None:
        super().__init__(config)
        self._listening, self._room = listening, room
        self._shared = Connections()
        self._is_listening = True
        self._accepting: asyncio.Task[None] | None = None
        self._coming: set[asyncio.Task[None]] = set()

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
            # Windows.
            self._accepting = asyncio.create_task(self._accept_one_by_one())

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, _ = self._listening.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                # It has gone already.
                continue
            except OSError as error:
                # No descriptor is left. Those that wait go on waiting.
                log.error("a connection could not be accepted: %s", error)
                loop.remove_reader(self._listening)
                loop.call_later(ACCEPT_RETRY_SECONDS, self._listen)
                return
            self._take(connection)

    async def _accept_one_by_one(self) -> None:
        while True:
            try:
                connection, _ = await asyncio.get_running_loop().sock_accept(self._listening)
            except OSError as error:
                log.error("a connection could not be accepted: %s", error)
                await asyncio.sleep(ACCEPT_RETRY_SECONDS)
                continue
            self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        if len(self.server_state.connections) + len(self._coming) >= self._room and not self._shared.cut_off_silent():
            _turn_away(connection)
            return
        connection.setblocking(False)
        coming = asyncio.create_task(self._connect(connection))
        self._coming.add(coming)
        coming.add_done_callback(self._coming.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, connection)
        except OSError:
            connection.close()

    def _make_protocol(self) -> Protocol:
        return Protocol(self.config, self.server_state, self.lifespan.state, shared=self._shared)


_TURNED_AWAY = refusal(unavailable(1))


def _turn_away(connection: socket.socket) -> None:
    """Answer whatever may come, and close."""
    with connection, suppress(OSError):
        connection.setblocking(False)
        connection.send(_TURNED_AWAY)
        connection.shutdown(socket.SHUT_WR)
        # What is unread would have the answer thrown away on its way.
        connection.recv(65_536)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotListen(f"{host}: {error.strerror}") from error
    except ValueError as error:
        # Names like `a..b`, which are not even looked up.
        raise CannotListen(f"{host!r}: this is no host name") from error
    try:
        # So that a cell that was ended can be started again at once.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # Here and not in the event loop: of two that were bound together, only this refuses the second.
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise CannotListen(f"{host}:{port}: {error.strerror}") from error
    return listening
