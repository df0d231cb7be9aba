"""Reads an AsrDeployment and all that belongs to it from a cluster; the only importer of the Kubernetes client here.

Nothing is written, and of Secrets no more than the names is asked for.
"""

import json
import os
from typing import Any

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient

from asr_operator import names
from asr_operator.cluster import KINDS, RESOURCE, Kind
from asr_operator.diagnose.snapshot import Reference, Snapshot, references, time_of

Object = dict[str, Any]

UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 401, 403, 404

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


class Cluster:
    """A cluster, read as whoever the kubeconfig says.

    Attributes:
        namespace: That of the kubeconfig's context, or `default`.
        url: Of the API server.
        configuration: Of the Kubernetes client.
    """

    def __init__(self, context: str | None = None) -> None:
        """Read KUBECONFIG or ~/.kube/config, or in a pod its ServiceAccount.

        Raises:
            ClusterError: There is neither.
        """
        configuration = kubernetes.client.Configuration()
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
                kubernetes.config.load_incluster_config(client_configuration=configuration)
            else:
                kubernetes.config.load_kube_config(context=context, client_configuration=configuration)
        except (kubernetes.config.ConfigException, OSError) as error:
            raise ClusterError(f"no cluster: {error}; set KUBECONFIG, or write --context NAME") from error
        configuration.retries = False
        self.namespace = _namespace(context)
        self.url = configuration.host
        self.configuration = configuration
        # All kinds are known beforehand; discovery would read hundreds.
        self._client = DynamicClient(kubernetes.client.ApiClient(configuration), discoverer=lambda *_: None)

    def resources(self, namespace: str | None) -> list[Object]:
        """All AsrDeployments of a namespace, or of all.

        Raises:
            ClusterError: They cannot be read, or the cluster does not know them.
        """
        return self._list(RESOURCE, namespace)

    def resource(self, namespace: str, name: str) -> Object:
        """One AsrDeployment.

        Raises:
            ClusterError: It is not there, or cannot be read.
        """
        found = self._get(RESOURCE, namespace, name)
        if found is None:
            there = [item["metadata"]["name"] for item in self.resources(namespace)]
            raise ClusterError(
                f"there is no AsrDeployment {name} in namespace {namespace}"
                + (f", only {', '.join(there)}" if there else ", nor any other; write -n NAMESPACE")
            )
        return found

    def items(self, kind: Kind, namespace: str, selector: str) -> list[Object]:
        """Objects of a namespace with these labels.

        Raises:
            ClusterError: They cannot be read.
        """
        return self._list(kind, namespace, selector)

    def snapshot(self, namespace: str, name: str) -> Snapshot:
        """A resource and what belongs to it.

        Raises:
            ClusterError: It is not there, or cannot be read.
        """
        resource = self.resource(namespace, name)
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
        if any("autoscaling" in pool for pool in resource["spec"]["pools"]):
            found.autoscalers = self._tried(found, KINDS["HorizontalPodAutoscaler"], namespace)
        ours = {item["metadata"]["uid"] for item in (resource, *found.jobs, *found.deployments, *found.pods)}
        events = self._tried(found, EVENTS, namespace, fields="type=Warning")
        found.warnings = sorted(
            (event for event in events if event["involvedObject"].get("uid") in ours), key=time_of, reverse=True
        )
        found.missing = [
            reference for reference in references(resource) if not self._there(found, namespace, reference)
        ]
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
            response = self._client.request(
                "GET",
                path,
                query_params=[item for item in query.items() if item[1]],
                header_params={"Accept": accept},
                serialize=False,
                _request_timeout=TIMEOUT,
            )
            answer: Object = json.loads(response.data)
        except ApiException as error:
            if error.status == NOT_FOUND:
                return None
            raise self._refusal(error, path) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise ClusterError(f"the API server {self.url} does not answer: {reason}") from error
        except ValueError as error:
            raise ClusterError(f"{self.url} does not answer as an API server does") from error
        return answer

    def _refusal(self, error: ApiException, path: str) -> ClusterError:
        try:
            message = str(json.loads(error.body or "")["message"])
        except (ValueError, TypeError, KeyError):
            message = str(error.reason)
        if error.status == FORBIDDEN:
            return ForbiddenError(f"{message}; ask for the role view in this namespace")
        if error.status == UNAUTHORIZED:
            return ClusterError(f"{self.url} does not know you ({message}): log in again")
        return ClusterError(f"the API server answers {error.status} to {path}: {message}")


REFERRED = {kind.name: kind for kind in (SECRETS, CONFIG_MAPS, SERVICE_ACCOUNTS, CLAIMS)}


def _owned(item: Object, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", ()))


def _namespace(context: str | None) -> str:
    try:
        contexts, active = kubernetes.config.list_kube_config_contexts()
    except (kubernetes.config.ConfigException, OSError):
        return "default"
    chosen = next((item for item in contexts if item["name"] == context), active)
    return str((chosen or {}).get("context", {}).get("namespace") or "default")
