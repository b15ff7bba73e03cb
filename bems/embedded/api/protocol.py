"""The protocol: HTTP/1.1 on a connection, as uvicorn reads and writes it, with what that lacks.

What cannot be read is refused in the form of every other problem, and never in the place of an answer to what was sent
before. A head is bounded, in bytes and in time. An offer to go on in another protocol is ignored, as RFC 9110, section
7.8, allows: Java's clients make one for HTTP/2 with every request, and httptools would take its body for what follows
after the switch (https://github.com/Kludex/uvicorn/issues/2722).
"""

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bems.tracker.answers import HttpAnswer, problem

HEAD_LIMIT = 64 * 1024
"""Bytes of a request's first line and headers."""

PIECE = 256 * 1024
"""At most so many bytes come in one piece, and may end what was before."""

PLACE = "bems.place"
"""Of a scope: how many connections there were when this one came, itself among them."""

_NOT_HTTP = problem(400, "this cannot be read as HTTP/1.1")
_LONG_HEAD = problem(400, f"the headers have more than {HEAD_LIMIT} bytes: send less")


class Protocol(HttpToolsProtocol):
    """A connection. Between two requests it may lie idle for `timeout_keep_alive`, and a head has no longer than that
    to come in whole."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = _Parser(self)  # type: ignore[assignment]
        self._unread: asyncio.TimerHandle | None = None
        self._head = self._place = 0
        self._reading_head = self._too_long = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._place = len(self.connections)
        self._allow_idleness()

    def pause_writing(self) -> None:
        super().pause_writing()
        # Whoever does not read what is answered is not waited for.
        self._unread = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._unread is not None:
            self._unread.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # Uvicorn would have the time begin anew with every byte.
        idle, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        super().data_received(data)
        if self.transport.is_closing() or self._answering():
            if idle is not None:
                idle.cancel()
        elif self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = idle
            if idle is None:
                self._allow_idleness()
        # One that does not end is never parsed.
        self._head = self._head + len(data) if self._reading_head else 0
        if self._head > HEAD_LIMIT + PIECE and not self.transport.is_closing():
            self._refuse(_LONG_HEAD)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _allow_idleness(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[PLACE] = self._place  # type: ignore[literal-required]
        self._reading_head = True

    def on_headers_complete(self) -> None:
        self._reading_head = False
        self._too_long = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEAD_LIMIT
        if self._too_long:
            raise ValueError("too long")
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.parser.should_upgrade():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        self._refuse(_LONG_HEAD if self._too_long else _NOT_HTTP)

    def _refuse(self, answer: HttpAnswer) -> None:
        if self._answering() and not self.cycle.more_body:
            # The requests before it are answered, and the last answer closes the connection.
            self.cycle.keep_alive = False
            return
        if not self.pipeline:
            headers = {**answer.headers, "content-length": str(len(answer.body)), "connection": "close"}
            lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
            self.transport.write(f"HTTP/1.1 400 Bad Request\r\n{''.join(lines)}\r\n".encode("ascii") + answer.body)
        self.transport.close()


class _Parser:
    """httptools' parser of requests, but for one that offers an upgrade: its head is read again without the offer."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self._protocol)
        # As uvicorn has it: what follows a request that closes the connection is no reason not to answer it.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            try:
                self._parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self.get_method() == b"CONNECT":
                    raise httptools.HttpParserError("there is nothing to be connected with") from None
                head, rest = self._head(), rest[upgrade.args[0] :]
                self._begin()
                self._parser.feed_data(head)

    def _head(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.get_method(), self._protocol.url, self.get_http_version().encode())]
        for name, value in self._protocol.headers:
            if name == b"connection":
                kept = [token for token in value.split(b",") if token.strip().lower() != b"upgrade"]
                lines.append(b"connection: " + b",".join(kept))
            elif name != b"upgrade":
                lines.append(name + b": " + value)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def should_upgrade(self) -> bool:
        return bool(self._parser.should_upgrade())

    def should_keep_alive(self) -> bool:
        return bool(self._parser.should_keep_alive())

    def get_method(self) -> bytes:
        return bytes(self._parser.get_method())

    def get_http_version(self) -> str:
        return str(self._parser.get_http_version())
