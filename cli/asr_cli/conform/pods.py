"""Ways to the pods of an AsrDeployment: their addresses, port-forwards, programs in them, and their deletion.

Adapter of the Kubernetes client, beside `asr_operator.diagnose.reader`.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import kubernetes
import websocket
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward, stream

from asr_cli.conform.target import SHELL_SECONDS, Shell, ShellError
from asr_operator import names
from asr_operator.cluster import KINDS
from asr_operator.diagnose.reader import FORBIDDEN, NOT_FOUND, Cluster, ClusterError, ForbiddenError

Object = dict[str, Any]

CHUNK = 1 << 20
BACKLOG = 64
TIMEOUT = (5, 30)


def in_cluster() -> bool:
    """Whether this runs in a pod, which reaches other pods without port-forwards."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ


class Pods:
    """The serving pods of one AsrDeployment."""

    def __init__(self, cluster: Cluster, namespace: str, resource: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._selector = ",".join(f"{key}={value}" for key, value in names.server_selector(resource).items())

    def all(self) -> list[Object]:
        """Pods that are not being deleted.

        Raises:
            ClusterError: They cannot be read.
        """
        return [pod for pod in self.everything() if "deletionTimestamp" not in pod["metadata"]]

    def everything(self) -> list[Object]:
        """All pods, also those that are being deleted.

        Raises:
            ClusterError: They cannot be read.
        """
        return self._cluster.items(KINDS["Pod"], self._namespace, self._selector)

    def ready(self, pool: str | None = None) -> list[Object]:
        """Those that are ready, of one pool or of all.

        Raises:
            ClusterError: They cannot be read.
        """
        return [
            pod
            for pod in self.all()
            if is_ready(pod) and pool in {None, pod["metadata"]["labels"].get(names.POOL_LABEL)}
        ]

    def shell(self, pod: str, container: str = names.TRITON_CONTAINER) -> Shell:
        """Runs commands in a container of a pod."""

        def run(command: Sequence[str]) -> str:
            return self._execute(pod, container, command)

        return run

    def _execute(self, pod: str, container: str, command: Sequence[str]) -> str:
        api = self._api()
        try:
            running = stream(
                api.connect_get_namespaced_pod_exec,
                pod,
                self._namespace,
                container=container,
                command=list(command),
                stdout=True,
                stderr=True,
                stdin=False,
                tty=False,
                _preload_content=False,
            )
            running.run_forever(timeout=SHELL_SECONDS)
            printed, errors = running.read_stdout(), running.read_stderr()
            code = None if running.is_open() else running.returncode
        except ApiException as error:
            raise ShellError(_exec_refusal(error, pod)) from error
        except (OSError, websocket.WebSocketException) as error:
            raise ShellError(f"nothing can be run in pod {pod}: {error}") from error
        if code != 0:
            lines = (errors or "").strip().splitlines()
            raise ShellError(f"in pod {pod}, {command[0]} ended with {code}: {lines[-1] if lines else 'no words'}")
        return str(printed or "")

    def delete(self, pod: str) -> None:
        """Delete a pod, with its grace period.

        Raises:
            ClusterError: It may not, or cannot be deleted.
        """
        try:
            self._api().delete_namespaced_pod(pod, self._namespace, _request_timeout=TIMEOUT)
        except ApiException as error:
            if error.status == FORBIDDEN:
                raise ForbiddenError("you may not delete pods; ask for the verb delete on pods") from error
            raise ClusterError(f"pod {pod} cannot be deleted: {error.reason}") from error

    def open(self, pod: str, port: int) -> socket.socket:
        """Connect to a port of a pod through the API server.

        Raises:
            ClusterError: It may not, or cannot be reached.
        """
        api = self._api()
        try:
            forwarded = portforward(api.connect_get_namespaced_pod_portforward, pod, self._namespace, ports=str(port))
        except ApiException as error:
            if _status(error) == FORBIDDEN:
                raise ForbiddenError(
                    "you may not forward ports; ask for the verbs get and create on pods/portforward"
                ) from error
            raise ClusterError(f"no port-forward to pod {pod}: {error.reason}") from error
        except (OSError, websocket.WebSocketException) as error:
            raise ClusterError(f"no port-forward to pod {pod}: {error}") from error
        found: socket.socket = forwarded.socket(port)
        return found

    def require_forwarding(self, pod: str, port: int) -> None:
        """Try a port-forward.

        Raises:
            ClusterError: It may not, or cannot be reached.
        """
        connection = self.open(pod, port)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        _answers(connection, None)

    def _api(self) -> Any:  # noqa: ANN401 (the client has no types)
        # One for each call: the stream functions replace a method of the client while they run.
        return kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(self._cluster.configuration))


