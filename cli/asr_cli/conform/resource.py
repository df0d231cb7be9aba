"""A conformance run of an AsrDeployment: one pod of each pool, and with `--kill` the pods together."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from asr_cli.conform import kill, run
from asr_cli.conform.command import Options, Progress, Report, terminated
from asr_cli.conform.outcome import Result, failed, skipped
from asr_cli.conform.pods import Pods, forward, image, in_cluster, restarts
from asr_cli.conform.target import ShellError, Target, page_reader
from asr_client.transcription import ServerUnavailableError, Tls, connect
from asr_contract.server import GRPC_PORT, METRICS_PORT
from asr_operator import names
from asr_operator.api import v1alpha1 as api
from asr_operator.diagnose.reader import Cluster, ClusterError

Object = dict[str, Any]

ALL = "all pools"
RETRIES = 10
"""Of a request whose pod ends: a pod that is deleted has successors within seconds."""


def conform(
    cluster: Cluster, namespace: str, name: str, *, tls: Tls | None, options: Options, progress: Progress
) -> Report:
    """Check one pod of each pool.

    Raises:
        ClusterError: The resource cannot be read, or no pod of it is ready.
        ServerUnavailableError: A server does not answer.
    """
    resource = cluster.resource(namespace, name)
    spec = api.parse(resource).spec
    pods = Pods(cluster, namespace, name)
    report = Report(spec.model.name, options.kill)
    if spec.service.tls_secret_ref is not None:
        given = tls or Tls()
        # Pods are reached by address or through a port-forward, which no certificate names.
        tls = given if given.server_name else Tls(given.authorities, f"{name}.{namespace}.svc")
    last: tuple[Target, run.State] | None = None
    for pool in spec.pools:
        ready = pods.ready(pool.name)
        if not ready:
            _without_pods(report, pool, namespace, name, progress)
            continue
        with _target(pods, ready[0], pool, spec.model.name, tls) as target:
            progress.begun(f"pool {pool.name}: checks that change nothing")
            state = run.State()
            try:
                asyncio.run(_examine(target, state, options, report, progress))
            except ServerUnavailableError as error:
                hint = f"asr doctor asr/{name} -n {namespace} says more; with TLS, --tls or --tls-ca is needed."
                report.add(pool.name, failed("server", str(error), hint), progress)
            last = target, state
    if last is None:
        raise ClusterError(f"no pod of {name} is ready: asr doctor asr/{name} -n {namespace} says why")
    if options.kill and last[1].expected:
        try:
            for result in _kill(pods, namespace, name, spec=spec, tls=tls, state=last[1], progress=progress):
                report.add(ALL, result, progress)
        except (ClusterError, ServerUnavailableError) as error:
            report.add(ALL, failed("kill", str(error), "Look at the pods: kubectl get pods."), progress)
    return report


def _without_pods(report: Report, pool: api.Pool, namespace: str, name: str, progress: Progress) -> None:
    if pool.replicas == 0 or pool.autoscaling is not None:
        result = skipped("pods", "no pod of this pool is ready; it may be scaled to zero")
    else:
        hint = f"asr doctor asr/{name} -n {namespace} says why."
        result = failed("pods", "no pod of this pool is ready", hint)
    report.add(pool.name, result, progress)


async def _examine(target: Target, state: run.State, options: Options, report: Report, progress: Progress) -> None:
    async for result in run.examine(target, artifact=options.artifact, audio=options.audio, state=state):
        report.add(target.name, result, progress)


@contextmanager
def _target(pods: Pods, pod: Object, pool: api.Pool, model: str, tls: Tls | None) -> Iterator[Target]:
    """A way to one pod: its address where this runs in a pod, else port-forwards."""
    name = pod["metadata"]["name"]
    with ExitStack() as stack:
        if in_cluster():
            address = pod["status"]["podIP"]
            host = f"[{address}]" if ":" in address else address
            grpc, metrics = f"{host}:{GRPC_PORT}", f"{host}:{METRICS_PORT}"
        else:
            _without_proxy()
            ports = [stack.enter_context(forward(pods, lambda: name, port)) for port in (GRPC_PORT, METRICS_PORT)]
            grpc, metrics = (f"127.0.0.1:{port}" for port in ports)
            pods.require_forwarding(name, GRPC_PORT)
        yield Target(
            name=pool.name,
            url=grpc,
            tls=tls,
            model=model,
            page=page_reader(f"http://{metrics}/metrics"),
            shell=pods.shell(name),
            port=str(GRPC_PORT),
            forwarded=not in_cluster(),
            gpu=pool.gpu is not None,
            image=image(pod),
        )


def _without_proxy() -> None:
    """Keep gRPC's connections to port-forwards on this machine away from a proxy, if one is set."""
    known = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy") or ""  # noqa: SIM112 (gRPC reads no other)
    if "127.0.0.1" not in known.split(","):
        os.environ["no_grpc_proxy"] = ",".join(filter(None, (known, "127.0.0.1")))  # noqa: SIM112


