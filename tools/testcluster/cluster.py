"""Clusters of our own: `ApiServer` is a control plane, `Cluster` has a node as well. Nothing of the host's is used.

Each lives below one folder and dies with one process, the supervisor (see there). There is nothing to shut down in
order: a cluster is thrown away whole.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from tools.testcluster import components, images, machine
from tools.testcluster.components import Component, Plan
from tools.testcluster.image_store import StoredImage
from tools.testcluster.machine import ClusterError, until
from tools.testcluster.pki import Authority, kubeconfig
from tools.testcluster.supervisor import SANDBOX_FOLDER, STAY

PROJECT = Path(__file__).parents[2]
BINARY = PROJECT / ".cache" / "bin" / "kube-node"
HELM = PROJECT / ".cache" / "bin" / "helm"
DEFAULT_FOLDER = PROJECT / ".cache" / "cluster"
PLUGINS = Path("/usr/lib/cni")
CONTROL_PLANE_PROGRAMS = ("openssl",)
NODE_PROGRAMS = (
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "iptables",
    "ip",
    "unshare",
    "nsenter",
    "buildah",
)
CONTROL_PLANE_PORTS = ("etcd", "etcd-peer", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE_PORTS = {  # in the sandbox all are free
    "etcd": 2379,
    "etcd-peer": 2380,
    "kube-apiserver": 6443,
    "kube-controller-manager": 10257,
    "kube-scheduler": 10259,
    "metrics-server": 4443,
}
NODE_USERS = ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns", "metrics-server")
UPLINK = "uplink"
CTR = ("ctr", "--namespace", "k8s.io")
SNAPSHOTS = (*CTR, "snapshots")
PRIVATE = ("/var/lib/cni", "/var/log/containers")  # written by libcni and the kubelet, wherever their state is
MANY_ENDS = 6


class ClusterRunsError(ClusterError):
    """There is a cluster in that folder already."""


class ApiServer:
    """A real control plane (etcd, API server, controllers, scheduler) on loopback, without a node.

    Use it as a context manager, or `start` and `stop` it.

    Attributes:
        folder: Of all its files.
        kubeconfig: Of an administrator.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.kubeconfig = self.folder / "kubeconfig"
        self._supervisor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What users of a cluster call.

    @functools.cached_property
    def plan(self) -> Plan:
        """Addresses, ports, paths."""
        saved = json.loads((self.folder / "plan.json").read_text())
        return Plan(**saved | {"folder": Path(saved["folder"]), "binary": Path(saved["binary"])})

    @property
    def url(self) -> str:
        """Of the API server."""
        return self.plan.url("kube-apiserver")

    @property
    def environment(self) -> dict[str, str]:
        """For programs that talk to the cluster: its kubeconfig, and its addresses kept away from any proxy."""
        hosts = f"127.0.0.1,localhost,{self.plan.address}"
        return {"KUBECONFIG": str(self.kubeconfig), "NO_PROXY": hosts, "no_proxy": hosts}

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 60.0) -> str:
        """Run kubectl as an administrator; returns what it prints.

        Raises:
            ClusterError: It failed; in kubectl's words.
        """
        return machine.run(
            [str(BINARY), "kubectl", *arguments], environment=self.environment, stdin=stdin, seconds=seconds
        )

    def helm(self, *arguments: str, seconds: float = 120.0) -> str:
        """Run helm as an administrator, its own files below the cluster's folder; returns what it prints.

        Raises:
            ClusterError: It failed; in helm's words.
        """
        own = {f"HELM_{name}_HOME": str(self.folder / "helm" / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        return machine.run([str(HELM), *arguments], environment=self.environment | own, seconds=seconds)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects on the server's side, as field manager `tests`."""
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("apply", "--server-side", "--field-manager=tests", "--force-conflicts", "-f", "-", stdin=listed)

    def wait_for_definitions(self) -> None:
        """Wait until every kind is served; `kubectl wait` fails on a definition so new that it has no conditions."""

        def established() -> bool:
            conditions = [item.get("status", {}).get("conditions") or () for item in self.get("crd")["items"]]
            return all(any(c["type"] == "Established" and c["status"] == "True" for c in each) for each in conditions)

        until(established, "all definitions", seconds=30)

    def get(self, *arguments: str) -> dict[str, Any]:
        """What `kubectl get … -o json` prints."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def writes(self) -> list[dict[str, Any]]:
        """Audit events of all changes that were asked for so far, oldest first; the control plane's own left out.

        Each has `verb`, `user`, `userAgent`, `objectRef`, `responseStatus`; no bodies.
        """
        return [json.loads(line) for line in (self.folder / "logs" / "audit.jsonl").read_text().splitlines()]

    def log(self, component: str) -> str:
        """What a component wrote so far."""
        return (self.folder / "logs" / f"{component}.log").read_text(errors="replace")

    def status(self) -> dict[str, str]:
        """Every component, and in a few words how it is."""
        if machine.saved_process(self._process_file) is None:
            return {"supervisor": "not running"}
        return {"supervisor": "works"} | {part.name: self._health(part) for part in self._parts()}

    def pid(self, component: str) -> int:
        """Process id of a running component, as this machine counts.

        Raises:
            ClusterError: It does not run now.
        """
        if (pid := self._note(component).get("pid")) is None:
            raise ClusterError(f"{component} does not run")
        return int(pid)

    # Life and death.

    def start(self) -> None:
        """Start, and wait until everything works. It ends with this process, unless told to `stay`.

        Raises:
            ClusterError: Something is missing, or runs there already, or does not start.
        """
        with self._undone_on_failure():
            with machine.starting():
                self._check_start(CONTROL_PLANE_PROGRAMS, BINARY)
                ports = machine.free_ports(CONTROL_PLANE_PORTS)
                plan = Plan(self.folder, BINARY, "127.0.0.1", ports, services="10.96.0.0/20")
                self._prepare(plan, users=("kube-controller-manager", "kube-scheduler"))
                self._launch(components.control_plane(plan), None)
            self._await_components(components.control_plane(plan))

    def stop(self) -> None:
        """End all its processes and remove its folder. What is not there is no error."""
        if (pid := machine.saved_process(self._process_file)) is not None:
            machine.end(pid)
        if self._supervisor is not None:
            self._supervisor.wait()
            self._supervisor.stdin.close()  # type: ignore[union-attr]
            self._supervisor = None
        machine.remove_folder(self.folder)
        self.__dict__.pop("plan", None)

    def stay(self) -> None:
        """Let the cluster outlive this process."""
        self._supervisor.stdin.write(STAY)  # type: ignore[union-attr]
        self._supervisor.stdin.flush()  # type: ignore[union-attr]

    @property
    def _process_file(self) -> Path:
        return self.folder / "supervisor.json"

    def _parts(self) -> list[Component]:
        return [
            Component(**part) for part in json.loads((self.folder / "specification.json").read_text())["components"]
        ]

    def _check_start(self, programs: tuple[str, ...], *files: Path) -> None:
        with suppress(ClusterError):  # one whose starter was just killed ends in a moment
            until(lambda: machine.saved_process(self._process_file) is None, "its end", seconds=2)
        if machine.saved_process(self._process_file) is not None:
            raise ClusterRunsError(f"a cluster runs in {self.folder} already")
        for missing in [name for name in programs if shutil.which(name) is None]:
            raise ClusterError(f"{missing} is missing; run `make cluster-setup`")
        for path in [path for path in files if not path.exists()]:
            raise ClusterError(f"{path} is missing; run `make cluster-setup`")
        self.stop()  # what a crash left

    def _prepare(self, plan: Plan, users: tuple[str, ...]) -> None:
        """Write keys, certificates, kubeconfigs and configuration into a new folder."""
        for name in ("logs", "state", "config", "kubeconfigs"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o700)
        authority = Authority(self.folder / "pki")
        authority.create()
        node = f"system:node:{components.NODE}"
        authority.sign("server", user=node, group="system:nodes", addresses=components.names(plan))
        authority.sign("front-proxy", user="front-proxy")
        admin = authority.sign("admin", user="admin", group="system:masters")
        self.kubeconfig.write_text(kubeconfig(plan.url("kube-apiserver"), authority.certificate, admin))
        for name in users:
            user, group = (node, "system:nodes") if name == "kubelet" else (f"system:{name}", "")
            text = kubeconfig(
                plan.url("kube-apiserver"), authority.certificate, authority.sign(name, user=user, group=group)
            )
            (self.folder / "kubeconfigs" / name).write_text(text)
        files = components.control_plane_files() | (components.node_files(plan) if plan.pods else {})
        for name, text in (files | {"plan.json": json.dumps(asdict(plan), default=str, indent=2)}).items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(text)

    @contextmanager
    def _undone_on_failure(self) -> Iterator[None]:
        try:
            yield
        except ClusterRunsError:
            raise
        except BaseException:
            if "ASR_KEEP_FAILED_CLUSTER" not in os.environ:
                self.stop()
            raise

    def _launch(self, parts: list[Component], sandbox: dict[str, Any] | None) -> None:
        specification = self.folder / "specification.json"
        content = {"folder": str(self.folder), "sandbox": sandbox, "components": [asdict(part) for part in parts]}
        specification.write_text(json.dumps(content, indent=2))
        separate = [
            "unshare",
            "--mount",
            "--propagation",
            "slave",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]
        with (self.folder / "logs" / "supervisor.log").open("wb") as log:
            self._supervisor = subprocess.Popen(
                [
                    *(separate if sandbox else []),
                    sys.executable,
                    "-m",
                    "tools.testcluster.supervisor",
                    str(specification),
                ],
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the starter
            )
        machine.save_process(self._process_file, self._supervisor.pid)

    def _await_components(self, parts: list[Component]) -> None:
        for part in parts:
            until(
                functools.partial(self._works, part),
                f"{part.name} to work",
                check=functools.partial(self._check_component, part),
            )

    def _check_component(self, part: Component) -> None:
        if self._supervisor is not None and self._supervisor.poll() is not None:
            raise ClusterError(f"the supervisor ended:\n{self.log('supervisor')[-3000:]}")
        if self._note(part.name).get("ends", 0) >= MANY_ENDS:
            raise ClusterError(f"{part.name} ends again and again; its log ends:\n{self.log(part.name)[-3000:]}")

    def _note(self, component: str) -> dict[str, Any]:
        """What the supervisor noted about a component last; empty before its first start."""
        path = self.folder / "state" / f"{component}.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def _works(self, part: Component) -> bool:
        return self._note(part.name).get("pid") is not None and (
            not part.health or machine.answers(part.health, self.folder / "pki")
        )

    def _health(self, part: Component) -> str:
        note = self._note(part.name)
        ended = f" (ended {note['ends']} times)" if note.get("ends") else ""
        if note.get("pid") is None:
            return f"not running{ended}"
        return ("works" if self._works(part) else "does not answer") + ended


class Cluster(ApiServer):
    """A control plane and a node that runs pods, in a sandbox of its own with no way out of this machine. Needs root.

    The host reaches pods and services by their addresses; they reach the host by the first address of the link.
    """

    def start(self) -> None:
        """Start, and wait until the node is ready and DNS and metrics work. It ends with this process, or may `stay`.

        Raises:
            ClusterError: Something is missing, or runs there already, or does not start.
        """
        if os.geteuid() != 0:
            raise ClusterError("a cluster with a node needs root: run this as root (`sudo`); `ApiServer` does not")
        with self._undone_on_failure():
            with machine.starting():
                self._check_start(CONTROL_PLANE_PROGRAMS + NODE_PROGRAMS, BINARY, images.PAUSE, PLUGINS / "bridge")
                number = self._free_network()
                plan = _plan(self.folder, number)
                self._prepare(plan, users=NODE_USERS)
                self._launch(components.control_plane(plan) + components.node(plan), _sandbox(plan))
                self._connect(number)
            self._await_components(components.control_plane(plan))
            self.apply(*components.system_objects(plan, self.folder.joinpath("pki/ca.crt").read_bytes()))
            (self.folder / components.RIGHTS).touch()
            self._await_components(components.node(plan))
            self.use_image("pause")
            until(self._node_ready, f"node {components.NODE} to be ready")
            until(self._metrics_available, "metrics to be served")

    def stop(self) -> None:
        """End everything in the sandbox and remove its folder and control groups. What is not there is no error."""
        super().stop()
        machine.remove_cgroups(machine.cgroup_name(self.folder))
        for path in PRIVATE:
            with suppress(OSError):  # another's, and not empty
                Path(path).rmdir()

    def use_image(self, name: str) -> str:
        """Build one of `images.IMAGES` as far as it changed, give it to the node, and return its name for manifests.

        Raises:
            ImageError: It cannot be built.
            ClusterError: The node does not take it.
        """
        image, reference = images.build(name), images.reference(name)
        if f"sha256:{image.identity}" not in self.node(*CTR, "images", "list", "--quiet"):
            self._take_over(image, reference)
        return reference

    def _take_over(self, image: StoredImage, reference: str) -> None:
        """Let containerd have an image's layers by hard links, then the rest of it by an import."""
        chains = image.chains()
        known = {line.split()[0] for line in self.node(*SNAPSHOTS, "list").splitlines()}
        for layer, chain, below in zip(image.layers, chains, ["", *chains], strict=False):
            if chain in known:
                continue
            draft = f"draft-{chain}"
            if draft in known:  # of a call that was interrupted
                self.node(*SNAPSHOTS, "remove", draft)
            self.node(*SNAPSHOTS, "prepare", draft, *([below] if below else []))
            # The command that would mount it: a bind mount of the lowest layer's folder, else an overlay.
            place = re.search(r"upperdir=([^,\s]+)|-t bind (\S+)", self.node(*SNAPSHOTS, "mounts", "/mnt", draft))
            if place is None:
                raise ClusterError(f"containerd does not say where the layer {chain} goes")
            layer.link(self._outside(Path(place[1] or place[2])))
            self.node(*SNAPSHOTS, "commit", chain, draft)
        archive = self.folder / "image.tar"
        image.write_archive(archive, reference)
        self.node(*CTR, "images", "import", "--all-platforms", str(SANDBOX_FOLDER / archive.name))
        archive.unlink()

    def _outside(self, path: Path) -> Path:
        """The host's path of what programs in the sandbox see as `path`."""
        return self.folder / path.relative_to(SANDBOX_FOLDER)

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self._sandbox_process()}", "--mount", "--net", "--pid", "--", *command]

    def node(self, *command: str, seconds: float = 60.0) -> str:
        """Run a program of the host's on the node, as root; returns what it prints."""
        return machine.run(self._inside(*command), environment={}, seconds=seconds)

    def pid(self, component: str) -> int:
        """Process id of a running component, as this machine counts."""
        inner = str(super().pid(component))
        sandbox = Path(f"/proc/{self._sandbox_process()}/ns/pid").readlink()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(FileNotFoundError, ProcessLookupError):
                numbers = (process / "status").read_text().partition("NSpid:")[2].partition("\n")[0].split()
                if numbers[-1] == inner and (process / "ns/pid").readlink() == sandbox:
                    return int(process.name)
        raise ClusterError(f"{component} has just ended")

    def _sandbox_process(self) -> int:
        outer = machine.saved_process(self._process_file)
        if outer is None or (first := machine.sandbox_process(outer)) is None:
            raise ClusterError(f"no cluster runs in {self.folder}")
        return first

    def _free_network(self) -> int:
        if not (numbers := machine.free_networks()):
            raise ClusterError("no network of 10.213.0.0/16 to 10.244.0.0/16 is free on this machine")
        return numbers[0]

    def _connect(self, number: int) -> None:
        """Join host and sandbox. The devices and the route go when the sandbox goes."""
        sandbox, ours = f"/proc/{self._supervisor.pid}/ns/net", Path("/proc/self/ns/net").readlink()  # type: ignore[union-attr]
        until(lambda: Path(sandbox).readlink() != ours, "the sandbox's network", seconds=10)
        device, pid = f"asr{number}", str(self._supervisor.pid)  # type: ignore[union-attr]
        for command in (
            f"link add {device} type veth peer name {UPLINK} netns {pid}",
            f"address add 10.{number}.255.1/30 dev {device}",
            f"link set {device} up",
            f"route add 10.{number}.0.0/16 via 10.{number}.255.2",
        ):
            machine.run(["ip", *command.split()], environment={})

    def _node_ready(self) -> bool:
        nodes = self.get("nodes")["items"]
        conditions = {each["type"]: each["status"] for node in nodes for each in node["status"]["conditions"]}
        return conditions.get("Ready") == "True"

    def _metrics_available(self) -> bool:
        found = self.get("apiservices", "v1beta1.metrics.k8s.io").get("status", {}).get("conditions", [])
        return any(each["type"] == "Available" and each["status"] == "True" for each in found)


def _plan(folder: Path, number: int) -> Plan:
    return Plan(
        SANDBOX_FOLDER,
        BINARY,
        f"10.{number}.255.2",
        NODE_PORTS,
        services=f"10.{number}.128.0/18",
        pods=f"10.{number}.0.0/17",
        cgroup=machine.cgroup_name(folder),
    )


def _sandbox(plan: Plan) -> dict[str, Any]:
    return {
        "device": UPLINK,
        "address": f"{plan.address}/30",
        "private": PRIVATE,
        "cgroups": [str(group) for group in machine.cgroups(str(plan.cgroup))],
    }
