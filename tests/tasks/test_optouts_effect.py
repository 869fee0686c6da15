"""What an opt-out does: to the nights on and after its day, to those before, and to what is trained next."""

from datetime import UTC, date, datetime

import polars as pl
import pytest
from samples import corpus_frames, deliver
from stages import SMALL, STAGES, night, run

from provenance.core.store import from_parquet
from provenance.settlement import exports, ledger
from tasks.accounts import claim
from tasks.database import open_ledger
from tasks.diff import diff
from tasks.ingest import ingest
from tasks.night import load_night
from tasks.optouts import opt_out
from tasks.recompute import recompute
from tasks.reconcile import check_day
from tasks.settings import load

BEFORE, DAY, AFTER = "2026-11-19", "2026-11-20", "2026-11-21"
NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
PPB = 1_000_000_000
SAID = {"evidence": "letter", "by": "dana", "now": NOW}


@pytest.fixture
def place(store, environment, tmp_path):
    """The tiny corpus with a copy of a work, in force, and three days of outputs."""
    environment(store, SETTLEMENT__KEY=str(tmp_path / "signing.pem"), **SMALL)
    deliver(store, with_copy(corpus_frames()), (BEFORE, DAY, AFTER))
    ingest()
    settings = load()
    return settings, store, open_ledger(settings.database, store)


def with_copy(frames):
    """The corpus where owner-3 also delivers what owner-0 has written, later."""
    copied = frames["examples"].filter(pl.col("work_id") == "work-0-1").with_columns(
        work_id=pl.lit("copied"), source_uri=pl.lit("https://example.org/copied")
    )  # fmt: skip
    claims = frames["claims"].with_columns(valid_from=pl.lit(date(2020, 1, 1)))
    mine = {"work_id": "copied", "owner_id": "owner-3", "stake_ppb": PPB, "valid_from": date(2024, 1, 1)}
    return frames | {
        "examples": pl.concat([frames["examples"], copied]),
        "claims": pl.concat([claims, pl.DataFrame([mine])]),
    }


def shares(store, folder):
    """Of each output, whoever has a part: `{(output, account, party): ppb}`."""
    table = store.read_table(f"{folder}/shares.parquet")
    return {(o, a, p): s for o, a, p, s in table.select("output_id", "account", "party_id", "share_ppb").iter_rows()}


def folder_of(store, day, revision):
    return store.read_json(f"{exports.revision_folder(day, revision)}/manifest.json")["night"]


def published(store, day, revision):
    """Earnings by owner and currency, and control totals."""
    folder = exports.revision_folder(day, revision)
    payouts = from_parquet(store.read(f"{folder}/payouts.parquet"), folder)
    earned = {(owner, currency): amount for owner, currency, amount in
              payouts.select("owner_id", "currency", "earned_minor").iter_rows() if amount}  # fmt: skip
    return (
        earned,
        store.read_json(f"{folder}/manifest.json")["totals"],
        from_parquet(store.read(f"{folder}/credits.parquet"), ""),
    )


def test_a_night_follows_what_owners_chose_and_those_before_stay(place, command_line):
    settings, store, engine = place
    night(day=BEFORE)
    night(day=DAY)
    owned = {row["work_id"] for row in store.read_table("corpus/claims.parquet").filter(owner_id="owner-0").to_dicts()}
    opt_out(store, "owner-0", "work-0-1", choice="held", **SAID)
    opt_out(store, "owner-1", None, choice="credited", **SAID)
    opt_out(store, "owner-2", None, choice="paid", **SAID)
    booked = ledger.newest(engine)

    night(day=BEFORE)
    assert ledger.newest(engine) == booked, "nothing is booked for a day before the opt-out"
    assert len({key.split("/")[2] for key in store.list(f"nights/day={BEFORE}")}) == 1, "it is the same night"

    night(day=DAY)
    was, now = (shares(store, folder_of(store, DAY, revision)) for revision in (1, 2))
    for output in {output for output, _, _ in was}:

        def part(found, *party, output=output):
            return found.get((output, *party), 0)

        # Roundings to parts per billion are all that may differ.
        assert sum(s for (o, _, _), s in now.items() if o == output) == PPB
        for owner in ("owner-2", "owner-3"):
            assert part(now, "payable", owner) == pytest.approx(part(was, "payable", owner), abs=3)
        assert part(now, "payable", "owner-1") == 0
        assert part(now, "unattributed", "owner-1") == pytest.approx(part(was, "payable", "owner-1"), abs=3)
        kept = part(now, "payable", "owner-0") + part(now, "escrow", "held-owner-0")
        assert kept == pytest.approx(part(was, "payable", "owner-0"), abs=3)
        assert part(now, "escrow", "unmatched-somebody") == pytest.approx(part(was, "escrow", "unmatched-somebody"), abs=3)
    held = [s for (_, account, party), s in now.items() if (account, party) == ("escrow", "held-owner-0")]
    assert max(held) > 10**6, "the copy of the work does not take what its owner wants held"
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
    assert booked_on == {""}, "there is one account of what nobody gets"
    assert [check.problems for check in check_day(settings, DAY)[1] if not check.passed] == []
    _, checks = recompute(settings, DAY)
    assert [check.problems for check in checks if not check.passed] == []
    assert any(
        cause.startswith("opt-outs: of 3 owners (owner-0, owner-1, owner-2)") for cause in diff(store, DAY, 1, 2)["causes"]
    )
    output = named["output_id"][0]
    assert command_line("explain", output, "--most", "99")[1].count("Owner 1, Ltd. (no money)") == 1

    lies = {a: m for a, m in ledger.balances(engine, through=10**9).items() if a.party_id == "held-owner-0"}
    assert lies
    claim(settings, "held-owner-0", "owner-0", evidence="letter", by="dana")
    night(day=AFTER)
    assert not any(a.party_id == "held-owner-0" for a in ledger.balances(engine, through=10**9))
    assert [check.problems for check in check_day(settings, AFTER)[1] if not check.passed] == []


def test_labels_touch_no_feature(place):
    _, store, _ = place
    handed = run(STAGES[0], DAY)
    for stage in STAGES[1:3]:
        run(stage, handed)
    features = store.list("features")
    opt_out(store, "owner-1", None, choice="held", **SAID)
    again = run(STAGES[0], DAY)
    assert again != handed
    for stage in STAGES[1:3]:
        run(stage, again)
    assert store.list("features") == features
    assert load_night(store, again).choices
    assert not load_night(store, handed).choices
