"""An event of OpenLineage: which task of which run it is about, and the datasets with their facets.

Ids of runs are made as Airflow's provider makes them, so that its listener, turned on beside ours, speaks of the same runs.
Nothing is told of what was handed from task to task, of connections, of the environment or of payees: of an error its class
alone, since a message may quote data.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import attr
from openlineage.client import facet_v2 as facet
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState, set_producer
from openlineage.client.uuid import generate_static_uuid

from provenance.core.contracts import Contract
from provenance.core.store import Store
from provenance.corpus.shards import FrozenCorpus, Part
from tasks.lineage.io import COLUMNS, Dataset

set_producer(f"urn:provenance:{importlib.metadata.version('provenance')}")


@attr.define
class RightsDatasetFacet(facet.DatasetFacet):
    """Under which terms a corpus's works came, by class, unless nobody has looked (`known`), and whose they are."""

    owners: int = attr.field(kw_only=True)
    unmatched: int = attr.field(kw_only=True)
    known: bool = attr.field(kw_only=True)
    licenceClasses: dict[str, int] = attr.field(kw_only=True)  # noqa: N815 (as OpenLineage spells fields)


@dataclass(frozen=True)
class TaskRun:
    """One try of a task.

    Attributes:
        logical_date: of the DAG's run, or when that was due if it has none.
        clear_number: how often the DAG's run has been cleared.
        interval: begin and end of what the run is for, if it has such.
    """

    dag_id: str
    task_id: str
    owner: str
    try_number: int
    map_index: int
    logical_date: datetime
    clear_number: int
    interval: tuple[datetime, datetime] | None

    @classmethod
    def of(cls, context: Any) -> TaskRun:
        """The try that Airflow's context is about."""
        ti, run = context["ti"], context["dag_run"]
        start, end = run.data_interval_start, run.data_interval_end
        return cls(
            dag_id=ti.dag_id,
            task_id=ti.task_id,
            owner=ti.task.owner,
            try_number=ti.try_number,
            map_index=-1 if ti.map_index is None else ti.map_index,
            logical_date=run.logical_date or run.run_after,
            clear_number=run.clear_number or 0,
            interval=(start, end) if start and end else None,
        )


def event(
    state: str,
    task: TaskRun,
    at: datetime,
    *,
    store: Store,
    namespace: str,
    flow: tuple[Sequence[Dataset], Sequence[Dataset]] = ((), ()),
    error: str = "",
) -> RunEvent:
    """The event of a try.

    Args:
        state: START, COMPLETE or FAIL.
        flow: what it has read, and what it has written.
        error: the class of the exception that ended it.
    """
    dag_run = str(generate_static_uuid(task.logical_date, f"{namespace}.{task.dag_id}.{task.clear_number}".encode()))
    name = f"{namespace}.{task.dag_id}.{task.task_id}.{task.try_number}.{task.map_index}"
    facets: dict[str, Any] = {
        "parent": facet.parent_run.ParentRunFacet(
            run=facet.parent_run.Run(runId=dag_run),
            job=facet.parent_run.Job(namespace=namespace, name=task.dag_id),
            root=facet.parent_run.Root(
                run=facet.parent_run.RootRun(runId=dag_run), job=facet.parent_run.RootJob(namespace=namespace, name=task.dag_id)
            ),
        )
    }
    if task.interval:
        start, end = (moment.isoformat() for moment in task.interval)
        facets["nominalTime"] = facet.nominal_time_run.NominalTimeRunFacet(nominalStartTime=start, nominalEndTime=end)
    if error:
        facets["errorMessage"] = facet.error_message_run.ErrorMessageRunFacet(error, "PYTHON")
    job: dict[str, Any] = {
        "jobType": facet.job_type_job.JobTypeJobFacet(processingType="BATCH", integration="AIRFLOW", jobType="TASK"),
        "ownership": facet.ownership_job.OwnershipJobFacet([facet.ownership_job.Owner(f"team:{task.owner}")]),
    }
    reads, writes = flow
    spellings = {dataset.name: _spelled(store, dataset) for dataset in reads}
    return RunEvent(
        eventType=RunState(state),
        eventTime=at.isoformat(),
        run=Run(str(generate_static_uuid(task.logical_date, name.encode())), facets),
        job=Job(namespace, f"{task.dag_id}.{task.task_id}", job),
        inputs=[InputDataset(*_spelled(store, read), facets=_facets(store, read)) for read in reads],
        outputs=[
            OutputDataset(*_spelled(store, written), facets=_facets(store, written) | _columns(written.name, spellings))
            for written in writes
        ],
    )


def _spelled(store: Store, dataset: Dataset) -> tuple[str, str]:
    """Namespace and name, as OpenLineage wants them: a bucket and a key, or `file` and a path."""
    if dataset.namespace:
        return dataset.namespace, dataset.name
    root = urlsplit(store.url)
    if root.scheme == "file":
        return "file", f"{root.path.rstrip('/')}/{dataset.name}"
    return f"{root.scheme}://{root.netloc}", f"{root.path.strip('/')}/{dataset.name}".lstrip("/")


def _facets(store: Store, dataset: Dataset) -> dict[str, facet.DatasetFacet]:
    found: dict[str, facet.DatasetFacet] = {}
    if dataset.key:
        found["dataSource"] = facet.datasource_dataset.DatasourceDatasetFacet(name=store.url, uri=store.locate(dataset.key))
    if dataset.version:
        found["version"] = facet.dataset_version_dataset.DatasetVersionDatasetFacet(dataset.version)
    if dataset.contract:
        found["schema"] = _schema(dataset.contract)
    if dataset.corpus:
        found["provenance_rights"] = _rights(store, dataset.corpus)
        owners = facet.ownership_dataset.Owner(name=store.locate(dataset.corpus.owners.key), type="OWNERS_OF_WORKS")
        found["ownership"] = facet.ownership_dataset.OwnershipDatasetFacet([owners])
    return found


def _schema(contract: Contract) -> facet.DatasetFacet:
    fields = [
        facet.schema_dataset.SchemaDatasetFacetFields(name, type=str(column.dtype), description=column.meaning)
        for name, column in contract.columns.items()
    ]
    return facet.schema_dataset.SchemaDatasetFacet(fields)


def _rights(store: Store, corpus: FrozenCorpus) -> facet.DatasetFacet:
    rights: Part | None = corpus.rights
    counts = store.read_table(rights.key, columns=["licence_class"])["licence_class"].value_counts() if rights else None
    return RightsDatasetFacet(
        owners=corpus.owners.rows,
        unmatched=corpus.unmatched.rows,
        known=rights is not None,
        licenceClasses=dict(sorted(counts.iter_rows())) if counts is not None else {},
    )


def _columns(name: str, spellings: dict[str, tuple[str, str]]) -> dict[str, facet.DatasetFacet]:
    """From which columns of what was read columns of a dataset follow."""
    fields = {
        column: facet.column_lineage_dataset.Fields(
            inputFields=[facet.column_lineage_dataset.InputField(*spellings[read], field) for read, field in sources]
        )
        for column, sources in COLUMNS.get(name, {}).items()
    }
    return {"columnLineage": facet.column_lineage_dataset.ColumnLineageDatasetFacet(fields=fields)} if fields else {}
