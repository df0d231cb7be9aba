"""The programs of a cluster: command lines and configuration files. Pure: nothing here touches the machine.

Paths in here are as the programs see them (see `supervisor.py`: the sandbox has the state folder at `/run/cluster`).
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NODE = "asr-node"
DOMAIN = "cluster.local"
RIGHTS = "state/rights"  # a file that says: what programs may do is in the API server now


@dataclass(frozen=True, slots=True)
class Component:
    """A program that the supervisor keeps running.

    Attributes:
        name: Also of its log, `logs/<name>.log`.
        command: Program and arguments.
        health: A URL that answers 200 when it works.
        after: A file, relative to the state folder, that must be there before the first start.
    """

    name: str
    command: list[str]
    health: str
    after: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where everything of one cluster is.

    Attributes:
        folder: The state folder, as the programs see it.
        binary: `kube-node`, as the programs see it.
        address: That the control plane listens on.
        ports: By component, `etcd-peer` included.
        services: Network of the services' addresses.
        pods: Network of the pods; `None` without a node.
        cgroup: Name of the control group that all pods are below.
    """

    folder: Path
    binary: Path
    address: str
    ports: dict[str, int]
    services: str
    pods: str | None = None
    cgroup: str | None = None

    def url(self, component: str, path: str = "") -> str:
        """Of a component's HTTPS port."""
        return f"https://{self.address}:{self.ports[component]}{path}"

    @property
    def pki(self) -> Path:
        """Folder of certificates and keys."""
        return self.folder / "pki"

    def kubeconfig(self, component: str) -> str:
        """Path of a component's kubeconfig."""
        return str(self.folder / "kubeconfigs" / component)

    def service(self, number: int) -> str:
        """The service network's address with that number."""
        return f"{self.services.rsplit('.', 1)[0]}.{number}"


def names(plan: Plan) -> list[str]:
    """What the servers' certificate is for, in OpenSSL's notation."""
    services = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}")
    hosts = ("localhost", NODE, *services, "metrics-server.kube-system.svc")
    return [f"IP:{plan.address}", "IP:127.0.0.1", f"IP:{plan.service(1)}", *(f"DNS:{host}" for host in hosts)]


def control_plane(plan: Plan) -> list[Component]:
    """Storage, API server, controllers, scheduler."""
    return [_etcd(plan), _api_server(plan), _controllers(plan), _scheduler(plan)]


def node(plan: Plan) -> list[Component]:
    """What turns the machine into a node, and the cluster's DNS and metrics."""
    folder, binary = plan.folder, str(plan.binary)
    return [
        Component("containerd", ["containerd", "--config", str(folder / "config/containerd.toml")], ""),
        Component(
            "kubelet",
            [
                *(binary, "kubelet", "--config", str(folder / "config/kubelet.json")),
                *("--kubeconfig", plan.kubeconfig("kubelet"), "--root-dir", str(folder / "kubelet")),
                *("--hostname-override", NODE, "--node-ip", plan.address),
            ],
            f"http://{plan.address}:10248/healthz",
        ),
        Component(
            "kube-proxy",
            [binary, "kube-proxy", "--config", str(folder / "config/kube-proxy.json")],
            f"http://{plan.address}:10256/healthz",
        ),
        Component(
            "coredns",
            [binary, "coredns", "-conf", str(folder / "config/Corefile")],
            f"http://{plan.address}:8181/ready",
            after=RIGHTS,
        ),
        Component(
            "metrics-server",
            [
                *(binary, "metrics-server", "--kubeconfig", plan.kubeconfig("metrics-server")),
                *("--authentication-kubeconfig", plan.kubeconfig("metrics-server")),
                *("--authorization-kubeconfig", plan.kubeconfig("metrics-server")),
                *("--bind-address", plan.address, "--secure-port", str(plan.ports["metrics-server"])),
                *("--tls-cert-file", str(plan.pki / "server.crt")),
                *("--tls-private-key-file", str(plan.pki / "server.key")),
                *("--kubelet-certificate-authority", str(plan.pki / "ca.crt")),
                *(
                    "--kubelet-preferred-address-types",
                    "InternalIP",
                    "--metric-resolution",
                    "10s",
                    "--kubelet-request-timeout",
                    "5s",
                ),
            ],
            plan.url("metrics-server", "/livez"),
            after=RIGHTS,
        ),
    ]


def node_files(plan: Plan) -> dict[str, str]:
    """Configuration of the node's programs, by path below the state folder."""
    return {
        "config/containerd.toml": _CONTAINERD.format(folder=plan.folder),
        "config/cni/10-asr.conflist": json.dumps(_cni(plan), indent=2),
        "config/kubelet.json": json.dumps(_kubelet(plan), indent=2),
        "config/kube-proxy.json": json.dumps(_proxy(plan), indent=2),
        "config/Corefile": _COREFILE.format(address=plan.address, domain=DOMAIN, kubeconfig=plan.kubeconfig("coredns")),
    }


