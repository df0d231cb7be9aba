"""What rendering needs beside the choice of each pool: the resource, the settings, the Triton image."""

from dataclasses import dataclass
from typing import Any, Self

from asr_contract.compatibility import is_version_of
from asr_operator import names
from asr_operator.api import v1alpha1 as api
from asr_operator.errors import StalledError
from asr_operator.events import Reason
from asr_operator.settings import Settings, TritonImage

Object = dict[str, Any]
"""A Kubernetes object, or a part of one."""


@dataclass(frozen=True, slots=True)
class Context:
    """A resource as rendering sees it.

    Attributes:
        name: Of the resource.
        namespace: Of the resource and all its children.
        uid: Of the resource.
        spec: What is wanted.
        settings: Of the operator.
        triton: Image of the serving pods, with its TensorRT.
    """

    name: str
    namespace: str
    uid: str
    spec: api.Spec
    settings: Settings
    triton: TritonImage

    @classmethod
    def of(cls, body: Object, spec: api.Spec, settings: Settings) -> Self:
        """From the resource as the API server has it.

        Raises:
            StalledError: No Triton image has the TensorRT that is asked for.
        """
        metadata = body["metadata"]
        return cls(
            metadata["name"], metadata["namespace"], metadata["uid"], spec, settings, triton_image(spec.image, settings)
        )

    @property
    def apis(self) -> api.Apis:
        """Which of Triton's APIs clients may use."""
        return self.spec.service.apis or self.settings.triton.apis

    def metadata(self, name: str, component: str, **more: Any) -> Object:  # noqa: ANN401 (any JSON)
        """Of a child that this resource alone owns."""
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": names.labels(self.name, component) | more.pop("labels", {}),
            "ownerReferences": [self.owner(controller=True)],
            **more,
        }

    def owner(self, *, controller: bool) -> Object:
        """The reference by which the garbage collector knows whose child an object is."""
        reference: Object = {
            "apiVersion": api.API_VERSION,
            "kind": api.KIND,
            "name": self.name,
            "uid": self.uid,
        }
        return reference | ({"controller": True, "blockOwnerDeletion": True} if controller else {})


def triton_image(image: api.Image, settings: Settings) -> TritonImage:
    """The serving image of a resource.

    Raises:
        StalledError: No image of the operator's list has the TensorRT that is asked for.
    """
    if image.triton is not None:
        return TritonImage(image=image.triton, tensorrt=image.tensorrt or "0.0", builder=image.builder)
    if image.tensorrt is None:
        return settings.triton.images[0]
    for candidate in settings.triton.images:
        if is_version_of(candidate.tensorrt, image.tensorrt):
            return candidate
    there = ", ".join(candidate.tensorrt for candidate in settings.triton.images)
    raise StalledError(
        Reason.NO_TRITON_IMAGE,
        f"spec.image.tensorrt: the operator's list has no Triton image with TensorRT {image.tensorrt}, only {there}; "
        "write one of these, or name an image in spec.image.triton",
    )
