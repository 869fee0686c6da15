"""Runs work on Dask: on a long-lived cluster by its address, or on workers inside the task.

Inside an Airflow task no cluster can start processes, so embedded workers are threads there.

In the middle of a stage, workers may come and go: others do the work of a lost one again. A scheduler that is restarted is
waited for, and gets once more what had not come back; a part is written under its digest, so twice is as good as once. A worker
with other versions than this process computes nothing.
"""

from __future__ import annotations

import logging
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import dask
import scipy.linalg  # noqa: F401 (loaded before the number of threads is limited, or its BLAS would keep its own)
import torch
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed, get_worker
from distributed.comm.core import CommClosedError
from threadpoolctl import threadpool_limits

from provenance.core.arrays import gpu_count
from provenance.core.errors import ClusterUnavailable, InputError, SettingsError
from provenance.core.progress import PROGRESS
from provenance.core.settings import ClusterSettings

log = logging.getLogger("provenance.cluster")

# Restarts of the scheduler that one piece of work survives, and starts of workers on this machine that are tried.
RESTARTS, STARTS = 3, 2
SECONDS_BETWEEN_LOGS = 4.0
# Work that is sent at once is data of its stage, such as candidates for copies: 20 MB for a million works. Dask warns of 10 MB.
LARGE = "1 GB"
# Results that one task combines.
FAN_IN = 4
WORKERS = {
    # A worker computes on one thread; Polars would take one for each core of the machine, in every worker.
    "distributed.nanny.pre-spawn-environ.POLARS_MAX_THREADS": 1,
    # Dask's default returns memory at once; allocating it again at every step costs a small model a third of its time.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    # Errors of tasks are raised here, so workers need not log them, nor their shutdown.
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
}
# Packages that decide results, or what Dask's processes send each other: the same everywhere. Builds (`+cpu`) may differ.
SAME = (
    "provenance", "dask", "distributed", "cloudpickle", "msgpack", "numpy", "polars", "safetensors", "scipy", "torch",
    "transformers",
)  # fmt: skip
Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def open_cluster(settings: ClusterSettings) -> Iterator[Client]:
    """Open a client of the cluster, and limit this process to one thread of computation.

    Raises:
        ClusterUnavailable: the cluster does not answer, or has no worker.
        SettingsError: no worker has the resources that the device needs, or one has other versions than this process.
    """
    _take_one_thread(anew=True)
    dask.config.set({"distributed.admin.large-graph-warning-threshold": LARGE})
    if settings.address:
        try:
            client = Client(settings.address, timeout=settings.start_seconds, set_as_default=False)
        except OSError as error:
            raise ClusterUnavailable(f"no Dask scheduler answers at {settings.address} (cluster.address): {error}") from error
        with client:
            _check_resources(client, settings)
            _check_workers(client)
            yield client
        return
    cluster = _start(settings)
    with cluster, Client(cluster, timeout=settings.start_seconds, set_as_default=False) as client:
        _check_resources(client, settings)
        _check_workers(client)
        yield client


def _start(settings: ClusterSettings) -> LocalCluster:
    """Workers on this machine; a start that a loaded machine made too slow is tried again.

    Raises:
        ClusterUnavailable: they did not start.
    """
    for left in reversed(range(STARTS)):
        try:
            return _local_cluster(settings)
        except (OSError, RuntimeError) as error:  # Dask's time-outs, of a connection and of a worker
            problem = f"{settings.workers} workers on this machine did not start: {type(error).__name__}: {error}"
            if not left:
                hint = "Start again when the machine is less busy, with fewer workers, or with a larger cluster.start_seconds."
                raise ClusterUnavailable(f"{problem}. {hint}") from error
            log.warning("%s; they are started again", problem)
    raise AssertionError


