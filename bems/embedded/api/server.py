"""The server: the API on a port, in a thread of its own."""

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from bems.embedded.api.bodies import closing, respond
from bems.embedded.api.protocol import PLACE, Protocol
from bems.tracker.answers import unavailable

CONNECTIONS = 2_000
"""What comes by more of them at once is answered 503, and closed; those that were there before go on."""

GOODBYE = 10
"""Seconds that requests under way have at the end."""

BACKLOG = 2_048
"""Connections that may wait to be accepted."""

KEEP_ALIVE = 30
"""Seconds that a connection may lie idle between two requests."""


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

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if scope[PLACE] > CONNECTIONS:
                await respond(send, closing(unavailable(1)))
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
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=GOODBYE,
        )
        self._server = server = _Server(config)
        server.on_startup = lambda: self._started.set_result(None)
        await server.serve(sockets=[self._socket])


class _Server(uvicorn.Server):
    """Tells when it has started. Signals are not its business, as it is in no main thread: who starts it ends it."""

    on_startup: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_startup()


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
