"""The cluster of our own does what a Kubernetes does."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tools.testcluster import images, machine, nodes
from tools.testcluster.cluster import BINARY, PROJECT, ApiServer, Cluster
from tools.testcluster.machine import ClusterError, until
from tools.testcluster.pods import await_ready, pod, pod_spec, run_to_end, service

SERVER = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8080)"


@pytest.fixture(scope="session")
def image(cluster: Cluster) -> str:
    return cluster.use_image("base")


@pytest.fixture
def web(cluster: Cluster, namespace: str, image: str) -> str:
    """A pod `web` that answers on 8080, behind a Service `site`; its namespace.

    The names differ, since a pod's own name leads it to itself without the Service.
    """
    server = pod("web", namespace, pod_spec(image, "python3", "-c", SERVER))
    cluster.apply(server, service("site", namespace, app="web"))
    await_ready(cluster, namespace, "web")
    listening = "import urllib.request as u; u.urlopen('http://site', timeout=5); print('yes')"
    execute = ("exec", "-n", namespace, "web", "--", "python3", "-c", listening)
    until(lambda: answer(cluster, *execute), "the pod to answer through its Service")
    return namespace


def python(cluster: Cluster, namespace: str, script: str) -> str:
    """Run a script in the pod `web`."""
    return cluster.kubectl("exec", "-n", namespace, "web", "--", "python3", "-c", script)


def test_a_pod_resolves_a_service_and_reaches_another_pod_by_it(cluster: Cluster, web: str, image: str) -> None:
    fetch = "import urllib.request as u; print(u.urlopen('http://site/os-release', timeout=20).status)"
    assert run_to_end(cluster, web, "caller", pod_spec(image, "python3", "-c", fetch)) == "200\n"


def test_a_pod_reaches_the_api_server_by_its_service_with_its_token(cluster: Cluster, web: str) -> None:
    script = """
import ssl, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount/"
context = ssl.create_default_context(cafile=account + "ca.crt")
request = urllib.request.Request("https://kubernetes.default.svc/version",
                                 headers={"Authorization": "Bearer " + open(account + "token").read()})
print(urllib.request.urlopen(request, context=context, timeout=20).read().decode())
"""
    assert json.loads(python(cluster, web, script))["gitVersion"] == "v1.34.2"


def test_a_pod_cannot_leave_the_machine(cluster: Cluster, web: str) -> None:
    script = """
import socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=20)
except OSError as error:
    print(type(error).__name__, error.errno)
