"""Runs work on Dask: on a long-lived cluster by its address, or on workers inside the task.

Inside an Airflow task no cluster can start processes, so embedded workers are threads there.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import dask
import torch
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed
from threadpoolctl import threadpool_limits

from provenance.core.arrays import gpu_count
from provenance.core.errors import ClusterUnavailable, InputError, SettingsError
from provenance.core.progress import PROGRESS
from provenance.core.settings import ClusterSettings

log = logging.getLogger("provenance.cluster")

# Seconds to wait for a cluster.
CONNECT = 30
SECONDS_BETWEEN_LOGS = 4.0
# Results that one task combines.
FAN_IN = 4
WORKERS = {
    # Dask's default returns memory at once; allocating it again at every step costs a small model a third of its time.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    # Errors of tasks are raised here, so workers need not log them, nor their shutdown.
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
}
Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def open_cluster(settings: ClusterSettings) -> Iterator[Client]:
    """Open a client of the cluster, and limit this process to one thread of computation.

    Raises:
        ClusterUnavailable: the cluster does not answer, or has no worker.
        SettingsError: no worker has the resources that the device needs.
    """
    _take_one_thread()
    if settings.address:
        try:
            client = Client(settings.address, timeout=CONNECT, set_as_default=False)
        except OSError as error:
            raise ClusterUnavailable(f"no Dask scheduler answers at {settings.address} (cluster.address): {error}") from error
        with client:
            _check_resources(client, settings)
            yield client
        return
    with _local_cluster(settings) as cluster, Client(cluster, set_as_default=False) as client:
        _check_resources(client, settings)
        yield client


def _local_cluster(settings: ClusterSettings) -> LocalCluster:
    """Workers on this machine; with processes on GPUs, one GPU each."""
    options: dict[str, Any] = {"n_workers": settings.workers, "threads_per_worker": 1, "dashboard_address": ":0"}
    if settings.device == "cuda" and settings.workers > gpu_count():
        raise SettingsError(
            "settings: cluster.workers",
            expected=f"at most {gpu_count()}, the GPUs of this machine",
            found=str(settings.workers),
        )
    with dask.config.set(WORKERS), _ignoring_interrupts():
        if settings.device == "cuda" and settings.processes:
            from dask_cuda import LocalCUDACluster

            cluster: LocalCluster = LocalCUDACluster(**options, resources=_resources(settings))
            return cluster
        return LocalCluster(**options, processes=settings.processes, resources=_resources(settings))


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Have processes that start meanwhile ignore Ctrl-C, which a terminal sends to all; this process handles it."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set signal handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class DaskWorkers:
    """Workers of a Dask cluster; it opens with the first work and closes with the stage.

    A result is released once it is yielded. Work of a lost worker is retried on another. The first InputError ends the stage.
    """

    def __init__(self, settings: ClusterSettings, doors: ExitStack) -> None:
        self._settings, self._doors = settings, doors
        self._client: Client | None = None
        _take_one_thread()  # this process, too: a stage that reuses everything has the bits of one that computes

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return self._settings.device

    def open(self) -> Client:
        """The client, opened at first use."""
        if self._client is None:
            self._client = self._doors.enter_context(open_cluster(self._settings))
        return self._client

    def map(
        self,
        function: Callable[[Shared, Item], Result],
        shared: Shared,
        items: Sequence[Item],
        *,
        what: str,
        name: Callable[[Item], str] = str,
    ) -> Iterator[Result]:
        """See `Workers.map`."""
        client = self.open()
        # `shared` is not scattered: the scheduler's copy survives the loss of every worker, and each worker gets it once.
        mapped = client.map(_guarded, items, shared=shared, function=function, **_submission(self._settings))
        waiting = {future.key: future for future in mapped}
        del mapped  # or these references would keep every result
        early: dict[int, Result] = {}
        following = 0
        try:
            for number, future in _as_finished(client, waiting, items, what=what, name=name):
                result = future.result()
                if isinstance(result, InputError):
                    raise result
                early[number] = result
                del waiting[future.key]
                while following in early:
                    yield early.pop(following)
                    following += 1
        finally:
            client.cancel(list(waiting.values()), force=True)

    def reduce(
        self,
        function: Callable[[Shared, Item], Result],
        shared: Shared,
        items: Sequence[Item],
        combine: Callable[[Sequence[Result]], Result],
        *,
        what: str,
    ) -> Result:
        """See `Workers.reduce`; the workers combine, and only the total comes back.

        Neighbours are combined in the order of the items, so the total does not depend on the number of workers.
        """
        client, options = self.open(), _submission(self._settings)
        level = client.map(_guarded, items, shared=shared, function=function, **options)
        waiting = {future.key: future for future in level}
        while len(level) > 1:
            groups = [level[start : start + FAN_IN] for start in range(0, len(level), FAN_IN)]
            level = [client.submit(_combined, group, combine=combine, **options) for group in groups]
            del groups
        try:
            for _, future in _as_finished(client, waiting, items, what=what, name=str):
                del waiting[future.key]  # its worker releases it once it is combined
            result: Result | InputError = level[0].result()
        finally:
            client.cancel([*waiting.values(), *level], force=True)
        if isinstance(result, InputError):
            raise result
        return result

    def everywhere(self, function: Callable[[], None]) -> None:
        """See `Workers.everywhere`; does nothing if the cluster was never used."""
        if self._client is not None:
            self._client.run(function)


def _submission(settings: ClusterSettings) -> dict[str, Any]:
    """Options of every Dask task."""
    return {"retries": 2, "pure": False, "resources": _resources(settings)}


def _resources(settings: ClusterSettings) -> dict[str, int]:
    return {"GPU": 1} if settings.device == "cuda" else {}


def _as_finished(
    client: Client, waiting: Mapping[Any, Future[Any]], items: Sequence[Item], *, what: str, name: Callable[[Item], str]
) -> Iterator[tuple[int, Future[Any]]]:
    """Yield the futures as they finish, with their item's number; logs progress and names an item that kills workers."""
    index = {key: number for number, key in enumerate(waiting)}
    log.info(PROGRESS, what, 0, len(items))
    logged = time.monotonic()
    for done, future in enumerate(as_completed(list(waiting.values()), loop=client.loop), start=1):
        number = index[future.key]
        if future.status == "error":
            error = future.exception()
            if isinstance(error, KilledWorker):
                raise RuntimeError(f"{what}: {name(items[number])} killed every worker that tried it") from error
            raise error
        if time.monotonic() - logged > SECONDS_BETWEEN_LOGS or done == len(items):
            log.info(PROGRESS, what, done, len(items))
            logged = time.monotonic()
        yield number, future