def _kill(
    pods: Pods, namespace: str, name: str, *, spec: api.Spec, tls: Tls | None, state: run.State, progress: Progress
) -> Iterator[Result]:
    """The checks that end processes and pods, each once all pods are ready again."""
    model = spec.model.name
    with _service(pods, namespace, name) as url:
        progress.begun("the server of one pod is ended under load")
        yield _terminate(pods, spec, tls, state)
        _await_ready(pods, len(pods.all()))
        progress.begun("a Python process of one pod is killed under load")
        yield asyncio.run(_stub(pods, model, url, tls, state))
        _await_ready(pods, len(pods.all()))
        progress.begun("a pod is deleted under load")
        yield asyncio.run(_delete(pods, model, url, tls, state))


@contextmanager
def _service(pods: Pods, namespace: str, name: str) -> Iterator[str]:
    """A way to all pods: the headless Service, or a port-forward that leads each connection to a ready pod."""
    if in_cluster():
        yield f"{names.headless(name)}.{namespace}.svc:{GRPC_PORT}"
        return
    turn = iter(range(1 << 62))

    def choose() -> str | None:
        ready = sorted(pod["metadata"]["name"] for pod in pods.ready())
        return ready[next(turn) % len(ready)] if ready else None

    with forward(pods, choose, GRPC_PORT) as port:
        yield f"127.0.0.1:{port}"


def _await_ready(pods: Pods, wanted: int) -> float | None:
    """Seconds until that many pods are ready; None when they are not in time."""
    began = time.monotonic()
    while time.monotonic() - began < kill.RECOVERY_SECONDS:
        if len(pods.ready()) >= wanted:
            return time.monotonic() - began
        time.sleep(kill.POLL_SECONDS)
    return None


def _terminate(pods: Pods, spec: api.Spec, tls: Tls | None, state: run.State) -> Result:
    pod = pods.ready()[0]
    pool = next(item for item in spec.pools if item.name == pod["metadata"]["labels"][names.POOL_LABEL])
    before = restarts(pod)
    with _target(pods, pod, pool, spec.model.name, tls) as target:
        result = asyncio.run(terminated(target, state))
    # The container must be seen to restart before the next check looks for ready pods.
    _until(lambda: restarts(_again(pods, pod)) > before)
    return result


def _again(pods: Pods, pod: Object) -> Object:
    """The pod as it is now, or as it was if it has gone."""
    name = pod["metadata"]["name"]
    return next((item for item in pods.all() if item["metadata"]["name"] == name), pod)


def _until(reached: Callable[[], bool]) -> bool:
    began = time.monotonic()
    while time.monotonic() - began < kill.RECOVERY_SECONDS:
        if reached():
            return True
        time.sleep(kill.POLL_SECONDS)
    return False


async def _stub(pods: Pods, model: str, url: str, tls: Tls | None, state: run.State) -> Result:
    pod = (await asyncio.to_thread(pods.ready))[0]
    name, before, wanted = pod["metadata"]["name"], restarts(pod), len(await asyncio.to_thread(pods.all))
    killer = Target(name, url, tls, model, page=None, shell=pods.shell(name))
    async with connect(url, model, tls=tls, timeout=run.REQUEST_SECONDS, retries=RETRIES) as client:
        async with kill.steady(client, state.speech, state.expected) as load:
            await asyncio.sleep(1)
            try:
                await asyncio.to_thread(killer.ask, "kill-stub")
            except ShellError as error:
                return skipped(kill.STUB, str(error))
            killed = time.monotonic()

            async def restarted() -> bool:
                return restarts(await asyncio.to_thread(_again, pods, pod)) > before

            seen = await kill.until(restarted) is not None
        ready = await asyncio.to_thread(_await_ready, pods, wanted) if seen else None
        recovered = None if ready is None else time.monotonic() - killed
    if not seen:
        # It would fail for as long as it lives, and the user has asked for a check, not for an outage.
        await asyncio.to_thread(pods.delete, name)
    return kill.judge_stub(load, restarted=seen, recovered=recovered)


async def _delete(pods: Pods, model: str, url: str, tls: Tls | None, state: run.State) -> Result:
    ready = await asyncio.to_thread(pods.ready)
    if len(ready) < 2:  # noqa: PLR2004 (with one pod, its deletion is an outage)
        hint = "Set replicas: 2 in a pool, and run it again."
        return skipped(kill.DELETION, "only one pod is ready: its deletion would be an outage", hint)
    pod = ready[0]["metadata"]["name"]
    async with connect(url, model, tls=tls, timeout=run.REQUEST_SECONDS, retries=RETRIES) as client:
        async with kill.steady(client, state.speech, state.expected) as load:
            await asyncio.sleep(1)
            try:
                await asyncio.to_thread(pods.delete, pod)
            except ClusterError as error:
                return skipped(kill.DELETION, str(error))

            async def gone() -> bool:
                return all(item["metadata"]["name"] != pod for item in await asyncio.to_thread(pods.everything))

            ended = await kill.until(gone)
        recovered = await asyncio.to_thread(_await_ready, pods, len(ready)) if ended is not None else None
    return kill.judge_deletion(load, None if recovered is None or ended is None else ended + recovered)
