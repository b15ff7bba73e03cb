"""One-line error messages for requests that failed or that the cell answered with an error."""

import http.client
import ssl
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar, get_args

import click
import msgspec
from urllib3 import exceptions as broken

from bems.cli.errors import Failure, UserError
from bems.tracker.requests import Role
from bems.tracker.responses import Error

T = TypeVar("T")


class NoResponse(Failure):
    """No response arrived. `connection_lost`: the connection broke. `retryable`: a retry may succeed."""

    def __init__(self, message: str, *, connection_lost: bool = False, retryable: bool = True) -> None:
        super().__init__(message)
        self.connection_lost, self.retryable = connection_lost, retryable


def to_no_response(url: str, error: Exception, *, is_local: bool) -> NoResponse:
    """Return the error for a request without a response. `is_local`: the cell runs on this machine."""
    cause = error.__cause__ or (error.args[-1] if error.args else None)
    connection_lost, retryable = False, True
    match error:
        case broken.NameResolutionError():
            message = "the host name does not exist or cannot be resolved now"
        case broken.NewConnectionError():
            message = _describe_cause(cause) or "no connection"
            if isinstance(cause, ConnectionRefusedError) and is_local:
                message += "; is the cell running? start one with bems up"
        case broken.ConnectTimeoutError():
            message = "connecting timed out"
        case broken.ReadTimeoutError():
            message = "the response timed out"
        case broken.SSLError():
            message, retryable = f"TLS: {_describe_cause(cause) or error}", isinstance(cause, ssl.SSLEOFError)
        case broken.ProxyError():
            message = f"the proxy: {_describe_cause(cause) or error}"
        case broken.ProtocolError() if _is_not_http(cause):
            message, retryable = "the server at this address does not speak HTTP", False
        case broken.ProtocolError() | ConnectionError():
            message, connection_lost = "the connection was lost before a response arrived", True
        case _:
            message, retryable = f"{type(error).__name__}: {error}", isinstance(error, OSError)
    return NoResponse(f"{url}: {to_one_line(message)}", connection_lost=connection_lost, retryable=retryable)


def to_click_error(
    url: str, status: int, headers: Mapping[str, str], body: bytes, roles: AbstractSet[Role], *, has_key: bool
) -> click.ClickException:
    """Return the error for an unexpected response: a UserError if the user can fix it, else a Failure.

    `roles` are those whose keys may send the request.
    """
    if 300 <= status < 400:
        where = f" to {to_one_line(headers['location'])}" if "location" in headers else ""
        return Failure(f"{url}: the response is {status}, a redirect{where}; use the cell's own address")
    problem = read_problem(body)
    if problem is None:
        kind = to_one_line(headers.get("content-type") or "without a content type")
        message = f"{url}: the response is {status}, {kind}, not a cell's JSON"
        return Failure(f"{message}; is this a cell's address, or did a proxy answer?")
    if status == 403:
        return UserError(_describe_forbidden(roles, has_key=has_key))
    detail = problem.as_one_line() or f"the response is {status}"
    if status >= 500 or status in (408, 429):
        return Failure(f"{url}: {detail}")
    return UserError(detail) if status >= 400 else Failure(f"{url}: the response {status} is not expected")


def to_one_line(text: str) -> str:
    """Return the text with every unprintable character, such as a line break or an escape, replaced by U+FFFD."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


class ProblemDetails(msgspec.Struct):
    """An error response: `detail` and `errors` are a cell's, `message` is API Gateway's own."""

    detail: str = ""
    message: str | None = ""
    errors: Sequence[Error] = ()

    def as_one_line(self) -> str:
        where = "; ".join(
            f"{error.pointer}: {error.detail}" if error.pointer else error.detail for error in self.errors
        )
        return to_one_line(": ".join(filter(None, (self.detail or self.message, where))))


_PROBLEM_DECODER = msgspec.json.Decoder(ProblemDetails)


def read_json(body: bytes, decoder: msgspec.json.Decoder[T]) -> T | None:
    """Return the decoded body; None if it is not JSON of that type, so not a cell's."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def read_problem(body: bytes) -> ProblemDetails | None:
    """Return the problem in a body; None if the body is not a problem."""
    return read_json(body, _PROBLEM_DECODER)


def _describe_forbidden(roles_allowed: AbstractSet[Role], *, has_key: bool) -> str:
    roles = [role for role in get_args(Role) if role in roles_allowed]
    whose = " or ".join(filter(None, (", ".join(roles[:-1]), roles[-1])))
    article = "an" if whose[0] in "ao" else "a"
    made = f"bems keys add NAME --role {roles[0]}"
    if roles == ["admin"]:
        made += " --store FOLDER, while the cell is stopped"
    cause = "the key is wrong, revoked, or of another role" if has_key else "no key was given"
    return f"{cause}: this requires {article} {whose} key in BEMS_API_KEY (or --key); create one with {made}"


def _is_not_http(cause: object) -> bool:
    return isinstance(cause, http.client.BadStatusLine) and not isinstance(cause, ConnectionError)


def _describe_cause(cause: object) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return (cause.reason or str(cause)).replace("_", " ").lower()
    if isinstance(cause, OSError):
        return (cause.strerror or str(cause)).lower()
    return ""
