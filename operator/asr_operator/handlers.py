"""All that kopf knows: what it watches puts objects into the store and keys into the queue, and nothing else."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import kopf

from asr_operator import metrics, names
from asr_operator.api import v1alpha1 as api
from asr_operator.api.base import GROUP
from asr_operator.cluster import KINDS, Cluster
from asr_operator.errors import OperatorError
from asr_operator.fleet import Fleet
from asr_operator.queue import KeyedQueue
from asr_operator.reconcile import Reconciler
from asr_operator.settings import Settings
from asr_operator.store import Key, Store

LOG = logging.getLogger(__name__)
HUNG_SECONDS = 240.0
"""A pass that takes longer hangs, though each of its requests has its time: no thread can be ended from outside."""
DRAIN_SECONDS = 20.0
CHUNK = 50
"""Objects of one answer to kopf's listings: all kinds are listed at once, and a parsed object takes 60 KB."""
KINDS_SECONDS = 15.0
"""Between two looks for kinds that the cluster does not know yet; each is one small request a kind."""
UNTOLD_FAILURES = 2
"""In a row: most have passed by then, and nobody needs to know."""
FIRST_SYNC_BACKOFF = (1.0, 2.0, 5.0, 10.0)


class Operator:
    """The running operator: a store, a queue, its workers, the resync, and what it tells of its resources."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store()
        self.fleet = Fleet(self.store)
        self.cluster = Cluster.connect(self.store, settings.namespaces, connections=settings.workers + 2)
        self.cluster.observer = metrics.request
        self.reconciler = Reconciler(self.cluster, self.store, settings)
        self.queue: KeyedQueue[Key] = KeyedQueue(self._work, failed=self._failed)
        self.synced: float | None = None
        self._tasks: list[asyncio.Task[None]] = []
        metrics.DEPTH.set_function(lambda: self.queue.depth)
        metrics.LONGEST.set_function(lambda: self.queue.longest_running)
        metrics.RESOURCES.set_function(lambda: len(self.store.keys(api.KIND)))

    def register(self, registry: kopf.OperatorRegistry) -> None:
        """Tell kopf what to watch, and what to do at the start, at the end, and when it is asked for its health."""
        kopf.on.login(registry=registry)(kopf.login_via_client)
        kopf.on.startup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)(self.start)
        kopf.on.cleanup(registry=registry)(self.stop)
        # Permanent: kopf would ask again after a minute, and /healthz would not answer until then.
        kopf.on.probe(registry=registry, id="resources", errors=kopf.ErrorsMode.PERMANENT)(self.resources)
        for kind in KINDS.values():
            group, _, version = kind.group.rpartition("/")
            kopf.on.event(group, version, kind.plural, registry=registry, id=f"see-{kind.plural}", param=kind.name)(
                self.see
            )

    async def start(self, settings: kopf.OperatorSettings, **_: Any) -> None:  # noqa: ANN401 (kopf's)
        """Set kopf up, read everything, and begin to work."""
        configure(settings)
        # Each pass has a thread, and so have the resync and the look for kinds; asyncio's own number goes by the cores.
        threads = ThreadPoolExecutor(self.settings.workers + 2, thread_name_prefix="pass")
        asyncio.get_running_loop().set_default_executor(threads)
        for delay in (*FIRST_SYNC_BACKOFF, None):
            try:
                await self._sync()
                break
            except OperatorError as error:
                if delay is None:
                    raise
                LOG.warning("%s; tried again in %.0f s", error, delay)
                await asyncio.sleep(delay)
        self._tasks = [
            asyncio.create_task(self.queue.run(self.settings.workers), name="workers"),
            asyncio.create_task(self._resync(), name="resync"),
            asyncio.create_task(self._look_for_kinds(), name="kinds"),
        ]

    async def stop(self, **_: Any) -> None:  # noqa: ANN401
        """End the workers; a pass that is under way may end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A pass runs in a thread, which no cancelling ends: it may write what it has begun.
        await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), DRAIN_SECONDS)

    async def see(self, *, type: str | None, body: kopf.Body, param: Any = "", **_: Any) -> None:  # noqa: A002, ANN401
        """An object has come, changed or gone."""
        seen = dict(body)
        labels = seen["metadata"].get("labels", {})
        if param != api.KIND and labels.get(names.MANAGED_BY_LABEL) != names.OPERATOR:
            return
        self.fleet.see(param, seen, gone=type == "DELETED")
        keys = {(seen["metadata"]["namespace"], seen["metadata"]["name"])} if param == api.KIND else set()
        if type == "DELETED":
            keys |= self.store.owners(seen)
            self.store.drop(param, seen, ended=True)
        elif self.store.put(param, seen):
            keys |= self.store.owners(seen)
        else:
            return  # our own write, or what the last listing has shown: a pass has looked at it, or is about to
        for key in keys:
            self.queue.add(key)

    async def resources(self, **_: Any) -> dict[str, float]:  # noqa: ANN401
        """For /healthz: an operator whose work hangs, or that cannot read, is to be restarted.

        Raises:
            RuntimeError: It hangs.
        """
        if any(task.done() for task in self._tasks):
            raise RuntimeError("the workers have ended")
        if self.queue.longest_running > HUNG_SECONDS:
            raise RuntimeError("a pass over one resource hangs")
        return {
            "waiting": float(self.queue.depth),
            "secondsSinceSync": time.monotonic() - (self.synced or time.monotonic()),
        }

    async def _work(self, key: Key) -> float | None:
        started = time.monotonic()
        try:
            again = await asyncio.to_thread(self.reconciler.reconcile, key)
        except Exception as error:
            if self.queue.failures(key) >= UNTOLD_FAILURES:
                await asyncio.to_thread(self.reconciler.hindered, key, error)
            raise
        finally:
            metrics.DURATION.observe(time.monotonic() - started)
        metrics.RECONCILES.labels("success").inc()
        return again

    def _failed(self, key: Key, error: Exception) -> None:
        metrics.RECONCILES.labels("error").inc()
        metrics.ERRORS.labels(type(error).__name__).inc()
        if isinstance(error, OperatorError):
            LOG.warning("%s/%s: %s; tried again", *key, error)
        else:
            LOG.error("%s/%s: an error in the operator; tried again", *key, exc_info=error)

    async def _sync(self) -> None:
        await asyncio.to_thread(self.cluster.sync)
        self.synced = time.monotonic()
        metrics.SYNCED.set_to_current_time()
        for key in self.store.keys(api.KIND):
            self.queue.add(key)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self.settings.resync_seconds)
            try:
                await self._sync()
            except OperatorError as error:
                LOG.warning("%s; tried again in %d s", error, self.settings.resync_seconds)

    async def _look_for_kinds(self) -> None:
        """KEDA may be installed after the operator: whoever waits for it should not wait for the next resync."""
        while True:
            await asyncio.sleep(KINDS_SECONDS)
            try:
                if await asyncio.to_thread(self.cluster.look_for_kinds):
                    await self._sync()
            except OperatorError as error:
                LOG.warning("%s; tried again in %d s", error, KINDS_SECONDS)


