"""What happens to an AsrDeployment, told as it happens: its events, the stages of its build, the starts of its pods."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import kubernetes
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient

CONTAINERS = {"build": "build", "server": "fetch"}
"""By component of a pod, the container whose log tells what it does."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened.

    Attributes:
        at: When.
        who: The resource, or what works for it.
        what: One word.
        message: In its own words.
    """

    at: datetime
    who: str
    what: str
    message: str


class Timeline:
    """Looks at one resource again and again.

    Attributes:
        now: What is going on at the moment; empty when nothing is.
    """

    def __init__(self, kubeconfig: str, namespace: str, name: str) -> None:
        client = kubernetes.config.new_client_from_config(kubeconfig)
        # Paths are known, so nothing has to be discovered.
        self._client = DynamicClient(client, discoverer=lambda *_: None)
        self._namespace, self._name = namespace, name
        self._told: set[tuple[str, str]] = set()
        self.now = ""

    def resource(self) -> dict[str, Any]:
        """The resource as it is now."""
        path = f"/apis/asr-operator.dev/v1alpha1/namespaces/{self._namespace}/asrdeployments/{self._name}"
        found: dict[str, Any] = json.loads(self._get(path))
        return found

    def news(self) -> list[Moment]:
        """What has not been told yet, oldest first."""
        self.now = ""
        return sorted([*self._operator(), *self._pods()], key=lambda moment: moment.at)

    def _get(self, path: str, **query: str) -> str:
        response = self._client.request(
            "GET", path, query_params=list(query.items()), header_params={}, serialize=False
        )
        return str(response.data.decode())

    def _items(self, path: str, **query: str) -> list[dict[str, Any]]:
        return list(json.loads(self._get(path, **query))["items"])

    def _operator(self) -> Iterator[Moment]:
        path = f"/apis/events.k8s.io/v1/namespaces/{self._namespace}/events"
        about = f"regarding.kind=AsrDeployment,regarding.name={self._name}"
        for event in self._items(path, fieldSelector=about):
            if self._new(event["metadata"]["uid"], ""):
                yield Moment(_time(event["eventTime"]), "operator", event["reason"], event["note"])

    def _pods(self) -> Iterator[Moment]:
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        for pod in self._items(path, labelSelector="app.kubernetes.io/managed-by=asr-operator"):
            labels, uid = pod["metadata"]["labels"], pod["metadata"]["uid"]
            component = labels["app.kubernetes.io/component"]
            who = "build" if component == "build" else f"pod {labels['asr-operator.dev/pool']}"
            yield from self._log(pod, CONTAINERS[component], who)
            for condition in pod["status"].get("conditions", ()):
                ready = condition["type"] == "Ready" and condition["status"] == "True"
                if ready and component == "server" and self._new(uid, "ready"):
                    at = _time(condition["lastTransitionTime"], whole=True)
                    yield Moment(at, who, "ready", "Triton has loaded and warmed up")

    def _log(self, pod: dict[str, Any], container: str, who: str) -> Iterator[Moment]:
        status, uid = pod["status"], pod["metadata"]["uid"]
        states = {
            each["name"]: each["state"]
            for each in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
        }
        state = states.get(container, {})
        if not state or "waiting" in state or (uid, "log") in self._told:
            return
        if "terminated" in state:
            self._told.add((uid, "log"))  # it is whole now
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod['metadata']['name']}/log"
        try:
            text = self._get(path, container=container)
        except ApiException as error:
            if error.status not in {400, 404}:
                raise
            return  # the pod has just gone, or its container is not quite there
        for number, line in enumerate(text.splitlines()):
            try:
                told = json.loads(line)
                task, message = told["task"], told["message"]
            except (ValueError, KeyError, TypeError):
                continue  # the result, or a library's own words
            if message == "finished":
                self.now = ""
                if told.get("note") and self._new(uid, str(number)):
                    yield Moment(_time(told["timestamp"]), who, task, told["note"])
            elif "running" in state:
                done = f" {told['done']:.0f} of {told['total']:.0f}" if told.get("done") and told.get("total") else ""
                self.now = f"{who}: {task}{done}"

    def _new(self, uid: str, what: str) -> bool:
        if (uid, what) in self._told:
            return False
        self._told.add((uid, what))
        return True


def _time(text: str, *, whole: bool = False) -> datetime:
    """As Kubernetes writes it; a time of whole seconds comes after all that is told more exactly."""
    return datetime.fromisoformat(text).astimezone(UTC) + timedelta(milliseconds=999 if whole else 0)
