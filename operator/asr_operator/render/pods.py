"""What the pods of builds and of servers have in common."""

from collections.abc import Iterable
from typing import Any

from asr_operator import names
from asr_operator.api import v1alpha1 as api
from asr_operator.render.context import Context, Object

USER = 1000
"""NVIDIA's Triton image has a user of this number."""
TERMINATION_LOG = "/dev/termination-log"
CA_FOLDER = "/etc/asr-operator/ca"

CONTAINER_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
POD_SECURITY: Object = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}


def identity(context: Context) -> Object:
    """Who a pod is, and what its images are pulled with. No pod talks to the API server, so none gets a token."""
    account = context.spec.storage.service_account_name
    secrets = [{"name": item.name} for item in context.spec.image.pull_secrets]
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        **({"serviceAccountName": account} if account else {}),
        **({"imagePullSecrets": secrets} if secrets else {}),
    }


def container(context: Context, name: str, image: str, **more: Any) -> Object:  # noqa: ANN401 (any JSON)
    """A container under the restricted Pod Security standard."""
    policy = context.spec.image.pull_policy
    return {
        "name": name,
        "image": image,
        **({"imagePullPolicy": policy.value} if policy else {}),
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **{key: value for key, value in more.items() if value},
    }


def environment(variables: dict[str, str], more: Iterable[api.EnvVar] = ()) -> list[Object]:
    """A list of variables; those that the user adds go before ours of the same name."""
    given = {item.name: item.as_json() for item in more}
    ours = {name: {"name": name, "value": value} for name, value in variables.items()}
    return list((ours | given).values())


def storage_variables(context: Context) -> dict[str, str]:
    """Where object storage is, as its clients read it from the environment."""
    storage = context.spec.storage
    found = {"AWS_ENDPOINT_URL": storage.endpoint, "AWS_REGION": storage.region}
    if storage.ca_bundle is not None:
        found["AWS_CA_BUNDLE"] = f"{CA_FOLDER}/{storage.ca_bundle.key}"
    return {name: value for name, value in found.items() if value is not None}


def storage_credentials(context: Context) -> list[Object]:
    """`envFrom` of containers that read or write storage."""
    secret = context.spec.storage.secret_ref
    return [{"secretRef": {"name": secret.name}}] if secret else []


def storage_volumes(context: Context) -> tuple[list[Object], list[Object]]:
    """Volumes, and their mounts in containers that read or write storage."""
    bundle = context.spec.storage.ca_bundle
    if bundle is None:
        return [], []
    return (
        [{"name": "ca", "configMap": {"name": bundle.name}}],
        [{"name": "ca", "mountPath": CA_FOLDER, "readOnly": True}],
    )


def resources(wanted: api.Resources, extra: dict[str, int] | None = None) -> Object:
    """Requests and limits; an extended resource is a limit."""
    limits = wanted.limits | (extra or {})
    return {
        **({"requests": dict(wanted.requests)} if wanted.requests else {}),
        **({"limits": dict(limits)} if limits else {}),
    }


def gpu_resource(pool: api.Pool, count: int | None = None) -> dict[str, int]:
    """The extended resource of a pool's pods; empty without a GPU."""
    return {pool.gpu.resource: count or pool.gpu.count} if pool.gpu else {}


def placement(pool: api.Pool) -> Object:
    """Where the pods of a pool may run, and so the build of its plan."""
    selector = dict(pool.node_selector)
    tolerations = [item.as_json() for item in pool.tolerations]
    if pool.gpu is not None:
        if pool.gpu.node_selection is api.NodeSelection.BY_PRODUCT_LABEL:
            selector = {names.PRODUCT_NODE_LABEL: pool.gpu.product} | selector
        # The usual taint of GPU nodes; whoever asks for a GPU means to run there.
        usual = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        tolerations = [*tolerations, *([] if usual in tolerations else [usual])]
    found: Object = {
        "nodeSelector": selector,
        "tolerations": tolerations,
        "affinity": pool.affinity,
        "runtimeClassName": pool.runtime_class_name,
        "priorityClassName": pool.priority_class_name,
    }
    return {key: value for key, value in found.items() if value}
