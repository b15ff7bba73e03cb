"""The protocol: HTTP/1.1 on a connection, as uvicorn reads and writes it, with what that lacks.

What cannot be read is refused in the form of every other problem, and never in the place of an answer to what was sent
before. An offer to go on in another protocol is ignored, as RFC 9110, section 7.8, allows: Java's clients make one for
HTTP/2 with every request, and httptools would take its body for what follows after the switch
(https://github.com/Kludex/uvicorn/issues/2722).

Trailers are read and dropped. httptools reports them like headers, and uvicorn would append them to those of the
request, so that a key in a trailer would count (RFC 9110, section 6.5.1, forbids that).

Nobody needs a key to open a connection, so whatever a connection makes the cell keep is bounded, for itself and over
all connections together: heads and trailers in fields, bytes and time; requests that wait behind one that is being
answered; answers that nobody reads.
"""

import asyncio
import re
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from bems.embedded.api.bodies import MAX_DRAIN_BYTES
from bems.tracker.responses import HttpResponse, problem

MAX_HEAD_BYTES = 64 * 1024
"""Bytes of a request's first line and headers, and of its trailers; and one piece, which may end what was before."""

MAX_FIELDS = 100
"""Headers of a request."""

HEAD_SECONDS = 10.0
"""A head has so long from its first byte to its last, and so has a new connection to send one."""

DRAIN_SECONDS = 10.0
"""The rest of a body whose request was answered before it had come has so long to come."""

UNREAD_SECONDS = 30.0
"""An answer has so long to be read."""

MAX_READ = 4 * 1024
"""Bytes are parsed in pieces of this size, and not before the requests that were in the piece before are being
answered: of what a client sends ahead, the cell keeps the bytes, and not the many objects that they are parsed into."""

HELD_BYTES = 32 * 1024 * 1024
"""Bytes of unfinished heads and of requests sent ahead, over all connections. Beyond it, whoever has held some for
longest is cut off."""

UNREAD_BYTES = 64 * 1024 * 1024
"""Bytes of answers that are not read, over all connections; beyond it likewise."""

CONNECTION = "bems.connection"
"""Of a scope: its Protocol."""

# What the objects take that are made of a field and of a request, as measured.
_FIELD_BYTES, _REQUEST_BYTES = 160, 2_560
_CHUNK_BYTES = 32
_PIECE = MAX_READ
_HOST = re.compile(rb"[\w.~%!$&'()*+,;=:\[\]-]*", re.ASCII)

NOT_HTTP = problem(400, "this cannot be read as HTTP/1.1")
LONG_HEAD = problem(400, f"the headers have more than {MAX_HEAD_BYTES} bytes: send less")
MANY_FIELDS = problem(400, f"there are more than {MAX_FIELDS} headers: send less")
NO_HOST = problem(400, "there is no Host header: HTTP/1.1 needs one")
SEVERAL_HOSTS = problem(400, "there is more than one Host header: send one")
WRONG_HOST = problem(400, "the Host header is no host: send the one that the request goes to, such as cell:8080")


class Budget:
    """Bytes that connections together may hold. Beyond `limit`, whoever has held some for longest is cut off."""

    def __init__(self, limit: int) -> None:
        self.limit, self.total = limit, 0
        self._held: dict[Protocol, int] = {}

    def hold(self, protocol: "Protocol", size: int) -> None:
        """It holds so many bytes now; none, if 0."""
        before = self._held.pop(protocol, 0) if size == 0 else self._held.get(protocol, 0)
        if size:
            self._held[protocol] = size
        self.total += size - before
        while self.total > self.limit:
            longest = next(iter(self._held))
            self.hold(longest, 0)
            longest.cut_off()


class Connections:
    """What the connections of a server share. `silent`: those that have sent no whole head yet, the oldest first."""

    def __init__(self) -> None:
        self.silent: dict[Protocol, None] = {}
        self.held, self.unread = Budget(HELD_BYTES), Budget(UNREAD_BYTES)

    def cut_off_silent(self) -> bool:
        """Cut off the one that has been silent for longest; whether there was one."""
        protocol = next(iter(self.silent), None)
        if protocol is None:
            return False
        del self.silent[protocol]
        protocol.cut_off()
        return True


