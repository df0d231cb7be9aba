"""What happens to an AsrDeployment, told as it happens: its events, the stages of its build, the starts of its pods."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import kubernetes

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
        self._core = kubernetes.client.CoreV1Api(client)
        self._events = kubernetes.client.EventsV1Api(client)
        self._custom = kubernetes.client.CustomObjectsApi(client)
        self._namespace, self._name = namespace, name
        self._told: set[tuple[str, str]] = set()
        self.now = ""

    def resource(self) -> dict[str, Any]:
        """The resource as it is now."""
        found: dict[str, Any] = self._custom.get_namespaced_custom_object(
            "asr-operator.dev", "v1alpha1", self._namespace, "asrdeployments", self._name
        )
        return found

    def news(self) -> list[Moment]:
        """What has not been told yet, oldest first."""
        self.now = ""
        return sorted([*self._operator(), *self._pods()], key=lambda moment: moment.at)

    def _operator(self) -> Iterator[Moment]:
        for event in self._events.list_namespaced_event(self._namespace).items:
            about = event.regarding
            if (about.kind, about.name) == ("AsrDeployment", self._name) and self._new(event.metadata.uid, ""):
                yield Moment(event.event_time, "operator", event.reason, event.note)

    def _pods(self) -> Iterator[Moment]:
        selector = "app.kubernetes.io/managed-by=asr-operator"
        for pod in self._core.list_namespaced_pod(self._namespace, label_selector=selector).items:
            component = pod.metadata.labels["app.kubernetes.io/component"]
            who = "build" if component == "build" else f"pod {pod.metadata.labels['asr-operator.dev/pool']}"
            yield from self._log(pod, CONTAINERS[component], who)
            for condition in pod.status.conditions or ():
                ready = condition.type == "Ready" and condition.status == "True"
                if ready and component == "server" and self._new(pod.metadata.uid, "ready"):
                    yield Moment(condition.last_transition_time, who, "ready", "Triton has loaded and warmed up")

    def _log(self, pod: Any, container: str, who: str) -> Iterator[Moment]:  # noqa: ANN401 (the client's type)
        if (pod.metadata.uid, "log") in self._told:
            return
        statuses = [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]
        state = next((status.state for status in statuses if status.name == container), None)
        if state is None or state.waiting is not None:
            return
        if state.terminated is not None:
            self._told.add((pod.metadata.uid, "log"))  # it is whole now
        text = self._core.read_namespaced_pod_log(pod.metadata.name, self._namespace, container=container)
        for number, line in enumerate(text.splitlines()):
            try:
                told = json.loads(line)
                task, message = told["task"], told["message"]
            except (ValueError, KeyError, TypeError):
                continue  # the result, or a library's own words
            if message == "finished":
                self.now = ""
                if told.get("note") and self._new(pod.metadata.uid, str(number)):
                    yield Moment(_time(told), who, task, told["note"])
            else:
                done = f" {told['done']:.0f} of {told['total']:.0f}" if told.get("done") and told.get("total") else ""
                self.now = f"{who}: {task}{done}" if state.running else ""

    def _new(self, uid: str, what: str) -> bool:
        if (uid, what) in self._told:
            return False
        self._told.add((uid, what))
        return True


def _time(told: dict[str, Any]) -> datetime:
    """When a line was written: to the second, so it is after all that it tells of."""
    return datetime.fromisoformat(told["time"]).astimezone(UTC) + timedelta(milliseconds=999)
