"""Lineage events of a whole night, in a file and to several kinds of servers."""

import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import attr
import pytest
from openlineage.client import facet_v2
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
from samples import corpus_frames, create_database, deliver, enter, settings_of
from servers import Webhook, listening
from stages import SMALL, STAGES, night, run

from provenance.core.settings import Settings
from provenance.core.stages import BY_NAME
from provenance.core.store import Store, sha256
from provenance.corpus.shards import corpus_in_force
from tasks import lineage
from tasks.lineage.events import RightsDatasetFacet
from tasks.lineage.io import COLUMNS, DATASETS, StageRun, flow
from tasks.settings import load

TASKS = ("corpus.ingest", *STAGES, "settlement.publish", "settlement.reconcile")
FACETS = {
    "parent": facet_v2.parent_run.ParentRunFacet,
    "nominalTime": facet_v2.nominal_time_run.NominalTimeRunFacet,
    "errorMessage": facet_v2.error_message_run.ErrorMessageRunFacet,
    "jobType": facet_v2.job_type_job.JobTypeJobFacet,
    "dataSource": facet_v2.datasource_dataset.DatasourceDatasetFacet,
    "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet,
    "schema": facet_v2.schema_dataset.SchemaDatasetFacet,
    "columnLineage": facet_v2.column_lineage_dataset.ColumnLineageDatasetFacet,
    "provenance_rights": RightsDatasetFacet,
}
SECRETS = {"OPENLINEAGE_API_KEY": "lineage", "AWS_SECRET_ACCESS_KEY": "s3", "PROVENANCE_PAYEES__KEY": "payees"}
SECRETS = {name: f"key-of-{owner}" for name, owner in SECRETS.items()}
MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)


def context(task_id, function=None, arguments=(), result=None, error=None, attempt=1):
    """The part of Airflow's context that our callbacks read."""
    task = SimpleNamespace(owner="operations", op_args=arguments, op_kwargs={}, python_callable=function or (lambda: None))
    ti = SimpleNamespace(
        dag_id="nightly_payouts", task_id=task_id, try_number=attempt, map_index=-1, task=task,
        xcom_pull=lambda task_ids: {task_id: result}[task_ids],
    )  # fmt: skip
    dag_run = SimpleNamespace(
        logical_date=MIDNIGHT, run_after=MIDNIGHT, clear_number=0, data_interval_start=MIDNIGHT - timedelta(days=1),
        data_interval_end=MIDNIGHT,
    )  # fmt: skip
    return {"ti": ti, "dag_run": dag_run, **({"exception": error} if error else {})}


def run_with_events(stage, *arguments):
    """Run a stage with its callbacks, as Airflow does."""
    task_id = stage
    takes = {0: lambda: None, 1: lambda day: None} if task_id in {"inputs.freeze", "corpus.ingest"} else {1: lambda night: None}
    if task_id in {"settlement.publish", "settlement.reconcile"}:
        takes = {1: lambda day: None}
    lineage.started(context(task_id))
    result = run(stage, *arguments)
    lineage.completed(context(task_id, takes[len(arguments)], arguments, result))
    return result


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, tiny_model, postgres):
    """The events of a whole night, and its store."""
    folder = tmp_path_factory.mktemp("lineage")
    store = Store(f"file://{folder}/store", {})
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, settings_of(store, create_database(postgres), tiny_model, folder, **SMALL) | SECRETS)
        deliver(store, corpus_frames())
        run_with_events("corpus.ingest")
        night(run_with_events)
        database = load().database.url
    lines = [line for path in sorted((folder / "lineage").iterdir()) for line in path.read_text().splitlines()]
    return SimpleNamespace(store=store, lines=lines, events=[json.loads(line) for line in lines], database=database)


def all_facets(event):
    for facets in (event["run"]["facets"], event["job"]["facets"]):
        yield from facets.items()
    for dataset in event.get("inputs", []) + event.get("outputs", []):
        yield from dataset["facets"].items()


def facets_of(recorded, task_id):
    """The facets of the datasets that a task read, and of those that it wrote, by name."""
    (event,) = [e for e in recorded.events if e["eventType"] == "COMPLETE" and e["job"]["name"].endswith(task_id)]
    root = recorded.store.url.removeprefix("file://") + "/"
    return [{d["name"].removeprefix(root): d["facets"] for d in event.get(side, [])} for side in ("inputs", "outputs")]


def test_every_dataset_of_the_table_is_known_and_every_known_one_used():
    used = {name for stage in BY_NAME.values() for name in (*stage.reads, *stage.writes)}
    assert used == set(DATASETS)