class _Refused(Exception):
    """A request that cannot be taken."""

    def __init__(self, answer: HttpResponse) -> None:
        self.answer = answer


class Protocol(HttpToolsProtocol):
    """A connection. Between two requests it may lie idle for `timeout_keep_alive`."""

    def __init__(self, *args: Any, shared: Connections | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = _Parser(self)  # type: ignore[assignment]
        self.place = 0
        """How many connections there were when this one came, itself among them."""
        self.question: asyncio.Task[Any] | None = None
        """What is given up where the client hangs up."""
        self.is_lost = False
        self._shared = shared or Connections()
        self._running: RequestResponseCycle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._ahead = b""
        self._is_ahead_planned = self._is_holding = False
        self._is_reading_head = self._is_reading_body = False
        self._is_timing_head = self._is_refused = False
        self._progress = self._dropped = 0
        self._refusal = NOT_HTTP
        self._host: bytes | None = None
        self._known_host = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow: _Flow = _Flow(transport)
        self.place = len(self.connections)
        self._shared.silent[self] = None
        self._end_in(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._shared.silent.pop(self, None)
        self._shared.held.hold(self, 0)
        self._shared.unread.hold(self, 0)
        self._ahead = b""
        if self._unread is not None:
            self._unread.cancel()
        self._forget_answer()
        super().connection_lost(exc)
        # Uvicorn keeps the timer, and with it all this, of a connection that was broken.
        self._unset_keepalive_if_required()
        if self.question is not None:
            self.question.cancel()
        self._let_go()

    def _let_go(self) -> None:
        """Refer to no request any more. A request refers to its connection, and such a cycle of 4 kB stays in memory
        until the garbage collector looks for it, which it does very seldom for what has lived for long."""
        self.scope = self.cycle = self._running = None  # type: ignore[assignment]
        self.pipeline.clear()

    def cut_off(self) -> None:
        """End the connection at once."""
        self._forget_answer()
        self.transport.abort()

    def _forget_answer(self) -> None:
        # Uvicorn does that for the request that was read last, which need not be the one that is being answered.
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()

    # -- who does not read

    def pause_writing(self) -> None:
        super().pause_writing()
        # Whoever does not read what is answered is not waited for.
        self._unread = self.loop.call_later(min(UNREAD_SECONDS, self.timeout_keep_alive), self.cut_off)
        self._shared.unread.hold(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._shared.unread.hold(self, 0)
        if self._unread is not None and not self.transport.is_closing():
            self._unread.cancel()
            self._unread = None

    def _close(self) -> None:
        """Close the connection when what was written is read, and not for ever later."""
        self.transport.close()
        if self._unread is None and self.transport.get_write_buffer_size():
            self._unread = self.loop.call_later(min(UNREAD_SECONDS, self.timeout_keep_alive), self.cut_off)

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.is_closing():
            self._close()

    # -- what comes

    def data_received(self, data: bytes) -> None:
        if self._ahead or self.pipeline:
            self._ahead += data
            self._parse_ahead()
        elif len(data) <= _PIECE:
            self._parse(data)
            self._wait()
        else:
            self._ahead = data
            self._parse_ahead()

    def _parse_ahead(self) -> None:
        """Parse what has come, as far as it is no request beyond one that waits already."""
        self._is_ahead_planned = False
        data, at, was_held = self._ahead, 0, self.flow.is_held
        while at < len(data) and not self.pipeline and not self._is_over():
            self._parse(data[at : at + _PIECE])
            at += _PIECE
        self._ahead = b"" if self._is_over() else data[at:]
        self.flow.is_held = bool(self._ahead)
        if self._ahead:
            self.flow.pause_reading()
        elif was_held and not self._is_over() and len(self.cycle.body) <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()
        self._wait()

    def _parse(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._progress += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._send_400(self._refusal)
        else:
            # Bytes since something came to its end: that of a head, a trailer, an extension of a chunk may never come.
            if self._progress > MAX_HEAD_BYTES + MAX_READ:
                self._send_400(LONG_HEAD if self._is_reading_head or self._is_reading_body else NOT_HTTP)
            elif self._is_reading_head and len(self.headers) > MAX_FIELDS:
                self._send_400(MANY_FIELDS)

    def _is_over(self) -> bool:
        return self._is_refused or self.transport.is_closing()

    def _wait(self) -> None:
        """Have what comes next come in time, and count what is held."""
        if self._answering() or self._is_over():
            self._unset_keepalive_if_required()
        elif self._is_reading_head and not self._is_timing_head:
            self._is_timing_head = True
            self._end_in(HEAD_SECONDS)
        if self._progress or self._is_holding or self._ahead or self.pipeline:
            self._hold()

    def _hold(self) -> None:
        held = self._progress + len(self._ahead) + _REQUEST_BYTES * len(self.pipeline)
        if self._is_reading_head:
            held += _FIELD_BYTES * len(self.headers)
        self._is_holding = held > 0
        self._shared.held.hold(self, held)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _end_in(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        seconds = min(seconds, self.timeout_keep_alive)
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._running = self.pipeline[-1][0]
        super().on_response_complete()
        if self.transport.is_closing():
            self._close()
        elif self._is_reading_body and not self._answering():
            self._dropped = 0
            self._end_in(DRAIN_SECONDS)
        elif self._is_reading_head and not self._answering():
            self._is_timing_head = True
            self._end_in(HEAD_SECONDS)
        if self._ahead and not self.pipeline and not self._is_ahead_planned:
            self._is_ahead_planned = True
            self.loop.call_soon(self._parse_ahead)

    # -- what the parser finds

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
        self._is_reading_head, self._is_reading_body, self._is_timing_head = True, False, False
        self._host = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_reading_head:
            # A trailer.
            return
        name = name.lower()
        if name == b"host":
            if self._host is not None:
                raise self._not_taken(SEVERAL_HOSTS)
            self._host = value
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._host is None:
            if self.parser.get_http_version() != "1.0":
                raise self._not_taken(NO_HOST)
        elif self._host != self._known_host:
            if _HOST.fullmatch(self._host) is None:
                raise self._not_taken(WRONG_HOST)
            self._known_host = self._host
        if len(self.headers) > MAX_FIELDS:
            raise self._not_taken(MANY_FIELDS)
        self._progress = 0
        self._is_reading_head, self._is_reading_body = False, True
        self._shared.silent.pop(self, None)
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            if not self.pipeline:
                self._running = self.cycle

    def on_body(self, body: bytes) -> None:
        self._progress = 0
        if self.parser.should_upgrade():
            return
        if self.cycle.response_complete:
            # Tiny chunks take more time than bytes.
            self._dropped += len(body) + _CHUNK_BYTES
            if self._dropped > MAX_DRAIN_BYTES:
                self._close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._progress = 0
        self._is_reading_body = False
        if not self.parser.should_upgrade():
            super().on_message_complete()
            if self.cycle.response_complete and not self.transport.is_closing():
                # The rest of a body that nobody wanted has come: from here on the connection is idle.
                self._end_in(self.timeout_keep_alive)

    def _not_taken(self, answer: HttpResponse) -> _Refused:
        self._refusal = answer
        return _Refused(answer)

    def _send_400(self, answer: HttpResponse) -> None:
        self._is_refused = True
        self._ahead = b""
        if self._answering() and not self.cycle.more_body:
            # The requests before it are answered, and the last answer closes the connection.
            self.cycle.keep_alive = False
            return
        answered = self._is_reading_body and self.cycle.response_complete
        if not self.pipeline and not answered:
            self.transport.write(refusal(answer))
        self._close()


class _Flow(FlowControl):
    """Reading goes on only when all that has come is parsed."""

    is_held = False

    def resume_reading(self) -> None:
        if not self.is_held:
            super().resume_reading()


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


def refusal(answer: HttpResponse) -> bytes:
    """The bytes of an answer that no application gives; the connection ends with it."""
    headers = {
        **answer.headers,
        "cache-control": "no-store",
        "content-length": str(len(answer.body)),
        "connection": "close",
    }
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    title = {400: "Bad Request", 503: "Service Unavailable"}[answer.status]
    return f"HTTP/1.1 {answer.status} {title}\r\n{''.join(lines)}\r\n".encode("ascii") + answer.body
