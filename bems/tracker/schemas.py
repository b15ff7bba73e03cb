"""Schemas: JSON Schemas of the contract, made from its structs, for documents and for gates in front of the gate.

`components` is for OpenAPI 3.1 (draft 2020-12). It states all that a schema can; sums over fields, the decimals of a
currency and the clock are the gate's alone. `gateway_models` is for API Gateway, whose validator knows draft-04 only
and answers without pointers: a model refuses only what is wrong at first sight, so that the gate can explain the rest.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bems.tracker.contract import EVENT_TYPES, STAGES, Stage
from bems.tracker.parsing import MAX_BATCH_EVENTS
from bems.tracker.responses import BatchResults, EventAccepted, Problem

Schema = dict[str, Any]

DRAFT_04 = "http://json-schema.org/draft-04/schema#"

_KEPT_KEYWORDS = frozenset(
    ("type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "minItems", "maxItems")
)


def event_name(stage: Stage) -> str:
    """The component of `POST /invoices/{stage}`, such as `IngestionEvent`."""
    return EVENT_TYPES[stage].__name__


def batch_name(stage: Stage) -> str:
    """The component of `POST /invoices/{stage}/batch`, such as `IngestionBatch`."""
    return f"{stage.capitalize()}Batch"


def components(ref_template: str = "#/components/schemas/{name}") -> dict[str, Schema]:
    """The schemas by name: one event and one batch per stage, what they are made of, and the answers' bodies.

    `ref_template` says where the document that takes them puts them.
    """
    batches = [
        msgspec.defstruct(
            batch_name(stage),
            [("events", Annotated[list[body], Meta(min_length=1, max_length=MAX_BATCH_EVENTS)])],  # type: ignore[valid-type]
            namespace={"__doc__": f"`POST /invoices/{stage}/batch`"},
            forbid_unknown_fields=True,
        )
        for stage, body in EVENT_TYPES.items()
    ]
    _, schemas = msgspec.json.schema_components(
        [*EVENT_TYPES.values(), *batches, EventAccepted, BatchResults, Problem], ref_template=ref_template
    )
    return dict(sorted(schemas.items()))


def gateway_models() -> dict[str, Schema]:
    """The draft-04 models of API Gateway by name, without references: `IngestionEvent`, `IngestionBatch`, ...

    A batch's events are not looked into, because one wrong event must not refuse the others, nor counted, because the
    gate knows the cell's limit. Strings are not looked into either, but for enumerations, because regular expressions
    and lengths differ between validators.
    """
    whole = components("{name}")
    models: dict[str, Schema] = {}
    for stage in STAGES:
        name = event_name(stage)
        models[name] = {"$schema": DRAFT_04, "title": name, **_simplify(whole[name], whole)}
        models[batch_name(stage)] = {
            "$schema": DRAFT_04,
            "title": batch_name(stage),
            "type": "object",
            "properties": {"events": {"type": "array", "minItems": 1}},
            "required": ["events"],
            "additionalProperties": False,
        }
    return models


def _simplify(schema: Schema, whole: dict[str, Schema]) -> Schema:
    if "$ref" in schema:
        return _simplify(whole[schema["$ref"]], whole)
    kept: Schema = {}
    for word, value in schema.items():
        if word == "properties":
            kept[word] = {name: _simplify(inner, whole) for name, inner in value.items()}
        elif word == "anyOf":
            kept[word] = [_simplify(inner, whole) for inner in value]
        elif isinstance(value, dict) and word in _KEPT_KEYWORDS:
            kept[word] = _simplify(value, whole)
        elif word in _KEPT_KEYWORDS and value != []:
            kept[word] = value
    return kept
