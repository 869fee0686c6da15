"""The effect of an opt-out on nights from its day on, on earlier nights, and on the next training."""

import json
import shutil
from datetime import UTC, date, datetime

import polars as pl
import pytest
from samples import corpus_frames, deliver
from stages import SMALL, STAGES, night, run

from infra.monitor.flow import night as watched_night
from infra.page.app import pages
from provenance.core.errors import CheckFailed, InputError, ModelError
from provenance.core.published import revision_folder
from provenance.core.store import from_parquet
from provenance.corpus.ownership import parties
from provenance.corpus.rights import clearance
from provenance.corpus.rights.optout_records import opt_out
from provenance.inputs.claims import claims_of
from provenance.inputs.night import load_night, read_whole
from provenance.models.model import read_model
from provenance.models.training_manifest import state_training
from provenance.settlement import ledger
from provenance.settlement.account_actions import claim
from provenance.settlement.exports.diff import diff
from provenance.settlement.exports.nights import check_day
from provenance.validation.optout_report import report
from provenance.validation.replay import recompute

BEFORE, DAY, AFTER = "2026-11-19", "2026-11-20", "2026-11-21"
NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
PPB = 1_000_000_000
LETTER = {"evidence": "letter", "by": "dana", "now": NOW}


@pytest.fixture
def place(ingested, doors, monkeypatch):
    """The tiny corpus with a copy of a work, in force, and three days of outputs, which workers divide in parts."""
    monkeypatch.setattr("provenance.inputs.frozen.PART_OUTPUTS", 5)
    ingested(with_copy(corpus_frames()), (BEFORE, DAY, AFTER), **SMALL)
    return doors()


def with_copy(frames):
    """The corpus in which owner-3 later delivers a copy of a work of owner-0."""
    copied = frames["examples"].filter(pl.col("work_id") == "work-0-1").with_columns(
        work_id=pl.lit("copied"), source_uri=pl.lit("https://example.org/copied")
    )  # fmt: skip
    claims = frames["claims"].with_columns(valid_from=pl.lit(date(2020, 1, 1)))
    copy = {"work_id": "copied", "owner_id": "owner-3", "stake_ppb": PPB, "valid_from": date(2024, 1, 1)}
    return frames | {"examples": pl.concat([frames["examples"], copied]), "claims": pl.concat([claims, pl.DataFrame([copy])])}


def shares(store, folder):
    """The shares of a night: `{(output, account, party): ppb}`."""
    table = read_whole(store, folder, "shares", "shares")
    return {(o, a, p): s for o, a, p, s in table.select("output_id", "account", "party_id", "share_ppb").iter_rows()}


def folder_of(store, day, revision):
    return store.read_json(f"{revision_folder(day, revision)}/manifest.json")["night"]


def published(store, day, revision):
    """Earnings by owner and currency, and control totals."""
    folder = revision_folder(day, revision)
    payouts = from_parquet(store.read(f"{folder}/payouts.parquet"), folder)
    earned = payouts.filter(pl.col("earned_minor") != 0).select("owner_id", "currency", "earned_minor").rows()
    totals, credits = store.read_json(f"{folder}/manifest.json")["totals"], store.read(f"{folder}/credits.parquet")
    return {(owner, currency): amount for owner, currency, amount in earned}, totals, from_parquet(credits, "")


def check_withdrawn_table(store):
    resting = store.read_table(f"{folder_of(store, DAY, 2)}/withdrawn.parquet")
    assert not store.exists(f"{folder_of(store, DAY, 1)}/withdrawn.parquet")
    assert set(resting["currency"]) == {"EUR", "USD"}
    assert resting.filter(owner_id="owner-0")["work_id"].unique().to_list() == ["work-0-1"]
    night_shares = store.read_table(f"{folder_of(store, DAY, 2)}/night_shares.parquet")
    for account, party, owner in (
        ("escrow", "held-owner-0", "owner-0"), ("unattributed", "owner-1", "owner-1"), ("payable", "owner-2", "owner-2"),
    ):  # fmt: skip
        # The whole share of the party rests on opted-out works of its owner, so the shares of works sum to it.
        whole = night_shares.filter(account=account, party_id=party).select("currency", "share_ppb").sort("currency")
        works = resting.filter(owner_id=owner).group_by("currency").agg(pl.col("share_ppb").sum()).sort("currency")
        assert works["currency"].to_list() == whole["currency"].to_list()
        assert works["share_ppb"].to_list() == pytest.approx(whole["share_ppb"].to_list(), abs=200), owner
    assert resting["influence_ppb"].max() > 10**7


