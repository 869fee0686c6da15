"""The data for operators agrees with ledger, manifests and audits."""

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime

import polars as pl
import pytest
import sqlalchemy as sa
from paid import DAYS, NO_BETTER, STAGES, SUPPORTED, UNSUPPORTED, as_of_old, audited, lay_out, pay, record, show_dag
from samples import DAY
from stages import SMALL

from infra.monitor import nights as monitor
from infra.monitor import runs
from infra.monitor.earned import PartyOfNight
from infra.monitor.flow import night as night_of
from infra.monitor.flow import output
from infra.monitor.frozen import read_frozen
from infra.monitor.headline import headline
from infra.monitor.months import months
from infra.page import money_flow
from provenance.core.errors import ContractError, StoreError
from provenance.core.settings import Settings
from provenance.core.stages import APPROVE, FREEZE
from provenance.core.stages import STAGES as OF_A_NIGHT
from provenance.core.store import canonical_json, sha256
from provenance.core.tables import ESCROW, PAYABLE
from provenance.features.run_notes import RunNote, add_note
from provenance.influence.audits import audits, in_force
from provenance.inputs import frozen
from provenance.settlement import ledger
from provenance.settlement.accounts import DEVELOPER, RECEIVABLE, Account
from provenance.settlement.months import settling
from provenance.settlement.months.periods import ClosingTerms
from provenance.settlement.months.unsettled import Unsettled
from provenance.settlement.stage import book, publish


def published(store, day, booking_id, audit):
    """As much of a published day as names its audit."""
    folder = f"exports/payouts/day={day}/rev=0001"
    manifest = canonical_json({"day": day, "booking_id": booking_id, "audit": audit})
    store.write(f"{folder}/manifest.json", manifest)
    pointer = {"revision": 1, "folder": folder, "manifest_sha256": sha256(manifest)}
    store.write(f"exports/payouts/day={day}/current.json", canonical_json(pointer))


