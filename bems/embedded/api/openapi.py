"""OpenAPI 3.1 document, generated from the operations, their types, and the event schemas."""

from importlib.metadata import version
from typing import Any

import msgspec
from msgspec import Struct

from bems.embedded.api.event_endpoint import PATHS
from bems.embedded.api.operations import OPERATIONS, Operation
from bems.embedded.api.views import Health
from bems.tracker.contract import FAILURE_STATUS, MAX_DIGITS, STAGES, Stage
from bems.tracker.currencies import MINOR_UNITS
from bems.tracker.parsing import MAX_DATE, MIN_DATE
from bems.tracker.responses import JSON, PROBLEM_JSON
from bems.tracker.schemas import batch_name, components, event_name

Document = dict[str, Any]

_REF = "#/components/schemas/{name}"
_STATUS_DESCRIPTIONS = {
    200: "Success.",
    201: "Created.",
    202: "The event is durable and visible. A duplicate already was.",
    207: "One result per event, in the order of the events.",
    400: "The request is not valid; `errors` names every fault. Or it is malformed, or has no Host header or several.",
    403: "The key is missing or wrong, two keys differ, or the role of the key is not allowed.",
    404: "Not found.",
    408: "The body did not arrive in time.",
    409: "The request conflicts with the current state.",
    413: "The body is too large.",
    415: "The Content-Type is not application/json, or the body has a Content-Encoding; `detail` names it.",
    429: "Too many events or queries with this key; other keys are not affected. It is safe to retry.",
    500: "Internal error of the cell.",
    503: "The cell cannot serve the request now. It is safe to retry.",
}
_DESCRIPTION = """Track invoices from ingestion to posting: send events, query invoices and alerts, and act on them.

Send the key as `x-api-key` or as `Authorization: Bearer`. If both are sent and differ, the response is 403.

Retry a request that gets 429 or 503, or 502 or 504 from a proxy, after the seconds in `Retry-After`. Retries are
idempotent. Do not cache responses: each has `Cache-Control: no-store`."""
_NO_STORE = {"Cache-Control": {"$ref": "#/components/headers/CacheControl"}}
_WITH_KEY: list[dict[str, list[str]]] = [{"key": []}, {"bearer": []}]
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}

_INVOICE_OF_THE_EVENT = {"operationId": "getInvoice", "parameters": {"target": "$request.body#/invoice_id"}}
_LINKS: dict[str, tuple[str, Document]] = {
    "command": ("200", {"invoice": _INVOICE_OF_THE_EVENT}),
    "addKey": ("201", {"revoke": {"operationId": "revokeKey", "parameters": {"target": "$response.body#/key/id"}}}),
}
"""Status code and OpenAPI links of an operation: follow-up operations, and where their parameters come from."""


def _amount_pattern(decimals: int) -> str:
    """Return the pattern of an amount with at most `decimals` decimals and MAX_DIGITS digits."""
    forms = [f"[0-9]{{1,{MAX_DIGITS - count}}}" + rf"\.[0-9]{{{count}}}" * bool(count) for count in range(decimals + 1)]
    return rf"^-?({'|'.join(forms)})(?!\n)$"


_AMOUNT = {"pattern": _amount_pattern(max(MINOR_UNITS.values()))}
_CURRENCY = {"enum": sorted(MINOR_UNITS)}


def _amounts_of_currencies(stage: Stage) -> list[Document]:
    """Return the rules that all amounts of an event have at most the decimals of its currency."""
    rules = []
    for decimals in sorted({*MINOR_UNITS.values()}):
        amount = {"pattern": _amount_pattern(decimals)}
        amounts: Document = {"amount": amount}
        if stage == "posting":
            amounts["payment"] = {"properties": {"amount": amount, "discount_taken": amount}}
        currencies = sorted(code for code in MINOR_UNITS if MINOR_UNITS[code] == decimals)
        rules.append(
            {"if": {"properties": {"currency": {"enum": currencies}}}, "then": {"properties": amounts}},
        )
    return rules


_NO_PAYMENT_OF_A_FAILURE = {
    "if": {"properties": {"status": {"const": FAILURE_STATUS["posting"]}}},
    "then": {"properties": {"payment": {"type": "null"}}},
}

