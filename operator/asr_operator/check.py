"""Checks manifests without a cluster: by the models, by the rules in CEL, and for names that nobody knows."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from asr_operator import crd
from asr_operator.api import v1alpha1 as api

ALWAYS = {"apiVersion", "kind", "metadata"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong in a manifest.

    Attributes:
        path: Of the field.
        message: What to write instead.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def documents(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The AsrDeployments in a YAML text, each with its name; other kinds are passed over.

    Raises:
        YAMLError: It is not YAML.
    """
    for document in yaml.safe_load_all(text):
        if isinstance(document, dict) and document.get("kind") == api.KIND:
            yield str((document.get("metadata") or {}).get("name", "")), document


def check(manifest: dict[str, Any]) -> list[Finding]:
    """All that is wrong in one manifest."""
    if manifest.get("apiVersion") != api.API_VERSION:
        return [Finding("apiVersion", f"must be {api.API_VERSION}")]
    schema = crd.schema()
    found = list(_unknown(manifest, schema, ""))
    try:
        # In the wire's names only: they are what users write.
        whole = api.AsrDeployment.model_validate(manifest, by_alias=True, by_name=False).as_json()
    except ValidationError as error:
        return found + [Finding(_path(item["loc"]), item["msg"]) for item in error.errors(include_url=False)]
    return found + list(_rules(whole | {"metadata": manifest.get("metadata") or {}}, schema, ""))


def _path(parts: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def _unknown(value: Any, schema: dict[str, Any], path: str) -> Iterator[Finding]:  # noqa: ANN401 (any JSON)
    properties = schema.get("properties")
    if isinstance(value, dict) and properties is not None:
        for key, item in value.items():
            if key not in properties:
                yield Finding(f"{path}.{key}".lstrip("."), f"there is no such field; known are {', '.join(properties)}")
            elif path or key not in ALWAYS:
                yield from _unknown(item, properties[key], f"{path}.{key}")
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from _unknown(item, schema["items"], f"{path}[{index}]")


def _rules(value: Any, schema: dict[str, Any], path: str) -> Iterator[Finding]:  # noqa: ANN401
    import cel  # noqa: PLC0415 (only this command needs it)

    for rule in schema.get("x-kubernetes-validations", ()):
        if not cel.evaluate(rule["rule"], {"self": value}):
            yield Finding(f"{path}{rule.get('fieldPath', '')}".lstrip(".") or "the resource", rule["message"])
    if isinstance(value, str) and schema.get("x-kubernetes-int-or-string"):
        # Other texts the models have looked at.
        if not re.search(schema["pattern"], value):
            yield Finding(path.lstrip("."), f"{value!r} does not match {schema['pattern']}")
    elif isinstance(value, dict):
        for key, item in value.items():
            inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if inner is not None:
                yield from _rules(item, inner, f"{path}.{key}")
    elif isinstance(value, list) and "items" in schema:
        yield from _twice(value, schema.get("x-kubernetes-list-map-keys", ()), path)
        for index, item in enumerate(value):
            yield from _rules(item, schema["items"], f"{path}[{index}]")


def _twice(items: list[Any], keys: Sequence[str], path: str) -> Iterator[Finding]:
    """Items of a list that are called as one before them, where these fields tell them apart."""
    called = [tuple(item.get(key) for key in keys) for item in items] if keys else []
    for index, name in enumerate(called):
        if name in called[:index]:
            yield Finding(f"{path}[{index}]".lstrip("."), f"there is one with this {', '.join(keys)} already")