def _combined(parts: Sequence[Result | InputError], *, combine: Callable[[Sequence[Result]], Result]) -> Result | InputError:
    results: list[Result] = []
    for part in parts:
        if isinstance(part, InputError):
            return part
        results.append(part)
    return combine(results)


def _guarded(item: Item, *, shared: Shared, function: Callable[[Shared, Item], Result]) -> Result | InputError:
    _take_one_thread()
    try:
        return function(shared, item)
    except InputError as error:
        return error


def _take_one_thread() -> None:
    """Compute on one thread from now on; with more, the last bits of sums would depend on their number."""
    torch.set_num_threads(1)
    threadpool_limits(limits=1)


def _check_resources(client: Client, settings: ClusterSettings) -> None:
    """Wait for a worker with the resources, since Dask would wait for ever for resources that no worker has.

    A restarted scheduler knows no worker for some seconds.
    """
    gpus = _resources(settings).get("GPU", 0)
    until = time.monotonic() + CONNECT
    while True:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if any(worker["resources"].get("GPU", 0) >= gpus for worker in workers):
            return
        if time.monotonic() > until:
            break
        time.sleep(0.5)
    hint = f"Start one: dask worker {settings.address} --nthreads 1" + (" --resources GPU=1" if gpus else "")
    if not workers:
        raise ClusterUnavailable(f"the Dask scheduler at {settings.address} has no worker. {hint}")
    raise SettingsError(
        "settings: cluster",
        expected="a worker with resource GPU=1",
        found=f"{len(workers)} workers without it",
        hint=hint,
    )
