"""HTTP/1.1 protocol of a connection: uvicorn's httptools protocol, with limits and stricter parsing.

A request that cannot be parsed is refused with an RFC 9457 problem, like any other error. The refusal never replaces
the response to an earlier request on the same connection.

An Upgrade header is ignored, as RFC 9110, section 7.8, allows. Java's HTTP client offers an upgrade to HTTP/2 with
every request, and httptools would treat the request's body as data of the new protocol
(https://github.com/Kludex/uvicorn/issues/2722).

Trailers are read and dropped. httptools reports them like headers, and uvicorn would add them to the headers of the
request, so that a key in a trailer would be accepted. RFC 9110, section 6.5.1, forbids merging such a field.

Opening a connection requires no key. So all memory that connections use is bounded, per connection and in total: the
fields, bytes and time of heads and trailers, pipelined requests, and responses that the client does not read.
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
"""Maximum bytes of a request's first line and headers, and of its trailers. The check allows PARSE_PIECE_BYTES more,
because the start of a parsed piece may belong to the message part before."""

MAX_FIELDS = 100
"""Maximum number of headers of a request."""

HEAD_TIMEOUT_SECONDS = 10.0
"""Maximum time from the first byte of a head to its last, and from the opening of a connection to its first head."""

DRAIN_TIMEOUT_SECONDS = 10.0
"""Maximum time for the rest of a body to arrive after its request was answered."""

UNREAD_TIMEOUT_SECONDS = 30.0
"""Maximum time for a client to read a response."""

PARSE_PIECE_BYTES = 4 * 1024
"""Size of the pieces in which received bytes are parsed. A piece is parsed only when no request of the previous pieces
waits for its turn. So pipelined requests are kept as bytes, not as the much larger objects they are parsed into."""

MAX_HELD_BYTES = 32 * 1024 * 1024
"""Maximum bytes of incomplete heads and pipelined requests, of all connections together. Beyond it, the connection
that has held bytes for the longest time is aborted."""

MAX_UNREAD_BYTES = 64 * 1024 * 1024
"""Maximum bytes of responses not yet read by clients, of all connections together. Beyond it, the connection that has
held bytes for the longest time is aborted."""

CONNECTION_SCOPE_KEY = "bems.connection"
"""Key of the ASGI scope whose value is the Protocol of the connection."""

# Memory of the objects created for a header field and for a pipelined request, as measured.
_FIELD_BYTES, _REQUEST_BYTES = 160, 2_560
# Counted for each chunk in addition to its data, because parsing tiny chunks costs more than their bytes.
_CHUNK_BYTES = 32
_PIECE_BYTES = PARSE_PIECE_BYTES
_HOST = re.compile(rb"[\w.~%!$&'()*+,;=:\[\]-]*", re.ASCII)

MALFORMED_REQUEST = problem(400, "the request is not valid HTTP/1.1")
HEAD_TOO_LARGE = problem(400, f"the headers have more than {MAX_HEAD_BYTES} bytes: send fewer")
TOO_MANY_FIELDS = problem(400, f"there are more than {MAX_FIELDS} headers: send fewer")
MISSING_HOST = problem(400, "there is no Host header: HTTP/1.1 requires one")
REPEATED_HOST = problem(400, "there is more than one Host header: send one")
INVALID_HOST = problem(400, "the Host header is not a valid host: send a host and optional port, such as cell:8080")


class ByteBudget:
    """Limit on the bytes that all connections hold together.

    When the total exceeds `limit`, the connections that have held bytes for the longest time are aborted.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.total = limit, 0
        self._held: dict[Protocol, int] = {}

    def set_held(self, protocol: "Protocol", size: int) -> None:
        """Set the number of bytes that the connection holds now."""
        before = self._held.pop(protocol, 0) if size == 0 else self._held.get(protocol, 0)
        if size:
            self._held[protocol] = size
        self.total += size - before
        while self.total > self.limit:
            oldest = next(iter(self._held))
            self.set_held(oldest, 0)
            oldest.abort()


class Connections:
    """State shared by all connections of a server. `silent` holds those without a complete head yet, oldest first."""

    def __init__(self) -> None:
        self.silent: dict[Protocol, None] = {}
        self.held, self.unread = ByteBudget(MAX_HELD_BYTES), ByteBudget(MAX_UNREAD_BYTES)

    def abort_oldest_silent(self) -> bool:
        """Abort the oldest silent connection; return False if there is none."""
        protocol = next(iter(self.silent), None)
        if protocol is None:
            return False
        del self.silent[protocol]
        protocol.abort()
        return True


class _RequestRejected(Exception):
    """Raised in a parser callback to stop parsing a request that breaks a rule."""

    def __init__(self, answer: HttpResponse) -> None:
        self.answer = answer


