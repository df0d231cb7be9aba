"""The only module that talks to the API server: reads, server-side apply, deletions, events. It blocks: use threads."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient

from asr_operator import names
from asr_operator.api import v1alpha1 as api
from asr_operator.api.base import GROUP
from asr_operator.compare import difference
from asr_operator.errors import StalledError, TransientError
from asr_operator.events import Reason
from asr_operator.store import Key, Store, key_of

Object = dict[str, Any]
LOG = logging.getLogger(__name__)

PAGE = 100
"""Objects of one answer to a listing: parsed, five hundred would take as much memory as all else."""
TIMEOUT = (10, 30)
"""Seconds to connect, and to wait for an answer."""
APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
NOTE_BYTES = 1024
"""Of an event, at most."""
UNTYPED = "failed to create typed patch object"
"""What the API server says, with status 500, of an object with a field of a wrong type."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How the API server addresses a kind.

    Attributes:
        group: Group and version.
        plural: As in paths.
        name: As in objects.
        selected: Whether only objects with our label are read.
        optional: Whether a cluster may not know it.
    """

    group: str
    plural: str
    name: str
    selected: bool = True
    optional: bool = False

    def path(self, namespace: str | None = None, name: str | None = None, sub: str | None = None) -> str:
        """Of the kind, of those in a namespace, or of one."""
        parts = ["/api" if self.group == "v1" else "/apis", self.group]
        parts += ["namespaces", namespace] if namespace else []
        parts += [self.plural, *([name] if name else []), *([sub] if sub else [])]
        return "/".join(parts)


@dataclass(frozen=True, slots=True)
class Listing:
    """What there was at one moment.

    Attributes:
        keys: Of the objects.
        version: Resource version of the moment.
    """

    keys: set[Key]
    version: int


RESOURCE = Kind(api.API_VERSION, api.PLURAL, api.KIND, selected=False)
KINDS = {
    kind.name: kind
    for kind in (
        RESOURCE,
        Kind("apps/v1", "deployments", "Deployment"),
        Kind("batch/v1", "jobs", "Job"),
        Kind("v1", "pods", "Pod"),
        Kind("v1", "services", "Service"),
        Kind("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget"),
        Kind("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
        Kind("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
        Kind("monitoring.coreos.com/v1", "podmonitors", "PodMonitor", optional=True),
        Kind("keda.sh/v1alpha1", "scaledobjects", "ScaledObject", optional=True),
    )
}
"""Jobs come before pods, so that whose Job is known has its pod known as well."""


EVENT = Kind("events.k8s.io/v1", "events", "Event", selected=False)


class RequestObserver(Protocol):
    """Told of every request."""

    def __call__(self, method: str, kind: str, code: int) -> None:
        """A request was answered with this HTTP status; 0 if not at all."""


@dataclass(slots=True)
class Cluster:
    """The API server, and what is known of it.

    Attributes:
        client: Of the API server.
        store: What watches have seen; answers to writes go there at once.
        namespaces: Those that are read; all if empty.
        observer: Told of every request.
        served: Kinds that the cluster knows.
    """

    client: DynamicClient
    store: Store
    namespaces: tuple[str, ...] = ()
    observer: RequestObserver = lambda method, kind, code: None  # noqa: ARG005
    served: set[str] = field(default_factory=lambda: {name for name, kind in KINDS.items() if not kind.optional})
    _readable: str | None = None
    """A namespace that the last sync could read; None for all."""
    _settled: dict[tuple[str, Key], tuple[str, str]] = field(default_factory=dict)
    """By kind and key: intent and resource version of the last apply, which by then was what is there."""

    @classmethod
    def connect(cls, store: Store, namespaces: tuple[str, ...] = (), connections: int = 8) -> "Cluster":
        """As the kubeconfig says, or in a pod as its service account.

        Raises:
            ConfigException: There is neither.
        """
        configuration = kubernetes.client.Configuration()
        kubernetes.config.load_config(client_configuration=configuration)
        configuration.connection_pool_maxsize = connections
        configuration.retries = False  # the queue tries again, and tells so
        client = kubernetes.client.ApiClient(configuration)
        client.user_agent = names.OPERATOR  # in audit logs
        # All kinds are known beforehand; discovery would read hundreds.
        return cls(DynamicClient(client, discoverer=lambda *_: None), store, namespaces)

    def sync(self) -> None:
        """Read everything anew: at the start, and now and then in case a watch has missed something.

        A namespace that may not be read does not keep the others from it: its Role goes with it when it is deleted.
        What is known of it stays known, in case the Role is only being replaced.

        Raises:
            StalledError: No namespace may be read.
            TransientError: The API server cannot be asked now.
        """
        readable: list[str | None] = list(self.namespaces) or [None]
        for kind in KINDS.values():
            listings = []
            for namespace in list(readable):
                try:
                    listings.append(self._list(kind, namespace))
                except StalledError as error:
                    readable.remove(namespace)
                    if not readable:
                        raise
                    LOG.warning("namespace %s is left out: %s", namespace, error)
            left_out = set(self.namespaces).difference(readable)
            whole = [listing for listing in listings if listing is not None]
            if len(whole) < len(listings):
                self.served.discard(kind.name)
            else:
                self.served.add(kind.name)
                keys = {key for listing in whole for key in listing.keys}
                keys |= {key for key in self.store.keys(kind.name) if key[0] in left_out}
                self.store.retain(kind.name, keys, min(listing.version for listing in whole))
        self._readable = readable[0]

    def look_for_kinds(self) -> bool:
        """Whether the cluster knows an optional kind by now that it did not know at the last sync.

        Raises:
            StalledError: They may not be read.
            TransientError: The API server cannot be asked now.
        """
        missing = [kind for kind in KINDS.values() if kind.name not in self.served]
        return any(self._page(kind, self._readable, limit=1) for kind in missing)

    def _list(self, kind: Kind, namespace: str | None) -> Listing | None:
        """Put all objects into the store, one page after another: together they would take the most memory of all."""
        keys: set[Key] = set()
        token = ""
        while True:
            page = self._page(kind, namespace, limit=PAGE, token=token)
            if page is None:
                return None
            for item in page.get("items", ()):
                # Items of a list do not say what they are.
                self.store.put(kind.name, {"apiVersion": kind.group, "kind": kind.name} | item)
                keys.add(key_of(item))
            token = page["metadata"].get("continue", "")
            if not token:
                return Listing(keys, int(page["metadata"]["resourceVersion"]))

    def _page(self, kind: Kind, namespace: str | None, *, limit: int, token: str = "") -> Object | None:
        """A part of a listing; None if the cluster may be without this kind, and is."""
        query = {"limit": str(limit)} | ({"continue": token} if token else {})
        query |= {"labelSelector": names.MANAGED} if kind.selected else {}
        try:
            return self._request("GET", kind, kind.path(namespace), query=query)
        except ApiException as error:
            if error.status == 404 and kind.optional:  # noqa: PLR2004
                return None
            raise _told(error, f"list {kind.plural}") from error

    def apply(self, wanted: Object, *, uid: str) -> str | None:
        """Make an object what is wanted of it; nothing is written when it is so already.

        Args:
            wanted: The object.
            uid: Of the resource that it is a child of.

        Returns:
            The path of the first field that somebody else had changed and that was set back; None if there was none.

        Raises:
            StalledError: It belongs to somebody else, or the API server refuses it.
            TransientError: The API server cannot be asked now, or a Deployment was not seen before.
        """
        kind, key = KINDS[wanted["kind"]], key_of(wanted)
        intent = names.digest(wanted, 32)
        live = self.store.get(kind.name, key)
        unseen = live is None
        path, drifted = None, False
        if unseen:
            live = self._unseen(kind, key)
        if live is not None:
            self._check_owner(live, uid)
            # What was decided without its number of replicas must not set it.
            if unseen and kind.name == "Deployment" and self.store.put(kind.name, live):
                raise TransientError(f"Deployment {key[1]} was not seen before: its label was lost")
            version = live["metadata"].get("resourceVersion", "")
            if self._settled.get((kind.name, key)) == (intent, version):
                return None
            path = difference(wanted, live)
            drifted = path is not None and _intent_of(live) == intent
            if path is None and _intent_of(live) == intent:
                return None
            if kind.name == "Deployment" and "replicas" not in wanted["spec"]:
                self._hand_over_replicas(kind, key)
        metadata = wanted["metadata"]
        annotations = metadata.get("annotations", {}) | {names.INTENT_ANNOTATION: intent}
        body = wanted | {"metadata": metadata | {"annotations": annotations}}
        applied = self._write(
            "PATCH",
            kind,
            kind.path(key[0], key[1]),
            body=body,
            query={"fieldManager": names.FIELD_MANAGER, "force": "true"},
            content=APPLY,
            what=f"{kind.name} {key[1]}",
        )
        self.store.put(kind.name, applied)
        self._settled[kind.name, key] = (intent, applied["metadata"].get("resourceVersion", ""))
        if live is None:
            _log_write("create", kind, key, "it does not exist")
        elif drifted:
            _log_write("repair", kind, key, "somebody else has changed it", path=path)
        else:
            _log_write("update", kind, key, "the resource or the operator asks for something else", path=path)
        return path if drifted else None

    def try_out(self, wanted: Object, *, uid: str) -> None:
        """Ask the API server whether it would take an object, without writing it. A Job that is there is not asked for.

        Args:
            wanted: The object.
            uid: Of the resource that it is a child of.

        Raises:
            StalledError: It belongs to somebody else, or the API server refuses it.
            TransientError: The API server cannot be asked now.
        """
        kind, key = KINDS[wanted["kind"]], key_of(wanted)
        live = self.store.get(kind.name, key) or self._unseen(kind, key)
        if live is not None and kind.name == "Job":
            return  # shared by resources, and never changed
        if live is not None:
            self._check_owner(live, uid)
        self._write(
            "PATCH",
            kind,
            kind.path(*key),
            body=wanted,
            query={"fieldManager": names.FIELD_MANAGER, "force": "true", "dryRun": "All"},
            content=APPLY,
            what=f"{kind.name} {key[1]}",
        )

    def _hand_over_replicas(self, kind: Kind, key: Key) -> None:
        """Let another field manager have a Deployment's replicas before we leave them to an autoscaler.

        A field that its only owner applies no longer goes back to its default: one replica.
        """
        live = self._unseen(kind, key)
        if live is None or not _applies_replicas(live["metadata"].get("managedFields", ())):
            return
        body = {
            "apiVersion": kind.group,
            "kind": kind.name,
            "metadata": {"name": key[1], "namespace": key[0], "uid": live["metadata"]["uid"]},
            "spec": {"replicas": live["spec"]["replicas"]},
        }
        # Not by force: if somebody has scaled it since it was read, this is refused, and the next pass knows better.
        self._write(
            "PATCH",
            kind,
            kind.path(*key),
            body=body,
            query={"fieldManager": names.HANDOVER_MANAGER},
            content=APPLY,
            what=f"replicas of {kind.name} {key[1]}",
        )
        _log_write("update", kind, key, "an autoscaler takes the replicas over", path=".spec.replicas")

    def scaler_of(self, deployment: Key, *, uid: str) -> str | None:
        """What sets the replicas of a Deployment that has no autoscaler of ours, in words; None if nothing does.

        Args:
            deployment: Namespace and name.
            uid: Of the resource that it is a child of.

        Raises:
            TransientError: The API server cannot be asked now.
        """
        kind = KINDS["HorizontalPodAutoscaler"]
        not_counted: tuple[str, ...] = names.AUTOSCALERS_OF_HPAS
        try:
            found = self._request("GET", kind, kind.path(deployment[0])).get("items", ())
        except ApiException as error:
            if error.status != 403:  # noqa: PLR2004
                raise TransientError(f"cannot list {kind.plural}: {error.status}: {error.reason}") from error
            found, not_counted = (), ()  # then the writers of the replicas must do
        for item in found:
            target = item["spec"]["scaleTargetRef"]
            ours = any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", ()))
            if (target["kind"], target["name"]) == ("Deployment", deployment[1]) and not ours:
                return f"HorizontalPodAutoscaler {item['metadata']['name']}"
        live = self._unseen(KINDS["Deployment"], deployment)
        managed = live["metadata"].get("managedFields", ()) if live is not None else ()
        return next((f"field manager {name}" for name in _scaled_by(managed) if name not in not_counted), None)

    def why_no_pod(self, namespace: str, job: str) -> str | None:
        """Why no pod of a Job, named by its uid, can be created: what its newest event says; None if there is none.

        Raises:
            TransientError: The API server cannot be asked now.
        """
        query = {"fieldSelector": f"regarding.uid={job},reason=FailedCreate"}
        try:
            found = self._request("GET", EVENT, EVENT.path(namespace), query=query).get("items", ())
        except ApiException as error:
            if error.status == 403:  # noqa: PLR2004
                return None  # an older Role
            raise TransientError(f"cannot list {EVENT.plural}: {error.status}: {error.reason}") from error
        newest = max(found, key=_time_of_event, default=None)
        return None if newest is None else str(newest.get("note", ""))

    def own(self, job: Object, owner: Object, *, uid: str) -> Object:
        """Create a Job if it is not there, and be among its owners. A Job is never changed otherwise.

        Raises:
            StalledError: The name belongs to something else, or the API server refuses the Job.
            TransientError: The API server cannot be asked now.
        """
        kind, key = KINDS["Job"], key_of(job)
        live = self.store.get("Job", key) or self._unseen(kind, key)
        if live is not None:
            if live["metadata"].get("labels", {}).get(names.MANAGED_BY_LABEL) != names.OPERATOR:
                raise _name_taken(live)
            if any(item["uid"] == uid for item in live["metadata"].get("ownerReferences", ())):
                return live
        metadata = {"name": key[1], "namespace": key[0], "ownerReferences": [owner]}
        body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata}
        if live is None:
            body = job | {"metadata": job["metadata"] | {"ownerReferences": [owner]}}
        elif live["metadata"].get("deletionTimestamp"):
            raise TransientError(f"Job {key[1]} is being deleted")
        else:
            # Of this very Job: if it is deleted meanwhile, an owner alone makes no Job.
            metadata["uid"] = live["metadata"]["uid"]
        applied = self._write(
            "PATCH",
            kind,
            kind.path(*key),
            body=body,
            query={"fieldManager": names.owner_manager(uid), "force": "true"},
            content=APPLY,
            what=f"Job {key[1]}",
        )
        self.store.put("Job", applied)
        if live is None:
            _log_write("create", kind, key, "an artifact has to be built")
        else:
            _log_write("update", kind, key, "another resource needs the same build", path=".metadata.ownerReferences")
        return applied

    def disown(self, job: Object, *, uid: str) -> None:
        """Leave a Job to its other owners; delete it when there are none.

        Raises:
            TransientError: The API server cannot be asked now.
        """
        kind, key = KINDS["Job"], key_of(job)
        if all(item["uid"] == uid for item in job["metadata"].get("ownerReferences", ())):
            self.delete(job, why="no resource needs its build any more")
            return
        # Not by applying less: that would take the whole Job's fields away from whoever was the first to apply it.
        index = next(i for i, item in enumerate(job["metadata"]["ownerReferences"]) if item["uid"] == uid)
        path = f"/metadata/ownerReferences/{index}"
        body = [
            {"op": "test", "path": "/metadata/uid", "value": job["metadata"]["uid"]},
            {"op": "test", "path": f"{path}/uid", "value": uid},  # the list may be another by now
            {"op": "remove", "path": path},
        ]
        try:
            applied = self._request(
                "PATCH",
                kind,
                kind.path(*key),
                body=body,
                query={"fieldManager": names.owner_manager(uid)},
                content=JSON_PATCH,
            )
        except ApiException as error:
            # Refused if a test does not hold: the next pass knows better.
            raise TransientError(f"cannot leave Job {key[1]}: {error.status}: {error.reason}") from error
        self.store.put("Job", applied)
        _log_write("update", kind, key, "one of its resources needs it no more", path=".metadata.ownerReferences")

    def delete(self, live: Object, *, why: str) -> None:
        """Delete an object with all that it owns, if it is still the same; it may be gone already.

        Args:
            live: The object.
            why: The cause, for the log.

        Raises:
            TransientError: The API server cannot be asked now.
        """
        kind, key = KINDS[live["kind"]], key_of(live)
        options = {"propagationPolicy": "Background", "preconditions": {"uid": live["metadata"]["uid"]}}
        try:
            self._request("DELETE", kind, kind.path(*key), body=options)
        except ApiException as error:
            if error.status not in {404, 409}:
                raise _told(error, f"delete {kind.name} {key[1]}") from error
        else:
            _log_write("delete", kind, key, why)
        self.store.drop(kind.name, live)
        self._settled.pop((kind.name, key), None)

    def write_status(self, body: Object, status: Mapping[str, Any]) -> None:
        """Write the status of a resource.

        Raises:
            StalledError: The API server refuses it.
            TransientError: The API server cannot be asked now, or the resource is gone.
        """
        key = key_of(body)
        applied = self._write(
            "PATCH",
            RESOURCE,
            RESOURCE.path(*key, "status"),
            body={
                "apiVersion": api.API_VERSION,
                "kind": api.KIND,
                # Of this very resource: one that was deleted must not come back, nor its successor get its status.
                "metadata": {"name": key[1], "namespace": key[0], "uid": body["metadata"]["uid"]},
                "status": status,
            },
            query={"fieldManager": names.FIELD_MANAGER, "force": "true"},
            content=APPLY,
            what=f"status of {key[1]}",
        )
        self.store.put(api.KIND, applied)
        _log_write("update", RESOURCE, key, "its state has changed", path=".status")

    def emit(self, body: Object, *, reason: str, message: str, action: str, warning: bool) -> None:
        """Record an event about a resource.

        Raises:
            StalledError: The API server refuses it.
            TransientError: The API server cannot be asked now.
        """
        metadata = body["metadata"]
        now = datetime.now(UTC)
        kind = EVENT
        event = {
            "apiVersion": kind.group,
            "kind": kind.name,
            "metadata": {"generateName": f"{metadata['name']}-", "namespace": metadata["namespace"]},
            "eventTime": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "reportingController": f"{GROUP}/{names.OPERATOR}",
            "reportingInstance": names.OPERATOR,
            "action": action,
            "reason": reason,
            "note": message.encode()[:NOTE_BYTES].decode(errors="ignore"),
            "type": "Warning" if warning else "Normal",
            "regarding": {
                "apiVersion": api.API_VERSION,
                "kind": api.KIND,
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
        }
        self._write("POST", kind, kind.path(metadata["namespace"]), body=event, what="an event")

    def _unseen(self, kind: Kind, key: Key) -> Object | None:
        """What is there under a name that no watch has shown: nothing, ours of just now, or somebody else's."""
        try:
            return self._request("GET", kind, kind.path(*key))
        except ApiException as error:
            if error.status == 404:  # noqa: PLR2004
                return None
            raise _told(error, f"read {kind.name} {key[1]}") from error

    def _check_owner(self, live: Object, uid: str) -> None:
        metadata = live["metadata"]
        owners = metadata.get("ownerReferences", ())
        if any(owner["uid"] == uid for owner in owners):
            return
        ours = metadata.get("labels", {}).get(names.MANAGED_BY_LABEL) == names.OPERATOR
        if ours and (not owners or metadata.get("deletionTimestamp")):
            return  # somebody has taken the reference away, or a namesake that was deleted leaves it behind
        if ours and not any(self._exists(owner, metadata["namespace"]) for owner in owners):
            raise TransientError(f"{live.get('kind')} {metadata['name']} of a former resource is not deleted yet")
        raise _name_taken(live)

    def _exists(self, owner: Object, namespace: str) -> bool:
        there = self.store.get(owner["kind"], (namespace, owner["name"]))
        return there is not None and there["metadata"]["uid"] == owner["uid"]

    def _write(self, method: str, kind: Kind, path: str, *, what: str, **request: Any) -> Object:  # noqa: ANN401
        try:
            return self._request(method, kind, path, **request)
        except ApiException as error:
            raise _told(error, f"write {what}") from error

    def _request(
        self,
        method: str,
        kind: Kind,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,  # noqa: ANN401 (any JSON)
        content: str | None = None,
    ) -> Object:
        code = 0
        try:
            response = self.client.request(
                method,
                path,
                body=body,
                query_params=list((query or {}).items()),
                header_params={},
                content_type=content,
                serialize=False,
                _request_timeout=TIMEOUT,
            )
            code = response.status
        except ApiException as error:
            code = error.status or 0
            raise
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"the API server does not answer: {error}") from error
        finally:
            self.observer(method, kind.plural, code)
        found: Object = json.loads(response.data)
        return found