def system_objects(plan: Plan, authority: bytes) -> list[dict[str, Any]]:
    """What the cluster's own services need in the API: rights, Services, the metrics API.

    Args:
        plan: Of the cluster.
        authority: The PEM certificate that signed the servers'.
    """
    return [
        _role("asr:coredns", [(("",), ("endpoints", "services", "pods", "namespaces"), ("list", "watch"))]),
        _binding("asr:coredns", "asr:coredns", "system:coredns"),
        _role("asr:coredns-slices", [(("discovery.k8s.io",), ("endpointslices",), ("list", "watch"))]),
        _binding("asr:coredns-slices", "asr:coredns-slices", "system:coredns"),
        _role(
            "asr:metrics-server",
            [
                (("",), ("nodes/metrics",), ("get",)),
                (("",), ("pods", "nodes", "namespaces", "configmaps"), ("get", "list", "watch")),
            ],
        ),
        _binding("asr:metrics-server", "asr:metrics-server", "system:metrics-server"),
        _binding("asr:metrics-server-reviews", "system:auth-delegator", "system:metrics-server"),
        *_service("kube-dns", plan, plan.service(10), [("dns", "UDP", 53, 53), ("dns-tcp", "TCP", 53, 53)]),
        *_service("metrics-server", plan, None, [("https", "TCP", 443, plan.ports["metrics-server"])]),
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {"namespace": "kube-system", "name": "metrics-server", "port": 443},
                "caBundle": base64.b64encode(authority).decode(),
            },
        },
    ]


def _role(name: str, rules: list[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": [{"apiGroups": groups, "resources": resources, "verbs": verbs} for groups, resources, verbs in rules],
    }


def _binding(name: str, role: str, user: str) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }


def _service(
    name: str, plan: Plan, address: str | None, ports: list[tuple[str, str, int, int]]
) -> list[dict[str, Any]]:
    """A Service without selector, and what it leads to: a program on the node."""
    metadata = {"name": name, "namespace": "kube-system"}
    listed = [{"name": port, "protocol": protocol, "port": number} for port, protocol, number, _ in ports]
    targets = [{"name": port, "protocol": protocol, "port": target} for port, protocol, _, target in ports]
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"ports": listed} | ({"clusterIP": address} if address else {}),
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata | {"labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [plan.address], "conditions": {"ready": True}}],
            "ports": targets,
        },
    ]


def control_plane_files() -> dict[str, str]:
    """Configuration of the control plane's programs, by path below the state folder."""
    return {"config/audit.json": json.dumps(_AUDIT, indent=2)}


def _etcd(plan: Plan) -> Component:
    client, peer = (f"http://127.0.0.1:{plan.ports[name]}" for name in ("etcd", "etcd-peer"))
    return Component(
        "etcd",
        [
            *(str(plan.binary), "etcd", "--data-dir", str(plan.folder / "etcd"), "--log-level", "warn"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}", "--initial-cluster-token", "asr"),
            "--unsafe-no-fsync",  # a cluster for tests does not outlive its machine's power
        ],
        plan.url("kube-apiserver", "/readyz/etcd"),
    )


def _api_server(plan: Plan) -> Component:
    pki = plan.pki
    flags = {
        "etcd-servers": f"http://127.0.0.1:{plan.ports['etcd']}",
        "bind-address": plan.address,
        "advertise-address": plan.address,
        "secure-port": str(plan.ports["kube-apiserver"]),
        "service-cluster-ip-range": plan.services,
        "tls-cert-file": str(pki / "server.crt"),
        "tls-private-key-file": str(pki / "server.key"),
        "client-ca-file": str(pki / "ca.crt"),
        "service-account-issuer": f"https://kubernetes.default.svc.{DOMAIN}",
        "service-account-key-file": str(pki / "service-account.key"),
        "service-account-signing-key-file": str(pki / "service-account.key"),
        "kubelet-certificate-authority": str(pki / "ca.crt"),
        "kubelet-client-certificate": str(pki / "admin.crt"),
        "kubelet-client-key": str(pki / "admin.key"),
        "kubelet-preferred-address-types": "InternalIP",
        "requestheader-client-ca-file": str(pki / "ca.crt"),
        "requestheader-allowed-names": "front-proxy",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "proxy-client-cert-file": str(pki / "front-proxy.crt"),
        "proxy-client-key-file": str(pki / "front-proxy.key"),
        "enable-aggregator-routing": "true",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        "audit-policy-file": str(plan.folder / "config/audit.json"),
        "audit-log-path": str(plan.folder / "logs/audit.jsonl"),
        "audit-log-mode": "blocking",  # a test reads its own requests in it
    }
    if plan.pods is None:  # loopback is not an address that the `kubernetes` service may have
        flags["endpoint-reconciler-type"] = "none"
    return Component(
        "kube-apiserver", [str(plan.binary), "kube-apiserver", *_flags(flags)], plan.url("kube-apiserver", "/readyz")
    )


