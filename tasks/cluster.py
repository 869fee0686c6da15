"""Dask: a long-lived cluster by address, or workers inside the task.

A cluster that spawns processes cannot start inside an Airflow task, so there the embedded one has threads, one per worker.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import dask
import torch
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed
from threadpoolctl import threadpool_limits

from provenance.core.arrays import gpu_count
from provenance.core.errors import ClusterUnavailable, InputError, SettingsError
from tasks.settings import ClusterSettings

log = logging.getLogger("provenance.cluster")

# Seconds in which a cluster has to answer.
CONNECT = 30
SECONDS_BETWEEN_LOGS = 4.0
PROGRESS = "%s: %d of %d"
# Results that one task adds up.
FAN_IN = 4
WORKERS = {
    # Dask has workers hand memory back at once; to take it anew at every step of a small model costs a third of the time.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    # What goes wrong in a task comes back as its error; how workers feel when they are closed is nobody's business.
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
}
Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def open_cluster(settings: ClusterSettings) -> Iterator[Client]:
    """A client of the cluster, for as long as one stage needs it; what the stage adds up itself, it does on one thread, too.

    Raises:
        ClusterUnavailable: the cluster does not answer, or has no worker.
        SettingsError: its workers lack what the device asks for.
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
    """Workers on this machine; where they are processes and compute on GPUs, each has one of its own."""
    shared: dict[str, Any] = {"n_workers": settings.workers, "threads_per_worker": 1, "dashboard_address": ":0"}
    if settings.device == "cuda" and settings.workers > gpu_count():
        raise SettingsError(
            "settings: cluster.workers",
            expected=f"at most {gpu_count()}, the GPUs of this machine",
            found=str(settings.workers),
        )
    with dask.config.set(WORKERS), _deaf_to_interrupts():
        if settings.device == "cuda" and settings.processes:
            from dask_cuda import LocalCUDACluster

            cluster: LocalCluster = LocalCUDACluster(**shared, resources=_resources(settings))
            return cluster
        return LocalCluster(**shared, processes=settings.processes, resources=_resources(settings))


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal; those begun in here leave it to the one that began them."""
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives, and none may be set
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def compute(
    client: Client,
    function: Callable[[Shared, Item], Result],
    shared: Shared,
    items: Sequence[Item],
    *,
    settings: ClusterSettings,
    what: str,
    name: Callable[[Item], str] = str,
) -> Iterator[Result]:
    """Yield `function(shared, item)` for each item, in order, from the cluster; logs progress every few seconds.

    A result is let go once it is yielded. A worker lost is retried elsewhere. Bad input is not: the first InputError ends
    the stage.
    """
    # Not scattered: what a scheduler holds survives the loss of every worker, and Dask sends it to each worker once.
    mapped = client.map(_guarded, items, shared=shared, function=function, **_submission(settings))
    waiting = {future.key: future for future in mapped}
    del mapped  # a future that nobody holds lets go of its result
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


def compute_tree(
    client: Client,
    function: Callable[[Shared, Item], Result],
    shared: Shared,
    items: Sequence[Item],
    combine: Callable[[Sequence[Result]], Result],
    *,
    settings: ClusterSettings,
    what: str,
) -> Result:
    """`combine` of all `function(shared, item)`, added up on the workers a few at a time; only the total comes back.

    Neighbours are combined in the order of the items, so the total does not depend on the number of workers.
    """
    options = _submission(settings)
    level = client.map(_guarded, items, shared=shared, function=function, **options)
    waiting = {future.key: future for future in level}
    while len(level) > 1:
        groups = [level[start : start + FAN_IN] for start in range(0, len(level), FAN_IN)]
        level = [client.submit(_combined, group, combine=combine, **options) for group in groups]
        del groups
    try:
        for _, future in _as_finished(client, waiting, items, what=what, name=str):
            del waiting[future.key]  # its worker keeps it until it has been combined, and no longer
        result: Result | InputError = level[0].result()
    finally:
        client.cancel([*waiting.values(), *level], force=True)
    if isinstance(result, InputError):
        raise result
    return result


def _submission(settings: ClusterSettings) -> dict[str, Any]:
    """How every task is submitted."""
    return {"retries": 2, "pure": False, "resources": _resources(settings)}


def _resources(settings: ClusterSettings) -> dict[str, int]:
    return {"GPU": 1} if settings.device == "cuda" else {}


def _as_finished(
    client: Client, waiting: Mapping[Any, Future[Any]], items: Sequence[Item], *, what: str, name: Callable[[Item], str]
) -> Iterator[tuple[int, Future[Any]]]:
    """The futures of the items as they finish, each with its item's number; logs progress, and names an item that kills."""
    index = {key: number for number, key in enumerate(waiting)}
    log.info(PROGRESS, what, 0, len(items))
    told = time.monotonic()
    for done, future in enumerate(as_completed(list(waiting.values()), loop=client.loop), start=1):
        number = index[future.key]
        if future.status == "error":
            error = future.exception()
            if isinstance(error, KilledWorker):
                raise RuntimeError(f"{what}: {name(items[number])} killed every worker that tried it") from error
            raise error
        if time.monotonic() - told > SECONDS_BETWEEN_LOGS or done == len(items):
            log.info(PROGRESS, what, done, len(items))
            told = time.monotonic()
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
    """Compute on one thread from now on: workers are what runs in parallel, and with more the last bits depend on how many."""
    torch.set_num_threads(1)
    threadpool_limits(limits=1)


def _check_resources(client: Client, settings: ClusterSettings) -> None:
    """Wait for a worker that can do the work, since an unsatisfiable resource would wait for ever, silently.

    A scheduler that was started again knows no worker for some seconds.
    """
    wanted = "GPU" if settings.device == "cuda" else None
    until = time.monotonic() + CONNECT
    while True:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if any(wanted is None or worker["resources"].get(wanted, 0) >= 1 for worker in workers):
            return
        if time.monotonic() > until:
            break
        time.sleep(0.5)
    hint = f"Start one: dask worker {settings.address} --nthreads 1" + (" --resources GPU=1" if wanted else "")
    if not workers:
        raise ClusterUnavailable(f"the Dask scheduler at {settings.address} has no worker. {hint}")
    raise SettingsError(
        "settings: cluster",
        expected="a worker with resource GPU=1",
        found=f"{len(workers)} workers, none of them such",
        hint=hint,
    )
