"""What can be asked of the service, as OpenAPI 3.1 says it."""

from importlib.metadata import version
from typing import Any

import numpy as np

from batch_assets.features.contract import Column, FeatureContract
from batch_assets.service.bodies import BatchGet, Score
from batch_assets.service.options import ServiceOptions

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "kind": {"type": "string"}},
    "required": ["error", "kind"],
}
_ANSWER = {
    "type": "object",
    "properties": {"key": {}, "record": {"type": "object"}, "lineage": {"type": "object"}},
    "required": ["key", "record", "lineage"],
}
_FRESH = {
    "type": "object",
    "properties": {"record": {"type": "object"}, "fresh": {"const": True}, "lineage": {"type": "object"}},
    "required": ["record", "fresh", "lineage"],
}
_WHY = {
    401: "The token is missing, or another one.",
    404: "There is no such pipeline, or no prediction for the key; says which.",
    408: "The body did not arrive in time.",
    413: "The body is too long, or asks for too many keys.",
    414: "The path is too long.",
    415: "The body is no JSON.",
    421: "The service is not called that.",
    422: "What was sent is malformed, or the row is not permitted; says where.",
    429: "More requests than may be.",
    503: "What is live cannot be asked now; says why.",
    504: "There was no answer in time.",
}


def document(options: ServiceOptions) -> dict[str, Any]:
    """The OpenAPI document of a service."""
    names = {
        "name": "pipeline",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "enum": sorted(one.name for one in options.pipelines)},
    }
    key = {
        "name": "key",
        "in": "path",
        "required": True,
        "description": "The key; one of several columns has a segment for each, in the contract's order.",
        "schema": {"type": "string", "minLength": 1},
    }
    answers = {
        "type": "object",
        "properties": {"answers": {"type": "array", "items": {"anyOf": [_ANSWER, {"type": "null"}]}}},
        "required": ["answers"],
    }
    ready = {
        "type": "object",
        "properties": {"ready": {"type": "boolean"}, "hindered": {"type": "object"}},
        "required": ["ready", "hindered"],
    }
    paths: dict[str, Any] = {
        "/v1/{pipeline}/{key}": {
            "get": _operation(
                "get", "The live prediction of a key.", _ANSWER, (401, 404, 414, 421, 422, 429, 503), [names, key]
            )
        },
        "/v1/{pipeline}:batchGet": {
            "post": _operation(
                "batchGet",
                "The live predictions of many keys in their order, all of one release; null where there is none.",
                answers,
                (401, 404, 408, 413, 415, 421, 422, 429, 503),
                [names],
                BatchGet.model_json_schema(),
            )
        },
        "/healthz": {"get": _operation("health", "Whether the worker is there.", {"type": "object"}, (421, 429))},
        "/readyz": {"get": _operation("ready", "Whether every pipeline can be asked, and none is too old.", ready, (421, 429))},
    }
    paths["/readyz"]["get"]["responses"]["503"] = _response("One of them cannot; says why.", ready)
    for config in options.pipelines:
        if config.serve.realtime is not None:
            paths[f"/v1/{config.name}:score"] = {
                "post": _operation(
                    f"score_{config.name}",
                    "The record of a row that is sent, scored now by the version that is approved for that.",
                    _FRESH,
                    (401, 408, 413, 415, 421, 422, 429, 503, 504),
                    (),
                    _rows_of(config.features.contract),
                )
            }
    return {
        "openapi": "3.1.0",
        "info": {"title": "batch-assets", "version": version("batch-assets")},
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
    }


def _rows_of(contract: FeatureContract) -> dict[str, Any]:
    """The body with a row that the contract permits."""
    features = {column.name: _values_of(column) for column in contract.columns}
    said = Score.model_json_schema()
    row = {"type": "object", "properties": features, "required": list(features), "additionalProperties": False}
    return {**said, "properties": {"features": row}}


def _values_of(column: Column) -> dict[str, Any]:
    """The values that a column permits."""
    if column.dtype == "bool":
        one: dict[str, Any] = {"type": "boolean"}
    else:
        whole = not column.dtype.startswith("float")
        bounds = np.iinfo(column.dtype) if whole else np.finfo(column.dtype)
        least, most = (int if whole else float)(bounds.min), (int if whole else float)(bounds.max)
        one = {
            "type": "integer" if whole else "number",
            "minimum": least if column.min is None else column.min,
            "maximum": most if column.max is None else column.max,
        }
    if column.length is not None:
        exactly = {"minItems": column.length, "maxItems": column.length} if isinstance(column.length, int) else {}
        one = {"type": "array", "items": one, **exactly}
    return {"anyOf": [one, {"type": "null"}]} if column.nullable else one


def _operation(
    name: str, what: str, found: dict[str, Any], refused: tuple[int, ...], parameters: Any = (), body: Any = None
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": what,
        "parameters": list(parameters),
        "responses": {
            "200": _response("It was found.", found),
            **{str(status): _response(_WHY[status], _ERROR) for status in refused},
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _response(what: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": schema}}}
