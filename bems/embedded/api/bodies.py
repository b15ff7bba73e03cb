"""Request headers and bodies, read within limits, and responses."""

import asyncio
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping

from starlette.types import Receive, Send

from bems.tracker.responses import (
    HttpResponse,
    payload_too_large,
    problem,
    timed_out,
    unavailable,
    unsupported_encoding,
)
from bems.validation.error_messages import format_value

BODY_TIMEOUT_SECONDS = 20.0
"""Maximum time for a body to arrive after its headers."""

MAX_UNFINISHED_BYTES, MAX_KEY_UNFINISHED_BYTES = 128 * 1024 * 1024, 32 * 1024 * 1024
"""Maximum bytes of incomplete bodies, of all keys together and of one key. Beyond them the response is 503."""

MAX_DRAIN_BYTES = 8 * 1024 * 1024
"""Maximum bytes that are read and dropped of a body that is too large. A client that is still sending does not read the
response, and loses it if the connection is closed. Beyond this size the connection is closed nevertheless."""


class ClientDisconnected(Exception):
    """The client has closed the connection before the body was complete."""


def read_headers(sent: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the headers by name.

    The values of a repeated header are joined by commas (RFC 9110, section 5.3). So two keys result in an invalid one.
    """
    sent = list(sent)
    headers = dict(sent)
    if len(headers) < len(sent):
        for name in headers:
            headers[name] = b", ".join(value for other, value in sent if other == name)
    return headers


class UnfinishedBodies:
    """Counter of the bytes of incomplete bodies, by key. Not thread-safe: use it in one event loop only."""

    def __init__(self) -> None:
        self._bytes_by_key: Counter[Hashable] = Counter()
        self._total = 0

    def add(self, key: Hashable, size: int) -> bool:
        """Add `size` bytes (negative to release them) to the key, and return whether both limits are kept."""
        self._total += size
        self._bytes_by_key[key] += size
        if not self._bytes_by_key[key]:
            del self._bytes_by_key[key]
        return self._total <= MAX_UNFINISHED_BYTES and self._bytes_by_key[key] <= MAX_KEY_UNFINISHED_BYTES


async def read_body(
    headers: Mapping[bytes, bytes], receive: Receive, limit: int, unfinished: UnfinishedBodies, key: Hashable
) -> bytes | HttpResponse:
    """Return the body, or the response that refuses it.

    The response is 413 for more than `limit` bytes, 408 if the body takes longer than BODY_TIMEOUT_SECONDS, 503 if the
    limits of incomplete bodies are exceeded, 415 for a Content-Encoding, and 400 for a Transfer-Encoding other than
    chunked.
    Raise ClientDisconnected if the client disconnects.
    """
    if b"content-encoding" in headers or b"transfer-encoding" in headers:
        refused = _refuse_encoding(headers)
        if refused is not None:
            return refused
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > (limit if b"expect" in headers else MAX_DRAIN_BYTES):
        return with_connection_close(payload_too_large(limit))
    if _has_arrived(receive):
        # Most bodies arrive with their headers. A timeout would cost more than reading them.
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnected
        body: bytes = message.get("body", b"")
        return body if len(body) <= limit else payload_too_large(limit)
    held = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            message = await receive()
            body = message.get("body", b"")
            if message["type"] == "http.request" and not message.get("more_body"):
                return body if len(body) <= limit else payload_too_large(limit)
            pieces, size = [body], len(body)
            while message["type"] == "http.request":
                if size > MAX_DRAIN_BYTES:
                    return with_connection_close(payload_too_large(limit))
                if size > limit:
                    pieces.clear()
                    unfinished.add(key, -held)
                    held = 0
                else:
                    received = size - held
                    held = size
                    if not unfinished.add(key, received):
                        return with_connection_close(unavailable(1, "too many request bodies are being received"))
                if not message.get("more_body"):
                    return b"".join(pieces) if size <= limit else payload_too_large(limit)
                message = await receive()
                piece = message.get("body", b"")
                pieces.append(piece)
                size += len(piece)
    except TimeoutError:
        return timed_out()
    finally:
        if held:
            unfinished.add(key, -held)
    raise ClientDisconnected


def _has_arrived(receive: Receive) -> bool:
    """Return whether the whole body has arrived, so that `receive` does not wait."""
    return getattr(getattr(receive, "__self__", None), "more_body", True) is False


def _refuse_encoding(headers: Mapping[bytes, bytes]) -> HttpResponse | None:
    encoding = headers.get(b"content-encoding", b"identity").decode("latin-1")
    if encoding.strip().lower() != "identity":
        return unsupported_encoding(encoding)
    transfer = headers.get(b"transfer-encoding", b"chunked").decode("latin-1")
    if transfer.strip().lower() != "chunked":
        return with_connection_close(
            problem(400, f"the Transfer-Encoding {format_value(transfer)} is not accepted: use chunked")
        )
    return None


def with_connection_close(answer: HttpResponse) -> HttpResponse:
    """Return the response with `Connection: close`, for a request whose body is not read to its end."""
    return HttpResponse(answer.status, {**answer.headers, "connection": "close"}, answer.body)


async def send_response(send: Send, answer: HttpResponse) -> None:
    """Send the response with its Content-Length."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
    headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
