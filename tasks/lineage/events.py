"""Makes OpenLineage events of tasks: the run, its datasets, and their facets.

Run ids equal those of Airflow's OpenLineage provider, so its listener and ours report the same runs. Events hold no values
handed between tasks, connections, environment or payees; of an error they hold the class, since a message may quote data.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import attr
from openlineage.client import facet_v2 as facet
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState, set_producer
from openlineage.client.uuid import generate_static_uuid

from provenance.core.store import Store
from provenance.core.tables import TableSchema
from provenance.corpus.shards import FrozenCorpus
from tasks.lineage.io import COLUMNS, Dataset

set_producer(f"urn:provenance:{importlib.metadata.version('provenance')}")


@attr.define
class RightsDatasetFacet(facet.DatasetFacet):
    """Counts of a corpus's works by licence class (if `known`), of its owners, and of its works without one."""

    owners: int = attr.field(kw_only=True)
    unmatched: int = attr.field(kw_only=True)
    known: bool = attr.field(kw_only=True)
    licenceClasses: dict[str, int] = attr.field(kw_only=True)  # noqa: N815 (as OpenLineage spells fields)


def make_event(
    state: str,
    context: Mapping[str, Any],
    *,
    store: Store,
    namespace: str,
    flow: tuple[Sequence[Dataset], Sequence[Dataset]] = ((), ()),
    error: str = "",
) -> RunEvent:
    """An event, now, of the try of a task in an Airflow context.

    Args:
        state: START, COMPLETE or FAIL.
        flow: datasets read, and datasets written.
        error: the class of the exception that ended the try.
    """
    task, run = context["ti"], context["dag_run"]
    date = run.logical_date or run.run_after
    dag_run = str(generate_static_uuid(date, f"{namespace}.{task.dag_id}.{run.clear_number or 0}".encode()))
    map_index = -1 if task.map_index is None else task.map_index
    name = f"{namespace}.{task.dag_id}.{task.task_id}.{task.try_number}.{map_index}"
    facets: dict[str, Any] = {
        "parent": facet.parent_run.ParentRunFacet(
            run=facet.parent_run.Run(runId=dag_run),
            job=facet.parent_run.Job(namespace=namespace, name=task.dag_id),
            root=facet.parent_run.Root(
                run=facet.parent_run.RootRun(runId=dag_run), job=facet.parent_run.RootJob(namespace=namespace, name=task.dag_id)
            ),
        )
    }
    if run.data_interval_start and run.data_interval_end:
        start, end = run.data_interval_start.isoformat(), run.data_interval_end.isoformat()
        facets["nominalTime"] = facet.nominal_time_run.NominalTimeRunFacet(nominalStartTime=start, nominalEndTime=end)
    if error:
        facets["errorMessage"] = facet.error_message_run.ErrorMessageRunFacet(error, "PYTHON")
    job: dict[str, Any] = {
        "jobType": facet.job_type_job.JobTypeJobFacet(processingType="BATCH", integration="AIRFLOW", jobType="TASK"),
        "ownership": facet.ownership_job.OwnershipJobFacet([facet.ownership_job.Owner(f"team:{task.task.owner}")]),
    }
    reads, writes = flow
    names = {dataset.name: _full_name(store, dataset) for dataset in reads}
    return RunEvent(
        eventType=RunState(state),
        eventTime=datetime.now(UTC).isoformat(),
        run=Run(str(generate_static_uuid(date, name.encode())), facets),
        job=Job(namespace, f"{task.dag_id}.{task.task_id}", job),
        inputs=[InputDataset(*names[dataset.name], facets=_facets(store, dataset)) for dataset in reads],
        outputs=[
            OutputDataset(*_full_name(store, dataset), facets=_facets(store, dataset) | _columns(dataset.name, names))
            for dataset in writes
        ],
    )


def _full_name(store: Store, dataset: Dataset) -> tuple[str, str]:
    """Namespace and name by OpenLineage's convention: bucket and key, or `file` and path."""
    if dataset.namespace:
        return dataset.namespace, dataset.name
    root = urlsplit(store.url)
    if root.scheme == "file":
        return "file", f"{root.path.rstrip('/')}/{dataset.name}"
    return f"{root.scheme}://{root.netloc}", f"{root.path.strip('/')}/{dataset.name}".lstrip("/")


def _facets(store: Store, dataset: Dataset) -> dict[str, facet.DatasetFacet]:
    facets: dict[str, facet.DatasetFacet] = {}
    if dataset.key:
        facets["dataSource"] = facet.datasource_dataset.DatasourceDatasetFacet(name=store.url, uri=store.locate(dataset.key))
    if dataset.version:
        facets["version"] = facet.dataset_version_dataset.DatasetVersionDatasetFacet(dataset.version)
    if dataset.contract:
        facets["schema"] = _schema(dataset.contract)
    if dataset.corpus:
        facets["provenance_rights"] = _rights(store, dataset.corpus)
        owners = facet.ownership_dataset.Owner(name=store.locate(dataset.corpus.owners.key), type="OWNERS_OF_WORKS")
        facets["ownership"] = facet.ownership_dataset.OwnershipDatasetFacet([owners])
    return facets


def _schema(contract: TableSchema) -> facet.DatasetFacet:
    fields = [
        facet.schema_dataset.SchemaDatasetFacetFields(name, type=str(column.dtype), description=column.meaning)
        for name, column in contract.columns.items()
    ]
    return facet.schema_dataset.SchemaDatasetFacet(fields)


def _rights(store: Store, corpus: FrozenCorpus) -> facet.DatasetFacet:
    known, classes = corpus.rights is not None, {}
    if corpus.rights:
        column = store.read_table(corpus.rights.key, columns=["licence_class"])["licence_class"]
        classes = dict(sorted(column.value_counts().iter_rows()))
    return RightsDatasetFacet(owners=corpus.owners.rows, unmatched=corpus.unmatched.rows, known=known, licenceClasses=classes)


def _columns(name: str, reads: dict[str, tuple[str, str]]) -> dict[str, facet.DatasetFacet]:
    """The columns of a dataset that are computed from columns of the datasets read."""
    fields = {
        column: facet.column_lineage_dataset.Fields(
            inputFields=[facet.column_lineage_dataset.InputField(*reads[read], field) for read, field in sources]
        )
        for column, sources in COLUMNS.get(name, {}).items()
    }
    return {"columnLineage": facet.column_lineage_dataset.ColumnLineageDatasetFacet(fields=fields)} if fields else {}
