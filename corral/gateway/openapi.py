"""The OpenAPI document, made from the tables of resources. Pure.

msgspec describes the structs, and msgspec writes them. What is told of an answer is the type that
`corral.jsons` writes for it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from corral.gateway.problems import MEDIA_TYPE, Problem
from corral.gateway.routes import Resource, Stream
from corral.jsons import as_written

BASE = "/api/v1"
_REF = "#/components/schemas/{name}"
_IN_PATH = {
    "id": "A task: its id, a unique prefix of it, or `last`.",
    "name": "A worker, or a pipeline.",
}


def document(resources: Sequence[Resource]) -> dict[str, Any]:
    """The whole document, as builtins."""
    types: list[Any] = [Problem]
    for one in resources:
        types += [kind for kind in (one.body, one.answer) if kind and not isinstance(kind, Stream)]
    written = [as_written(kind) for kind in types]
    schemas, components = msgspec.json.schema_components(written, ref_template=_REF)
    schema_of = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, Any] = {}
    for one in resources:
        path = f"{BASE}{one.path}"
        paths.setdefault(path, {})[one.verb.lower()] = _operation(one, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Corral",
            "version": version("corral"),
            "description": "Tasks, workers and the broker of a Corral. Refusals are problem "
            "details (RFC 9457). The structs are those that `corral ... -o json` prints.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _operation(one: Resource, schema_of: dict[str, Any]) -> dict[str, Any]:
    summary, _, rest = inspect.cleandoc(one.act.__doc__ or "").partition("\n\n")
    told = {
        "operationId": f"{one.act.__module__.rpartition('.')[2]}_{one.act.__name__}",
        "summary": " ".join(summary.split()),
        "tags": [one.path.split("/")[1]],
        "x-role": one.role,
        "parameters": [*_path_parameters(one.path), *_query_parameters(one.query)],
        "responses": _responses(one, schema_of),
    }
    if rest:
        told["description"] = " ".join(rest.split())
    if one.body is not None:
        told["requestBody"] = {
            "required": not _may_be_empty(one.body),
            "content": {"application/json": {"schema": schema_of[repr(one.body)]}},
        }
    return told


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _IN_PATH[name],
            "schema": {"type": "string", "minLength": 1},
        }
        for name in re.findall(r"{(\w+)}", path)
    ]


def _query_parameters(query: type[msgspec.Struct]) -> list[dict[str, Any]]:
    """Each field on its own, with nothing to refer to."""
    [reference], components = msgspec.json.schema_components([query], ref_template=_REF)
    properties = components[reference["$ref"].rpartition("/")[2]]["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": _inlined(schema, components)}
        for name, schema in properties.items()
    ]


def _inlined(schema: Any, components: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(one, components) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(components[schema["$ref"].rpartition("/")[2]], components)
    return {name: _inlined(one, components) for name, one in schema.items()}


def _responses(one: Resource, schema_of: dict[str, Any]) -> dict[str, Any]:
    if isinstance(one.answer, Stream):
        media_type = one.answer.media_type.partition(";")[0]
        tells, content = one.answer.tells, {media_type: {"schema": {"type": "string"}}}
    else:
        tells = "It was done."
        content = {"application/json": {"schema": schema_of[repr(one.answer)]}}
    problem = {MEDIA_TYPE: {"schema": schema_of[repr(Problem)]}}
    return {
        str(one.status): {"description": tells, "content": content},
        **{
            str(status): {"description": why, "content": content}
            for status, why in one.other.items()
        },
        "default": {"description": "It was refused, and this is why.", "content": problem},
    }


def _may_be_empty(body: Any) -> bool:
    try:
        msgspec.convert({}, body)
    except msgspec.ValidationError:
        return False
    return body is not None and isinstance(body, type)
