"""A cluster as it is in use: thousands of tasks, lost workers, full memory, workers that come and go, other versions."""

import os
import signal
import subprocess
import sys
import threading
import time
import types
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster
from servers import free_ports

from provenance.core.errors import ClusterUnavailable, SettingsError
from provenance.core.settings import CHECKOUT, ClusterSettings
from tasks import cluster
from tasks.cluster import DaskWorkers, here, open_cluster

THOUSANDS = 2000


@pytest.fixture
def workers_of():
    """Workers by their settings; their cluster closes at the end of the test."""
    with ExitStack() as doors:
        yield lambda **settings: DaskWorkers(ClusterSettings(**settings), doors)


def square(folder, item):
    """Squares an item; the first process that gets to the middle is killed there."""
    if item == THOUSANDS // 2 and folder:
        try:
            (folder / "killed").touch(exist_ok=False)
        except FileExistsError:
            return item * item
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


@pytest.mark.night
def test_thousands_of_tasks_outlive_a_worker(workers_of, tmp_path):
    items = list(range(THOUSANDS))
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as running:
        workers = workers_of(address=running.scheduler_address)
        assert list(workers.map(square, tmp_path, items, what="squares")) == [item * item for item in items]
        assert (tmp_path / "killed").exists(), "a worker was killed"
        (tmp_path / "killed").unlink()
        assert workers.reduce(square, tmp_path, items, sum, what="squares") == sum(item * item for item in items)
        assert (tmp_path / "killed").exists()


def block(_, item):
    return np.full(2**20, item, dtype=np.float64)  # 8 MB


def spilled(running):
    """Bytes that the workers keep on disk for want of memory."""
    return sum(worker.metrics["spilled_bytes"]["disk"] for worker in running.scheduler.workers.values())


@pytest.mark.night
def test_results_that_do_not_fit_into_memory_lie_on_disk_until_they_are_taken(workers_of):
    items = list(range(120))
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", memory_limit="1GiB") as running:
        results = workers_of(address=running.scheduler_address).map(block, None, items, what="blocks")
        most, sums = 0, []
        for result in results:
            sums.append(float(result[0]))
            until = time.monotonic() + 60  # while it waits, the worker computes the rest
            while not most and time.monotonic() < until:
                time.sleep(0.2)
                most = max(most, spilled(running))
        assert most > 0, "the worker spilled"
        assert sums == items


def add(shared, item):
    return shared + item


def test_a_cluster_that_starts_workers_only_for_work_gets_some(workers_of):
    with LocalCluster(n_workers=0, threads_per_worker=1, processes=False, dashboard_address=":0") as running:
        running.adapt(minimum=0, maximum=2, interval="50ms", wait_count=2)
        workers = workers_of(address=running.scheduler_address)
        assert list(workers.map(add, 1, list(range(500)), what="sums")) == list(range(1, 501))
        until = time.monotonic() + 60
        while running.scheduler_info["workers"] and time.monotonic() < until:
            time.sleep(0.1)
        assert not running.scheduler_info["workers"], "idle workers end"
        assert list(workers.map(add, 2, [1, 2], what="sums")) == [3, 4]


