"""What watches and own requests have seen: the newest version of each object. No Kubernetes in it."""

import json
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from asr_operator import names
from asr_operator.api import v1alpha1 as api

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name of a resource."""

REMEMBERED_ENDS = 10_000
"""Objects whose end is remembered: more than can end while a listing goes on."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One object.

    Attributes:
        uid: Of the object.
        version: Its resource version.
        parents: Under which it is found: uids of its owners, and for serving pods whose they are.
        text: The object as JSON: an eighth of the memory, and read in microseconds.
    """

    uid: str
    version: int
    parents: tuple[str, ...]
    text: str


class Store:
    """Objects by kind, namespace and name; safe to use from several threads. Each answer is a copy of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[str, dict[Key, Kept]] = {}
        self._children: dict[str, set[tuple[str, Key]]] = {}
        """By parent."""
        self._ended: dict[str, int] = {}
        """Resource version of the end by uid, the oldest first."""

    def put(self, kind: str, body: Object) -> bool:
        """Keep an object, unless this version of it or a newer one is here; returns whether it is news."""
        if _of_keda(kind, body):
            return False
        key, uid, version = key_of(body), _uid(body), _version(body)
        with self._lock:
            if version < self._ended.get(uid, 0):
                return False
            objects = self._objects.setdefault(kind, {})
            former = objects.get(key)
            if former is not None and former.uid == uid and former.version >= version:
                return False
            if former is not None:
                self._forget_parents(kind, key, former)
            kept = Kept(uid, version, _parents(kind, body), json.dumps(trimmed(body), separators=(",", ":")))
            objects[key] = kept
            for parent in kept.parents:
                self._children.setdefault(parent, set()).add((kind, key))
            return True

    def drop(self, kind: str, body: Object, *, ended: bool = False) -> None:
        """Forget an object. If it has ended, a listing that began before does not bring it back.

        For a watch that selects by a label, an object that loses it has ended, too: it comes back with a newer version.
        """
        uid, version = _uid(body), _version(body)
        with self._lock:
            former = self._objects.get(kind, {}).get(key_of(body))
            if former is not None and former.uid == uid and not (ended and former.version > version):
                self._forget(kind, key_of(body), former)
            if ended:
                self._ended[uid] = version
                if len(self._ended) > REMEMBERED_ENDS:
                    del self._ended[next(iter(self._ended))]

    def retain(self, kind: str, listed: Collection[Key], version: int) -> None:
        """Forget all objects of a kind but those that a listing at `version` has found, and those that came since."""
        with self._lock:
            # What has come since the listing stays: no watch tells of it again.
            for key, kept in list(self._objects.get(kind, {}).items()):
                if key not in listed and kept.version <= version:
                    self._forget(kind, key, kept)

    def get(self, kind: str, key: Key) -> Object | None:
        """The object."""
        with self._lock:
            kept = self._objects.get(kind, {}).get(key)
        return None if kept is None else _read(kept)

    def keys(self, kind: str) -> list[Key]:
        """Of all objects of a kind."""
        with self._lock:
            return list(self._objects.get(kind, {}))

    def owned(self, uid: str, kind: str) -> list[Object]:
        """Objects of a kind with this owner, by name."""
        return self._under([uid], kind)

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
        return self._under([*(job["metadata"]["uid"] for job in jobs), _server_key(namespace, resource)], "Pod")

    def _under(self, parents: Iterable[str], kind: str) -> list[Object]:
        with self._lock:
            keys = {key for parent in parents for found, key in self._children.get(parent, ()) if found == kind}
            kept = [self._objects[kind][key] for key in sorted(keys)]
        return [_read(each) for each in kept]

    def _forget(self, kind: str, key: Key, kept: Kept) -> None:
        self._forget_parents(kind, key, kept)
        del self._objects[kind][key]

    def _forget_parents(self, kind: str, key: Key, kept: Kept) -> None:
        for parent in kept.parents:
            children = self._children.get(parent)
            if children is not None:
                children.discard((kind, key))
                if not children:
                    del self._children[parent]


def key_of(body: Object) -> Key:
    """Namespace and name."""
    return body["metadata"].get("namespace", ""), body["metadata"]["name"]


def trimmed(body: Object) -> Object:
    """The object without what nobody reads: it is most of its bytes, a thousand times."""
    metadata = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
    kept = body | {"metadata": metadata}
    if body.get("kind") == "Pod":
        kept.pop("spec", None)
    return kept


def _of_keda(kind: str, body: Object) -> bool:
    """Whether this autoscaler is one that KEDA has made: it gives them the labels of our ScaledObjects, ours too."""
    owners = body["metadata"].get("ownerReferences", ())
    return kind == "HorizontalPodAutoscaler" and any(
        owner.get("controller") and owner["kind"] != api.KIND for owner in owners
    )


def _read(kept: Kept) -> Object:
    found: Object = json.loads(kept.text)
    return found


def _parents(kind: str, body: Object) -> tuple[str, ...]:
    """Uids of the owners. Serving pods belong to a ReplicaSet, which nobody watches: labels say whose they are."""
    found = [owner["uid"] for owner in body["metadata"].get("ownerReferences", ())]
    resource = body["metadata"].get("labels", {}).get(names.INSTANCE_LABEL)
    if kind == "Pod" and resource is not None:
        found.append(_server_key(body["metadata"].get("namespace", ""), resource))
    return tuple(found)


def _server_key(namespace: str, resource: str) -> str:
    return f"{namespace}/{resource}"


def _uid(body: Object) -> str:
    return str(body["metadata"].get("uid", ""))


def _version(body: Object) -> int:
    text = str(body["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdecimal() else 0
