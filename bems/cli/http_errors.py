"""Complaints: what is told, in one line, of a request that a cell did not answer, or not as it was asked to."""

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
    """No answer came. `cut`: the connection broke. `passing`: another time it may work."""

    def __init__(self, message: str, *, connection_lost: bool = False, retryable: bool = True) -> None:
        super().__init__(message)
        self.connection_lost, self.retryable = connection_lost, retryable


def describe_no_response(url: str, error: Exception, *, is_local: bool) -> NoResponse:
    """Why there is none. `here`: the cell is on this machine."""
    cause = error.__cause__ or (error.args[-1] if error.args else None)
    cut, passing = False, True
    match error:
        case broken.NameResolutionError():
            told = "there is no host of that name, or it cannot be looked up now"
        case broken.NewConnectionError():
            told = _describe_cause(cause) or "no connection"
            if isinstance(cause, ConnectionRefusedError) and is_local:
                told += "; is the cell running? start one with bems up"
        case broken.ConnectTimeoutError():
            told = "no connection in time"
        case broken.ReadTimeoutError():
            told = "no answer in time"
        case broken.SSLError():
            told, passing = f"TLS: {_describe_cause(cause) or error}", isinstance(cause, ssl.SSLEOFError)
        case broken.ProxyError():
            told = f"the proxy: {_describe_cause(cause) or error}"
        case broken.ProtocolError() if _is_not_http(cause):
            told, passing = "what answers there does not speak HTTP", False
        case broken.ProtocolError() | ConnectionError():
            told, cut = "the connection was cut before an answer came", True
        case _:
            told, passing = f"{type(error).__name__}: {error}", isinstance(error, OSError)
    return NoResponse(f"{url}: {to_one_line(told)}", connection_lost=cut, retryable=passing)


def to_click_error(
    url: str, status: int, headers: Mapping[str, str], body: bytes, roles: AbstractSet[Role], *, has_key: bool
) -> click.ClickException:
    """What is wrong with an answer that is not what was asked for: Mistake where the user can mend it."""
    if 300 <= status < 400:
        where = f" to {to_one_line(headers['location'])}" if "location" in headers else ""
        return Failure(f"{url}: the answer is {status}, which leads elsewhere{where}; use the cell's own address")
    said = read_problem(body)
    if said is None:
        kind = to_one_line(headers.get("content-type") or "of no known kind")
        told = f"{url}: the answer is {status}, {kind}, and not the JSON of a cell"
        return Failure(f"{told}; is this a cell's address, or is something in between?")
    if status == 403:
        return UserError(_forbidden(roles, has_key=has_key))
    detail = said.as_one_line() or f"the answer is {status}"
    if status >= 500 or status in (408, 429):
        return Failure(f"{url}: {detail}")
    return UserError(detail) if status >= 400 else Failure(f"{url}: the answer {status} is not known")


def to_one_line(text: str) -> str:
    """The text without what would end the line, or move a terminal's cursor."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


class ProblemDetails(msgspec.Struct):
    """A problem as a cell tells it in `detail` and `errors`, or API Gateway by itself in `message`."""

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
    """What a body holds; None if it is no JSON of that form, and so of something that is no cell."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def read_problem(body: bytes) -> ProblemDetails | None:
    """The problem in an answer; None if there is none."""
    return read_json(body, _PROBLEM_DECODER)


def _forbidden(may: AbstractSet[Role], *, has_key: bool) -> str:
    roles = [role for role in get_args(Role) if role in may]
    whose = " or ".join(filter(None, (", ".join(roles[:-1]), roles[-1])))
    article = "an" if whose[0] in "ao" else "a"
    made = f"bems keys add NAME --role {roles[0]}"
    if roles == ["admin"]:
        made += " --store FOLDER, where the cell does not run"
    known = "the key is wrong, revoked, or of another role" if has_key else "no key was given"
    return f"{known}: this needs the key of {article} {whose} in BEMS_API_KEY (or --key); such a key is made by {made}"


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
