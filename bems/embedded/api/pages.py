"""Pages of list responses.

A page that may not be the last one has a cursor. Items that exist throughout are listed exactly once, even if others
are added between two pages.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from bems.tracker import responses
from bems.tracker.parsing import InvalidEvent, reject_invalid
from bems.tracker.responses import HttpResponse
from bems.validation.error_messages import format_value
from bems.validation.field_errors import FieldError

T = TypeVar("T")

Cursor = Annotated[str, Meta(max_length=1024, description="the next_cursor of the previous page")]
Limit = Annotated[int, Meta(ge=1, le=500, description="1 to 500")]
RowNumber = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
"""A row number in SQLite."""
SqliteInteger = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""An integer that SQLite can store."""

Position = tuple[str | int, ...]
"""What a cursor holds: the place in a list after which the next page begins."""

Found = tuple[list[Any], Position | None] | HttpResponse
"""The items of a page and the position of the next one, None after the last page; or another response."""


class Page(Struct, Generic[T], frozen=True):
    """One page of a list. `next_cursor` is the cursor of the next page, or null on the last page."""

    items: list[T]
    next_cursor: str | None


class PagedQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of every list. Those of one list come before them."""

    limit: Limit = 100
    cursor: Cursor | None = None


async def paged(
    run: Callable[[Callable[[T], HttpResponse]], Awaitable[HttpResponse]],
    query: PagedQuery,
    list_name: str,
    types: Sequence[Any],
    fetch: Callable[..., Found],
) -> HttpResponse:
    """Respond with one page of a list.

    `run` calls a function with the source of the items, in a thread, which also encodes the response: encoding a long
    one would block the event loop. `fetch` takes the source and, after the first page, the values of the cursor, which
    have these types.
    """
    position = read_cursor(query.cursor, list_name, *types)
    if isinstance(position, InvalidEvent):
        return responses.bad_request(position)

    def respond(source: T) -> HttpResponse:
        found = fetch(source, *(position or ()))
        if isinstance(found, HttpResponse):
            return found
        items, following = found
        cursor = None if following is None else write_cursor(list_name, *following)
        return responses.json_response(200, Page(items, cursor))

    return await run(respond)


def position_after(items: Sequence[T], limit: int, position_of: Callable[[T], Position]) -> Position | None:
    """Return the position of the last item; None if there are fewer items than the limit, so that no more follow."""
    return position_of(items[-1]) if len(items) == limit else None


def write_cursor(list_name: str, *values: str | int) -> str:
    """Return an opaque cursor of a list that holds the position `values`."""
    return base64.urlsafe_b64encode(msgspec.json.encode((list_name, *values))).decode().rstrip("=")


def read_cursor(cursor: str | None, list_name: str, *types: Any) -> tuple[Any, ...] | InvalidEvent | None:
    """Return the values that `write_cursor` stored in the cursor, of these types; None without a cursor.

    Return InvalidEvent if the cursor is malformed or belongs to another list.
    """
    if cursor is None:
        return None
    try:
        content = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        read_name, *values = msgspec.json.decode(content, type=tuple.__class_getitem__((str, *types)))
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        read_name, values = "", []
    if read_name == list_name and write_cursor(list_name, *values) == cursor:
        return tuple(values)
    fault = FieldError(
        "/cursor", f"{format_value(cursor)} is not a cursor of this list: use next_cursor of the previous page"
    )
    return reject_invalid("query", [fault], None)
