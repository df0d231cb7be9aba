"""The pods of a served AsrDeployment, and what may happen to them."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import kubernetes

from tests.support import platform
from tests.support.load import Load
from tests.support.platform import Speech
from tools.testcluster.components import DOMAIN
from tools.testcluster.machine import until

PATIENCE_SECONDS = 400.0
LOOK_SECONDS = 0.5
EVICTION_PAUSE_SECONDS = 5.0
"""As kubectl waits where a budget says: not now."""
TOO_MANY_REQUESTS = 429
Object = dict[str, Any]


class Fleet:
    """A served AsrDeployment of one pool.

    Attributes:
        spec: What differs from the demo's.
        loads: What is sent to it now, if somebody says so.
    """

    def __init__(self, speech: Speech, name: str) -> None:
        self.speech, self.cluster, self.namespace, self.name = speech, speech.cluster, speech.namespace, name
        self.selector = f"app.kubernetes.io/component=server,app.kubernetes.io/instance={name}"
        self.spec: Object = {"pools": [{"name": "cpu", "replicas": 2}]}
        self.loads: list[Load] = []
        configuration = kubernetes.client.Configuration()
        kubernetes.config.load_kube_config(str(self.cluster.kubeconfig), client_configuration=configuration)
        self.core = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(configuration))

    @property
    def addresses(self) -> dict[str, str]:
        """The two ways in, for a program outside the cluster: it asks the cluster's DNS itself."""
        dns = self.cluster.get("service", "kube-dns", "-n", "kube-system")["spec"]["clusterIP"]
        return {
            "headless": f"dns://{dns}:53/{self.name}-headless.{self.namespace}.svc.{DOMAIN}:8001",
            "service": platform.address(self.cluster, self.namespace, self.name),
        }

    def pods(self) -> list[Any]:
        """All pods that serve, those that end, too."""
        return list(self.core.list_namespaced_pod(self.namespace, label_selector=self.selector).items)

    def apply(self, **spec: object) -> None:
        """Change the resource."""
        self.spec |= spec
        self.speech.apply(self.name, **self.spec)

    def pool(self, **more: object) -> None:
        """Change its pool."""
        (pool,) = self.spec["pools"]
        self.apply(pools=[pool | more])

    def settled(self, replicas: int, gone: Sequence[str] = ()) -> bool:
        """Whether so many pods are ready, none of those that should be gone is there, and none is coming or going."""
        pods = self.pods()
        return (
            len(pods) == replicas
            and all(ready(pod) and pod.metadata.deletion_timestamp is None for pod in pods)
            and not {pod.metadata.uid for pod in pods} & set(gone)
        )

    def settle(self, replicas: int, gone: Sequence[str] = ()) -> None:
        """Wait for that."""

        def look() -> bool:
            time.sleep(LOOK_SECONDS)  # the API server is on the machine that serves
            return self.settled(replicas, gone)

        until(look, f"{replicas} pods alone", seconds=PATIENCE_SECONDS)

    def uids(self) -> list[str]:
        """Of the pods that are there."""
        return [pod.metadata.uid for pod in self.pods()]

    def delete_pod(self) -> str:
        """Delete a pod; returns its uid."""
        victim = self.pods()[0].metadata
        self.core.delete_namespaced_pod(victim.name, self.namespace)
        return str(victim.uid)

    def evict_all(self) -> None:
        """Evict one pod after the other, as soon as the budget lets each go."""
        for name in [pod.metadata.name for pod in self.pods()]:
            self._evict(name)

    def _evict(self, name: str) -> None:
        metadata = kubernetes.client.V1ObjectMeta(name=name, namespace=self.namespace)
        while True:
            try:
                self.core.create_namespaced_pod_eviction(
                    name, self.namespace, kubernetes.client.V1Eviction(metadata=metadata)
                )
            except kubernetes.client.ApiException as error:
                if error.status != TOO_MANY_REQUESTS:
                    raise
                time.sleep(EVICTION_PAUSE_SECONDS)
            else:
                return

    def kill_server(self) -> int:
        """SIGKILL to a pod's server; its container is then started again. Returns how many requests were in flight."""
        (server,) = _processes(self.pods()[0].metadata.uid, b"tritonserver")
        in_flight = sum(load.in_flight for load in self.loads)
        os.kill(server, signal.SIGKILL)
        return in_flight

    def kill_process(self, model: str) -> None:
        """SIGKILL to the Python process of a model in a pod; its server lives on."""
        stubs = _processes(self.pods()[0].metadata.uid, b"triton_python_backend_stub")
        (stub,) = (pid for pid in stubs if f"/{model}/" in Path(f"/proc/{pid}/cmdline").read_text())
        os.kill(stub, signal.SIGKILL)

    def server_container(self) -> Any:  # noqa: ANN401 (the client's type)
        """State of the container with the server in the only pod."""
        (pod,) = self.pods()
        (found,) = pod.status.container_statuses
        return found


def ready(pod: Any) -> bool:  # noqa: ANN401 (the client's type)
    """Whether it is."""
    return any(item.type == "Ready" and item.status == "True" for item in pod.status.conditions or ())


def _processes(pod: str, program: bytes) -> list[int]:
    """Ids, as this machine counts, of a program's processes in a pod."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            cgroup, command = (folder / "cgroup").read_text(), (folder / "cmdline").read_bytes()
            if pod in cgroup and command.split(b"\0")[0].endswith(program):
                found.append(int(folder.name))
    return found
