"""The page of the custom resource, from its definition in the chart."""

from collections.abc import Iterator
from typing import Any

import yaml

from tools.reference import CHART
from tools.reference.markdown import code, escape, page, table
from tools.reference.schemas import constraints, type_of

LEGEND = (
    "`[]` marks the items of a list, `{}` the values of a map. `kubectl explain asrdeployment.spec` shows the same "
    "texts in a cluster; `asr-operator check FILE` validates a manifest without one."
)
Node = dict[str, Any]
SECTION_DEPTH = 2
"""Objects up to this depth below spec and status get a heading of their own; deeper fields are rows of it."""


def render() -> str:
    """The whole page."""
    definition = yaml.safe_load((CHART / "files" / "crd.yaml").read_text())
    spec, (version,) = definition["spec"], definition["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    names = spec["names"]
    identity = f"`apiVersion: {spec['group']}/{version['name']}`, `kind: {names['kind']}`"
    blocks = [
        f"{identity}, short name `{names['shortNames'][0]}`, {spec['scope'].lower()}. {schema['description']}",
        LEGEND,
    ]
    for name in ("spec", "status"):
        blocks += _sections(name, schema["properties"][name], depth=0)
    blocks += ["## Columns of kubectl get", _columns(version["additionalPrinterColumns"])]
    return page("API", *blocks)


def _sections(path: str, node: Node, depth: int) -> Iterator[str]:
    yield f"{'##' if depth == 0 else '###'} {path}"
    yield escape(node.get("description", ""))
    fields, sections = [], []
    for name, child in node["properties"].items():
        own = depth + 1 < SECTION_DEPTH and "properties" in _content(child)
        fields += list(_rows(name, child, required=name in node.get("required", ()), nested=not own))
        if own:
            sections.append((name + _suffix(child), child))
    yield table(("field", "type", "default", "description"), fields)
    yield _rules(node)
    for name, child in sections:
        content = _content(child) | {"description": child.get("description", "")}
        yield from _sections(f"{path}.{name}", content, depth + 1)


def _rows(name: str, node: Node, *, required: bool, nested: bool) -> Iterator[tuple[str, ...]]:
    text = escape(node.get("description", ""))
    content = _content(node)
    if limits := constraints(node):
        text = f"{text} Allowed: {limits}.".strip()
    if nested:
        text = " ".join((text, *(f"Rule: {rule}." for rule in _messages(content))))
    default = "required" if required else code(node.get("default"))
    yield (f"`{name}`", type_of(node, {}), default, text)
    if nested:
        for child, value in content.get("properties", {}).items():
            inner = f"{name}{_suffix(node)}.{child}"
            yield from _rows(inner, value, required=child in content.get("required", ()), nested=True)


def _content(node: Node) -> Node:
    """The object that a field, a list of objects, or a map of objects holds."""
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict) and "properties" in node[key]:
            return dict(node[key])
    return node


def _suffix(node: Node) -> str:
    if "items" in node:
        return "[]"
    return "{}" if isinstance(node.get("additionalProperties"), dict) else ""


def _messages(node: Node) -> list[str]:
    return [escape(rule.get("message", code(rule["rule"]))) for rule in node.get("x-kubernetes-validations", ())]


def _rules(node: Node) -> str:
    messages = _messages(node)
    return "Rules:\n\n" + "\n".join(f"- {message}" for message in messages) if messages else ""


def _columns(columns: list[Node]) -> str:
    rows = [
        (column["name"], "always" if not column.get("priority") else "with `-o wide`", column["description"])
        for column in columns
    ]
    return table(("column", "shown", "description"), rows)