def test_an_ingest_tells_of_all_that_it_reads_and_of_the_signals_in_the_files(recorded):
    """Reservations in files were recorded by an ingest, and its lineage did not tell."""
    store = recorded.store
    ingest = StageRun(Settings(), store, {}, corpus_in_force(store).digest)
    assert [dataset.name for dataset in flow("corpus.ingest", ingest)[1]] == ["frozen/corpus"]
    keys = ("rights/signals/20261120T101500000000Z-ab.parquet", "corpus/decisions.parquet")
    for key in keys:
        store.write(key, b"x")
    try:
        read, written = flow("corpus.ingest", ingest)
    finally:
        for key in keys:
            store.remove(key)
    assert "corpus/decisions.parquet" in {dataset.name for dataset in read}
    assert [dataset.name for dataset in written] == ["frozen/corpus", "rights/signals"]


def test_every_stage_of_a_night_begins_and_ends(recorded):
    states = [(event["job"]["name"].split(".", 1)[1], event["eventType"]) for event in recorded.events]
    assert states == [(task, state) for task in TASKS for state in ("START", "COMPLETE")]
    assert len({event["run"]["runId"] for event in recorded.events}) == len(TASKS)
    assert len({event["run"]["facets"]["parent"]["run"]["runId"] for event in recorded.events}) == 1


def test_events_are_openlineage_s(recorded):
    """The client has no schema to validate with; its classes refuse wrong times, ids and fields."""
    for event in recorded.events:
        assert set(event) <= {"eventType", "eventTime", "run", "job", "inputs", "outputs", "producer", "schemaURL"}
        run_, job = Run(event["run"]["runId"]), Job(event["job"]["namespace"], event["job"]["name"])
        state, when, producer = RunState(event["eventType"]), event["eventTime"], event["producer"]
        same = RunEvent(eventType=state, eventTime=when, run=run_, job=job, producer=producer)
        assert event["schemaURL"] == same.schemaURL
        for name, facet in all_facets(event):
            kinds = (facet_v2.ownership_job.OwnershipJobFacet, facet_v2.ownership_dataset.OwnershipDatasetFacet)
            (kind,) = [k for k in (*kinds, *FACETS.values()) if k._get_schema() == facet["_schemaURL"] and (
                FACETS.get(name, k) is k)]  # fmt: skip
            fields_set = {field for field in facet if not field.startswith("_")}
            fields = {field.name: field for field in attr.fields(kind) if not field.name.startswith("_")}
            assert fields_set <= set(fields), name
            assert {name for name, field in fields.items() if field.default is attr.NOTHING} <= fields_set, name


def test_ids_are_those_of_airflow_s_provider(recorded):
    """As `build_task_instance_ol_run_id` and `build_dag_run_ol_run_id` of the provider for OpenLineage, 2.20.3, make them.

    The provider is not installed, since Airflow would then import it in every task.
    """
    first = recorded.events[0]["run"]
    assert first["runId"] == "01a1f640-bc00-76b7-82c7-5eacd76c2b20"
    assert first["facets"]["parent"]["run"]["runId"] == "01a1f640-bc00-7bbf-bfc8-91956e4e5e5f"


def test_what_a_stage_reads_another_has_written_in_that_version(recorded):
    written = {("outputs", "delivered")}
    root = recorded.store.url.removeprefix("file://") + "/"
    for event in recorded.events:
        for dataset in event.get("inputs", []):
            name = dataset["name"].removeprefix(root)
            delivered = name == "outputs" or name.startswith("corpus/") or dataset["namespace"] != "file"
            assert delivered or (name, dataset["facets"]["version"]["datasetVersion"]) in written, name
        for dataset in event.get("outputs", []):
            written.add((dataset["name"].removeprefix(root), dataset["facets"].get("version", {}).get("datasetVersion")))


def test_versions_are_of_what_lies_there(recorded):
    checked = 0
    for event in recorded.events:
        for dataset in event.get("inputs", []) + event.get("outputs", []):
            facets = dataset["facets"]
            key = facets.get("dataSource", {}).get("uri", "").removeprefix(recorded.store.url + "/")
            if "." in key.rsplit("/", 1)[-1] and "version" in facets and not key.startswith("frozen/"):
                assert sha256(recorded.store.read(key)) == facets["version"]["datasetVersion"]
                checked += 1
    assert checked > 15


def test_a_corpus_says_how_many_owners_and_where_they_are_listed(recorded):
    facets = facets_of(recorded, "corpus.ingest")[1]["frozen/corpus"]
    rights = {k: v for k, v in facets["provenance_rights"].items() if not k.startswith("_")}
    assert rights["owners"] == corpus_frames()["owners"].height
    (listed,) = facets["ownership"]["owners"]
    assert recorded.store.read_table(listed["name"].removeprefix(recorded.store.url + "/")).height == rights["owners"]
    assert rights["known"] == bool(rights["licenceClasses"])
    assert {"work_id", "content"} <= {field["name"] for field in facets["schema"]["fields"]}