def _local_cluster(settings: ClusterSettings) -> LocalCluster:
    """Workers on this machine; with processes on GPUs, one GPU each."""
    options: dict[str, Any] = {"n_workers": settings.workers, "threads_per_worker": 1, "dashboard_address": ":0"}
    if settings.device == "cuda" and settings.workers > gpu_count():
        raise SettingsError(
            "settings: cluster.workers",
            expected=f"at most {gpu_count()}, the GPUs of this machine",
            found=str(settings.workers),
        )
    patience = {"distributed.comm.timeouts.connect": f"{settings.start_seconds}s"}
    with dask.config.set(WORKERS | patience), _ignoring_interrupts():
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

    A result is released once it is yielded. Work of a lost worker is retried on another, work that a restarted scheduler has
    forgotten is submitted again. The first InputError ends the stage.
    """

    def __init__(self, settings: ClusterSettings, doors: ExitStack) -> None:
        self._settings, self._opened = settings, doors.enter_context(ExitStack())
        self._client: Client | None = None
        _take_one_thread(anew=True)  # this process, too: a stage that reuses everything has the bits of one that computes

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return self._settings.device

    def open(self) -> Client:
        """The client, opened at first use."""
        if self._client is None:
            self._client = self._opened.enter_context(open_cluster(self._settings))
        return self._client

    def _reopen(self, lost: int, error: _SchedulerLostError) -> None:
        """Connect again to a scheduler that went away.

        Raises:
            ClusterUnavailable: it does not come back, or went away `lost` times.
        """
        if lost > RESTARTS or not self._settings.address:
            raise ClusterUnavailable(f"the Dask scheduler was lost {lost} times: {error}") from error
        log.warning("the Dask scheduler at %s was lost; its work is submitted again", self._settings.address)
        self._client = None
        with suppress(OSError, RuntimeError):
            self._opened.close()
        self.open()

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
        early: dict[int, Result] = {}
        following = lost = 0
        while following + len(early) < len(items):
            left = [number for number in range(following, len(items)) if number not in early]
            try:
                for place, result in self._some(function, shared, [items[number] for number in left], what=what, name=name):
                    early[left[place]] = result
                    while following in early:
                        yield early.pop(following)
                        following += 1
            except _SchedulerLostError as error:
                lost += 1
                self._reopen(lost, error)

    def _some(
        self,
        function: Callable[[Shared, Item], Result],
        shared: Shared,
        items: Sequence[Item],
        *,
        what: str,
        name: Callable[[Item], str],
    ) -> Iterator[tuple[int, Result]]:
        """Yield the results of some items, as they come, each with its place among them."""
        client = self.open()
        # `shared` is not scattered: the scheduler's copy survives the loss of every worker, and each worker gets it once.
        mapped = client.map(_guarded, items, shared=shared, function=function, wanted=here(), **_submission(self._settings))
        waiting = {future.key: future for future in mapped}
        del mapped  # or these references would keep every result
        with _cancelled_at_the_end(client, lambda: list(waiting.values())):
            for number, future in _as_finished(client, waiting, items, what=what, name=name):
                result = _result(future)
                if isinstance(result, InputError):
                    raise result
                del waiting[future.key]
                yield number, result

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
        lost = 0
        while True:
            try:
                return self._reduced(function, shared, items, combine, what=what)
            except _SchedulerLostError as error:
                lost += 1
                self._reopen(lost, error)

    def _reduced(
        self,
        function: Callable[[Shared, Item], Result],
        shared: Shared,
        items: Sequence[Item],
        combine: Callable[[Sequence[Result]], Result],
        *,
        what: str,
    ) -> Result:
        client, options = self.open(), _submission(self._settings)
        level = client.map(_guarded, items, shared=shared, function=function, wanted=here(), **options)
        waiting = {future.key: future for future in level}
        while len(level) > 1:
            groups = [level[start : start + FAN_IN] for start in range(0, len(level), FAN_IN)]
            level = [client.submit(_combined, group, combine=combine, **options) for group in groups]
            del groups
        with _cancelled_at_the_end(client, lambda: [*waiting.values(), *level]):
            for _, future in _as_finished(client, waiting, items, what=what, name=str):
                del waiting[future.key]  # its worker releases it once it is combined
            result: Result | InputError = _result(level[0])
        if isinstance(result, InputError):
            raise result
        return result

    def everywhere(self, function: Callable[[], None]) -> None:
        """See `Workers.everywhere`; does nothing if the cluster was never used."""
        if self._client is None:
            return
        for error in self._client.run(function, on_error="return").values():
            if isinstance(error, Exception) and not isinstance(error, OSError):  # a worker that is gone needs no call
                raise error


class _SchedulerLostError(Exception):
    """The connection to the scheduler broke, and with it all futures."""


def _result(future: Future[Any]) -> Any:
    """The result of a finished future."""
    try:
        return future.result()
    except (CancelledError, CommClosedError) as error:
        raise _SchedulerLostError(str(error)) from error


@contextmanager
def _cancelled_at_the_end(client: Client, left: Callable[[], list[Future[Any]]]) -> Iterator[None]:
    """Cancel what is left at the end of a block, unless the scheduler is lost, which has forgotten it."""
    try:
        yield
    except _SchedulerLostError:
        raise
    except BaseException:
        with suppress(CancelledError, CommClosedError):
            client.cancel(left(), force=True)
        raise
    else:
        client.cancel(left(), force=True)


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
        if future.status in {"cancelled", "lost"}:
            raise _SchedulerLostError("the client lost the connection to the scheduler")
        if future.status == "error":
            error = future.exception()
            if isinstance(error, KilledWorker):
                hint = "Mostly it took more memory than a worker may have: give workers more, or look into their own logs."
                raise ClusterUnavailable(f"{what}: {name(items[number])} killed every worker that tried it. {hint}") from error
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


def _guarded(
    item: Item, *, shared: Shared, function: Callable[[Shared, Item], Result], wanted: Mapping[str, str]
) -> Result | InputError:
    _take_one_thread()
    try:
        if wanted != here():  # a worker that came later than the check of all
            _check_versions(wanted, here(), get_worker().address)
        return function(shared, item)
    except InputError as error:
        return error


@cache
def here() -> Mapping[str, str]:
    """The versions of Python and of the packages in `SAME` in this process."""
    return {"Python": ".".join(platform.python_version_tuple()[:2]), **{name: _version(name) for name in SAME}}


def _version(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "none"


def _check_workers(client: Client) -> None:
    """Check the workers that a cluster has: one that cannot read its work would be sent it for ever.

    Raises:
        SettingsError: naming a worker without the product, or with other versions than here.
    """
    for address, found in client.run(here, on_error="return").items():
        if isinstance(found, ImportError) or str(found).startswith("ModuleNotFoundError"):  # Dask keeps the text alone
            expected = "one on which provenance is installed, as in this process"
            raise SettingsError(f"Dask worker {address}", expected=expected, found=str(found)) from found
        if not isinstance(found, Exception):  # a worker that has gone meanwhile
            _check_versions(here(), found, address)


def _check_versions(wanted: Mapping[str, str], found: Mapping[str, str], address: str) -> None:
    """Raise SettingsError, naming every version that differs, if a worker has others than the process that sends it work."""
    if found == wanted:
        return
    other = sorted(name for name in wanted if found.get(name) != wanted[name])
    raise SettingsError(
        f"Dask worker {address}",
        expected=", ".join(f"{name} {wanted[name]}" for name in other),
        found=", ".join(f"{name} {found.get(name, 'none')}" for name in other),
        hint="Results depend on versions: install the same ones on workers, scheduler and tasks (infra/requirements).",
    )


_limited = threading.local()


def _take_one_thread(*, anew: bool = False) -> None:
    """Compute on one thread from now on; with more, the last bits of sums would depend on their number.

    BLAS libraries are looked for again only where modules were loaded since this thread did: it takes as long as a small task.
    """
    torch.set_num_threads(1)
    if anew or getattr(_limited, "modules", None) != len(sys.modules):
        threadpool_limits(limits=1)
        _limited.modules = len(sys.modules)


def _check_resources(client: Client, settings: ClusterSettings) -> None:
    """Wait for a worker with the resources, since Dask would wait for ever for resources that no worker has.

    A restarted scheduler knows no worker for some seconds, and an adaptive cluster starts none before there is work.
    """
    gpus = _resources(settings).get("GPU", 0)
    until = time.monotonic() + settings.start_seconds
    work: Future[Any] | None = None
    while True:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if any(worker["resources"].get("GPU", 0) >= gpus for worker in workers):
            return
        if time.monotonic() > until:
            break
        work = work or client.submit(here, **_submission(settings))
        time.sleep(0.2)
    hint = f"Start one: dask worker {settings.address} --nthreads 1" + (" --resources GPU=1" if gpus else "")
    if not workers:
        raise ClusterUnavailable(f"the Dask scheduler at {settings.address} has no worker. {hint}")
    raise SettingsError(
        "settings: cluster",
        expected="a worker with resource GPU=1",
        found=f"{len(workers)} workers without it",
        hint=hint,
    )
