"""JSON schemas in words: the type and the constraints of a node."""

from collections.abc import Mapping
from typing import Any

from tools.reference.markdown import code

Schema = Mapping[str, Any]


def resolve(node: Schema, definitions: Schema) -> dict[str, Any]:
    """A node with its reference, if any, replaced by what it refers to."""
    if "$ref" not in node:
        return dict(node)
    referenced = definitions[str(node["$ref"]).rpartition("/")[2]]
    return {**referenced, **{key: value for key, value in node.items() if key != "$ref"}}


def type_of(node: Schema, definitions: Schema) -> str:
    """The type as a reader names it: string, integer, list of objects, map of strings."""
    if node.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if "enum" in node:
        return "enum"
    if "anyOf" in node:
        types = (type_of(resolve(item, definitions), definitions) for item in node["anyOf"] if "const" not in item)
        return " or ".join(dict.fromkeys(types))
    kind = node.get("type", "any")
    if kind == "array":
        return f"list of {_plural(node.get('items', {}), definitions)}"
    values = node.get("additionalProperties")
    if kind == "object" and isinstance(values, Mapping):
        return f"map of {_plural(values, definitions)}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _plural(node: Schema, definitions: Schema) -> str:
    kinds = type_of(resolve(node, definitions), definitions).replace("enum", "string").split(" or ")
    return " or ".join(f"{kind}s" for kind in kinds)


BOUNDS = (
    ("minimum", "at least {}"),
    ("maximum", "at most {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minItems", "at least {} items"),
    ("maxItems", "at most {} items"),
    ("pattern", "matches {}"),
    ("format", "format {}"),
)


def constraints(node: Schema) -> str:
    """Allowed values and bounds."""
    inner = node["items"] if node.get("type") == "array" and isinstance(node.get("items"), Mapping) else {}
    allowed = node.get("enum") or inner.get("enum")
    texts = [] if not allowed else [" or ".join(code(value) for value in allowed)]
    for key, text in BOUNDS:
        if (value := node.get(key)) is not None and not (key == "minLength" and value == 1):
            texts.append(text.format(code(value) if isinstance(value, str) else value))
            if value == 1:
                texts[-1] = texts[-1].removesuffix("s")
    return "; ".join(texts)
