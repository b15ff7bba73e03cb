"""Responses that API Gateway sends itself, in the same problem+json format as the producer's.

Their templates support variables but no functions. `messageString` is quoted and escaped; `validationErrorString` is
not, and is therefore left out.
"""

import json
from typing import NamedTuple

from aws_cdk import aws_apigateway as apigateway

from bems.tracker.responses import PROBLEM_JSON

_MESSAGE = "$context.error.messageString"


class GatewayResponse(NamedTuple):
    """A response of API Gateway: its type, status, title, detail and Retry-After header in seconds.

    Without `detail` the response contains API Gateway's own message. Without `status` API Gateway chooses the status.
    """

    kind: apigateway.ResponseType
    status: int | None
    title: str
    detail: str | None = None
    retry_after: int | None = None


_RETRY = "Send it again: a repeat is harmless."
_TYPES = apigateway.ResponseType

GATEWAY_RESPONSES: tuple[GatewayResponse, ...] = (
    GatewayResponse(
        _TYPES.BAD_REQUEST_BODY, 400, "Bad Request", "The body is not what this resource takes; see its schema."
    ),
    GatewayResponse(_TYPES.BAD_REQUEST_PARAMETERS, 400, "Bad Request"),
    GatewayResponse(_TYPES.INVALID_API_KEY, 403, "Forbidden", "There is no x-api-key, or not one that may send here."),
    GatewayResponse(_TYPES.WAF_FILTERED, 403, "Forbidden", "The request was refused before it was read."),
    # API Gateway's response to an unknown path or method.
    GatewayResponse(_TYPES.MISSING_AUTHENTICATION_TOKEN, 404, "Not Found", "There is no such resource."),
    GatewayResponse(_TYPES.RESOURCE_NOT_FOUND, 404, "Not Found", "There is no such resource."),
    GatewayResponse(_TYPES.REQUEST_TOO_LARGE, 413, "Content Too Large"),
    GatewayResponse(_TYPES.UNSUPPORTED_MEDIA_TYPE, 415, "Unsupported Media Type", "Send application/json."),
    GatewayResponse(_TYPES.THROTTLED, 429, "Too Many Requests", _RETRY, 1),
    GatewayResponse(_TYPES.QUOTA_EXCEEDED, 429, "Too Many Requests", _RETRY, 60),
    GatewayResponse(_TYPES.INTEGRATION_FAILURE, 503, "Service Unavailable", _RETRY, 5),
    GatewayResponse(_TYPES.INTEGRATION_TIMEOUT, 503, "Service Unavailable", _RETRY, 5),
    GatewayResponse(_TYPES.API_CONFIGURATION_ERROR, 503, "Service Unavailable", _RETRY, 5),
    GatewayResponse(_TYPES.DEFAULT_4_XX, None, "The request was refused"),
    GatewayResponse(_TYPES.DEFAULT_5_XX, 503, "Service Unavailable", _RETRY, 5),
)


def add_gateway_responses(api: apigateway.RestApi) -> None:
    """Add every response of GATEWAY_RESPONSES to an API."""
    for response in GATEWAY_RESPONSES:
        headers = {"Content-Type": f"'{PROBLEM_JSON}'", "Cache-Control": "'no-store'"}
        if response.retry_after is not None:
            headers["Retry-After"] = f"'{response.retry_after}'"
        api.add_gateway_response(
            response.kind.response_type.title().replace("_", ""),
            type=response.kind,
            status_code=None if response.status is None else str(response.status),
            response_headers=headers,
            # This key selects the template that API Gateway uses by default, whatever the client accepts. The
            # Content-Type that it sends is the header's.
            templates={"application/json": problem_template(response)},
        )


def problem_template(response: GatewayResponse) -> str:
    """Return the template of a response's body, without a status where API Gateway chooses it."""
    body: dict[str, str | int] = {"type": "about:blank", "title": response.title}
    if response.status is not None:
        body["status"] = response.status
    body["detail"] = response.detail or _MESSAGE

    return json.dumps(body).replace(f'"{_MESSAGE}"', _MESSAGE)
