"""Opens the doors that stages are handed: settings, store, workers, databases. Import-light, since DAG files import it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from provenance.core.errors import SettingsError
from provenance.core.settings import CHECKOUT, Settings
from provenance.core.where import Databases, NoDatabases, Where, Workers
from tasks.settings import load


@contextmanager
def opened(settings: Settings | None = None, *, ledger: bool = True) -> Iterator[Where]:
    """Open the doors that settings name, by default those in force; the cluster closes at the end.

    Args:
        ledger: False for work on folders, which needs no database.
    """
    settings = settings or load()
    store = settings.store.open()
    with ExitStack() as doors:

        @cache
        def workers() -> Workers:
            from tasks.cluster import DaskWorkers

            return DaskWorkers(settings.cluster, doors)

        @cache
        def databases() -> Databases:
            from tasks.database import LedgerDatabases

            return LedgerDatabases(settings.database, store, doors)

        if not ledger:
            workers()  # which leaves one thread to this process: its results must not depend on the number of cores
        yield Where(settings, store, workers, databases if ledger else NoDatabases)


def local_settings(*, method: str = "fitted", device: str, workers: int | None) -> Settings:
    """The settings in force, with a method and workers of this machine.

    Args:
        device: `auto`, `cpu` or `cuda`; `cuda` without a GPU is an error.
        workers: by default one for each GPU or core.
    """
    from provenance.core.arrays import gpu_count

    settings = load()
    gpus = gpu_count() if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise SettingsError("--device", expected="a CUDA device and CuPy", found="none", hint="Use --device cpu or auto.")
    influence = settings.influence.model_copy(update={"method": method})
    count = workers or gpus or len(os.sched_getaffinity(0))
    cluster = settings.cluster.model_copy(
        # Outside Airflow workers may be processes.
        update={"address": "", "device": "cuda" if gpus else "cpu", "workers": count, "processes": count > 1 or bool(gpus)}
    )
    return settings.model_copy(update={"influence": influence, "cluster": cluster})


def log_folders() -> list[Path]:
    """The folders of Airflow's logs and ours, which housekeeping clears."""
    home = Path(os.environ.get("AIRFLOW_HOME", str(CHECKOUT / "var/airflow")))
    return [Path(os.environ.get("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(home / "logs"))), CHECKOUT / "var/logs"]