"""
    assert python(cluster, web, script).split()[1] in {"101", "113"}  # network or host unreachable


def test_a_privileged_pod_is_refused_in_a_restricted_namespace(cluster: Cluster, namespace: str, image: str) -> None:
    spec = pod_spec(image, "true")
    spec["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(ClusterError, match="violates PodSecurity"):
        cluster.apply(pod("privileged", namespace, spec))


def test_logs_exec_and_port_forward_work(cluster: Cluster, web: str) -> None:
    assert python(cluster, web, "import os; print(os.getuid())") == "65532\n"
    with port_forward(cluster, web, "service/site", 80) as port:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/os-release", timeout=20) as response:
            assert b"Debian" in response.read()
    assert "GET /os-release" in cluster.kubectl("logs", "-n", web, "web")


@contextmanager
def port_forward(cluster: Cluster, namespace: str, target: str, port: int) -> Iterator[int]:
    command = [str(BINARY), "kubectl", "port-forward", "-n", namespace, target, f":{port}"]
    environment = os.environ | cluster.environment
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline().split(":")[1].split()[0])
        finally:
            process.terminate()


def test_top_shows_nodes_and_pods(cluster: Cluster, web: str) -> None:
    def usage() -> str:
        try:
            return cluster.kubectl("top", "pod", "-n", web, "web", "--no-headers")
        except ClusterError as error:
            if "metrics not available" in str(error).lower() or "not found" in str(error).lower():
                return ""  # none collected of this pod yet
            raise

    assert until(usage, "metrics of the pod").startswith("web ")
    assert "asr-node" in cluster.kubectl("top", "node")


def test_a_job_ends_with_a_termination_message(cluster: Cluster, namespace: str, image: str) -> None:
    spec = pod_spec(image, "sh", "-c", "echo stage=gate >/dev/termination-log; exit 3") | {"restartPolicy": "Never"}
    job = {"template": {"spec": spec}, "backoffLimit": 0}
    cluster.apply(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job", "namespace": namespace}, "spec": job}
    )
    cluster.kubectl("wait", "-n", namespace, "--for=condition=Failed", "job/job", "--timeout=60s", seconds=70)
    (found,) = cluster.get("pods", "-n", namespace, "-l", "job-name=job")["items"]
    end = found["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (end["exitCode"], end["message"]) == (3, "stage=gate\n")


def test_a_horizontal_pod_autoscaler_adds_pods_under_cpu_load(cluster: Cluster, namespace: str, image: str) -> None:
    labels = {"app": "busy"}
    template = {"metadata": {"labels": labels}, "spec": pod_spec(image, "python3", "-c", "while True: pass")}
    template["spec"]["containers"][0]["resources"]["limits"] = {"cpu": "100m"}
    target = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
    }
    scaled = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "busy"}
    metadata = {"name": "busy", "namespace": namespace}
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": metadata,
            "spec": {"scaleTargetRef": scaled, "minReplicas": 1, "maxReplicas": 2, "metrics": [target]},
        },
    )
    until(lambda: cluster.get("deployment", "busy", "-n", namespace)["spec"]["replicas"] == 2, "a second replica")


def test_a_network_policy_has_no_effect_here(cluster: Cluster, web: str) -> None:
    """The bridge plugin enforces none: what a policy forbids must be tested elsewhere."""
    spec: dict[str, Any] = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    metadata = {"name": "deny-all", "namespace": web}
    cluster.apply({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
    fetch = "import urllib.request as u; print(u.urlopen('http://site/os-release', timeout=20).status)"
    assert python(cluster, web, fetch) == "200\n"


def test_a_pod_that_asks_for_a_gpu_runs_on_a_node_that_acts_one(cluster: Cluster, namespace: str, image: str) -> None:
    spec = pod_spec(image, "sleep", "600") | {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"}}
    spec["containers"][0]["resources"]["limits"] = {nodes.GPU: "1"}
    cluster.apply(pod("asks", namespace, spec))
    labels = nodes.gpu_labels("NVIDIA-L4", "8.9")
    nodes.act_gpus(cluster, 2, labels)
    try:
        await_ready(cluster, namespace, "asks")
    finally:
        nodes.act_gpus(cluster, 0, dict.fromkeys(labels, ""))


def test_pods_are_placed_on_the_acted_node_with_their_gpu(api_server: ApiServer) -> None:
    nodes.add_nodes(
        api_server,
        *(nodes.node(f"l4-{n}", gpus=4, labels=nodes.gpu_labels("NVIDIA-L4", "8.9")) for n in range(3)),
        nodes.node("h100", gpus=8, labels=nodes.gpu_labels("NVIDIA-H100-80GB-HBM3", "9.0")),
    )
    spec: dict[str, Any] = {
        "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
        "containers": [{"name": "main", "image": "none", "resources": {"limits": {nodes.GPU: "8"}}}],
    }
    until(lambda: api_server.get("serviceaccounts", "-n", "default")["items"], "the default service account")
    api_server.apply(pod("wants-h100", "default", spec))
    node = until(lambda: api_server.get("pod", "wants-h100", "-n", "default")["spec"].get("nodeName"), "a node")
    assert node == "h100"


@pytest.mark.parametrize(
    "component",
    [
        *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"),
        *("containerd", "kubelet", "kube-proxy", "coredns", "metrics-server"),
    ],
)
def test_a_killed_program_is_started_again_and_the_cluster_works(
    cluster: Cluster, web: str, image: str, component: str
) -> None:
    killed = cluster.pid(component)
    os.kill(killed, signal.SIGKILL)
    until(lambda: component_is_new(cluster, component, killed), f"{component} to be back")
    until(lambda: all(state.startswith("works") for state in cluster.status().values()), "all components")
    # A new Service needs controllers, proxy and DNS; a new pod the scheduler, the kubelet and containerd.
    cluster.apply(service("new", web, app="web"))
    fetch = "until python3 -c 'import urllib.request as u; u.urlopen(\"http://new\", timeout=5)'; do sleep 0.2; done"
    run_to_end(cluster, web, "caller", pod_spec(image, "sh", "-c", fetch))
    until(lambda: answer(cluster, "top", "node"), "metrics")
    assert python(cluster, web, "print('alive')") == "alive\n"  # the pod from before


def answer(cluster: Cluster, *command: str) -> str:
    """What kubectl prints; empty when it fails, as it may while the cluster settles."""
    try:
        return cluster.kubectl(*command)
    except ClusterError:
        return ""


def component_is_new(cluster: Cluster, component: str, killed: int) -> bool:
    try:
        return cluster.pid(component) != killed
    except ClusterError:  # between its end and its start
        return False


MOMENTS = {
    "while keys are made": "pki/ca.crt",
    "when the supervisor starts": "supervisor.json",
    "when the API server starts": "state/kube-apiserver.json",
    "when the node starts": "state/kubelet.json",
    "while an image is given to the node": "image.tar",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killing_the_starter_leaves_nothing_that_down_does_not_remove(tmp_path: Path, moment: str) -> None:
    folder = tmp_path / "state"
    killed_start(folder, MOMENTS[moment])
    until(lambda: machine.saved_process(folder / "supervisor.json") is None, "the supervisor to end with its starter")
    number = network(folder)
    assert command(folder, "down") == 0
    assert traces(folder, number) == []


def test_a_cluster_starts_where_another_start_was_killed(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    killed_start(folder, "state/kubelet.json")
    with Cluster(folder) as cluster:
        assert set(cluster.status().values()) == {"works"}
        number = network(folder)
        assert traces(folder, number) != []
    assert traces(folder, number) == []


def test_down_removes_a_cluster_whose_supervisor_was_killed(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert command(folder, "up") == 0
    number, supervisor = network(folder), machine.saved_process(folder / "supervisor.json")
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: machine.saved_process(folder / "supervisor.json") is None, "the supervisor to end")
    assert command(folder, "status") == 1
    assert command(folder, "down") == 0
    assert traces(folder, number) == []


def killed_start(folder: Path, file: str) -> None:
    """Run `up`, and kill it when it, or the cluster, has written a file."""
    up = [sys.executable, "-m", "tools.testcluster", "--folder", str(folder), "up"]
    with subprocess.Popen(up, cwd=PROJECT, stdout=subprocess.DEVNULL) as starter:
        while not (folder / file).exists():
            assert starter.poll() is None, "too late to kill it"
        starter.kill()


def command(folder: Path, name: str) -> int:
    """Run a command of `make cluster-…` in a process of its own; returns the exit code."""
    words = [sys.executable, "-m", "tools.testcluster", "--folder", str(folder), name]
    return subprocess.run(words, cwd=PROJECT, stdout=subprocess.DEVNULL, check=False).returncode


def network(folder: Path) -> str | None:
    """The first two numbers of all its addresses; `None` when it has none yet."""
    plan = folder / "plan.json"
    return ".".join(json.loads(plan.read_text())["address"].split(".")[:2]) + "." if plan.exists() else None


def traces(folder: Path, network: str | None) -> list[str]:
    """All that this machine knows of a cluster: files, processes, control groups, mounts, devices, routes, rules."""
    found = [str(path) for path in (folder,) if path.exists()]
    found += [str(group) for group in machine.CGROUPS.glob(f"*/{machine.cgroup_name(folder)}")]
    found += [str(group) for group in machine.CGROUPS.glob(machine.cgroup_name(folder))]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            line = process.read_text(errors="replace").replace("\0", " ")
            found += [line] if f"{folder} " in line or f"{folder}/" in line else []
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{folder}/" in line]
    for listing in ("ip -oneline -4 address", "ip -4 route", "iptables-save"):
        lines = machine.run(listing.split(), environment={}).splitlines()
        found += [line for line in lines if network is not None and network in line]
    return found


def test_the_kernel_settings_and_rules_of_the_host_are_left_alone(cluster: Cluster) -> None:
    assert cluster.node("cat", "/proc/sys/kernel/panic").strip() == "10"  # the kubelet's wish
    assert Path("/proc/sys/kernel/panic").read_text().strip() != "10"
    assert "KUBE-SERVICES" in cluster.node("iptables-save", "-t", "nat")
    assert "KUBE-" not in machine.run(["iptables-save", "-t", "nat"], environment={})


def test_layers_reach_the_node_as_they_were_built(
    cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that a layer removed or changed, folders that it made anew, links and modes."""
    (tmp_path / "Dockerfile").write_text("""ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN mkdir -m 0750 /layers && cd /layers && mkdir anew && echo 1 >anew/old && echo 1 >changed && echo 1 >removed
RUN cd /layers && rm -r anew removed && mkdir anew && echo 2 >anew/new && echo 2 >changed && ln changed hard \\
 && ln -s changed soft && chown -R 65532:65532 /layers && chmod 4711 changed
""")
    monkeypatch.setitem(images.IMAGES, "layers", images.Image(tmp_path / "Dockerfile", "base", lambda: tmp_path))
    show = "cd /layers && find . | sort | xargs stat -c '%N %a' && cat hard && [ hard -ef changed ]"
    assert run_to_end(cluster, namespace, "shows", pod_spec(cluster.use_image("layers"), "sh", "-c", show)) == (
        "'.' 750\n'./anew' 755\n'./anew/new' 644\n'./changed' 4711\n'./hard' 4711\n'./soft' -> 'changed' 777\n2\n"
    )
