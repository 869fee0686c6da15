"""Makes paid days without attribution: invented shares, booked and published by the stages."""

import importlib.util
import uuid
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from provenance.core.settings import CHECKOUT
from provenance.core.store import Store, canonical_json
from provenance.influence import audits
from provenance.settlement.stage import book, publish

spec = importlib.util.spec_from_file_location("bench_settlement", CHECKOUT / "bench/settlement.py")
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
DAYS = ("2026-10-15", "2026-10-16", "2026-10-17")
# Fidelity of a night whose rule pays, and of one whose rule does not.
SUPPORTED = {
    "models": 24, "set_aside": 4, "compared": 16,
    "lds": {
        name: {"value": value, "low": value - 0.05, "high": value + 0.05}
        for name, value in (("estimate", 0.86), ("influence", 0.41), ("size", -0.02), ("tfidf", 0.33))
    },
    "intervals_hold": {"left_out": 0.93, "set_aside": 0.9}, "signal_to_noise": {"estimate": 2.8, "influence": 0.2},
    "failed": [],
}  # fmt: skip
NO_BETTER = "predictions for left-out models rank no better than the amount of work alone (+0.01)"
UNSUPPORTED = SUPPORTED | {"failed": [NO_BETTER]}
STAGES = ("inputs.freeze", "features.featurise", "royalty.likelihoods", "settlement.reconcile")


def lay_out(store, day, credits, owners=40, *, rule="faithful", unsupported="fallback", report=SUPPORTED, **options):
    """A day's shares in a store; returns the night's folder."""
    bench.DAY = day
    terms = {"rule": rule, "unsupported": unsupported}
    return bench.lay_out(store, credits, owners, terms=terms, report=report, **options)


def rewrite(store, key, **changed):
    """Change fields of a manifest."""
    store.write(key, canonical_json(store.read_json(key) | changed))


def as_of_old(store, folder):
    """Make a night look like one of version 0.1: its stage `values` has the shares, and nothing was measured."""
    estimate, shared = store.read_json(f"{folder}/estimate.json"), store.read_json(f"{folder}/shares.json")
    estimate["writes"]["works.parquet"] = estimate["writes"].pop("evidence.parquet")
    del estimate["copies"], shared["unsupported"], shared["copies"]
    store.write(f"{folder}/values.json", canonical_json(estimate))
    store.write(f"{folder}/shares.json", canonical_json(shared))
    store.write(f"{folder}/works.parquet", store.read(f"{folder}/evidence.parquet"))
    store.remove_all([f"{folder}/evidence.parquet", f"{folder}/estimate.json"])
    return folder


def pay(where, days=DAYS, **options) -> tuple[Store, sa.Engine]:
    """Book and publish days of more and more revenue; returns the store and the ledger."""
    for number, day in enumerate(days):
        book(where, lay_out(where.store, day, 200 * (number + 1), seed=number + 1, **options))
        publish(where, day)
    return where.store, where.ledger


def audited(store, day, score):
    """Publish an audit of a day's night and put it in force."""
    methods = {
        name: {"lds": score + bonus, "low": score - 0.1, "high": score + 0.1}
        for name, bonus in (("factored", 0), ("tfidf", 0.1))
    }
    results = {"subsets": 4, "seed_agreement": 0.5, "ceiling": 0.8, "methods": methods}
    night = {"day": day, "method": {"name": "factored"}}
    folder = audits.publish(store, "lds", {"night": night, "families": {"owners": results, "examples": results}}, b"figure")
    audits.put_in_force(store, folder, f"nights/day={day}/x")
    return folder


def show_dag(url, dag_id, *, paused):
    """Insert a DAG into Airflow's tables."""
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        connection.execute(sa.text("INSERT INTO dag_bundle (name) VALUES ('dags') ON CONFLICT DO NOTHING"))
        connection.execute(
            sa.text(
                "INSERT INTO dag (dag_id, is_paused, is_stale, bundle_name, timetable_type, partition_mapper_info, "
                "max_active_tasks, max_consecutive_failed_dag_runs, has_task_concurrency_limits) "
                "VALUES (:dag_id, :paused, false, 'dags', '', '{}', 1, 0, false)"
            ),
            {"dag_id": dag_id, "paused": paused},
        )


def record(url, day, *, state="success", tasks=(), dag_id="nightly_payouts", kind="scheduled", tried=(), backfill=None):
    """Insert a run into Airflow's tables.

    Args:
        tasks: (task, state, seconds) of the last tries; tried: (task, seconds) of earlier ones.
    """
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    run_id = f"{kind}__{day}__{uuid.uuid4().hex[:8]}"
    began = start + timedelta(days=1)
    with engine.begin() as connection:
        tables = sa.MetaData()
        names = ["dag_run", "task_instance", "task_instance_history", "hitl_detail", "dag", "log_template"]
        tables.reflect(connection, only=names)
        connection.execute(
            sa.insert(tables.tables["dag_run"]),
            {
                "dag_id": dag_id, "run_id": run_id, "run_type": kind, "state": state, "start_date": began,
                "end_date": began + timedelta(minutes=9), "data_interval_start": start, "data_interval_end": began,
                "run_after": began, "logical_date": None, "backfill_id": backfill,
            },
        )  # fmt: skip
        for at, (task_id, task_state, seconds) in enumerate(tasks):
            row = {
                "id": uuid.uuid4(), "task_id": task_id, "dag_id": dag_id, "run_id": run_id, "state": task_state,
                "start_date": began + timedelta(seconds=at), "duration": seconds, "pool": "default_pool", "pool_slots": 1,
                "try_number": 1,
            }  # fmt: skip
            connection.execute(sa.insert(tables.tables["task_instance"]), row)
            if task_state == "awaiting_input":
                question = {"ti_id": row["id"], "options": ["Approve", "Reject"], "subject": "?", "params": {},
                         "created_at": began, "params_input": {}}  # fmt: skip
                connection.execute(sa.insert(tables.tables["hitl_detail"]), question)
        for task_id, seconds in tried:
            row = {
                "task_instance_id": uuid.uuid4(), "task_id": task_id, "dag_id": dag_id, "run_id": run_id, "try_number": 1,
                "start_date": began, "duration": seconds, "state": "failed", "pool": "default_pool", "pool_slots": 1,
            }  # fmt: skip
            connection.execute(sa.insert(tables.tables["task_instance_history"]), row)
    return run_id