def check_report(where, shown):
    """The report names the model that still holds an opted-out work, and the shares that rested on the work."""
    rows = {(row["work_id"], row["owner_id"]): row for row in report(where.store, now=NOW)}
    assert len(rows) == 1 + 5 + 4
    row = rows["work-0-1", "owner-0"]
    assert (row["choice"], row["since"]) == ("held", NOW.date())
    assert [(m["model_id"], m["by"], m["nights"], m["first"], m["last"]) for m in row["models"]] == [
        ("tiny", "corpus", 2, BEFORE, DAY)
    ]
    assert {night["day"] for night in row["nights"]} == {DAY}
    assert max(night["share_ppb"] for night in row["nights"]) > 0
    flow = watched_night(where.store, where.ledger, NOW.date())
    assert flow.opted_out == 10
    assert 0 < flow.rests["EUR"] < 1
    assert {account: flow.parties[account] for account in ("escrow", "unattributed")} == {"escrow": 2, "unattributed": 1}
    page = pages.get_template("night.html").render(
        night=flow.night, flow=flow, flows=(), base="", airflow="", template="night.html"
    )
    assert "<dt>Opted out</dt><dd>10 works; of the pools" in page
    assert len(shown("optout", "report", "--json")) == 10
    screen = shown("optout", "report")
    assert ("work-0-1" in screen, "tiny" in screen) == (True, True)


def test_a_night_follows_owners_choices_and_earlier_nights_stay(place, shown):
    store, engine = place.store, place.ledger
    night(day=BEFORE)
    night(day=DAY)
    owned = {row["work_id"] for row in store.read_table("corpus/claims.parquet").filter(owner_id="owner-0").to_dicts()}
    opt_out(store, "owner-0", "work-0-1", choice="held", **LETTER)
    opt_out(store, "owner-1", None, choice="credited", **LETTER)
    opt_out(store, "owner-2", None, choice="paid", **LETTER)
    booked = ledger.newest(engine)

    night(day=BEFORE)
    assert ledger.newest(engine) == booked, "nothing is booked for a day before the opt-out"
    assert len({key.split("/")[2] for key in store.list(f"nights/day={BEFORE}")}) == 1, "it is the same night"

    night(day=DAY)
    was, now = (shares(store, folder_of(store, DAY, revision)) for revision in (1, 2))
    for output in {output for output, _, _ in was}:

        def part(shares, *party, output=output):
            return shares.get((output, *party), 0)

        # Only roundings to parts per billion may differ.
        assert sum(s for (o, _, _), s in now.items() if o == output) == PPB
        for owner in ("owner-2", "owner-3"):
            assert part(now, "payable", owner) == pytest.approx(part(was, "payable", owner), abs=3)
        assert part(now, "payable", "owner-1") == 0
        assert part(now, "unattributed", "owner-1") == pytest.approx(part(was, "payable", "owner-1"), abs=3)
        kept = part(now, "payable", "owner-0") + part(now, "escrow", "held-owner-0")
        assert kept == pytest.approx(part(was, "payable", "owner-0"), abs=3)
        assert part(now, "escrow", "unmatched-somebody") == pytest.approx(part(was, "escrow", "unmatched-somebody"), abs=3)
    in_escrow = [s for (_, account, party), s in now.items() if (account, party) == ("escrow", "held-owner-0")]
    assert max(in_escrow) > 10**6, "the copy of the work does not get the share that its owner wants held"
    assert len(owned) > 1
    assert any(p == "owner-0" and a == "payable" for _, a, p in now)

    first, before, _ = published(store, DAY, 1)
    earned, totals, credits = published(store, DAY, 2)
    for currency, total in totals.items():
        assert ("owner-1", currency) not in earned
        assert earned["owner-2", currency] == pytest.approx(first["owner-2", currency], abs=1)
        assert total["unattributed_minor"] == pytest.approx(first["owner-1", currency], abs=1)
        assert total["escrowed_minor"] > before[currency]["escrowed_minor"]
        assert total["revenue_minor"] == sum(total.values()) - total["revenue_minor"]
    named = credits.filter(pl.col("account") == "unattributed")
    assert set(named["owner_id"]) == {"owner-1"}
    assert named["top_works"].list.len().min() >= 1
    booked_on = {account.party_id for account in ledger.balances(engine, through=10**9) if account.account == "unattributed"}
    assert booked_on == {""}, "unattributed shares have one account"
    assert [check.problems for check in check_day(place, DAY)[1] if not check.passed] == []
    _, checks = recompute(place, DAY)
    assert [check.problems for check in checks if not check.passed] == []
    causes = diff(store, DAY, 1, 2)["causes"]
    assert any(cause.startswith("opt-outs: of 3 owners (owner-0, owner-1, owner-2)") for cause in causes)
    assert shown("explain", named["output_id"][0], "--most", "99").count("Owner 1, Ltd. (no money)") == 1

    check_withdrawn_table(store)
    check_report(place, shown)

    assert any(account.party_id == "held-owner-0" for account in ledger.balances(engine, through=10**9))
    claim(place, "held-owner-0", "owner-0", evidence="letter", by="dana")
    night(day=AFTER)
    assert not any(a.party_id == "held-owner-0" for a in ledger.balances(engine, through=10**9))
    assert [check.problems for check in check_day(place, AFTER)[1] if not check.passed] == []


