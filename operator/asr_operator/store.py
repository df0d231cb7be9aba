"""What watches and own requests have seen: the newest version of each object. No Kubernetes in it."""

import sys
import threading
from collections.abc import Iterable
from typing import Any

from asr_operator import names
from asr_operator.api import v1alpha1 as api

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name of a resource."""


class Store:
    """Objects by kind, namespace and name; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[str, dict[Key, Object]] = {}
        self._children: dict[str, set[tuple[str, Key]]] = {}
        """By uid of the owner."""

    def put(self, kind: str, body: Object) -> bool:
        """Keep an object, unless this version of it or a newer one is here; returns whether it is news."""
        with self._lock:
            key = key_of(body)
            kept = self._objects.setdefault(kind, {})
            former = kept.get(key)
            if former is not None and _uid(former) == _uid(body) and _version(former) >= _version(body):
                return False
            if former is not None:
                self._forget_owners(kind, key, former)
            kept[key] = trimmed(body)
            for uid in _parents(kind, body):
                self._children.setdefault(uid, set()).add((kind, key))
            return True

    def drop(self, kind: str, body: Object) -> None:
        """Forget an object that is gone."""
        with self._lock:
            former = self._objects.get(kind, {}).get(key_of(body))
            if former is not None and _uid(former) == _uid(body):
                self._forget_owners(kind, key_of(body), former)
                del self._objects[kind][key_of(body)]

    def replace(self, kind: str, bodies: Iterable[Object], version: int) -> None:
        """Keep these objects of a kind and forget the others that were there: what a listing at `version` has found."""
        listed = {key_of(body): body for body in bodies}
        with self._lock:
            # What has come since the listing stays: no watch tells of it again.
            kept = self._objects.get(kind, {})
            gone = [body for key, body in kept.items() if key not in listed and _version(body) <= version]
        for body in gone:
            self.drop(kind, body)
        for body in listed.values():
            self.put(kind, body)

    def get(self, kind: str, key: Key) -> Object | None:
        """The object; it is shared, and must not be changed."""
        with self._lock:
            return self._objects.get(kind, {}).get(key)

    def keys(self, kind: str) -> list[Key]:
        """Of all objects of a kind."""
        with self._lock:
            return list(self._objects.get(kind, {}))

    def owned(self, uid: str, kind: str) -> list[Object]:
        """Objects of a kind with this owner, by name."""
        with self._lock:
            keys = sorted(key for found, key in self._children.get(uid, ()) if found == kind)
            return [self._objects[kind][key] for key in keys]

    def owners(self, body: Object) -> set[Key]:
        """The resources that an object is a child of, directly or through its own owner."""
        namespace = body["metadata"].get("namespace", "")
        found: set[Key] = set()
        for owner in body["metadata"].get("ownerReferences", ()):
            if owner["kind"] == api.KIND:
                found.add((namespace, owner["name"]))
            elif owner["kind"] == "Job" and (job := self.get("Job", (namespace, owner["name"]))) is not None:
                found |= self.owners(job)
        labels = body["metadata"].get("labels", {})
        if names.INSTANCE_LABEL in labels:
            found.add((namespace, labels[names.INSTANCE_LABEL]))
        return found

    def pods_of(self, namespace: str, resource: str, jobs: Iterable[Object]) -> list[Object]:
        """Pods of a resource's servers and of these Jobs."""
        uids = {job["metadata"]["uid"] for job in jobs}
        with self._lock:
            owned = {key for uid in uids for kind, key in self._children.get(uid, ()) if kind == "Pod"}
            pods = self._objects.get("Pod", {})
            found = [pods[key] for key in sorted(owned)]
            served = self._children.get(_server_key(namespace, resource), set())
            return found + [pods[key] for _, key in sorted(served)]

    def _forget_owners(self, kind: str, key: Key, body: Object) -> None:
        for uid in _parents(kind, body):
            children = self._children.get(uid)
            if children is not None:
                children.discard((kind, key))
                if not children:
                    del self._children[uid]


def key_of(body: Object) -> Key:
    """Namespace and name."""
    return body["metadata"].get("namespace", ""), body["metadata"]["name"]


def trimmed(body: Object) -> Object:
    """The object without what nobody reads: it is most of its bytes, a thousand times."""
    metadata = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
    kept = body | {"metadata": metadata}
    if body.get("kind") == "Pod":
        kept.pop("spec", None)
    found: Object = _shared(kept)
    return found


def _shared(value: Any) -> Any:  # noqa: ANN401 (any JSON)
    """The same with equal texts only once in memory: all objects have the same field names, labels and images."""
    if isinstance(value, dict):
        return {sys.intern(key): _shared(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shared(item) for item in value]
    return sys.intern(value) if isinstance(value, str) else value


def _parents(kind: str, body: Object) -> list[str]:
    """Uids of the owners. Serving pods belong to a ReplicaSet, which nobody watches: labels say whose they are."""
    found = [owner["uid"] for owner in body["metadata"].get("ownerReferences", ())]
    resource = body["metadata"].get("labels", {}).get(names.INSTANCE_LABEL)
    if kind == "Pod" and resource is not None:
        found.append(_server_key(body["metadata"].get("namespace", ""), resource))
    return found


def _server_key(namespace: str, resource: str) -> str:
    return f"{namespace}/{resource}"


def _uid(body: Object) -> str:
    return str(body["metadata"].get("uid", ""))


def _version(body: Object) -> int:
    text = str(body["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdecimal() else 0
