"""An AsrDeployment and what belongs to it, as it is in a cluster at one moment."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from asr_operator.api import v1alpha1 as api

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reference:
    """An object that a resource needs and that somebody else makes.

    Attributes:
        kind: Its kind.
        name: Its name.
        path: The field that names it.
    """

    kind: str
    name: str
    path: str


@dataclass(slots=True)
class Snapshot:
    """A resource and what belongs to it.

    Attributes:
        resource: The AsrDeployment.
        jobs: Those that it owns.
        deployments: Those that it owns.
        pods: Of all of them.
        autoscalers: HorizontalPodAutoscalers of the namespace, whoever made them: KEDA's are its own.
        warnings: Events of type Warning about any of these, newest first.
        missing: Objects that it needs and that are not there.
        operators: The operator's Deployments of all namespaces; None if they may not be read.
        products: GPU products of the cluster's nodes, each with their number; None if they may not be read.
        unread: Kinds that may not be read.
    """

    resource: Object
    jobs: list[Object] = field(default_factory=list)
    deployments: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    autoscalers: list[Object] = field(default_factory=list)
    warnings: list[Object] = field(default_factory=list)
    missing: list[Reference] = field(default_factory=list)
    operators: list[Object] | None = None
    products: dict[str, int] | None = None
    unread: list[str] = field(default_factory=list)


def references(resource: Object) -> Iterator[Reference]:
    """What a resource needs of others in its namespace."""
    spec = api.parse(resource).spec
    storage, source = spec.storage, spec.model.source
    named: list[tuple[str, str | None, str]] = [
        ("Secret", _name(storage.secret_ref), "storage.secretRef"),
        ("ConfigMap", _name(storage.ca_bundle), "storage.caBundle"),
        ("ServiceAccount", storage.service_account_name, "storage.serviceAccountName"),
        ("Secret", _name(spec.service.tls_secret_ref), "service.tlsSecretRef"),
    ]
    if source.hugging_face is not None and source.hugging_face.token_secret_ref is not None:
        token = source.hugging_face.token_secret_ref
        named.append(("Secret", token.name, "model.source.huggingFace.tokenSecretRef"))
    if source.persistent_volume_claim is not None:
        claim = source.persistent_volume_claim.claim_name
        named.append(("PersistentVolumeClaim", claim, "model.source.persistentVolumeClaim"))
    named += [("Secret", secret.name, "image.pullSecrets") for secret in spec.image.pull_secrets]
    named += [
        ("PersistentVolumeClaim", pool.model_volume.claim_name, f"pools[{pool.name}].modelVolume")
        for pool in spec.pools
    ]
    for kind, name, path in named:
        if name:
            yield Reference(kind, name, f"spec.{path}")


def _name(reference: api.LocalRef | api.ConfigMapKeyRef | None) -> str | None:
    return None if reference is None else reference.name


def time_of(event: Object) -> str:
    """When an event happened last, as Kubernetes writes times: they sort as text."""
    series: Object = event.get("series") or {}
    told: Iterable[str | None] = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        event["metadata"].get("creationTimestamp"),
    )
    return next(item for item in (*told, "") if item is not None)