class Protocol(HttpToolsProtocol):
    """An HTTP/1.1 connection. It is closed after `timeout_keep_alive` seconds without activity between two requests."""

    def __init__(self, *args: Any, shared: Connections | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = _Parser(self)  # type: ignore[assignment]
        self.connection_number = 0
        """Number of open connections when this one was opened, including itself."""
        self.query_task: asyncio.Task[Any] | None = None
        """Task that is cancelled when the client disconnects; None if there is none."""
        self.is_lost = False
        self._shared = shared or Connections()
        self._current_cycle: RequestResponseCycle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._unparsed = b""
        self._is_parse_scheduled = self._has_held_bytes = False
        self._is_reading_head = self._is_reading_body = False
        self._is_timing_head = self._is_rejected = False
        self._unfinished_bytes = self._drained_bytes = 0
        self._rejection = MALFORMED_REQUEST
        self._host: bytes | None = None
        self._valid_host = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow: _Flow = _Flow(transport)
        self.connection_number = len(self.connections)
        self._shared.silent[self] = None
        self._close_after(HEAD_TIMEOUT_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._shared.silent.pop(self, None)
        self._shared.held.set_held(self, 0)
        self._shared.unread.set_held(self, 0)
        self._unparsed = b""
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        self._mark_disconnected()
        super().connection_lost(exc)
        # Uvicorn keeps the timer of a broken connection, and the timer refers to the connection.
        self._unset_keepalive_if_required()
        if self.query_task is not None:
            self.query_task.cancel()
        self._drop_references()

    def _drop_references(self) -> None:
        """Drop the references to requests, which refer back to the connection.

        Otherwise this reference cycle of 4 kB stays in memory until a garbage collection of the oldest generation,
        which is rare.
        """
        self.scope = self.cycle = self._current_cycle = None  # type: ignore[assignment]
        self.pipeline.clear()

    def abort(self) -> None:
        """Abort the connection without sending buffered data."""
        self._mark_disconnected()
        self.transport.abort()

    def _mark_disconnected(self) -> None:
        # Uvicorn does this for the last request read, which is not the one being answered if requests are pipelined.
        if self._current_cycle is not None:
            self._current_cycle.disconnected = True
            self._current_cycle.message_event.set()

    # -- clients that do not read responses

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_timer = self.loop.call_later(min(UNREAD_TIMEOUT_SECONDS, self.timeout_keep_alive), self.abort)
        self._shared.unread.set_held(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._shared.unread.set_held(self, 0)
        if self._unread_timer is not None and not self.transport.is_closing():
            self._unread_timer.cancel()
            self._unread_timer = None

    def _close(self) -> None:
        """Close the connection once buffered data is sent, or abort it after UNREAD_TIMEOUT_SECONDS."""
        self.transport.close()
        if self._unread_timer is None and self.transport.get_write_buffer_size():
            self._unread_timer = self.loop.call_later(min(UNREAD_TIMEOUT_SECONDS, self.timeout_keep_alive), self.abort)

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.is_closing():
            self._close()

    # -- received data

    def data_received(self, data: bytes) -> None:
        if self._unparsed or self.pipeline:
            self._unparsed += data
            self._parse_pending()
        elif len(data) <= _PIECE_BYTES:
            self._parse(data)
            self._update_timers()
        else:
            self._unparsed = data
            self._parse_pending()

    def _parse_pending(self) -> None:
        """Parse received bytes until a request has to wait for the response to an earlier one."""
        self._is_parse_scheduled = False
        data, start, was_paused = self._unparsed, 0, self.flow.is_paused
        while start < len(data) and not self.pipeline and not self._is_finished():
            self._parse(data[start : start + _PIECE_BYTES])
            start += _PIECE_BYTES
        self._unparsed = b"" if self._is_finished() else data[start:]
        self.flow.is_paused = bool(self._unparsed)
        if self._unparsed:
            self.flow.pause_reading()
        elif was_paused and not self._is_finished() and len(self.cycle.body) <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()
        self._update_timers()

    def _parse(self, data: bytes) -> None:
        if self._is_rejected:
            return
        self._unfinished_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._send_400(self._rejection)
        else:
            # Bytes since the last complete head or piece of body: a head, trailer or chunk extension may never end.
            if self._unfinished_bytes > MAX_HEAD_BYTES + PARSE_PIECE_BYTES:
                self._send_400(HEAD_TOO_LARGE if self._is_reading_head or self._is_reading_body else MALFORMED_REQUEST)
            elif self._is_reading_head and len(self.headers) > MAX_FIELDS:
                self._send_400(TOO_MANY_FIELDS)

    def _is_finished(self) -> bool:
        return self._is_rejected or self.transport.is_closing()

    def _update_timers(self) -> None:
        """Start or cancel the timer for the next head, and report the bytes held."""
        if self._is_answering() or self._is_finished():
            self._unset_keepalive_if_required()
        elif self._is_reading_head and not self._is_timing_head:
            self._is_timing_head = True
            self._close_after(HEAD_TIMEOUT_SECONDS)
        if self._unfinished_bytes or self._has_held_bytes or self._unparsed or self.pipeline:
            self._report_held_bytes()

    def _report_held_bytes(self) -> None:
        held = self._unfinished_bytes + len(self._unparsed) + _REQUEST_BYTES * len(self.pipeline)
        if self._is_reading_head:
            held += _FIELD_BYTES * len(self.headers)
        self._has_held_bytes = held > 0
        self._shared.held.set_held(self, held)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _close_after(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        seconds = min(seconds, self.timeout_keep_alive)
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._current_cycle = self.pipeline[-1][0]
        super().on_response_complete()
        if self.transport.is_closing():
            self._close()
        elif self._is_reading_body and not self._is_answering():
            self._drained_bytes = 0
            self._close_after(DRAIN_TIMEOUT_SECONDS)
        elif self._is_reading_head and not self._is_answering():
            self._is_timing_head = True
            self._close_after(HEAD_TIMEOUT_SECONDS)
        if self._unparsed and not self.pipeline and not self._is_parse_scheduled:
            self._is_parse_scheduled = True
            self.loop.call_soon(self._parse_pending)

    # -- callbacks of the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION_SCOPE_KEY] = self  # type: ignore[literal-required]
        self._is_reading_head, self._is_reading_body, self._is_timing_head = True, False, False
        self._host = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_reading_head:
            # It is a trailer.
            return
        name = name.lower()
        if name == b"host":
            if self._host is not None:
                raise self._reject(REPEATED_HOST)
            self._host = value
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._host is None:
            if self.parser.get_http_version() != "1.0":
                raise self._reject(MISSING_HOST)
        elif self._host != self._valid_host:
            if _HOST.fullmatch(self._host) is None:
                raise self._reject(INVALID_HOST)
            self._valid_host = self._host
        if len(self.headers) > MAX_FIELDS:
            raise self._reject(TOO_MANY_FIELDS)
        self._unfinished_bytes = 0
        self._is_reading_head, self._is_reading_body = False, True
        self._shared.silent.pop(self, None)
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            if not self.pipeline:
                self._current_cycle = self.cycle

    def on_body(self, body: bytes) -> None:
        self._unfinished_bytes = 0
        if self.parser.should_upgrade():
            return
        if self.cycle.response_complete:
            self._drained_bytes += len(body) + _CHUNK_BYTES
            if self._drained_bytes > MAX_DRAIN_BYTES:
                self._close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unfinished_bytes = 0
        self._is_reading_body = False
        if not self.parser.should_upgrade():
            super().on_message_complete()
            if self.cycle.response_complete and not self.transport.is_closing():
                # The rest of an unread body has arrived, so the connection is idle now.
                self._close_after(self.timeout_keep_alive)

    def _reject(self, answer: HttpResponse) -> _RequestRejected:
        self._rejection = answer
        return _RequestRejected(answer)

    def _send_400(self, answer: HttpResponse) -> None:
        self._is_rejected = True
        self._unparsed = b""
        if self._is_answering() and not self.cycle.more_body:
            # Earlier requests are still answered; the last response closes the connection.
            self.cycle.keep_alive = False
            return
        is_answered = self._is_reading_body and self.cycle.response_complete
        if not self.pipeline and not is_answered:
            self.transport.write(encode_response(answer))
        self._close()


class _Flow(FlowControl):
    """Flow control that resumes reading only when all received bytes are parsed."""

    is_paused = False

    def resume_reading(self) -> None:
        if not self.is_paused:
            super().resume_reading()


class _Parser:
    """httptools request parser that ignores upgrades: it parses the head again without the Upgrade header."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpRequestParser(self._protocol)
        # Same as uvicorn: data after a request with `Connection: close` does not make that request fail.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            try:
                self._parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self.get_method() == b"CONNECT":
                    raise httptools.HttpParserError("CONNECT is not supported") from None
                head, rest = self._encode_head(), rest[upgrade.args[0] :]
                self._reset()
                self._parser.feed_data(head)

    def _encode_head(self) -> bytes:
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


def encode_response(answer: HttpResponse) -> bytes:
    """Return the bytes of a 400 or 503 response that closes the connection, sent without the application."""
    headers = {
        **answer.headers,
        "cache-control": "no-store",
        "content-length": str(len(answer.body)),
        "connection": "close",
    }
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    title = {400: "Bad Request", 503: "Service Unavailable"}[answer.status]
    return f"HTTP/1.1 {answer.status} {title}\r\n{''.join(lines)}\r\n".encode("ascii") + answer.body
