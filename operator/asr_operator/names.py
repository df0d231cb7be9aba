"""Every name, label and annotation that the operator writes: once."""

import hashlib
import json
import re
from typing import Any

from asr_operator.api.base import GROUP

OPERATOR = "asr-operator"
FIELD_MANAGER = OPERATOR
HANDOVER_MANAGER = f"{OPERATOR}-handover"
"""Owns the replicas of a Deployment from when we leave them to an autoscaler until that takes them."""

NAME_LABEL = "app.kubernetes.io/name"
INSTANCE_LABEL = "app.kubernetes.io/instance"
COMPONENT_LABEL = "app.kubernetes.io/component"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
POOL_LABEL = f"{GROUP}/pool"
BUILD_LABEL = f"{GROUP}/build"
"""What a Job builds: the same for all Jobs that build it, whatever their pods are like."""

INTENT_ANNOTATION = f"{GROUP}/intent"
"""Of every child: digest of what the operator wants it to be."""
ORIGIN_ANNOTATION = f"{GROUP}/origin"
"""The generation that a Deployment's pods are rendered from."""
REVISION_ANNOTATION = f"{GROUP}/revision"
"""Of pods: digest of their template without the image that fetches."""
BUILD_ANNOTATION = f"{GROUP}/build"
"""Of a Deployment and its pods, like the next ones: the build whose artifact they serve."""
ARTIFACT_ANNOTATION = f"{GROUP}/artifact"
DIGEST_ANNOTATION = f"{GROUP}/manifest-sha256"
ENGINE_ANNOTATION = f"{GROUP}/engine"
PRODUCT_ANNOTATION = f"{GROUP}/gpu-product"
CAPABILITY_ANNOTATION = f"{GROUP}/compute-capability"
TENSORRT_ANNOTATION = f"{GROUP}/tensorrt"
YIELDED_ANNOTATION = f"{GROUP}/yielded"
"""Of a Deployment: replicas that were given up so that a plan can be built on their GPU."""

REPLICAS_ANNOTATION = f"{GROUP}/replicas"
"""Of a Deployment: that an autoscaler sets its replicas, or how many one had set when it was taken away."""
AUTOSCALED = "autoscaled"
AUTOSCALERS_OF_HPAS = ("kube-controller-manager", "keda")
"""Field managers that scale only on behalf of a HorizontalPodAutoscaler."""
HAND = "kubectl"
"""What the field managers of people begin with: a number of replicas that is set by hand is set back."""

MANAGED = f"{MANAGED_BY_LABEL}={OPERATOR}"
"""Selector of all children."""

TRITON_CONTAINER = "triton"
FETCH_CONTAINER = "fetch"
CHECK_CONTAINER = "check-tensorrt"
BUILD_CONTAINER = "build"

PRODUCT_NODE_LABEL = "nvidia.com/gpu.product"
HOSTNAME_NODE_LABEL = "kubernetes.io/hostname"

AUDIO_RATE_METRIC = "asr_audio_seconds_per_second"
PENDING_METRIC = "asr_pending_requests"
"""What a metrics adapter is to call the two signals for a HorizontalPodAutoscaler."""

DIGEST_LENGTH = 10


def digest(content: Any, length: int = DIGEST_LENGTH) -> str:  # noqa: ANN401 (any JSON)
    """A short name for JSON content: equal content, equal name."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def deployment(resource: str, pool: str) -> str:
    """Name of a pool's Deployment, and of its PodDisruptionBudget and autoscaler."""
    return f"{resource}-{pool}"


def headless(resource: str) -> str:
    """Name of the Service that resolves to all pods."""
    return f"{resource}-headless"


def job(kind: str, model: str, name: str) -> str:
    """Name of a build's Job: at most 63 characters, since a label holds it.

    A model's name may be longer, and have capitals, `_` and `.`: it is there to be read. What tells two Jobs apart is
    the digest behind it, of all that they do.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", model.lower())[:36].strip("-")
    return f"asr-{kind}-{readable}-{name}"


def owner_manager(uid: str) -> str:
    """Field manager of one owner of a shared Job: with one manager for all, each owner would drop the others."""
    return f"{FIELD_MANAGER}-{uid}"


def labels(resource: str, component: str) -> dict[str, str]:
    """Labels of every child of a resource."""
    return {
        NAME_LABEL: "asr",
        INSTANCE_LABEL: resource,
        COMPONENT_LABEL: component,
        MANAGED_BY_LABEL: OPERATOR,
    }


def server_selector(resource: str) -> dict[str, str]:
    """Labels that all serving pods of a resource have, and no other pods."""
    return {NAME_LABEL: "asr", INSTANCE_LABEL: resource, COMPONENT_LABEL: "server"}


def pool_selector(resource: str, pool: str) -> dict[str, str]:
    """Labels that the pods of one pool have. Deployments cannot change them, so they never change here."""
    return server_selector(resource) | {POOL_LABEL: pool}