def configure(settings: kopf.OperatorSettings) -> None:
    """Kopf's settings, each with its reason."""
    settings.peering.standalone = True  # one replica; a peering of other kopf operators must not pause this one
    settings.posting.enabled = False  # events are the reconciler's, on transitions only
    settings.scanning.disabled = True  # no rights to read namespaces and CRDs are asked for
    settings.watching.server_timeout = 300  # a watch that says nothing is begun anew
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = CHUNK
    for kind in KINDS.values():
        if kind.selected:
            # Without it every pod of the cluster would come here, and stay in memory.
            group, _, version = kind.group.rpartition("/")
            settings.watching.label_selectors[group, version, kind.plural] = names.MANAGED
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = Endless(1, 1, 2, 3, 5, 8, 13, 21)  # an API server may be away for long
    settings.networking.enforce_retry_after = True
    settings.queueing.idle_timeout = 0.1  # a task holds its object so long: all that were listed, after a start
    settings.persistence.diffbase_storage = NoDifferences()
    settings.process.ultimate_exiting_timeout = 25  # below the usual grace period of a pod
    settings.persistence.finalizer = f"{GROUP}/finalizer"  # none is ever set; should one be, it is ours


class NoDifferences(kopf.DiffBaseStorage):
    """Objects are never compared with those of before: kopf would copy each one three times at each of its events."""

    def build(self, **_: Any) -> kopf.BodyEssence:  # noqa: ANN401 (kopf's)
        """Nothing is worth comparing."""
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:  # noqa: ANN401
        """Nothing is kept."""

    def store(self, **_: Any) -> None:  # noqa: ANN401
        """Nothing is kept."""


class Endless:
    """Delays, the last one for ever. It can be iterated anew for each request."""

    def __init__(self, *delays: float) -> None:
        self._delays = delays

    def __iter__(self) -> Any:  # noqa: ANN401 (an endless iterator)
        yield from self._delays
        while True:
            yield self._delays[-1]
