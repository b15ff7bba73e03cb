"""Bodies: what a request carries, read up to a limit, and the answer that is sent back."""

import asyncio
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping

from starlette.types import Receive, Send

from bems.tracker.responses import HttpResponse, problem, timed_out, too_large, unavailable, unsupported_encoding
from bems.validation.error_messages import format_value

BODY_SECONDS = 20.0
"""So long a sender may take for a body, once its headers are there."""

MAX_UNFINISHED_BYTES, MAX_KEY_UNFINISHED_BYTES = 128 * 1024 * 1024, 32 * 1024 * 1024
"""Bytes of bodies that have not come whole yet, of all keys together and of each; beyond them the answer is 503."""

MAX_DRAIN_BYTES = 8 * 1024 * 1024
"""Bytes of a body that is too large are read to their end nevertheless: who is still sending does not look for an
answer, and a connection that is closed on him may take it along. Beyond this, it is closed."""


class ClientDisconnected(Exception):
    """Whoever asked has hung up."""


def read_headers(sent: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by name. One that was sent several times has all its values (RFC 9110, section 5.3): of two keys none
    is chosen."""
    sent = list(sent)
    headers = dict(sent)
    if len(headers) < len(sent):
        for name in headers:
            headers[name] = b", ".join(value for other, value in sent if other == name)
    return headers


class UnfinishedBodies:
    """The bytes of bodies that have not come whole yet, by the key that sends them. For one event loop."""

    def __init__(self) -> None:
        self._of: Counter[Hashable] = Counter()
        self._all = 0

    def add(self, key: Hashable, size: int) -> bool:
        """So many more of that key; whether there is room for them."""
        self._all += size
        self._of[key] += size
        if not self._of[key]:
            del self._of[key]
        return self._all <= MAX_UNFINISHED_BYTES and self._of[key] <= MAX_KEY_UNFINISHED_BYTES


async def read_body(
    headers: Mapping[bytes, bytes], receive: Receive, limit: int, unfinished: UnfinishedBodies, key: Hashable
) -> bytes | HttpResponse:
    """The body, or what to answer: 413 for more than `limit` bytes, 408 if it does not come, 503 if too much is on its
    way already, 415 and 400 if it is encoded. Raises Gone."""
    if b"content-encoding" in headers or b"transfer-encoding" in headers:
        refused = _refuse_encoding(headers)
        if refused is not None:
            return refused
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > (limit if b"expect" in headers else MAX_DRAIN_BYTES):
        return with_connection_close(too_large(limit))
    held = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            message = await receive()
            body: bytes = message.get("body", b"")
            if message["type"] == "http.request" and not message.get("more_body"):
                return body if len(body) <= limit else too_large(limit)
            pieces, size = [body], len(body)
            while message["type"] == "http.request":
                if size > MAX_DRAIN_BYTES:
                    return with_connection_close(too_large(limit))
                if size > limit:
                    pieces.clear()
                    unfinished.add(key, -held)
                    held = 0
                else:
                    came = size - held
                    held = size
                    if not unfinished.add(key, came):
                        return with_connection_close(unavailable(1, "too many bodies are on their way"))
                if not message.get("more_body"):
                    return b"".join(pieces) if size <= limit else too_large(limit)
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
    """The same answer; the connection ends with it, for what is still to come on it is not read."""
    return HttpResponse(answer.status, {**answer.headers, "connection": "close"}, answer.body)


async def send_response(send: Send, answer: HttpResponse) -> None:
    """Send the answer."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
    headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