def note_work(store, night, *tried):
    """Runs of a stage: how many of six files each computed, and the part of the parameters that is covered."""
    for count, covered in tried:
        add_note(store, night, RunNote("2026-10-16T00:10:00+00:00", count, 6 - count, 1, 0, count // 2, covered))


def test_audits_come_in_the_order_in_which_bookings_cite_them(store):
    assert audits(store) == []
    published(store, "2026-11-01", 1, None)
    assert audits(store) == []
    first = audited(store, "2026-11-01", 0.5)
    published(store, "2026-11-02", 2, in_force(store))
    second = audited(store, "2026-11-02", 0.4)
    published(store, "2026-10-05", 3, in_force(store))  # a day that was late
    published(store, "2026-11-03", 4, in_force(store))
    third = audited(store, "2026-11-03", 0.3)
    result = audits(store)
    cited = [(first, "2026-11-01", "2026-11-02"), (second, "2026-11-02", "2026-10-05"), (third, "2026-11-03", "")]
    assert [(audit.folder, audit.day, audit.cited_from) for audit in result] == cited
    used = [[(f.family, f.method, round(f.score, 2)) for f in audit.figures] for audit in result[:2]]
    assert used[0] == [("examples", "factored", 0.5), ("owners", "factored", 0.5)]
    assert used[1] == [("examples", "factored", 0.4), ("owners", "factored", 0.4)], "of the method in use alone"
    assert {(f.ceiling, round(f.low, 2), round(f.high, 2)) for f in result[0].figures} == {(0.8, 0.4, 0.6)}
    assert [audit.folder for audit in audits(store, last=1)] == [second, third]
    assert audits(store, read=read_frozen) == result


def test_an_audit_that_is_not_what_was_cited_is_an_error(store):
    folder = audited(store, "2026-11-01", 0.5)
    published(store, "2026-11-02", 1, in_force(store))
    store.write(f"{folder}/lds.json", b"{}")
    with pytest.raises(StoreError, match="lds.json: expected SHA-256"):
        audits(store)
    with pytest.raises(StoreError, match="lds.json: expected SHA-256"):
        audits(store, read=read_frozen)


def test_nights_are_what_the_ledger_and_the_manifests_say(where):
    store, engine = pay(where)
    result = monitor.nights(store, engine)
    assert [night.day for night in result] == list(DAYS)
    assert [night.booking_id for night in result] == [1, 2, 3]
    for night in result:
        manifest = store.read_json(f"exports/payouts/day={night.day}/rev=0001/manifest.json")
        assert night.totals == manifest["totals"]
        assert (night.state, night.revision, night.seconds, night.audit) == ("published", 1, {}, "")
        assert night.escrow == {"EUR": manifest["trial_balance"]["EUR"][ESCROW]}
        credits = store.read_table(f"exports/payouts/day={night.day}/rev=0001/credits.parquet")
        assert night.outputs == credits["output_id"].n_unique()
        assert night.matched == {"EUR": 1.0}
        payouts = store.read_table(f"exports/payouts/day={night.day}/rev=0001/payouts.parquet")
        assert night.owners == (payouts["earned_minor"] > 0).sum()
    assert [night.outputs for night in result] == [20, 40, 60]
    assert result[0].drift is None, "no night before it"
    assert 0 < result[1].drift < 1
    assert monitor.nights(store, engine, last=1) == result[2:], "the nights before count, though they are not asked for"
    assert monitor.unpublished(store, engine) == []


def test_a_booking_without_an_export_is_told(where):
    store, engine = pay(where, DAYS[:1])
    book(where, lay_out(where.store, DAYS[1], 200))
    assert [night.state for night in monitor.nights(store, engine)] == ["published", "booked"]
    assert [str(booking.day) for booking in monitor.unpublished(store, engine)] == [DAYS[1]]
    publish(where, DAYS[1])
    assert [night.state for night in monitor.nights(store, engine)] == ["published", "published"]
    assert monitor.unpublished(store, engine) == []


def test_nothing_is_known_of_an_empty_store(where):
    store, engine = pay(where, ())
    assert monitor.nights(store, engine) == []
    assert monitor.escrow(engine) == {}
    with pytest.raises(ContractError, match="night of 2026-10-15: expected a night that was run or booked, found none"):
        night_of(store, engine, date(2026, 10, 15))
    with pytest.raises(ContractError, match="output 'x': expected an output of the last 60 days, found none"):
        output(store, "x")


def test_one_night_s_flow(where):
    store, engine = pay(where)
    first = monitor.nights(store, engine)[0]
    corpus = [{"checkpoint": checkpoint, "kind": "factored"} for checkpoint in ("a", "b") for _ in range(3)]
    plan = {"corpus": corpus, "outputs": [{"checkpoint": "", "kind": "words"}], "sample": {"rows": 7}}
    store.write(f"{first.night}/plan.json", canonical_json(plan))
    note_work(store, first.night, (6, 0.99), (0, 0.99))
    book(where, lay_out(where.store, DAYS[0], 400, seed=9))
    publish(where, DAYS[0])
    flow = night_of(store, engine, date.fromisoformat(DAYS[0]))
    assert flow.night.revision == 2
    assert [(booking.revision, booking.corrects) for booking in flow.bookings] == [(1, None), (2, 1)]
    assert [published.revision for published in flow.published] == [1, 2]
    for published in flow.published:
        for name, digest, size in published.files:
            data = store.read(f"{published.folder}/{name}")
            assert (sha256(data), len(data)) == (digest, size)
        assert sha256(store.read(f"{published.folder}/manifest.json")) == published.manifest_sha256
    assert (flow.examples, flow.shards, flow.features) == (40, 1, ()), "a night of its own, which has no plan"
    assert flow.parties == {PAYABLE: 40}
    assert [(terms.name, terms.rule, terms.outputs) for terms in flow.contracts] == [("everything", "faithful", 40)]
    (part, *_) = store.read_json(f"{flow.night.night}/inputs.json")["outputs"]
    outputs = store.read_table(f"frozen/parts/{part['sha256']}.parquet")
    first_listed = flow.listed[0]
    facts = (first_listed.output_id, first_listed.revenue_minor, first_listed.currency, first_listed.excerpt)
    assert facts == ("o-0000000", outputs["revenue_minor"][0], "EUR", "x")
    assert output(store, "o-0000001", date.fromisoformat(DAYS[0]))["day"] == DAYS[0]
    assert output(store, "o-0000001")["day"] == DAYS[2], "the latest day that has it"
    store.remove(f"frozen/parts/{part['sha256']}.parquet")  # as housekeeping does, in time
    assert night_of(store, engine, date.fromisoformat(DAYS[0])).listed == ()


def test_fidelity_is_what_the_manifest_says_and_before_it_what_the_stages_found(where):
    store, engine = pay(where, DAYS[:1])
    (night,) = monitor.nights(store, engine)
    assert night.fidelity == store.read_json(f"exports/payouts/day={DAYS[0]}/rev=0001/manifest.json")["fidelity"]
    assert night.fidelity["everything"]["lds"] == SUPPORTED["lds"]
    assert night_of(store, engine, date.fromisoformat(DAYS[0])).fidelity == night.fidelity
    lay_out(where.store, DAYS[1], 200, report=UNSUPPORTED, unsupported="wait")
    run = runs.Run("r", "scheduled", DAYS[1], "running", None, None, waiting=("settlement.approve",))
    waiting = night_of(store, engine, date.fromisoformat(DAYS[1]), [run])
    assert (waiting.night.state, waiting.night.fidelity) == ("waiting", {})
    assert (waiting.fidelity["everything"]["paid_by"], waiting.fidelity["everything"]["failed"]) == ({"flat": 1.0}, [NO_BETTER])
    assert [(terms.rule, terms.weight, terms.outputs) for terms in waiting.contracts] == [("faithful", 0.0, 20)]


def test_a_night_of_old_has_no_fidelity_and_all_the_rest(where):
    store, engine = pay(where, ())
    book(where, as_of_old(store, lay_out(where.store, DAYS[0], 200)))
    publish(where, DAYS[0])
    flow = night_of(store, engine, date.fromisoformat(DAYS[0]))
    assert (flow.night.state, flow.fidelity, flow.night.fidelity) == ("published", {}, {})
    assert [(terms.rule, terms.weight, terms.outputs) for terms in flow.contracts] == [("faithful", 1.0, 20)]


def test_the_work_of_a_night_is_that_of_the_run_that_was_booked(where):
    store, engine = pay(where, DAYS[:1])
    folder = monitor.nights(store, engine)[0].night
    note_work(store, folder, (0, 0.98), (6, 0.99))
    add_note(store, folder, RunNote("9999-01-01T00:00:00+00:00", 0, 6, 0, 1, 0, None))  # a preview, after the booking
    (night,) = monitor.nights(store, engine)
    assert (night.computed, night.reused, night.without_cause, night.parameters_covered) == (7, 0, 3, 0.99)


def test_runs_are_told_by_the_day_that_they_pay(where, airflow):
    tasks = [(stage, "success", 10.0 * (at + 1)) for at, stage in enumerate(STAGES)]
    record(airflow, DAYS[0], state="failed", tasks=[*tasks[:1], ("features.featurise", "failed", 5.0)])
    record(airflow, DAYS[0], tasks=tasks, kind="manual", tried=[("features.featurise", 100.0)])
    record(airflow, DAYS[1], state="failed", tasks=[*tasks[:3], ("settlement.reconcile", "failed", 2.0)])
    record(airflow, DAYS[2], state="running", tasks=[*tasks[:1], ("royalty.approve", "awaiting_input", None)])
    record(airflow, "2026-10-18", state="queued")
    record(airflow, DAYS[0], dag_id="bank_answers", tasks=[("settlement.answers", "success", 1.0)])
    engine = runs.open_runs(airflow)
    result = runs.runs(engine)
    assert {day: [run.state for run in of] for day, of in result.items()} == {
        DAYS[0]: ["failed", "success"], DAYS[1]: ["failed"], DAYS[2]: ["running"], "2026-10-18": ["queued"],
    }  # fmt: skip
    again = result[DAYS[0]][1]
    assert (again.kind, again.seconds["features.featurise"], again.spent["features.featurise"]) == ("manual", 20.0, 120.0)
    assert list(again.seconds) == list(STAGES), "in the order in which they began"
    assert result[DAYS[1]][0].failed == ("settlement.reconcile",)
    assert result[DAYS[2]][0].waiting == ("royalty.approve",)
    assert list(runs.runs(engine, last=2)) == [DAYS[2], "2026-10-18"]
    assert runs.runs(engine, day=DAYS[1]) == {DAYS[1]: result[DAYS[1]]}
    assert runs.runs(engine, "bank_answers")[DAYS[0]][0].seconds == {"settlement.answers": 1.0}
    assert runs.open_questions(engine)["nightly_payouts"].count == 1
    assert runs.backfills(engine) == {}

    store, books_of = pay(where)
    nights = monitor.nights(store, books_of, result)
    assert [(night.day, night.state) for night in nights] == [
        (DAYS[0], "published"), (DAYS[1], "failed"), (DAYS[2], "waiting"), ("2026-10-18", "queued"),
    ]  # fmt: skip
    assert all(night.state in monitor.STATES for night in nights)
    first = nights[0]
    # Two runs and three tries of featurise (5, 20 and 100 s) and one of likelihoods (30 s) on two workers; the others on one.
    assert first.worker_seconds(2) == 2 * (5 + 20 + 100 + 30) + 10 + 10 + 40
    settings = Settings.model_validate({"cluster": {"workers": 2}, "monitoring": {"hourly_cost": 3600}})
    assert first.cost(settings) == first.worker_seconds(2)
    spent = {"settlement.approve": 7200.0, "settlement.book": 4.0}
    run = runs.Run("a", "manual", DAYS[0], "success", None, None, spent=spent)
    assert monitor.WatchedNight(DAYS[0], "published", runs=(run,)).worker_seconds(2) == 4, "a person's hours are no worker's"
    flow = night_of(store, books_of, date(2026, 10, 18), result["2026-10-18"])
    assert (flow.night.state, flow.bookings, flow.corpus) == ("queued", (), "")
    assert night_of(store, books_of, date.fromisoformat(DAYS[0]), result[DAYS[0]]).night == first


def test_a_run_that_is_tried_again_is_told_in_the_order_of_the_pipeline(airflow):
    tasks = [
        ("settlement.reconcile", None, 9.0),  # was cleared, and keeps the times of the try before
        ("settlement.book", "upstream_failed", 0.0),
        ("settlement.review", "success", 3.0),
        ("a.stranger", "success", 4.0),
        ("royalty.share", "failed", 2.0),
        ("inputs.freeze", "success", 1.0),
    ]
    record(airflow, DAYS[0], state="failed", tasks=tasks, tried=[("settlement.reconcile", 9.0), ("royalty.share", 2.0)])
    record(airflow, DAYS[1], state="running", tasks=[("royalty.likelihoods", "running", 5.0), ("x", "awaiting_input", None)])
    engine = runs.open_runs(airflow)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE task_instance SET try_number = 3 WHERE state = 'failed'"))
        connection.execute(sa.text("UPDATE task_instance SET start_date = now() - interval '1 hour' WHERE state = 'running'"))
    result = runs.runs(engine)
    night = monitor.WatchedNight(DAYS[0], "failed", runs=tuple(result[DAYS[0]]))
    assert list(night.seconds) == ["inputs.freeze", "royalty.share", "settlement.review", "a.stranger"]
    assert night.spent == {**night.seconds, "royalty.share": 4.0, "settlement.reconcile": 9.0}
    assert night.runs[0].tries == {"inputs.freeze": 1, "royalty.share": 3, "settlement.review": 1, "a.stranger": 1}
    (running,) = result[DAYS[1]]
    assert running.seconds["x"] == 0.0, "it waits for a person"
    assert 3600 <= running.seconds["royalty.likelihoods"] < 3700, "until now, not the duration of the try before"


def test_a_day_that_is_run_again_is_told_from_one_that_is_being_published(where, airflow):
    store, books_of = pay(where, DAYS[:1])
    record(airflow, DAYS[0], state="running")
    engine = runs.open_runs(airflow)
    (night,) = monitor.nights(store, books_of, runs.runs(engine))
    assert (night.state, night.published, night.again) == ("running", True, False), "its run began before it was booked"
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE dag_run SET start_date = now() + interval '1 hour'"))
    assert monitor.nights(store, books_of, runs.runs(engine))[0].again
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE dag_run SET start_date = NULL, state = 'queued'"))
    assert monitor.nights(store, books_of, runs.runs(engine))[0].again


def test_a_dag_is_paused_where_airflow_says_so(airflow):
    engine = runs.open_runs(airflow)
    assert not runs.paused(engine), "Airflow has not seen it yet"
    show_dag(airflow, "nightly_payouts", paused=True)
    show_dag(airflow, "settle_period", paused=False)
    assert runs.paused(engine)
    assert not runs.paused(engine, "settle_period")


def test_what_a_manifest_says_of_revenue_is_told_of_its_night(where, monkeypatch):
    plain = frozen.freeze_outputs
    noticed = pl.lit("Revenue is invented.").alias("notice")
    monkeypatch.setattr(frozen, "freeze_outputs", lambda store, outputs: plain(store, outputs.with_columns(noticed)))
    store, engine = pay(where, DAYS[:1])
    assert [night.notice for night in monitor.nights(store, engine)] == ["Revenue is invented."]


def test_money_found_an_owner_or_lies_in_escrow(where):
    store, engine = pay(where, DAYS[:1])
    first, second = (date.fromisoformat(day) for day in DAYS[:2])
    amounts = ledger.night_amounts(engine, since=first, through=second)
    assert amounts == {first: ledger.day_amounts(engine, first, through=1)}
    assert ledger.night_amounts(engine, since=second, through=second) == {}
    night = monitor.nights(store, engine)[0].night
    shared = {
        Account(RECEIVABLE, "", "EUR"): 1000, Account(DEVELOPER, "", "EUR"): -200, Account(ESCROW, "someone", "EUR"): -600,
        Account(PAYABLE, "owner-000001", "EUR"): -200,
    }  # fmt: skip
    ledger.book(engine, second, shared, night=night, cause="c")
    assert monitor.nights(store, engine)[1].matched == {"EUR": 0.25}
    assert monitor.escrow(engine) == {"EUR": (600, second)}
    ledger.claim(engine, "someone", "owner-000002", day=second, evidence="letter", by="J. Doe")
    assert monitor.nights(store, engine)[1].matched == {"EUR": 1.0}, "what was claimed since has found its owner"
    assert monitor.escrow(engine) == {}


class Noticed:
    """Workers that remember whether anything was mapped."""

    def __init__(self, workers):
        self.workers, self.mapped = workers, False

    def __getattr__(self, name):
        self.mapped |= name in {"map", "reduce"}
        return getattr(self.workers, name)


def test_the_tasks_that_compute_on_the_cluster_are_those_whose_stages_map_on_workers(ingested, doors, monkeypatch):
    ingested(**SMALL)
    monkeypatch.setattr("provenance.inputs.frozen.PART_OUTPUTS", 5)  # outputs of one part are divided without workers
    where, mapping, folder = doors(), set(), ""
    for stage in OF_A_NIGHT:
        if stage == APPROVE:
            continue
        workers = Noticed(where.workers)
        argument = DAY if stage.name in {"inputs.freeze", "settlement.publish", "settlement.reconcile"} else folder
        result = stage.run(replace(where, open_workers=lambda workers=workers: workers), argument)
        folder = result if stage == FREEZE else folder
        mapping |= {stage.name} if workers.mapped else set()
    assert mapping
    assert mapping == monitor.ON_CLUSTER


# How things stand, in one line.

EVENING = datetime(2026, 11, 28, 0, 16, tzinfo=UTC)
SCORED = {"songs": SUPPORTED}


def watched(day="2026-11-27", state="published", **facts):
    published = facts.pop("published", state == "published")
    facts = {"booked_at": EVENING, "fidelity": SCORED if published else {}, **facts}
    return monitor.WatchedNight(day, state, published=published, **facts)


def said(*nights, asked=0, paused=False, today=date(2026, 11, 28)):
    questions = {"settle_period": runs.OpenQuestions(asked, EVENING)} if asked else {}
    return ", ".join(part.text for part in headline(nights, questions, paused=paused, today=today))


def test_the_line_names_the_night_its_fidelity_and_who_waits():
    assert said(watched()) == "27 Nov published 00:16, fidelity 0.86, nothing waiting"
    assert said(watched(), asked=2) == "27 Nov published 00:16, fidelity 0.86, 2 questions wait for people"
    assert said() == "no night has run yet, nothing waiting"
    late = said(watched(), today=date(2026, 12, 1))
    assert late == "27 Nov published 00:16, 3 days behind, fidelity 0.86, nothing waiting"
    assert said(watched(), paused=True, today=date(2026, 12, 1)) == (
        "27 Nov published 00:16, fidelity 0.86, nights are paused, nothing waiting"
    )
    evening = watched(booked_at=EVENING.replace(hour=18))
    assert said(evening) == "27 Nov published on 28 Nov at 18:16, fidelity 0.86, nothing waiting"
    left = Unsettled(unanswered={"2026-10": 2}, back={"rejected": 1}, held=("o",))
    assert [part.text for part in headline((), {}, paused=False, today=EVENING.date(), unsettled=tuple(left.in_words()))] == [
        "no night has run yet", "2 payments without an answer", "1 payment rejected", "1 owner on hold",
    ]  # fmt: skip
    two = watched(fidelity={"code": UNSUPPORTED, "songs": SUPPORTED | {"lds": {}}})
    assert (
        said(two) == "27 Nov published 00:16, fidelity of code fails its check, fidelity of songs not measured, nothing waiting"
    )
    again = watched(booked_at=EVENING.replace(day=30))
    assert said(again, today=date(2026, 11, 28)) == "27 Nov published on 30 Nov at 00:16, fidelity 0.86, nothing waiting"


def test_the_line_names_what_went_wrong_and_what_was_published_before():
    run = runs.Run("r", "scheduled", "2026-11-27", "failed", EVENING, None, failed=("royalty.estimate",))
    failed = watched(state="failed", runs=(run,))
    before = watched("2026-11-26", booked_at=EVENING.replace(day=27))
    line = "27 Nov failed in royalty.estimate, 26 Nov published 00:16, fidelity 0.86, nothing waiting"
    assert said(before, failed) == line
    running = watched(state="running", runs=(replace(run, state="running", failed=()),))
    assert said(before, running).startswith("27 Nov running since 00:16, 26 Nov published")
    assert said(watched("2026-11-26", "booked"), watched()).startswith("27 Nov published 00:16, 26 Nov booked, not published")


def test_a_night_is_published_when_its_task_was_done():
    ends = {"settlement.publish": EVENING.replace(minute=20)}
    run = runs.Run("r", "scheduled", "2026-11-27", "success", EVENING, None, succeeded=ends)
    earlier = replace(run, succeeded={"settlement.publish": EVENING.replace(day=27)})
    assert watched(runs=(earlier, run)).published_at == EVENING.replace(minute=20)
    assert watched().published_at == EVENING, "without a run, when it was booked"
    assert watched(state="booked").published_at is None


def test_answers_of_people_come_by_month_and_task(airflow):
    record(airflow, "2026-09-30", dag_id="settle_period", tasks=[("settlement.prepare", "awaiting_input", None)])
    record(airflow, "2026-10-31", dag_id="settle_period", tasks=[("settlement.approve", "awaiting_input", None)])
    engine = sa.create_engine(airflow, poolclass=sa.NullPool)
    assert runs.answers(engine) == {"2026-09": {"settlement.prepare": None}, "2026-10": {"settlement.approve": None}}
    for options, granted in (('["Approve"]', True), ('["Reject"]', False)):
        answer = "UPDATE hitl_detail SET responded_at = :at, responded_by = :by, chosen_options = :options"
        values = {"at": EVENING, "by": '{"id": "7", "name": "ann"}', "options": options}
        with engine.begin() as connection:
            connection.execute(sa.text(answer), values)
        assert runs.answers(engine)["2026-09"] == {"settlement.prepare": runs.Answer("ann", EVENING, granted=granted)}


def test_a_month_waits_for_the_step_that_people_have_come_to(where):
    _, engine = pay(where)
    today = date(2026, 11, 3)
    (open_month,) = months(engine, {}, today)
    assert [step.state for step in open_month.steps] == ["now", "later", "later", "later", "later"]
    assert open_month.step.name == "closed"
    assert months(engine, {}, date(2026, 10, 31))[0].steps[0].text == "the month is not over"
    assert open_month.totals["EUR"] == {
        name: sum(night.totals["EUR"][name] for night in monitor.nights(where.store, engine))
        for name in open_month.totals["EUR"]
    }
    settling.close(engine, "2026-10", {}, ClosingTerms(), day=today, by="me")
    yes, no = (runs.Answer("ann", EVENING, granted=granted) for granted in (True, False))
    prepare, approve = "settlement.prepare", "settlement.approve"
    for answers, states in (
        ({}, ["now", "later"]), ({prepare: None}, ["now", "later"]), ({prepare: yes}, ["done", "now"]),
        ({prepare: no}, ["wrong", "later"]), ({prepare: yes, approve: no}, ["done", "wrong"]),
    ):  # fmt: skip
        month = months(engine, {"2026-10": answers}, today)[-1]
        assert [step.state for step in month.steps] == ["done", *states, "later", "later"]


# Where revenue goes.


def test_a_picture_has_a_band_for_every_part_and_loses_no_cent():
    totals = {
        "revenue_minor": 1000,
        "developer_minor": 300,
        "earned_minor": 600,
        "escrowed_minor": 100,
        "unattributed_minor": 0,
    }
    owners = [PartyOfNight(PAYABLE, f"o{n}", f"Owner {n}" * 9, "EUR", 0.06, amount_minor=60) for n in range(10)]
    ((currency, wide, narrow),) = money_flow.of_totals({"EUR": totals, "USD": dict.fromkeys(totals, 0)}, owners)
    assert currency == "EUR"
    assert [node.name for node in narrow.nodes] == ["revenue", "10 owners", "escrow", "developer"]
    names = [node.name for node in wide.nodes]
    assert names[-4:] == ["3 others", "10 owners", "escrow", "developer"]
    assert all(len(name) <= 24 for name in names)
    high = {node.name: node.height for node in wide.nodes}
    assert abs(high["revenue"] - high["10 owners"] - high["escrow"] - high["developer"]) < 1e-9
    singles = [node.height for node in wide.nodes if node.x > 300]
    assert abs(sum(singles) - high["10 owners"]) < 1e-9
    assert len(wide.ribbons) == 3 + 8
    assert wide.words == "Of EUR 10.00: owners EUR 6.00, 60.0 %; escrow EUR 1.00, 10.0 %; developer EUR 3.00, 30.0 %"
    columns = [(node.x, node.y) for node in wide.nodes]
    assert len(set(columns)) == len(columns)
    for x in {x for x, _ in columns}:
        spans = sorted((node.y, node.y + max(node.height, 25)) for node in wide.nodes if node.x == x)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans)), "no label lies on another"
    assert max(node.y + node.height for node in wide.nodes) <= wide.height