def test_labels_change_no_feature(place, store):
    def featurised():
        folder = run(STAGES[0], DAY)
        for stage in STAGES[1:3]:
            run(stage, folder)
        return folder, store.list("features")

    before, features = featurised()
    opt_out(store, "owner-1", None, choice="held", **LETTER)
    after, again = featurised()
    assert (after != before, again) == (True, features)
    assert load_night(store, after).choices
    assert not load_night(store, before).choices


def cleared_terms(store, corpus):
    """Terms that allow the use of every work."""
    works = pl.concat([store.read_table(part.key, columns=["work_id"]) for part in corpus.shards]).unique()
    return works.with_columns(
        quarantine=pl.lit(""), licence_spdx=pl.lit("MIT"), licence_class=pl.lit("commercial"), asserted_by=pl.lit("source")
    )


def test_the_next_training_manifest_lacks_opted_out_works(place, monkeypatch, shown, refused, tmp_path):
    store = place.store
    monkeypatch.setattr(clearance, "read_rights", cleared_terms)
    early, manifest, _ = clearance.write_manifest(place, use="train", day=date(2026, 11, 21))
    assert len(manifest.works) == 21
    opt_out(store, "owner-0", "work-0-1", choice="paid", **LETTER)
    key, manifest, _ = clearance.write_manifest(place, use="train", day=date(2026, 11, 21))
    assert key != early
    assert "work-0-1" not in manifest.works
    assert "copied" not in manifest.works, "an opt-out covers copies"
    assert len(manifest.works) == 19
    assert manifest.facts["left_out"] == {"works": 2, "examples": 6, "because": {"opt-out": 2}}
    assert "work-0-1" in clearance.make_manifest(place, use="train", day=date(2026, 11, 19))[0].works
    assert clearance.write_manifest(place, use="train", day=date(2026, 11, 21))[0] == key

    clearance.check_manifest(place, store.read(key), key)
    with pytest.raises(CheckFailed, match=r"copied: opt-out: a copy of work-0-1; work-0-1: opt-out: of owner-0$"):
        clearance.check_manifest(place, store.read(early), early)
    changed = json.loads(store.read(key))
    changed["works"]["work-1-0"].pop()
    with pytest.raises(CheckFailed, match="work-1-0: other examples"):
        clearance.check_manifest(place, json.dumps(changed).encode(), "m")

    out = tmp_path / "manifest.json"
    screen = shown("rights", "manifest", "--day", "2026-11-21", "--out", str(out))
    assert ("19 works" in screen, "Left out: 2 works, 6 examples (2 opt-out)" in screen) == (True, True)
    assert out.read_bytes() == store.read(key)
    shown("rights", "manifest", "--check", str(out))
    listed = tmp_path / "left-out.csv"
    shown("rights", "manifest", "--day", "2026-11-21", "--left-out", str(listed))
    assert listed.read_text().splitlines() == [
        "work_id,because", "copied,opt-out: a copy of work-0-1", "work-0-1,opt-out: of owner-0",
    ]  # fmt: skip
    out.write_text(json.dumps(changed))
    assert "work-1-0: other examples" in refused("rights", "manifest", "--check", str(out), code=1)


