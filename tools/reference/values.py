"""The page of the chart's values and the table in the chart's README, from values.yaml and its schema."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from tools.reference import CHART
from tools.reference.markdown import code, escape, page, splice, table
from tools.reference.schemas import constraints, resolve, type_of

SECTION = re.compile(r"^# -+ (?P<title>.+?) -+$")
INTRODUCTION = (
    "Defaults are those of `charts/asr-operator/values.yaml`. `values.schema.json` rejects unknown values and wrong "
    "types before anything is installed. Only `image.repository` and `builderImage.repository` have no usable default."
)
HEADER = ("value", "type", "default", "description")


@dataclass(frozen=True, slots=True)
class Value:
    """One row.

    Attributes:
        section: Title of the part of values.yaml that it is in.
        path: Keys joined by dots.
        kind: Type in words.
        default: Default as JSON in a code span; empty for a group of values and for what values.yaml leaves out.
        text: Description and constraints.
    """

    section: str
    path: str
    kind: str
    default: str
    text: str

    @property
    def row(self) -> tuple[str, ...]:
        """Cells of a table."""
        return (f"`{self.path}`", self.kind, self.default, self.text)


def render() -> str:
    """The page."""
    found = list(values())
    blocks = [INTRODUCTION]
    for section in dict.fromkeys(value.section for value in found):
        blocks += [f"## {section}", table(HEADER, (value.row for value in found if value.section == section))]
    return page("Chart values", *blocks)


def readme() -> str:
    """The chart's README with its table of values as it must be."""
    return splice((CHART / "README.md").read_text(), "values", table(HEADER, (value.row for value in values())))


def values() -> Iterator[Value]:
    """All values, in the order of values.yaml; those that only the schema knows follow their siblings."""
    text = (CHART / "values.yaml").read_text()
    schema = json.loads((CHART / "values.schema.json").read_text())
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    yield from _Reader(text.splitlines(), schema["$defs"]).group("", root, schema)


class _Reader:
    def __init__(self, lines: list[str], definitions: dict[str, Any]) -> None:
        self._lines = lines
        self._definitions = definitions

    def group(self, prefix: str, node: yaml.MappingNode, schema: dict[str, Any]) -> Iterator[Value]:
        known = schema.get("properties", {})
        section = ""
        for key, value in node.value:
            line = key.start_mark.line
            section = self._section(line)
            yield from self._value(f"{prefix}{key.value}", value, known.get(key.value, {}), line, section)
        written = {key.value for key, _ in node.value}
        for name, child in known.items():
            if name not in written:
                found = resolve(child, self._definitions)
                yield self._row(section if prefix else "Other", f"{prefix}{name}", found, "", "")

    def _value(self, path: str, node: yaml.Node, raw: dict[str, Any], line: int, section: str) -> Iterator[Value]:
        schema = resolve(raw, self._definitions)
        comment = self._comment(line)
        if isinstance(node, yaml.MappingNode) and "properties" in schema:
            if comment:
                yield self._row(section, path, schema, "", comment)
            yield from self.group(f"{path}.", node, schema)
        else:
            default = yaml.safe_load(yaml.serialize(node))
            yield self._row(section, path, schema, code(default), comment)

    def _row(self, section: str, path: str, schema: dict[str, Any], default: str, comment: str) -> Value:
        text = escape(comment or schema.get("description", ""))
        if limits := constraints(schema):
            text = f"{text} Allowed: {limits}.".strip()
        return Value(section, path, type_of(schema, self._definitions), default, text)

    def _comment(self, line: int) -> str:
        """The comment directly above a key."""
        found: list[str] = []
        for text in reversed(self._lines[:line]):
            stripped = text.strip()
            if not stripped.startswith("#") or SECTION.match(stripped):
                break
            found.insert(0, stripped.removeprefix("#").strip())
        return " ".join(found)

    def _section(self, line: int) -> str:
        titles = (SECTION.match(text) for text in reversed(self._lines[: line + 1]))
        return next(match["title"] for match in titles if match)