def is_ready(pod: Object) -> bool:
    """Whether a pod is ready."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def restarts(pod: Object) -> int:
    """How often the server's container was restarted."""
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return sum(item.get("restartCount", 0) for item in statuses if item["name"] == names.TRITON_CONTAINER)


def image(pod: Object) -> str | None:
    """Name without registry, and digest, of the server's image."""
    for item in pod.get("status", {}).get("containerStatuses", ()):
        if item["name"] == names.TRITON_CONTAINER:
            name = str(item.get("image", "")).rpartition("/")[2].partition("@")[0]
            digest = str(item.get("imageID", "")).rpartition("@")[2].rpartition("//")[2]
            return f"{name}@{digest}" if digest else name
    return None


def _status(error: ApiException) -> int | None:
    """HTTP status of a refused WebSocket: the client reports it in words alone."""
    if error.status:
        return int(error.status)
    for status in (FORBIDDEN, NOT_FOUND):
        if f"Handshake status {status}" in str(error.reason):
            return status
    return None


def _exec_refusal(error: ApiException, pod: str) -> str:
    if _status(error) == FORBIDDEN:
        return "you may not run programs in pods; ask for the verbs get and create on pods/exec"
    return f"nothing can be run in pod {pod}: {str(error.reason).splitlines()[0]}"


@contextmanager
def forward(pods: Pods, choose: Callable[[], str | None], port: int) -> Iterator[int]:
    """A local port that leads to pods while the block runs; yields its number.

    Each new connection goes to the pod that `choose` names then, as a Service would lead it; None refuses it.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        ending = threading.Event()
        open_sockets: set[socket.socket] = set()

        def accept() -> None:
            while not ending.is_set():
                try:
                    local, _ = listener.accept()
                except OSError:
                    return
                open_sockets.add(local)
                threading.Thread(target=_connect, args=(pods, choose, port, local), daemon=True).start()

        accepting = threading.Thread(target=accept, name="port-forward", daemon=True)
        accepting.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            ending.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for local in open_sockets:
                _close(local)
            accepting.join(timeout=5)


def _connect(pods: Pods, choose: Callable[[], str | None], port: int, local: socket.socket) -> None:
    try:
        pod = choose()
        remote = pods.open(pod, port) if pod is not None else None
    except ClusterError:
        remote = None
    if remote is None:
        _close(local)  # the client sees a connection that ends, and tries again
        return
    local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=_answers, args=(remote, local), daemon=True).start()
    with suppress(OSError):  # either side has gone, which its end shows to the other
        while data := local.recv(CHUNK):
            remote.sendall(data)
    with suppress(OSError):
        remote.shutdown(socket.SHUT_WR)


def _answers(remote: socket.socket, local: socket.socket | None) -> None:
    """Copy what a pod sends until it ends, also when nobody takes it any more.

    The Kubernetes client's own thread would end with a traceback if its socket were closed before all is read.
    """
    with suppress(OSError):
        while data := remote.recv(CHUNK):
            if local is not None:
                try:
                    local.sendall(data)
                except OSError:
                    local = None
                    remote.shutdown(socket.SHUT_WR)
    _close(remote)
    if local is not None:
        _close(local)


def _close(connection: Any) -> None:  # noqa: ANN401 (a socket, or the client's wrapper of one)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        connection.close()