_DATE = {
    "description": f"YYYY-MM-DD, {MIN_DATE} to {MAX_DATE}",
    "pattern": r"^(19[7-9][0-9]|2[0-9]{3})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])(?!\n)$",
}

_SUMS_OF_CURRENCIES: Document = {
    "patternProperties": {
        f"^({'|'.join(sorted(code for code in MINOR_UNITS if MINOR_UNITS[code] == decimals))})(?!\\n)$": {
            "type": "string",
            "pattern": r"^-?[0-9]{1,24}" + (rf"(\.[0-9]{{1,{decimals}}})?" if decimals else "") + r"(?!\n)$",
        }
        for decimals in sorted({*MINOR_UNITS.values()})
    },
    "additionalProperties": False,
}

_ONE_OF_FILTERS = [
    {"required": ["event_ids"], "properties": {"event_ids": {"type": "array"}}},
    {"required": ["invoice_id"], "properties": {"invoice_id": {"type": "string"}}},
    {"required": ["error"], "properties": {"error": {"type": "string"}}},
    {"required": ["all"], "properties": {"all": {"const": True}}},
]


def _add_constraints(schemas: dict[str, Document]) -> None:
    """Add the rules that are implemented in code. A schema cannot express rules about the current time or sums."""
    for stage in STAGES:
        event = schemas[event_name(stage)]
        event["properties"]["amount"].update(_AMOUNT)
        event["properties"]["currency"].update(_CURRENCY)
        event["allOf"] = _amounts_of_currencies(stage)
    schemas[event_name("posting")]["allOf"].append(_NO_PAYMENT_OF_A_FAILURE)
    payment = schemas["PaymentBody"]["properties"]
    for amount in (payment["amount"], *payment["discount_taken"]["anyOf"]):
        if "pattern" in amount:
            amount.update(_AMOUNT)
    for name in (*map(event_name, STAGES), "PaymentTerms", "PaymentBody"):
        for schema in schemas[name]["properties"].values():
            for form in (schema, *schema.get("anyOf", ())):
                if form.get("format") == "date":
                    form.update(_DATE)
    schemas["RedriveRequest"]["anyOf"] = _ONE_OF_FILTERS
    sums = schemas["ControlTotalRequest"]["properties"]["amounts"]
    schemas["ControlTotalRequest"]["properties"]["amounts"] = {
        **{name: value for name, value in sums.items() if name != "propertyNames"},
        **_SUMS_OF_CURRENCIES,
    }


def build_document() -> Document:
    """Return the document as JSON types."""
    types = {type for operation in OPERATIONS for type in (*operation.answers.values(), operation.body) if type}
    types.add(Health)
    ordered = sorted(types, key=str)
    refs, schemas = msgspec.json.schema_components(ordered, ref_template=_REF)
    ref_of = dict(zip(ordered, refs, strict=True))
    paths: Document = {}
    for stage in STAGES:
        paths[f"/invoices/{stage}"] = {"post": _describe_send(stage, event_name(stage), 202, "EventAccepted")}
        paths[f"/invoices/{stage}/batch"] = {"post": _describe_send(stage, batch_name(stage), 207, "BatchResults")}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe_operation(operation, ref_of)
        if operation.name == "getInvoice":
            # Paths without parameters take precedence over `/invoices/{target}`, and an invoice id may be a stage name.
            for path in PATHS:
                paths[path]["get"] = _describe_operation(operation, ref_of, path.removeprefix("/invoices/"))
    paths["/healthz"] = {"get": _describe_health(ref_of[Health])}
    paths["/openapi.json"] = {
        "get": _describe_public_operation("getOpenApi", "Get this document", {"type": "object"}, (200,))
    }
    paths["/metrics"] = {"get": _describe_metrics()}
    all_schemas = {**components(_REF), **schemas}
    _add_constraints(all_schemas)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "BEMS",
            "version": version("bems"),
            "description": _DESCRIPTION,
        },
        "security": _WITH_KEY,
        "paths": paths,
        "components": {
            "schemas": dict(sorted(all_schemas.items())),
            "headers": {"CacheControl": {"description": "Header of every response.", "schema": {"const": "no-store"}}},
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }
    # Defaults may be tuples.
    return msgspec.json.decode(msgspec.json.encode(document), type=Document)