def test_columns_follow_from_columns_that_were_read(recorded):
    seen = set()
    for event in recorded.events:
        read = {dataset["name"] for dataset in event.get("inputs", [])}
        for dataset in event.get("outputs", []):
            for sources in dataset["facets"].get("columnLineage", {}).get("fields", {}).values():
                assert {source["name"] for source in sources["inputFields"]} <= read
                seen.add(dataset["name"])
    assert len(seen) == len(COLUMNS)


def test_events_hold_neither_secrets_nor_names_of_people(recorded):
    people = [name for column in ("owner_id", "name") for name in corpus_frames()["owners"][column]]
    for line in recorded.lines:
        assert not [secret for secret in (*SECRETS.values(), recorded.database, *people) if secret in line]


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """Settings of lineage alone, in the environment; returns the folder of events."""

    def configure(**values):
        for name, value in ({"FOLDER": str(tmp_path / "lineage")} | values).items():
            monkeypatch.setenv(f"PROVENANCE_LINEAGE__{name}", value)
        return tmp_path / "lineage"

    yield configure
    for thread in lineage._sending:
        thread.join(5)
    lineage._sending.clear()


def test_an_event_has_only_the_class_of_an_error(settings):
    folder = settings()
    lineage.failed(context("royalty.share", error=ValueError("a row of somebody's")))
    (path,) = folder.iterdir()
    event = json.loads(path.read_text())
    assert event["eventType"] == "FAIL"
    assert event["run"]["facets"]["errorMessage"]["message"] == "ValueError"
    assert "somebody" not in path.read_text()


def test_neither_folder_nor_server_is_neither_file_nor_import(settings, monkeypatch):
    folder = settings(FOLDER="")
    monkeypatch.setattr(lineage, "_event", None)
    lineage.started(context("royalty.share"))
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_fails_nothing(settings, tmp_path, caplog):
    (tmp_path / "lineage").write_text("a file")
    settings()
    lineage.started(context("royalty.share"))
    assert "no event of this task" in caplog.text


@pytest.fixture
def server():
    with listening(Webhook(201)) as server:
        yield server


def test_a_server_gets_what_the_file_gets_in_order_and_the_key(settings, server, monkeypatch):
    folder = settings(URL=server.url)
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "key")
    lineage.started(context("royalty.share"))
    lineage.failed(context("royalty.share", error=ValueError()))
    (path,) = folder.iterdir()
    assert server.heard == [json.loads(line) for line in path.read_text().splitlines()]
    assert {(path, headers["Authorization"]) for path, headers in server.asked} == {("/api/v1/lineage", "Bearer key")}


def test_a_server_that_refuses_fails_nothing(settings, server, caplog):
    server.status = 500
    folder = settings(URL=server.url)
    lineage.failed(context("royalty.share", error=ValueError()))
    assert "did not take an event" in caplog.text
    assert list(folder.iterdir())


def test_a_server_that_is_not_there_fails_nothing(settings, caplog):
    settings(URL="http://127.0.0.1:9")
    lineage.started(context("royalty.share"))
    lineage.failed(context("royalty.share", error=ValueError()))
    assert caplog.text.count("did not take an event") == 2


@pytest.mark.parametrize("drips", [False, True])
def test_a_server_that_hangs_costs_the_end_of_a_task_a_second_and_its_begin_nothing(settings, drips, caplog):
    """A server that sends single bytes never reaches the timeout of the connection."""
    stop = threading.Event()

    def serve(listening):
        connections = []
        listening.settimeout(0.1)
        while not stop.is_set():
            try:
                connections.append(listening.accept()[0])
                connections[-1].sendall(b"HTTP/1.1 200 OK\r\nX: ")
            except TimeoutError:
                for connection in connections if drips else ():
                    connection.sendall(b"x")
        for connection in connections:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        folder = settings(URL=f"http://127.0.0.1:{listening.getsockname()[1]}")
        lineage._event("START", context("royalty.share"), load())  # imports are slow the first time
        began = time.monotonic()
        lineage.started(context("royalty.share"))
        started = time.monotonic()
        lineage.failed(context("royalty.share", error=ValueError()))
        ended = time.monotonic()
        stop.set()
        thread.join()
    assert started - began < 0.5
    assert ended - started < lineage.SECONDS + 0.5
    assert ("does not answer" if drips else "lineage:") in caplog.text
    assert len(next(folder.iterdir()).read_text().splitlines()) == 2, "the file has it all the same"
