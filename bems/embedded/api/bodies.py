"""Bodies: what a request carries, read up to a limit, and the answer that is sent back."""

import asyncio
from collections.abc import Iterable, Mapping

from starlette.types import Receive, Send

from bems.tracker.answers import HttpAnswer, timed_out, too_large

BODY_SECONDS = 20.0
"""So long a sender may take for a body, once its headers are there."""


DRAINED = 8 * 1024 * 1024
"""Bytes of a body that is too large are read to their end nevertheless: who is still sending does not look for an
answer, and a connection that is closed on him may take it along. Beyond this, it is closed."""


class Gone(Exception):
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


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> bytes | HttpAnswer:
    """The body, or what to answer: 413 for more than `limit` bytes, 408 if it does not come. Raises Gone."""
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > (limit if b"expect" in headers else DRAINED):
        return closing(too_large(limit))
    try:
        async with asyncio.timeout(BODY_SECONDS):
            message = await receive()
            body: bytes = message.get("body", b"")
            if message["type"] == "http.request" and not message.get("more_body"):
                return body if len(body) <= limit else too_large(limit)
            pieces, size = [body], len(body)
            while message["type"] == "http.request":
                if size > DRAINED:
                    return closing(too_large(limit))
                if size > limit:
                    pieces.clear()
                if not message.get("more_body"):
                    return b"".join(pieces) if size <= limit else too_large(limit)
                message = await receive()
                piece = message.get("body", b"")
                pieces.append(piece)
                size += len(piece)
    except TimeoutError:
        return timed_out()
    raise Gone


def closing(answer: HttpAnswer) -> HttpAnswer:
    """The same answer; the connection ends with it, for what is still to come on it is not read."""
    return HttpAnswer(answer.status, {**answer.headers, "connection": "close"}, answer.body)


async def respond(send: Send, answer: HttpAnswer) -> None:
    """Send the answer."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
    headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
