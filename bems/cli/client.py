"""The client: HTTP with one cell, wherever it runs, and what is told where that fails."""

import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from importlib.metadata import version
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode
from urllib.request import getproxies, proxy_bypass

import click
import msgspec
import urllib3
from urllib3 import exceptions as broken

from bems.cli.errors import Failure, UserError
from bems.cli.http_errors import NoResponse, describe_no_response, read_json, to_click_error, to_one_line
from bems.tracker.requests import Role

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS = 5.0, 60.0
POOL_SIZE = 64
"""Connections that are kept open for further requests: as many as are ever under way at once."""

MAX_PAGE_ITEMS = 500
"""The most that the API gives at once."""

RETRY_PAUSES_SECONDS = (0.3, 1.0, 3.0)
"""Seconds before a request that may be repeated is sent once more."""

RETRYABLE_STATUSES = frozenset((429, 502, 503, 504))
"""Statuses of answers after which the same request may have another: the cell's own, and those of a proxy before it."""

MAX_RETRY_AFTER_SECONDS = 5.0
"""Whoever is to come again later than this is told so, and decides."""

_ANYTHING = msgspec.json.Decoder()
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Reply(NamedTuple):
    """What came back; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after(self) -> float:
        """Seconds to wait; 0 where nothing that counts them was said."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0.0


class ListResult(NamedTuple):
    """The beginning of a list, and whether there is more of it."""

    items: list[Any]
    more: bool


class _Page(msgspec.Struct):
    items: list[Any]
    next_cursor: str | None = None


class Client:
    """Speaks with the cell at `url`, which may have a path before those of the API. For as many threads as ask: each
    request under way has its connection. Its errors are click's: Mistake where the user can mend it, else Failure."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        address = _parse(self.url)
        key = key and key.strip()
        if key and not (key.isascii() and key.isprintable()):
            raise UserError("the key has characters that no key has: was it copied as a whole, and nothing else?")
        self._has_key = bool(key)
        self._headers = {
            "accept": "application/json",
            "content-type": "application/json",
            "user-agent": f"bems/{version('bems')}",
            **({"x-api-key": key} if key else {}),
        }
        self._is_local = address.host in _LOOPBACK
        proxy = None if self._is_local else _proxy(address.scheme or "http", address.host or "")
        settings: dict[str, Any] = {
            "maxsize": POOL_SIZE,
            "timeout": urllib3.Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=READ_TIMEOUT_SECONDS),
        }
        try:
            manager = urllib3.ProxyManager(proxy, **settings) if proxy else urllib3.PoolManager(**settings)
            # The pool itself: the manager would take `..` in an invoice's id for a path to be shortened.
            self._pool = manager.connection_from_host(address.host, address.port, address.scheme or "http")
        except broken.HTTPError:
            # It is not shown: it may have a password.
            told = f"the proxy of this machine, such as {address.scheme}_proxy in the environment, cannot be used"
            raise UserError(f"{told}: http://host:port would be right") from None
        through = proxy is not None and address.scheme == "http"
        self._path_prefix = self.url if through else (address.path or "").rstrip("/")

    def close(self) -> None:
        """Give up the connections. Twice is harmless."""
        self._pool.close()

    def request(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """One request, and its answer whatever it says. Raises NoAnswer."""
        try:
            response = self._pool.urlopen(
                method,
                self._path_prefix + path,
                body=body,
                headers=self._headers,
                retries=False,
                redirect=False,
                assert_same_host=False,
            )
        except (broken.HTTPError, OSError, ValueError) as error:
            raise describe_no_response(self.url, error, is_local=self._is_local) from error
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status, headers, response.data)

    def request_json(
        self,
        method: str,
        path: str,
        roles: AbstractSet[Role],
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        is_idempotent: bool = False,
    ) -> Any:
        """The JSON of a good answer. `may`: the roles that may ask. `repeat`: it is harmless to ask again, so that is
        done a few times where the cell cannot be reached, or says that it cannot answer now; a question is asked again
        once."""
        if query:
            path += "?" + urlencode(
                {name: value for name, value in query.items() if value is not None}, quote_via=quote
            )
        sent = None if body is None else msgspec.json.encode(body)
        pauses = RETRY_PAUSES_SECONDS if is_idempotent else (0.0,) if method == "GET" else ()
        for pause in pauses:
            try:
                reply = self.request(method, path, sent)
            except NoResponse as fault:
                if not (fault.retryable if is_idempotent else fault.connection_lost):
                    raise
                time.sleep(pause)
                continue
            if reply.status not in RETRYABLE_STATUSES or reply.retry_after > MAX_RETRY_AFTER_SECONDS:
                return self.decode(reply, roles)
            time.sleep(max(pause, reply.retry_after or RETRY_PAUSES_SECONDS[0]))
        return self.decode(self.request(method, path, sent), roles)

    def list(
        self, path: str, roles: AbstractSet[Role], query: Mapping[str, object], limit: int, cursor: str | None = None
    ) -> ListResult:
        """The first `limit` of a list, or behind a cursor of it, by as many requests as it takes."""
        items: list[Any] = []
        while True:
            # One more than wanted tells whether there is more.
            wanted = min(limit + 1 - len(items), MAX_PAGE_ITEMS)
            page = decode_as(
                self.request_json("GET", path, roles, query={**query, "limit": wanted, "cursor": cursor}), _Page
            )
            items += page.items
            cursor = page.next_cursor
            if cursor is None or len(items) > limit:
                return ListResult(items[:limit], len(items) > limit)

    def decode(self, reply: Reply, roles: AbstractSet[Role]) -> Any:
        """The JSON of a good answer; raises what is wrong with any other."""
        if 200 <= reply.status < 300:
            content = read_json(reply.body, _ANYTHING)
            if content is not None:
                return content
        raise self.to_error(reply, roles)

    def to_error(self, reply: Reply, roles: AbstractSet[Role]) -> click.ClickException:
        """What to tell of an answer that is not what was asked for, in one line."""
        return to_click_error(self.url, reply.status, reply.headers, reply.body, roles, has_key=self._has_key)


def decode_as(answer: Any, expected: type[T]) -> T:
    """The answer as what it should be. Failure: a cell would not answer so."""
    try:
        return msgspec.convert(answer, expected)
    except msgspec.ValidationError as error:
        raise Failure(f"the answer is not a cell's, or one of another version: {to_one_line(str(error))}") from error


def quote_path(id: str) -> str:
    """The id as a part of a path."""
    return quote(id, safe="")


def _parse(url: str) -> urllib3.util.Url:
    like = "http://127.0.0.1:8080 or https://host/stage would be right"
    try:
        address = urllib3.util.parse_url(url)
    except broken.LocationParseError:
        raise UserError(f"{to_one_line(url)!r} is not an address: {like}") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise UserError(f"{to_one_line(url)!r} is not an address with http:// or https://: {like}")
    if address.auth or address.query is not None or address.fragment is not None:
        raise UserError(f"the address has more than a host and a path: {like}")
    return address


def _proxy(scheme: str, host: str) -> str | None:
    """The proxy that this machine is set up with."""
    if proxy_bypass(host):
        return None
    proxy = getproxies().get(scheme)
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"