def test_a_model_with_another_training_manifest_is_refused(place, store, tiny_model, tmp_path, environment, caplog):
    examples = pl.read_parquet(f"{store.path('corpus')}/examples.parquet")
    model = tmp_path / "tiny"
    shutil.copytree(tiny_model, model)
    caplog.set_level("INFO")
    run(STAGES[0], DAY)
    assert "nobody has stated what it was trained on" in caplog.text
    state_training(model, examples)
    state_training(model, examples)
    assert (model / "model.toml").read_text().count('manifest = "manifest.json"') == 1
    assert read_model(model).architecture() == read_model(tiny_model).architecture(), "no feature is computed again"
    environment(store, MODEL__FOLDER=str(model), **SMALL)
    run(STAGES[0], DAY)
    state_training(model, examples.filter(pl.col("work_id") != "work-2-0"))
    differs = r"manifest.json: .*found work 'work-2-0': 0 of its 0 .*3 of the corpus's 3 it was not"
    with pytest.raises(InputError, match=differs):
        run(STAGES[0], DAY)
    (model / "manifest.json").unlink()
    missing = r"'training.manifest': expected a file manifest.json of the folder, found no such file"
    with pytest.raises(ModelError, match=missing):
        run(STAGES[0], DAY)


def test_claims_of_a_work_are_shown_for_a_day_and_a_time_of_knowledge(place, store, shown):
    believed = datetime.now(UTC)
    frames = with_copy(corpus_frames())
    old, new = date(2026, 11, 19), date(2026, 11, 20)
    sold = frames["claims"].with_columns(
        valid_to=pl.when(pl.col("work_id") == "work-2-0").then(pl.lit(old)), evidence=pl.lit("registered")
    )
    bought = {"work_id": "work-2-0", "owner_id": "owner-3", "stake_ppb": PPB, "valid_from": new, "evidence": "contract 7"}
    frames["claims"] = pl.concat([sold, pl.DataFrame([bought])], how="diagonal_relaxed")
    disputes = {"work_id": ["work-1-0"], "owner_id": ["eve"], "opened_on": [new], "evidence": ["a letter"]}
    deliver(store, frames | {"disputes": pl.DataFrame(disputes)}, days=())
    run("corpus.ingest")

    def owners(claims):
        return [(row["owner_id"], row["stake_ppb"], row["evidence"]) for row in claims["stakes"]]

    assert owners(claims_of(store, "work-2-0", day=old)) == [("owner-2", PPB, "registered")]
    assert owners(claims_of(store, "work-2-0", day=new)) == [("owner-3", PPB, "contract 7")]
    assert owners(claims_of(store, "work-2-0", day=new, known=believed)) == [("owner-2", PPB, None)]
    claims = claims_of(store, "work-1-0", day=new)
    assert [(row["owner_id"], row["evidence"]) for row in claims["disputes"]] == [("eve", "a letter")]
    name = claims["parties"][0]["party_id"]
    assert name.startswith("dispute-2026-11-20-")
    assert name.endswith("-work-1-0")
    assert [(row["account"], row["party_id"]) for row in claims["parties"]] == [("escrow", name)]
    with pytest.raises(InputError, match="corpus in force at 2020-.*found none before 20"):
        claims_of(store, "work-1-0", known=datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(InputError, match="Did you mean 'work-1-0'"):
        claims_of(store, "work-1-00")
    assert shown("rights", "claims", "work-2-0", "--day", "2026-11-20", "--json")["stakes"][0]["owner_id"] == "owner-3"
    screen = shown("rights", "claims", "work-1-0", "--day", "2026-11-20")
    assert ("Disputed by eve since 2026-11-20: a letter" in screen, name in screen) == (True, True)

    frozen = load_night(store, run(STAGES[0], DAY))
    stakes = parties(frozen.read_corpus(store, "work_id", "owner_id"), frozen.read_claims(store), frozen.date)
    assert stakes.filter(work_id="work-1-0").rows() == [("work-1-0", "escrow", name, PPB)]
    assert not load_night(store, run(STAGES[0], BEFORE)).read_claims(store)["choice"].drop_nulls().len()


def test_shares_in_dispute_go_to_escrow_and_then_to_the_winner(place, shown):
    store, engine = place.store, place.ledger
    frames = with_copy(corpus_frames())
    disputed = {"work_id": ["work-1-0"], "owner_id": ["owner-2"], "opened_on": [date(2026, 11, 20)], "evidence": ["a letter"]}

    def delivered(closed_on):
        table = pl.DataFrame(disputed).with_columns(closed_on=pl.lit(closed_on, pl.Date))
        deliver(store, frames | {"disputes": table}, days=())
        run("corpus.ingest")

    night(day=DAY)
    delivered(None)
    night(day=BEFORE)
    before = shares(store, folder_of(store, BEFORE, 1))
    assert {party for _, account, party in before if account == "escrow"} == {"unmatched-somebody"}, "it was not in dispute yet"
    first, _, _ = published(store, DAY, 1)
    night(day=DAY)
    was, now = (shares(store, folder_of(store, DAY, revision)) for revision in (1, 2))
    (waits,) = {party for _, account, party in now if account == "escrow" and party.startswith("dispute-2026-11-20-")}
    for output in {output for output, _, _ in was}:
        mine = now.get((output, "payable", "owner-1"), 0) + now.get((output, "escrow", waits), 0)
        assert mine == pytest.approx(was.get((output, "payable", "owner-1"), 0), abs=3)
        for owner in ("owner-0", "owner-2", "owner-3"):
            share, disputed_share = (revision.get((output, "payable", owner), 0) for revision in (was, now))
            assert share == pytest.approx(disputed_share, abs=3), "a dispute changes no other share"
    waiting = {a.currency: units for a, units in ledger.balances(engine, through=10**9).items() if a.party_id == waits}
    assert set(waiting) == {"EUR", "USD"}
    assert all(waiting.values())
    assert "it is disputed whose it is" in shown("payouts", DAY)

    with pytest.raises(InputError, match=r"expected a dispute that is over, found one that is open.*closed_on"):
        claim(place, waits, "owner-2", evidence="judgment", by="dana")
    delivered(date(2026, 11, 20))
    claim(place, waits, "owner-2", evidence="judgment", by="dana")
    assert not any(account.party_id == waits for account in ledger.balances(engine, through=10**9))
    night(day=AFTER)
    after = shares(store, folder_of(store, AFTER, 1))
    assert {party for _, account, party in after if account == "escrow"} == {"unmatched-somebody"}, "it is over"
    assert any(party == "owner-1" for _, _, party in after)
    assert [check.problems for day in (DAY, AFTER) for check in check_day(place, day)[1] if not check.passed] == []
    earned, _, _ = published(store, AFTER, 1)
    assert earned["owner-2", "EUR"] > 0
    assert first["owner-1", "EUR"] > 0


@pytest.mark.parametrize(("changed", "message"), [
    ({"day": "yesterday"}, "day: expected a day as YYYY-MM-DD, found 'yesterday'"),
    ({"corpus": "../../x"}, "corpus: expected the digest of a frozen corpus, found '../../x'"),
])  # fmt: skip
def test_a_manifest_that_cannot_be_checked_is_bad_input(place, tmp_path, refused, changed, message):
    store = place.store
    key, _, _ = clearance.write_manifest(place, use="train", day=date(2026, 11, 21))
    file = tmp_path / "[red]manifest.json"
    file.write_text(json.dumps(store.read_json(key) | changed))
    assert message in refused("rights", "manifest", "--check", str(file))


def test_every_mistake_in_a_file_of_opt_outs_has_its_own_line(place, tmp_path, refused):
    file = tmp_path / "optouts.csv"
    file.write_text("work_id,owner_id,choice,evidence\nwork-0-9,owner-0,held,x\nwork-0-1,owner-0,kept,x\nwork-0-0,owner-0,,\n")
    errors = refused("optout", "import", str(file), "--by", "dana")
    assert [line.split("optouts.csv: ")[1].split(": expected")[0] for line in errors.splitlines()] == [
        "line 2: work_id", "line 3: choice", "line 4: choice", "line 4: evidence",
    ]  # fmt: skip
    assert errors.count("Bad input:") == 4