@contextmanager
def on_port(port):
    """A scheduler and a worker in processes of their own, as the stack has them; gives their processes."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(Path(__file__).parent), *sys.path])}
    dask, quiet = [sys.executable, "-m", "dask"], {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    address = f"tcp://127.0.0.1:{port}"
    commands = (
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
        [*dask, "worker", address, "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard", "--no-nanny",
         "--death-timeout", "60"],
    )  # fmt: skip
    started = [subprocess.Popen(command, env=environment, **quiet) for command in commands]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def slowly(folder, item):
    time.sleep(0.01)
    with (folder / str(item)).open("a") as file:
        file.write("x")
    return item


@pytest.mark.night
@pytest.mark.parametrize("kind", ["map", "reduce"])
def test_work_goes_on_where_the_scheduler_is_restarted_in_the_middle(workers_of, tmp_path, kind, caplog):
    port, items = free_ports(1)[0], list(range(400))
    second = ExitStack()

    def restart(first):
        while len(list(tmp_path.iterdir())) < 100:
            time.sleep(0.05)
        for process in first:
            process.kill()
            process.wait()
        second.enter_context(on_port(port))

    with on_port(port) as first, second:
        workers = workers_of(address=f"tcp://127.0.0.1:{port}")
        restarting = threading.Thread(target=restart, args=(first,))
        restarting.start()
        if kind == "map":
            assert list(workers.map(slowly, tmp_path, items, what="work")) == items
        else:
            assert workers.reduce(slowly, tmp_path, items, sum, what="work") == sum(items)
        restarting.join()
        workers.everywhere(time.monotonic)
    assert "was lost; its work is submitted again" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {str(item) for item in items}


def test_a_scheduler_that_does_not_come_back_is_named(workers_of, tmp_path):
    port = free_ports(1)[0]
    with on_port(port) as running:
        workers = workers_of(address=f"tcp://127.0.0.1:{port}")
        results = workers.map(slowly, tmp_path, list(range(400)), what="work")
        assert next(results) == 0
        workers._settings = workers._settings.model_copy(update={"start_seconds": 1.0})
        for process in running:
            process.kill()
            process.wait()
        with pytest.raises(ClusterUnavailable, match=f"no Dask scheduler answers at tcp://127.0.0.1:{port}"):
            list(results)


FOUND = rf"found Python {sys.version_info[0]}.{sys.version_info[1]}, torch \d+\.\d+\.\d+\. Results depend on versions"


def test_workers_with_other_versions_are_named(monkeypatch):
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as running:
        settings, other = ClusterSettings(address=running.scheduler_address), {**here(), "torch": "1.0", "Python": "2.7"}
        monkeypatch.setattr(cluster, "_check_workers", partial(_checked_as, other, monkeypatch))
        with pytest.raises(SettingsError, match=rf"Dask worker tcp://.*: expected Python 2.7, torch 1.0, {FOUND}"):
            open_cluster(settings).__enter__()


def _checked_as(versions, monkeypatch, client, check=cluster._check_workers):
    """Check the workers as a process with other versions would."""
    answers = client.run(here)
    monkeypatch.setattr(cluster, "here", lambda: versions)
    monkeypatch.setattr(client, "run", lambda *_, **__: answers)
    check(client)


def test_a_worker_with_other_versions_that_comes_later_computes_nothing(workers_of, monkeypatch):
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as running:
        workers = workers_of(address=running.scheduler_address)
        workers.open()
        other = {**here(), "torch": "1.0", "Python": "2.7"}
        monkeypatch.setattr(cluster, "here", lambda: other)
        for work in (
            lambda: list(workers.map(add, 1, [1], what="sums")),
            lambda: workers.reduce(add, 1, [1, 2], sum, what="sums"),
        ):
            with pytest.raises(SettingsError, match=rf"Dask worker tcp://.*: expected Python 2.7, torch 1.0, {FOUND}"):
                work()


def test_builds_of_one_version_are_the_same():
    assert here()["torch"].count("+") == 0
    assert here()["Python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_a_worker_without_the_product_is_named(monkeypatch):
    nowhere = types.ModuleType("provenance.nowhere")
    exec("def here(): return {}", nowhere.__dict__)
    monkeypatch.setitem(sys.modules, "provenance.nowhere", nowhere)
    monkeypatch.setattr(cluster, "here", nowhere.here)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as running,
        pytest.raises(SettingsError, match=r"Dask worker tcp://.*: expected one on which provenance is installed.*nowhere"),
    ):
        open_cluster(ClusterSettings(address=running.scheduler_address)).__enter__()


def test_workers_that_a_loaded_machine_starts_too_slowly_are_started_again(monkeypatch, caplog):
    start, tries = cluster._local_cluster, []

    def slow(settings):
        tries.append(settings)
        if len(tries) == 1:  # what Dask raises after its time-out
            raise RuntimeError("Cluster failed to start: Timed out trying to connect to tcp://127.0.0.1:1 after 30 s")
        return start(settings)

    monkeypatch.setattr(cluster, "_local_cluster", slow)
    with open_cluster(ClusterSettings(workers=1)) as client:
        assert client.submit(lambda: 1).result() == 1
    assert "1 workers on this machine did not start: RuntimeError: Cluster failed to start" in caplog.text


def test_workers_that_do_not_start_at_all_are_told_of_with_the_next_step(monkeypatch):
    def never(_):
        raise TimeoutError("Nanny failed to start worker in 120.0 seconds")

    monkeypatch.setattr(cluster, "_local_cluster", never)
    with pytest.raises(ClusterUnavailable, match=r"3 workers .* did not start: TimeoutError: Nanny.*cluster\.start_seconds"):
        open_cluster(ClusterSettings(workers=3)).__enter__()


def test_dask_waits_for_slow_starts_as_long_as_the_settings_say():
    with open_cluster(ClusterSettings(workers=1, processes=True, start_seconds=77)) as client:
        assert client.submit(_connecting).result() == "77.0s"


def _connecting():
    import dask

    return dask.config.get("distributed.comm.timeouts.connect")


def test_an_error_of_a_call_to_every_worker_is_raised(workers_of):
    workers = workers_of(workers=1)
    assert list(workers.map(add, 1, [1], what="sums")) == [2]
    with pytest.raises(ZeroDivisionError):
        workers.everywhere(_fails)


def _fails():
    return 1 / 0
