"""What the models of all versions share: naming, bounds, rules in CEL."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

GROUP = "asr-operator.dev"


class ApiModel(BaseModel):
    """A part of a resource: frozen, camelCase on the wire, blind to fields of newer versions."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    def as_json(self) -> dict[str, Any]:
        """As Kubernetes sees it: camelCase, without what is not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule in CEL that the API server enforces.

    Attributes:
        cel: Over `self`, by JSON names; true when the value is accepted.
        message: What the user sees when it is not: what to write instead.
        field: Path of the field to blame, such as `.tensorrt`; the object itself if None.
    """

    cel: str
    message: str
    field: str | None = None

    def schema(self) -> dict[str, str]:
        """As `x-kubernetes-validations` wants it."""
        return {"rule": self.cel, "message": self.message} | ({"fieldPath": self.field} if self.field else {})


def rules(*items: Rule) -> dict[str, Any]:
    """Schema extras of a model or a field with these rules."""
    return {"x-kubernetes-validations": [rule.schema() for rule in items]}


def list_map(*keys: str) -> dict[str, Any]:
    """Schema extras of a list whose items are told apart by these fields."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


ATOMIC = {"x-kubernetes-list-type": "atomic"}
OPAQUE = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
"""A part of a pod's specification that is handed on as it is; the API server checks it there."""

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=63)]
_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DnsName = Annotated[str, StringConstraints(pattern=rf"^{_DNS_LABEL}(\.{_DNS_LABEL})*$", min_length=1, max_length=253)]
LabelKey = Annotated[str, StringConstraints(max_length=317)]
LabelValue = Annotated[
    str, StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", min_length=0, max_length=63)
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
AnnotationValue = Annotated[str, StringConstraints(max_length=4096)]
Labels = Annotated[dict[str, LabelValue], Field(max_length=32)]
Annotations = Annotated[dict[str, AnnotationValue], Field(max_length=32)]
QUANTITY = r"^[0-9]+(\.[0-9]+)?([EPTGMK]i|[EPTGMkmun]|[eE]-?[0-9]{1,2})?$"
"""As Kubernetes writes them. More than two digits of an exponent would be a number that fills the memory."""
MOST_QUANTITY_LENGTH = 32


def _quantity(value: int | str) -> int | str:
    """Refuse here, too, what an older CustomResourceDefinition has let in."""
    if isinstance(value, str) and (len(value) > MOST_QUANTITY_LENGTH or not re.search(QUANTITY, value)):
        raise ValueError(f"{value[:40]!r} is no quantity; write a number with a suffix, such as 500m or 8Gi")
    if isinstance(value, int) and value < 0:
        raise ValueError("a quantity is not negative")
    return value


Quantity = Annotated[
    int | str,
    AfterValidator(_quantity),
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "pattern": QUANTITY,
            "maxLength": MOST_QUANTITY_LENGTH,
            "minimum": 0,
        }
    ),
]
Opaque = Annotated[dict[str, Any], Field(json_schema_extra=OPAQUE)]
