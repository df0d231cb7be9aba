"""Whether a live object is what the operator wants it to be. Pure.

Only what the operator wants is looked at: what others have added (defaults, sidecars, status) is theirs. Types are
asked for as JSON has them: with abstract ones a comparison, one for each child at each pass, takes 1.7 times as long.
"""

from collections.abc import Sequence
from typing import Any

from kubernetes.utils.quantity import parse_quantity

MERGE_KEYS = ("name", "uid", "mountPath", "containerPort", "port", "topologyKey")
"""Fields that tell the items of a list apart, where the API server merges them one by one."""


def difference(wanted: Any, live: Any, path: str = "") -> str | None:  # noqa: ANN401 (any JSON)
    """The path of the first thing that is not as wanted; None if everything is."""
    if isinstance(wanted, dict):
        if not isinstance(live, dict):
            return None if _empty(wanted) and live is None else path
        return next(
            (
                found
                for key, value in wanted.items()
                if (found := difference(value, live.get(key), f"{path}.{key}")) is not None
            ),
            None,
        )
    if isinstance(wanted, list | tuple):
        return _list_difference(wanted, live, path)
    if wanted == live or (live is None and _empty(wanted)):
        return None
    return None if _same_quantity(wanted, live) else path


def _list_difference(wanted: Sequence[Any], live: Any, path: str) -> str | None:  # noqa: ANN401
    if not isinstance(live, list | tuple):
        return None if not wanted and live is None else path
    key = _merge_key([*wanted, *live])
    if key is None:
        if len(wanted) != len(live):
            return path
        pairs = list(zip(wanted, live, strict=True))
    else:
        by_key = {item[key]: item for item in live}
        pairs = [(item, by_key.get(item[key])) for item in wanted]
    for index, (item, other) in enumerate(pairs):
        if (found := difference(item, other, f"{path}[{index}]")) is not None:
            return found
    return None


def _merge_key(items: Sequence[Any]) -> str | None:
    for key in MERGE_KEYS:
        if items and all(isinstance(item, dict) and key in item for item in items):
            return key
    return None


def _empty(value: Any) -> bool:  # noqa: ANN401
    """What the API server leaves out."""
    return not value


def bytes_of(quantity: int | str) -> int:
    """Of a Kubernetes quantity such as `10Gi`."""
    return int(parse_quantity(quantity))


def _same_quantity(one: Any, other: Any) -> bool:  # noqa: ANN401
    """The API server writes 1000m as 1."""
    if not (isinstance(one, str | int) and isinstance(other, str | int)):
        return False
    try:
        return bool(parse_quantity(one) == parse_quantity(other))
    except (ValueError, ArithmeticError):  # sNaN is a number for Python's decimals, and compares with none
        return False