def _describe_send(stage: Stage, name: str, code: int, answer: str) -> Document:
    several = code == 207
    links = {} if several else {"links": {"invoice": _INVOICE_OF_THE_EVENT}}
    problems = (400, 403, 408, *(() if several else (409,)), 413, 415, 429, 500, 503)
    return {
        "operationId": f"send{name}",
        "summary": f"Send {'up to 100 events' if several else 'one event'} of the {stage} stage",
        "tags": ["events"],
        "requestBody": {"required": True, "content": {JSON: {"schema": _reference(name)}}},
        "responses": {str(code): _describe_response(code, _reference(answer)) | links} | _describe_problems(problems),
    }


def _describe_operation(operation: Operation, ref_of: dict[Any, Document], target: str | None = None) -> Document:
    """Describe an operation. With `target`, describe it for the path that contains this target literally."""
    described: Document = {"operationId": operation.name, "summary": operation.summary}
    if target is not None:
        described["operationId"] += "".join(part.capitalize() for part in target.split("/"))
        described["summary"] = f'Get the invoice with the id "{target}"'
    described["description"] = "Allowed roles: " + ", ".join(sorted(operation.allowed_roles)) + "."
    parameters = list(_describe_parameters(operation.query))
    if "{target}" in operation.path and target is None:
        schema = {"type": "string", "minLength": 1, "maxLength": 128}
        parameters.insert(0, {"name": "target", "in": "path", "required": True, "schema": schema})
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": ref_of[operation.body]}}}
    answers = {str(code): _describe_response(code, ref_of[type]) for code, type in operation.answers.items()}
    if operation.name in _LINKS:
        code, links = _LINKS[operation.name]
        answers[code]["links"] = links
    described["responses"] = answers | _describe_problems({*operation.problems, 403, 429, 500, 503})
    return described


def _describe_parameters(query: type[Struct]) -> list[Document]:
    _, schemas = msgspec.json.schema_components([query], ref_template=_REF)
    parameters = []
    for name, schema in schemas[query.__name__].get("properties", {}).items():
        # An optional parameter is omitted, not null.
        given = [one for one in schema.pop("anyOf", []) if one != {"type": "null"}]
        default = {k: v for k, v in schema.items() if k != "default" or v is not None}
        merged = {**(given[0] if given else {}), **default}
        if None in merged.get("enum", ()):
            merged["enum"] = [value for value in merged["enum"] if value is not None]
        is_required = name in schemas[query.__name__].get("required", ())
        parameters.append({"name": name, "in": "query", "required": is_required, "schema": merged})
    return parameters


def _describe_health(schema: Document) -> Document:
    described = _describe_public_operation("getHealth", "Get the health of the cell", schema, (200, 503))
    described["responses"]["503"]["headers"] |= _RETRY_AFTER
    # The key is optional.
    described["security"] = [{}, *_WITH_KEY]
    return described


def _describe_public_operation(name: str, summary: str, schema: Document, codes: tuple[int, ...]) -> Document:
    responses = {str(code): _describe_response(code, schema) for code in codes}
    return {"operationId": name, "summary": summary, "security": [], "responses": responses}


def _describe_metrics() -> Document:
    responses = {"200": _describe_response(200, {"type": "string"}, "text/plain")} | _describe_problems(
        (400, 403, 429, 500, 503)
    )
    return {"operationId": "getMetrics", "summary": "Get metrics in the Prometheus text format", "responses": responses}


def _describe_response(code: int, schema: Document, media_type: str = JSON) -> Document:
    return {
        "description": _STATUS_DESCRIPTIONS[code],
        "headers": {**_NO_STORE},
        "content": {media_type: {"schema": schema}},
    }


def _describe_problems(codes: Any) -> Document:
    return {
        str(code): _describe_response(code, _reference("Problem"), PROBLEM_JSON)
        | ({"headers": _NO_STORE | _RETRY_AFTER} if code in (429, 503) else {})
        for code in sorted(codes)
    }


def _reference(name: str) -> Document:
    return {"$ref": _REF.format(name=name)}