def _log_write(action: str, kind: Kind, key: Key, why: str, *, path: str | None = None) -> None:
    """Log one write: the object, what was done to it, why, and the first field that differed."""
    fields = {
        "written": {"kind": kind.name, "namespace": key[0], "name": key[1]},
        "action": action,
        "why": why,
        "path": path,
    }
    where = f" at {path}" if path else ""
    LOG.info("%s %s %s/%s: %s%s", action, kind.name, *key, why, where, extra=fields)


def _time_of_event(event: Object) -> str:
    """As controllers of both generations write it."""
    return str(event.get("deprecatedLastTimestamp") or event.get("eventTime") or "")


def _scaled_by(managed: Iterable[Object]) -> list[str]:
    """Field managers that have set the replicas as autoscalers do; people are none."""
    return [
        item["manager"]
        for item in managed
        if item.get("subresource") == "scale"
        and "f:replicas" in item.get("fieldsV1", {}).get("f:spec", {})
        and not item["manager"].startswith(names.HAND)
    ]


def _applies_replicas(managed: Iterable[Object]) -> bool:
    """Whether the replicas are a field that we have applied."""
    return any(
        item.get("manager") == names.FIELD_MANAGER
        and item.get("operation") == "Apply"
        and "f:replicas" in item.get("fieldsV1", {}).get("f:spec", {})
        for item in managed
    )


def _intent_of(live: Object) -> str | None:
    found: str | None = live["metadata"].get("annotations", {}).get(names.INTENT_ANNOTATION)
    return found


def _name_taken(live: Object) -> StalledError:
    metadata = live["metadata"]
    return StalledError(
        Reason.NAME_TAKEN,
        f"{live.get('kind')} {metadata['name']} has another owner; rename the resource or its pool, or remove "
        "that object",
    )


def _told(error: ApiException, what: str) -> TransientError | StalledError:
    """An answer of the API server as one of our errors: refusals of what was sent are for the user to mend."""
    try:
        message = str(json.loads(error.body or "")["message"])
    except (ValueError, TypeError, KeyError):
        message = error.reason or "no reason given"
    # A field of a wrong type is not the server's fault, whatever it calls it.
    if error.status in {400, 403, 422} or UNTYPED in message:
        return StalledError(Reason.REFUSED, f"cannot {what}: {message}")
    return TransientError(f"cannot {what}: {error.status}: {message}")
