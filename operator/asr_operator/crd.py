"""From the models to the CustomResourceDefinition. Pure."""

from typing import Any

import yaml

from asr_operator.api import v1alpha1 as api
from asr_operator.api.base import GROUP

NAME = f"{api.PLURAL}.{GROUP}"

COLUMNS = (
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether the new generation serves.", 0),
    ("Runtime", "string", ".status.runtime", "Runtimes of all pools.", 0),
    ("Replicas", "string", ".status.readySummary", "Ready pods and wanted pods of all pools.", 0),
    ("Model", "string", ".spec.model.name", "Name of the model in Triton.", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Time since its creation.", 0),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why it is ready or not.", 1),
    ("Degraded", "string", '.status.conditions[?(@.type=="Degraded")].reason', "What is worse than asked for.", 1),
    ("Artifact", "string", ".status.pools[0].active", "What the first pool serves.", 1),
)

DROPPED = ("title",)
FIRST = ("description", "type", "default")
"""What readers look for; the rest comes in the order of the generator."""


def manifest() -> dict[str, Any]:
    """The CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": api.KIND,
                "listKind": f"{api.KIND}List",
                "plural": api.PLURAL,
                "singular": api.KIND.lower(),
                "shortNames": [api.SHORT_NAME],
                "categories": ["asr-operator"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": api.VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema()},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path, "description": text, "priority": priority}
                        for name, kind, path, text, priority in COLUMNS
                    ],
                }
            ],
        },
    }


def to_yaml() -> str:
    """The CustomResourceDefinition as the chart has it."""
    return dump(manifest())


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


def dump(body: dict[str, Any]) -> str:
    """An object as people write it in YAML."""
    return yaml.dump(body, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


def schema() -> dict[str, Any]:
    """The structural schema of the resource."""
    generated = api.AsrDeployment.model_json_schema(by_alias=True, mode="validation")
    definitions = generated.pop("$defs")
    found: dict[str, Any] = _structural(generated, definitions)
    found["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        **found["properties"],
    }
    return found


def _structural(node: Any, definitions: dict[str, Any]) -> Any:  # noqa: ANN401 (any part of a JSON schema)
    """What Kubernetes calls structural: no references, no unions but integer-or-string, no null."""
    if isinstance(node, list):
        return [_structural(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    node = _resolved({key: value for key, value in node.items() if key not in DROPPED}, definitions)
    if node.get("x-kubernetes-preserve-unknown-fields") or "properties" in node:
        node.pop("additionalProperties", None)
    if "properties" in node:
        node["properties"] = {name: _structural(value, definitions) for name, value in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in node:
            node[key] = _structural(node[key], definitions)
    if "description" in node:
        node["description"] = " ".join(node["description"].split())
    if "default" in node:
        if node["default"] in ({}, []) and "properties" not in node:
            del node["default"]  # absent and empty are the same here, and resources stay short
        else:
            node["default"] = _default(node)
    return {key: node[key] for key in sorted(node, key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))}


def _resolved(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A node without reference and without union: what may be null is a field that may be absent."""
    if node.get("x-kubernetes-int-or-string"):
        return {key: value for key, value in node.items() if key != "type"} | {
            "anyOf": [{"type": "integer"}, {"type": "string"}]
        }
    if reference := node.pop("$ref", None):
        # What stands at the field (its text, its default) goes before what stands at the type.
        target = {key: value for key, value in definitions[reference.rpartition("/")[2]].items() if key not in DROPPED}
        return _resolved(_merge(target, node), definitions)
    if options := node.pop("anyOf", None):
        kept = [option for option in options if option != {"type": "null"}]
        if len(kept) != 1:
            raise ValueError(f"a union of {len(kept)} types has no structural schema")
        if node.get("default", ...) is None:
            del node["default"]
        return _resolved(_merge(kept[0], node), definitions)
    return node


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = base | over
    both = "x-kubernetes-validations"
    if both in base and both in over:
        merged[both] = [*base[both], *over[both]]
    return merged


def _default(node: dict[str, Any]) -> Any:  # noqa: ANN401 (any JSON)
    """A default without what the fields' own defaults bring."""
    default = node["default"]
    properties = node.get("properties")
    if properties is None or not isinstance(default, dict):
        return default
    inner = {key: _default(properties[key] | {"default": value}) for key, value in default.items()}
    return {
        key: value
        for key, value in inner.items()
        if value is not None and value != properties[key].get("default") and value not in ({}, [])
    }
