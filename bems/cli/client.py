"""HTTP client of one cell, embedded or on AWS."""

import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote, urlencode
from urllib.request import getproxies, proxy_bypass

import click
import msgspec
import urllib3
from urllib3 import exceptions as broken

from bems import __version__
from bems.cli.errors import Failure, UserError
from bems.cli.http_errors import NoResponse, read_json, to_click_error, to_no_response, to_one_line
from bems.tracker.requests import Role

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS = 5.0, 60.0
POOL_SIZE = 64
"""Maximum number of connections kept open for reuse, which is also the maximum number of concurrent requests."""

MAX_PAGE_ITEMS = 500
"""Maximum number of items in a page of the API."""

RETRY_PAUSES_SECONDS = (0.3, 1.0, 3.0)
"""Seconds to wait before each retry of an idempotent request."""

RETRYABLE_STATUSES = frozenset((429, 502, 503, 504))
"""Response statuses after which a retry may succeed: the cell's own, and those of a proxy in front of it."""

MAX_RETRY_AFTER_SECONDS = 5.0
"""Maximum Retry-After to wait for; a longer one is reported as an error, so that the user decides."""

_ANYTHING = msgspec.json.Decoder()
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Reply(NamedTuple):
    """A response; its header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after(self) -> float:
        """Seconds of the Retry-After header; 0 if it is missing or a date (RFC 9110 section 10.2.3)."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0.0


class ListResult(NamedTuple):
    """The first items of a list, and whether there are more."""

    items: list[Any]
    more: bool


class ListPage(msgspec.Struct, Generic[T]):
    """A page of a list."""

    items: list[T]
    next_cursor: str | None = None


class Client:
    """A client of the cell at `url`, which may have a path prefix. Thread-safe: concurrent requests use separate
    connections. Raises UserError if the user can fix the error, else Failure.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        address = _parse(self.url)
        key = key and key.strip()
        if key and not (key.isascii() and key.isprintable()):
            raise UserError("the key has invalid characters: copy the whole key and nothing else")
        self._has_key = bool(key)
        self._headers = {
            "accept": "application/json",
            "content-type": "application/json",
            "user-agent": f"bems/{__version__}",
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
            # Use the pool directly: the manager would normalize `..` in an invoice id as a path.
            self._pool = manager.connection_from_host(address.host, address.port, address.scheme or "http")
        except broken.HTTPError:
            # Do not print the proxy's URL: it may contain a password.
            message = f"the proxy of this machine, such as {address.scheme}_proxy in the environment, cannot be used"
            raise UserError(f"{message}: use http://host:port") from None
        through = proxy is not None and address.scheme == "http"
        self._path_prefix = self.url if through else (address.path or "").rstrip("/")

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._pool.close()

    def request(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """Send one request and return its response, whatever its status. Raises NoResponse."""
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
            raise to_no_response(self.url, error, is_local=self._is_local) from error
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
        """Send a request and return the JSON of a successful response.

        `roles` are those whose keys may send it. An idempotent request is retried when the cell cannot be reached or
        answers with a retryable status. Any other GET is retried once, if the connection is lost or the status is
        retryable.
        """
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
        """Return at most `limit` items of a list, from its start or after `cursor`, read page by page."""
        items: list[Any] = []
        while True:
            # One more item than the limit shows whether there are more.
            wanted = min(limit + 1 - len(items), MAX_PAGE_ITEMS)
            page = decode_as(
                self.request_json("GET", path, roles, query={**query, "limit": wanted, "cursor": cursor}),
                ListPage[Any],
            )
            items += page.items
            cursor = page.next_cursor
            if cursor is None or len(items) > limit:
                return ListResult(items[:limit], len(items) > limit)

    def decode(self, reply: Reply, roles: AbstractSet[Role]) -> Any:
        """Return the JSON of a successful response; raise the error of any other."""
        if 200 <= reply.status < 300:
            content = read_json(reply.body, _ANYTHING)
            if content is not None:
                return content
        raise self.to_error(reply, roles)

    def to_error(self, reply: Reply, roles: AbstractSet[Role]) -> click.ClickException:
        """Return the error for an unexpected response."""
        return to_click_error(self.url, reply.status, reply.headers, reply.body, roles, has_key=self._has_key)


def decode_as(answer: Any, expected: type[T]) -> T:
    """Return the answer converted to the expected type. Raises Failure if it is not a cell's answer."""
    try:
        return msgspec.convert(answer, expected)
    except msgspec.ValidationError as error:
        raise Failure(f"the response is not from a cell, or from another version: {to_one_line(str(error))}") from error


def quote_path(id: str) -> str:
    """Return the id escaped as one segment of a path."""
    return quote(id, safe="")


def _parse(url: str) -> urllib3.util.Url:
    like = "use http://127.0.0.1:8080 or https://host/stage"
    try:
        address = urllib3.util.parse_url(url)
    except broken.LocationParseError:
        raise UserError(f"{to_one_line(url)!r} is not a URL: {like}") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise UserError(f"{to_one_line(url)!r} is not a URL with http:// or https://: {like}")
    if address.auth or address.query is not None or address.fragment is not None:
        raise UserError(f"the URL may have only a host and a path: {like}")
    return address


def _proxy(scheme: str, host: str) -> str | None:
    """Return the URL of the proxy configured on this machine for the host; None without one."""
    if proxy_bypass(host):
        return None
    proxy = getproxies().get(scheme)
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"
