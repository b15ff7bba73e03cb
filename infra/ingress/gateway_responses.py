"""Gateway responses: what API Gateway answers by itself, as the same problem+json that the cell answers with.

Its templates know variables and nothing else. `messageString` comes quoted and escaped; `validationErrorString` does
not, and is left out.
"""

import json
from typing import NamedTuple

from aws_cdk import aws_apigateway as apigateway

from bems.tracker.responses import PROBLEM_JSON

_MESSAGE = "$context.error.messageString"


class GatewayResponse(NamedTuple):
    """A kind of response: its status, its title, what to say (None: API Gateway's own message), when to come again."""

    kind: apigateway.ResponseType
    status: int | None
    title: str
    detail: str | None = None
    retry_after: int | None = None


_AGAIN = "Send it again: a repeat is harmless."
_TYPES = apigateway.ResponseType

GATEWAY_RESPONSES: tuple[GatewayResponse, ...] = (
    GatewayResponse(
        _TYPES.BAD_REQUEST_BODY, 400, "Bad Request", "The body is not what this resource takes; see its schema."
    ),
    GatewayResponse(_TYPES.BAD_REQUEST_PARAMETERS, 400, "Bad Request"),
    GatewayResponse(_TYPES.INVALID_API_KEY, 403, "Forbidden", "There is no x-api-key, or not one that may send here."),
    GatewayResponse(_TYPES.WAF_FILTERED, 403, "Forbidden", "The request was refused before it was read."),
    # For a path or method that there is not, API Gateway misses a token.
    GatewayResponse(_TYPES.MISSING_AUTHENTICATION_TOKEN, 404, "Not Found", "There is no such resource."),
    GatewayResponse(_TYPES.RESOURCE_NOT_FOUND, 404, "Not Found", "There is no such resource."),
    GatewayResponse(_TYPES.REQUEST_TOO_LARGE, 413, "Content Too Large"),
    GatewayResponse(_TYPES.UNSUPPORTED_MEDIA_TYPE, 415, "Unsupported Media Type", "Send application/json."),
    GatewayResponse(_TYPES.THROTTLED, 429, "Too Many Requests", _AGAIN, 1),
    GatewayResponse(_TYPES.QUOTA_EXCEEDED, 429, "Too Many Requests", _AGAIN, 60),
    GatewayResponse(_TYPES.INTEGRATION_FAILURE, 503, "Service Unavailable", _AGAIN, 5),
    GatewayResponse(_TYPES.INTEGRATION_TIMEOUT, 503, "Service Unavailable", _AGAIN, 5),
    GatewayResponse(_TYPES.API_CONFIGURATION_ERROR, 503, "Service Unavailable", _AGAIN, 5),
    GatewayResponse(_TYPES.DEFAULT_4_XX, None, "The request was refused"),
    GatewayResponse(_TYPES.DEFAULT_5_XX, 503, "Service Unavailable", _AGAIN, 5),
)


def add_gateway_responses(api: apigateway.RestApi) -> None:
    """Give the API every answer of ANSWERS."""
    for answer in GATEWAY_RESPONSES:
        headers = {"Content-Type": f"'{PROBLEM_JSON}'", "Cache-Control": "'no-store'"}
        if answer.retry_after is not None:
            headers["Retry-After"] = f"'{answer.retry_after}'"
        api.add_gateway_response(
            answer.kind.response_type.title().replace("_", ""),
            type=answer.kind,
            status_code=None if answer.status is None else str(answer.status),
            response_headers=headers,
            # The key is the type that API Gateway falls back to, whatever a client accepts; the header is what it
            # sends.
            templates={"application/json": problem_template(answer)},
        )


def problem_template(answer: GatewayResponse) -> str:
    """The template of an answer's body. The status of those that have none of their own is left out."""
    body: dict[str, str | int] = {"type": "about:blank", "title": answer.title}
    if answer.status is not None:
        body["status"] = answer.status
    body["detail"] = answer.detail or _MESSAGE
    return json.dumps(body).replace(f'"{_MESSAGE}"', _MESSAGE)
