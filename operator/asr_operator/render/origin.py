"""The generation that the pods of a Deployment were rendered from, kept in one of its annotations.

While the artifact of a newer generation is not published, a Deployment is rendered from this one: its pods keep their
artifact together with the storage, the limits and the image that it came with.
"""

import json
from dataclasses import dataclass, replace
from typing import Self

from pydantic import ValidationError

from asr_operator.api import v1alpha1 as api
from asr_operator.compare import difference
from asr_operator.render.context import Context, Object
from asr_operator.settings import TritonImage

NOT_OF_PODS = {"acceptance", "build", "networkPolicy"}
NOT_OF_PODS_IN_POOLS = {"autoscaling", "replicas"}


@dataclass(frozen=True, slots=True)
class Origin:
    """What a pod template is rendered from.

    Attributes:
        context: The resource of that generation, with the Triton image of then.
        pool: The pool of that generation.
    """

    context: Context
    pool: api.Pool

    def to_json(self) -> str:
        """Write it as an annotation; without the other pools, and without what concerns no pod."""
        return json.dumps(self._parts(), sort_keys=True, separators=(",", ":"))

    def _parts(self) -> Object:
        pool = {key: value for key, value in self.pool.as_json().items() if key not in NOT_OF_PODS_IN_POOLS}
        spec = {key: value for key, value in self.context.spec.as_json().items() if key not in NOT_OF_PODS}
        triton = self.context.triton.model_dump(mode="json", exclude_none=True)
        return {"spec": spec | {"pools": [pool]}, "triton": triton}

    @classmethod
    def from_json(cls, text: str | None, context: Context) -> Self | None:
        """Read an annotation; None if there is none, or if this version of the operator cannot read it.

        Args:
            text: The annotation.
            context: The resource of now.
        """
        try:
            found = json.loads(text or "")
            spec = api.Spec.model_validate(found["spec"])
            triton = TritonImage.model_validate(found["triton"])
        except (ValueError, TypeError, KeyError, ValidationError):
            return None
        origin = cls(replace(context, spec=spec, triton=triton), spec.pools[0])
        # A field that this version does not know would be left out of the pods without a word.
        return origin if difference(found, origin._parts()) is None else None
