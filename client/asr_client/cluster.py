"""Reads an AsrDeployment and all that belongs to it from a cluster; the only importer of the Kubernetes client here.

Nothing is written, and of Secrets no more than the names is asked for.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException

from asr_operator import names
from asr_operator.api import v1alpha1 as api
from asr_operator.cluster import KINDS, RESOURCE, Kind

Object = dict[str, Any]

TIMEOUT = (5, 30)
"""Seconds to connect, and to wait for an answer."""
NAMES_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
EVENTS = Kind("v1", "events", "Event")
NODES = Kind("v1", "nodes", "Node")
SECRETS = Kind("v1", "secrets", "Secret")
CONFIG_MAPS = Kind("v1", "configmaps", "ConfigMap")
SERVICE_ACCOUNTS = Kind("v1", "serviceaccounts", "ServiceAccount")
CLAIMS = Kind("v1", "persistentvolumeclaims", "PersistentVolumeClaim")
OPERATORS = f"{names.NAME_LABEL}={names.OPERATOR}"
"""Selector of the operator's own Deployments, as the chart makes them."""


class ClusterError(Exception):
    """The cluster cannot be asked; the message says what to do."""


class ForbiddenError(ClusterError):
    """Whoever asks may not read this."""


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
    warnings: list[Object] = field(default_factory=list)
    missing: list[Reference] = field(default_factory=list)
    operators: list[Object] | None = None
    products: dict[str, int] | None = None
    unread: list[str] = field(default_factory=list)


