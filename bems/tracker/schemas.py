"""JSON Schemas of the event contract, generated from its structs.

`components` is for OpenAPI 3.1 (draft 2020-12). It states everything that a schema can express; only the parser checks
sums over fields, the decimals of a currency and the clock. `gateway_models` is for API Gateway, whose validator
supports draft-04 only and answers without pointers: a model refuses only obvious errors, so that the parser explains
the rest.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bems.tracker.contract import EVENT_TYPES, STAGES, Stage
from bems.tracker.parsing import MAX_BATCH_EVENTS
from bems.tracker.responses import BatchResults, EventAccepted, Problem

Schema = dict[str, Any]

DRAFT_04 = "http://json-schema.org/draft-04/schema#"

_KEPT_KEYWORDS = frozenset(("type", "properties", "required", "additionalProperties", "items", "anyOf", "enum"))


def event_name(stage: Stage) -> str:
    """Return the component name of `POST /invoices/{stage}`, such as `IngestionEvent`."""
    return EVENT_TYPES[stage].__name__


def batch_name(stage: Stage) -> str:
    """Return the component name of `POST /invoices/{stage}/batch`, such as `IngestionBatch`."""
    return f"{stage.capitalize()}Batch"


def components(ref_template: str = "#/components/schemas/{name}") -> dict[str, Schema]:
    """Return the schemas by name: an event and a batch per stage, their parts, and the bodies of responses.

    `ref_template` is the form of references, which depends on where the document places the schemas.
    """
    batches = [
        msgspec.defstruct(
            batch_name(stage),
            [("events", Annotated[list[body], Meta(min_length=1, max_length=MAX_BATCH_EVENTS)])],  # type: ignore[valid-type]
            namespace={"__doc__": f"Body of `POST /invoices/{stage}/batch`."},
            forbid_unknown_fields=True,
        )
        for stage, body in EVENT_TYPES.items()
    ]
    _, schemas = msgspec.json.schema_components(
        [*EVENT_TYPES.values(), *batches, EventAccepted, BatchResults, Problem], ref_template=ref_template
    )
    return dict(sorted(schemas.items()))


def gateway_models() -> dict[str, Schema]:
    """Return API Gateway's draft-04 models by name, without references: `IngestionEvent`, `IngestionBatch`, ...

    A batch model does not check the events, because an invalid event must not refuse the others, nor their number,
    because the parser knows the cell's limit. Models check strings only against enumerations, because regular
    expressions and lengths differ between validators, and no number of items.
    """
    schemas = components("{name}")
    models: dict[str, Schema] = {}
    for stage in STAGES:
        name = event_name(stage)
        models[name] = {"$schema": DRAFT_04, "title": name, **_simplify(schemas[name], schemas)}
        models[batch_name(stage)] = {
            "$schema": DRAFT_04,
            "title": batch_name(stage),
            "type": "object",
            "properties": {"events": {"type": "array", "minItems": 1}},
            "required": ["events"],
            "additionalProperties": False,
        }
    return models


def _simplify(schema: Schema, schemas: dict[str, Schema]) -> Schema:
    if "$ref" in schema:
        return _simplify(schemas[schema["$ref"]], schemas)
    kept: Schema = {}
    for keyword, value in schema.items():
        if keyword == "properties":
            kept[keyword] = {name: _simplify(inner, schemas) for name, inner in value.items()}
        elif keyword == "anyOf":
            kept[keyword] = [_simplify(inner, schemas) for inner in value]
        elif isinstance(value, dict) and keyword in _KEPT_KEYWORDS:
            kept[keyword] = _simplify(value, schemas)
        elif keyword in _KEPT_KEYWORDS and value != []:
            kept[keyword] = value
    return kept
