import os
import signal
import threading
from contextlib import ExitStack

import polars as pl
import pytest
import torch
from distributed import LocalCluster

from provenance.core.errors import ClusterUnavailable, ContractError, SettingsError
from provenance.core.settings import ClusterSettings
from provenance.core.where import SerialWorkers
from tasks.cluster import DaskWorkers, open_cluster
from tasks.where import local_settings, opened

ONE = ClusterSettings(workers=1)


CALLED = []


def text(shared, item):
    return f"{shared}{item}"


def add(shared, item):
    if item == 13:
        raise ContractError("item 13", expected="luck", found="none")
    return shared + item


@pytest.fixture
def workers_of():
    """Workers by their settings; their cluster closes at the end of the test."""
    with ExitStack() as doors:
        yield lambda settings: DaskWorkers(settings, doors)


def test_results_come_in_the_order_of_items(workers_of):
    workers = workers_of(ClusterSettings(workers=2))
    assert list(workers.map(add, 100, list(range(12)), what="sums")) == list(range(100, 112))
    assert workers.reduce(add, 100, list(range(12)), sum, what="sums") == sum(range(100, 112))


def test_bad_input_on_a_worker_ends_the_stage_with_its_own_error(workers_of):
    workers = workers_of(ONE)
    with pytest.raises(ContractError, match="item 13: expected luck"):
        list(workers.map(add, 0, [1, 13, 2], what="sums"))
    with pytest.raises(ContractError, match="item 13: expected luck"):
        workers.reduce(add, 0, [1, 13, 2], sum, what="sums")


def test_a_loop_gives_what_a_cluster_does(workers_of):
    items = list(range(7))
    for workers in (workers_of(ONE), SerialWorkers()):
        assert list(workers.map(add, 1, items, what="sums")) == list(range(1, 8))
        assert workers.reduce(text, "a", items, "".join, what="words") == "a0a1a2a3a4a5a6"
        with pytest.raises(ContractError, match="item 13"):
            list(workers.map(add, 1, [13], what="sums"))
        workers.everywhere(CALLED.clear)


def test_workers_take_one_thread_each_and_keep_the_memory_that_they_will_need_again(monkeypatch):
    for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGINT)
    with open_cluster(ClusterSettings(workers=1, processes=True)) as client:
        assert client.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
        assert client.submit(pl.thread_pool_size).result() == 1
        assert client.submit(os.getenv, "MALLOC_TRIM_THRESHOLD_").result() is None
        # Ctrl-C in a terminal is the command's to answer, not its workers'.
        assert client.submit(signal.getsignal, signal.SIGINT).result() is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before


def test_work_on_folders_computes_on_one_thread_from_the_start():
    """A result must not depend on the number of cores, nor on whether anything is left to compute on workers."""
    torch.set_num_threads(2)
    with opened(local_settings(device="cpu", workers=1), ledger=False):
        assert torch.get_num_threads() == 1


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", protocol="tcp") as cluster:
        yield cluster


def test_a_cluster_by_address_is_used(cluster, workers_of):
    settings = ClusterSettings(address=cluster.scheduler_address)
    with open_cluster(settings) as client:
        assert client.scheduler.address == cluster.scheduler_address
    assert list(workers_of(settings).map(add, 1, [1], what="sums")) == [2]


def test_a_cluster_that_cannot_give_a_gpu_is_an_error_soon(cluster):
    settings = ClusterSettings(address=cluster.scheduler_address, device="cuda", start_seconds=1)
    with pytest.raises(SettingsError, match=r"a worker with resource GPU=1, found 1 workers without it\. Start one"):
        open_cluster(settings).__enter__()


def test_more_workers_than_gpus_on_this_machine_is_an_error_at_once():
    settings = ClusterSettings(workers=99, device="cuda", processes=True)
    with pytest.raises(SettingsError, match=r"cluster.workers: expected at most \d+, the GPUs of this machine, found 99"):
        open_cluster(settings).__enter__()


def test_no_cluster_at_the_address_may_pass():
    with pytest.raises(ClusterUnavailable, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 \(cluster.address\)"):
        open_cluster(ClusterSettings(address="tcp://127.0.0.1:9", start_seconds=1)).__enter__()


def test_a_scheduler_whose_workers_come_late_is_waited_for():
    with LocalCluster(n_workers=0, processes=False, threads_per_worker=1, dashboard_address=":0") as cluster:
        settings = ClusterSettings(address=cluster.scheduler_address)
        later = threading.Timer(1, cluster.scale, [1])
        later.start()
        with open_cluster(settings) as client:
            assert client.submit(lambda: 1).result() == 1
        later.join()
        cluster.scale(0)
        impatient = settings.model_copy(update={"start_seconds": 1})
        with pytest.raises(ClusterUnavailable, match=r"has no worker. Start one: dask worker inproc://"):
            open_cluster(impatient).__enter__()


def die(shared, item):
    os.kill(os.getpid(), 9)


@pytest.mark.night
def test_what_kills_every_worker_is_named(workers_of):
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        settings = ClusterSettings(address=cluster.scheduler_address)
        killed = "poison: part seven killed every worker that tried it"
        with pytest.raises(ClusterUnavailable, match=killed):
            list(workers_of(settings).map(die, None, [7], what="poison", name=lambda _: "part seven"))