class Cluster:
    """A cluster, read as whoever the kubeconfig says.

    Attributes:
        namespace: That of the kubeconfig's context, or `default`.
        url: Of the API server.
    """

    def __init__(self, context: str | None = None) -> None:
        """Read KUBECONFIG or ~/.kube/config, or in a pod its ServiceAccount.

        Raises:
            ClusterError: There is neither.
        """
        configuration = kubernetes.client.Configuration()
        try:
            kubernetes.config.load_config(context=context, client_configuration=configuration)
        except (kubernetes.config.ConfigException, OSError) as error:
            raise ClusterError(f"no cluster: {error}; set KUBECONFIG, or write --context") from error
        configuration.retries = False
        self.namespace = _namespace(context)
        self.url = configuration.host
        self._client = kubernetes.client.ApiClient(configuration)

    def resources(self, namespace: str | None) -> list[Object]:
        """All AsrDeployments of a namespace, or of all.

        Raises:
            ClusterError: They cannot be read, or the cluster does not know them.
        """
        return self._list(RESOURCE, namespace)

    def snapshot(self, namespace: str, name: str) -> Snapshot:
        """A resource and what belongs to it.

        Raises:
            ClusterError: It is not there, or cannot be read.
        """
        resource = self._get(RESOURCE, namespace, name)
        if resource is None:
            there = [item["metadata"]["name"] for item in self.resources(namespace)]
            raise ClusterError(
                f"there is no AsrDeployment {name} in namespace {namespace}"
                + (f", only {', '.join(there)}" if there else ", nor any other; write -n NAMESPACE")
            )
        found = Snapshot(resource)
        uid = resource["metadata"]["uid"]
        found.jobs = [job for job in self._tried(found, KINDS["Job"], namespace, names.MANAGED) if _owned(job, uid)]
        found.deployments = [
            item for item in self._tried(found, KINDS["Deployment"], namespace, names.MANAGED) if _owned(item, uid)
        ]
        jobs = {job["metadata"]["name"] for job in found.jobs}
        found.pods = [
            pod
            for pod in self._tried(found, KINDS["Pod"], namespace, names.MANAGED)
            if pod["metadata"]["labels"].get(names.INSTANCE_LABEL) == name
            or pod["metadata"]["labels"].get("batch.kubernetes.io/job-name") in jobs
        ]
        ours = {item["metadata"]["uid"] for item in (resource, *found.jobs, *found.deployments, *found.pods)}
        events = self._tried(found, EVENTS, namespace, fields="type=Warning")
        found.warnings = sorted(
            (event for event in events if event["involvedObject"].get("uid") in ours), key=time_of, reverse=True
        )
        found.missing = [reference for reference in references(resource) if not self._there(found, namespace, reference)]
        found.operators = self._maybe(KINDS["Deployment"], OPERATORS)
        nodes = self._maybe(NODES, names.PRODUCT_NODE_LABEL)
        if nodes is not None:
            products = [node["metadata"]["labels"][names.PRODUCT_NODE_LABEL] for node in nodes]
            found.products = {product: products.count(product) for product in sorted(set(products))}
        return found

    def _tried(
        self, found: Snapshot, kind: Kind, namespace: str, selector: str = "", *, fields: str = ""
    ) -> list[Object]:
        try:
            return self._list(kind, namespace, selector, fields)
        except ForbiddenError:
            found.unread.append(kind.plural)
            return []

    def _maybe(self, kind: Kind, selector: str) -> list[Object] | None:
        """Of the whole cluster, which many users may not read."""
        try:
            return self._list(kind, None, selector)
        except ForbiddenError:
            return None

    def _there(self, found: Snapshot, namespace: str, reference: Reference) -> bool:
        try:
            return self._get(REFERRED[reference.kind], namespace, reference.name, accept=NAMES_ONLY) is not None
        except ForbiddenError:
            plural = REFERRED[reference.kind].plural
            found.unread += [plural] if plural not in found.unread else []
            return True

    def _list(self, kind: Kind, namespace: str | None, selector: str = "", fields: str = "") -> list[Object]:
        items: list[Object] = []
        query = {"limit": "500", "labelSelector": selector, "fieldSelector": fields}
        while True:
            page = self._ask(kind.path(namespace), query)
            if page is None:
                raise ClusterError(
                    f"the cluster does not know {kind.name}: install the operator's chart, or its CRD"
                    if kind is RESOURCE
                    else f"the cluster does not know {kind.name}"
                )
            items += page["items"]
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return items

    def _get(self, kind: Kind, namespace: str, name: str, *, accept: str = "application/json") -> Object | None:
        return self._ask(kind.path(namespace, name), {}, accept)

    def _ask(self, path: str, query: dict[str, str], accept: str = "application/json") -> Object | None:
        """An answer; None if there is no such thing."""
        try:
            response = self._client.call_api(
                path,
                "GET",
                query_params=[item for item in query.items() if item[1]],
                header_params={"Accept": accept},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=TIMEOUT,
            )
            answer: Object = json.loads(response.data)
        except ApiException as error:
            return self._refused(error, path)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise ClusterError(f"the API server {self.url} does not answer: {reason}") from error
        except ValueError as error:
            raise ClusterError(f"{self.url} does not answer as an API server does") from error
        return answer

    def _refused(self, error: ApiException, path: str) -> None:
        try:
            message = str(json.loads(error.body or "")["message"])
        except (ValueError, TypeError, KeyError):
            message = str(error.reason)
        if error.status == 404:  # noqa: PLR2004
            return
        if error.status == 403:  # noqa: PLR2004
            raise ForbiddenError(f"{message}; ask for the role view in this namespace") from error
        if error.status == 401:  # noqa: PLR2004
            raise ClusterError(f"{self.url} does not know you ({message}): log in again") from error
        raise ClusterError(f"the API server answers {error.status} to {path}: {message}") from error


REFERRED = {kind.name: kind for kind in (SECRETS, CONFIG_MAPS, SERVICE_ACCOUNTS, CLAIMS)}


def references(resource: Object) -> Iterator[Reference]:
    """What a resource needs of others in its namespace."""
    spec = api.parse(resource).spec
    storage, source = spec.storage, spec.model.source
    named: list[tuple[str, str | None, str]] = [
        ("Secret", storage.secret_ref and storage.secret_ref.name, "storage.secretRef"),
        ("ConfigMap", storage.ca_bundle and storage.ca_bundle.name, "storage.caBundle"),
        ("ServiceAccount", storage.service_account_name, "storage.serviceAccountName"),
        ("Secret", spec.service.tls_secret_ref and spec.service.tls_secret_ref.name, "service.tlsSecretRef"),
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


def _owned(item: Object, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", ()))


def _namespace(context: str | None) -> str:
    try:
        contexts, active = kubernetes.config.list_kube_config_contexts()
    except (kubernetes.config.ConfigException, OSError):
        return "default"
    chosen = next((item for item in contexts if item["name"] == context), active)
    return str((chosen or {}).get("context", {}).get("namespace") or "default")
