"""The CRD that the chart installs is the one that the models make."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asr_operator import crd

PROJECT = Path(__file__).parents[2]


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All fields below a schema, with their schemas."""
    for name, inner in schema.get("properties", {}).items():
        yield name, inner
        yield from fields(inner)
    if "items" in schema:
        yield from fields(schema["items"])


def test_the_charts_crd_is_that_of_the_models() -> None:
    """If not: python -m asr_operator crd > charts/asr-operator/files/crd.yaml"""
    assert (PROJECT / "charts/asr-operator/files/crd.yaml").read_text() == crd.to_yaml()


def test_the_folder_operator_is_not_a_package() -> None:
    assert not (PROJECT / "operator" / "__init__.py").exists(), "it would shadow the standard library's operator"


def test_no_name_of_ours_is_written_but_in_one_place() -> None:
    folder = PROJECT / "operator" / "asr_operator"
    found = [
        path.name
        for path in folder.rglob("*.py")
        if path.name not in {"names.py", "base.py", "v1alpha1.py"} and '"asr-operator.dev' in path.read_text()
    ]
    assert found == []


@pytest.mark.parametrize("path", [column[2] for column in crd.COLUMNS if not column[2].startswith(".metadata")])
def test_every_printer_column_shows_a_field_of_the_schema(path: str) -> None:
    schema = crd.schema()
    for name in re.sub(r"\[[^]]*\]", "", path).strip(".").split("."):
        schema = schema.get("items", schema)["properties"][name]


def test_the_description_of_every_permille_field_says_what_that_is_in_percent() -> None:
    described = {name: inner["description"] for name, inner in fields(crd.schema()) if name.endswith("Permille")}
    assert len(described) == 5
    assert [name for name, text in described.items() if not re.search(r"tenths of a\s+percent.* %", text)] == []