def _controllers(plan: Plan) -> Component:
    own = plan.kubeconfig("kube-controller-manager")
    flags = {
        "kubeconfig": own,
        "authentication-kubeconfig": own,
        "authorization-kubeconfig": own,
        "bind-address": plan.address,
        "secure-port": str(plan.ports["kube-controller-manager"]),
        "tls-cert-file": str(plan.pki / "server.crt"),
        "tls-private-key-file": str(plan.pki / "server.key"),
        "authentication-tolerate-lookup-failure": "true",  # it may start before its rights are there
        "leader-elect": "false",
        "use-service-account-credentials": "true",
        "service-account-private-key-file": str(plan.pki / "service-account.key"),
        "root-ca-file": str(plan.pki / "ca.crt"),
        "cluster-signing-cert-file": str(plan.pki / "ca.crt"),
        "cluster-signing-key-file": str(plan.pki / "ca.key"),
        # Acted nodes have no kubelet that would report; they stay as ready as they were made.
        "node-monitor-grace-period": "24h",
        "horizontal-pod-autoscaler-sync-period": "5s",
        "horizontal-pod-autoscaler-initial-readiness-delay": "5s",
        "horizontal-pod-autoscaler-cpu-initialization-period": "10s",
    }
    return Component(
        "kube-controller-manager",
        [str(plan.binary), "kube-controller-manager", *_flags(flags)],
        plan.url("kube-controller-manager", "/healthz"),
    )


def _scheduler(plan: Plan) -> Component:
    own = plan.kubeconfig("kube-scheduler")
    flags = {
        "kubeconfig": own,
        "authentication-kubeconfig": own,
        "authorization-kubeconfig": own,
        "bind-address": plan.address,
        "secure-port": str(plan.ports["kube-scheduler"]),
        "tls-cert-file": str(plan.pki / "server.crt"),
        "tls-private-key-file": str(plan.pki / "server.key"),
        "authentication-tolerate-lookup-failure": "true",  # it may start before its rights are there
        "leader-elect": "false",
    }
    return Component(
        "kube-scheduler", [str(plan.binary), "kube-scheduler", *_flags(flags)], plan.url("kube-scheduler", "/healthz")
    )


def _flags(flags: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]


# Who wrote what, without the bodies; reads are not kept.
_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:nodes"]},
        {"level": "None", "users": ["system:kube-scheduler", "system:kube-controller-manager", "system:apiserver"]},
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}

_CONTAINERD = """version = 2
root = "{folder}/containerd"
state = "/run/containerd"

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/asr-pause:test"
  # Where CAP_SYS_RESOURCE is missing, lowering a score fails: "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/config/cni"
"""

_COREFILE = """.:53 {{
    bind {address}
    errors
    health {address}:8080
    ready {address}:8181
    kubernetes {domain} in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }}
    cache 5
}}
"""


def _cni(plan: Plan) -> dict[str, object]:
    return {
        "cniVersion": "0.4.0",
        "name": "asr",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "pods",
                "isGateway": True,
                "hairpinMode": True,
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(plan.folder / "addresses"),
                    "ranges": [[{"subnet": plan.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _kubelet(plan: Plan) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": plan.address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(plan.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(plan.pki / "server.crt"),
        "tlsPrivateKeyFile": str(plan.pki / "server.key"),
        "healthzBindAddress": plan.address,
        "clusterDNS": [plan.service(10)],
        "clusterDomain": DOMAIN,
        "resolvConf": "",  # nothing of this machine's names
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{plan.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "podLogsDir": str(plan.folder / "pod-logs"),
        "volumePluginDir": str(plan.folder / "kubelet/volume-plugins"),
        "imageGCHighThresholdPercent": 100,  # images are imported, and cannot be pulled again
        # Not by memory: what this machine read twice, such as images that were just imported, counts as memory in use,
        # and a node under pressure takes no pod for five minutes unless told otherwise.
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%"},
        "evictionPressureTransitionPeriod": "10s",
        "maxPods": 200,
        "serializeImagePulls": False,
        "shutdownGracePeriod": "0s",
        "syncFrequency": "10s",
    }


def _proxy(plan: Plan) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "bindAddress": plan.address,
        "clientConnection": {"kubeconfig": plan.kubeconfig("kube-proxy")},
        "clusterCIDR": plan.pods,
        "hostnameOverride": NODE,
        "healthzBindAddress": f"{plan.address}:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "0s"},
    }
