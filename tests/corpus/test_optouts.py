"""Opt-outs are append-only records; the last one of an owner and a work counts, from its day on."""

import re
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import HOSTILE_IDS, corpus_frames, freeze, table

from provenance.core.errors import InputError
from provenance.core.tables import OPTOUTS
from provenance.corpus.delivery import check_claims
from provenance.corpus.ownership import dispute_names, parties, with_choices
from provenance.corpus.rights.optout_records import import_file, list_optouts, opt_out, read_optouts, withdraw
from provenance.corpus.rights.optouts import OPTOUT, WITHDRAW, Wish, in_force, new_rows, read_file

NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
TODAY, DAY, LATER = NOW.date(), timedelta(days=1), NOW + timedelta(seconds=1)
PPB = 1_000_000_000
HEADER = "work_id,owner_id,choice,evidence"
EMPTY = pl.DataFrame(schema=OPTOUTS.schema)
STAKES = pl.DataFrame({"work_id": ["w", "w", "v"], "owner_id": ["ann", "bob", "ann"]})
SAID = {"evidence": "letter", "by": "dana"}


@pytest.fixture
def frozen(store):
    """The tiny corpus, in force."""
    freeze(store)
    return store


def history(*steps):
    """A table of `(work, owner, action, choice, recorded, effective)`, in days from now."""
    recorded_rows = EMPTY
    for work, owner, action, choice, at, starts in steps:
        wish = Wish(work, owner, action, choice, f"letter {at}", TODAY + starts * DAY)
        added = new_rows([wish], recorded_rows, STAKES, now=NOW + at * DAY, by="dana")
        recorded_rows = pl.concat([recorded_rows, added])
    return recorded_rows


def test_the_last_word_counts_from_its_day_on_and_as_it_was_known():
    first = ("w", "ann", OPTOUT, "held", 0, 0), ("v", "ann", OPTOUT, "paid", 0, 5)
    optouts = history(*first, ("w", "ann", OPTOUT, "credited", 2, 3), ("w", "ann", WITHDRAW, "paid", 6, 7))
    choices = {d: in_force(optouts, TODAY + d * DAY).rows() for d in range(-1, 9)}
    assert choices[-1] == []
    assert choices[0] == choices[2] == [("w", "ann", "held")]
    assert choices[3] == [("w", "ann", "credited")]
    assert choices[5] == choices[6] == [("v", "ann", "paid"), ("w", "ann", "credited")]
    assert choices[7] == [("v", "ann", "paid")]
    then = NOW + timedelta(days=1)
    assert in_force(optouts, TODAY + 8 * DAY, known=then).rows() == [("v", "ann", "paid"), ("w", "ann", "held")]


@given(st.lists(st.tuples(st.sampled_from("wv"), st.sampled_from(["held", "credited", "paid"]), st.integers(0, 5)), max_size=8))
@settings(max_examples=30)
def test_what_is_recorded_later_never_changes_a_day_before(steps):
    events = EMPTY
    for at, (work, choice, starts) in enumerate(steps):
        now = NOW + at * DAY
        before = {d: in_force(events, TODAY + d * DAY).rows() for d in range(at)}
        wish = Wish(work, "ann", OPTOUT, choice, "letter", now.date() + starts * DAY)
        events = pl.concat([events, new_rows([wish], events, STAKES, now=now, by="dana")])
        assert {d: in_force(events, TODAY + d * DAY).rows() for d in range(at)} == before


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish("ww", "ann", OPTOUT, "held", "x"), r"work_id: expected a work that has owners .*, found 'ww'. Did you mean 'w'"),
        (Wish("qqq", "ann", OPTOUT, "held", "x"), r"found 'qqq'. --keep-unknown records it for future works"),
        (Wish("w", "bbob", OPTOUT, "held", "x"), r"owner_id: expected an owner with a present .* Did you mean 'bob'"),
        (Wish("w", "ann", OPTOUT, "hold", "x"), r"choice: expected paid, credited, held, found 'hold'. Did you mean 'held'"),
        (Wish("w", "ann", "opt", "held", "x"), r"action: expected optout or withdraw, found 'opt'. Did you mean 'optout'"),
        (Wish("w", "ann", OPTOUT, "held", " "), r"evidence: expected proof of the owner's will, found nothing"),
        (Wish("w", "ann", WITHDRAW, "paid", "x"), r"work_id: expected an opt-out of 'ann' to withdraw, found none of 'w'"),
        (Wish("w", "ann", OPTOUT, "held", "x", date(2026, 11, 19)),
         r"effective_on: expected 2026-11-20 \(today, UTC\) or later, found 2026-11-19. Paid nights never change"),
    ],
)  # fmt: skip
def test_wishes_that_make_no_sense_are_refused(wish, message):
    with pytest.raises(InputError, match=message):
        new_rows([wish], EMPTY, STAKES, now=NOW, by="dana")


def test_works_that_may_come_are_recorded_if_asked_and_of_one_without_an_owner_it_is_said_what_an_opt_out_does():
    wish = Wish("not-yet", "ann", OPTOUT, "held", "x")
    assert new_rows([wish], EMPTY, STAKES, now=NOW, by="dana", keep_unknown=True)["work_id"].to_list() == ["not-yet"]
    with pytest.raises(InputError, match="owner_id"):
        new_rows([Wish("w", "eve", OPTOUT, "held", "x")], EMPTY, STAKES, now=NOW, by="dana", keep_unknown=True)
    wish, options = Wish("orphan", "ann", OPTOUT, "held", "x"), {"now": NOW, "by": "dana", "works": {"orphan"}}
    escrow = r"found 'orphan', whose owner is not.*stays in escrow. --keep-unknown records the wish"
    with pytest.raises(InputError, match=escrow):
        new_rows([wish], EMPTY, STAKES, **options)
    assert new_rows([wish], EMPTY, STAKES, **options, keep_unknown=True)["work_id"].to_list() == ["orphan"]


def test_a_file_is_taken_whole_once(frozen, tmp_path):
    path = tmp_path / "o.csv"
    path.write_text(f'{HEADER}\nwork-0-0,owner-0,held,letter\nwork-1-0,owner-1,credited,"a, b"\n')
    assert import_file(frozen, path, by="dana", now=NOW)[1].height == 2
    withdraw(frozen, "owner-0", "work-0-0", evidence="mail", by="dana", now=NOW + DAY)
    assert import_file(frozen, path, by="dana", now=NOW + 2 * DAY)[1].height == 0
    assert in_force(read_optouts(frozen), TODAY + 3 * DAY).rows() == [("work-1-0", "owner-1", "credited")]
    assert path.read_bytes() in [frozen.read(key) for key in frozen.list("rights/raw")]


def test_all_works_of_an_owner_are_opted_out_of_and_what_is_said_already_adds_nothing(frozen):
    rows = opt_out(frozen, "owner-1", None, choice="held", **SAID, now=NOW)
    assert rows["work_id"].to_list() == ["work-0-0", "work-1-0", "work-1-1", "work-1-2", "work-1-3"]
    assert withdraw(frozen, "owner-1", None, evidence="mail", by="dana", now=LATER).height == 5
    assert set(list_optouts(frozen, now=LATER)["state"]) == {"withdrawn"}
    assert set(list_optouts(frozen, known=NOW - DAY)["state"]) == set()
    before = read_optouts(frozen).height
    for now in (NOW + DAY, NOW + 2 * DAY):
        opt_out(frozen, "owner-0", "work-0-0", choice="held", **SAID, now=now)
    assert read_optouts(frozen).height == before + 1
    assert opt_out(frozen, "owner-0", "work-0-0", choice="paid", **SAID, now=NOW + 2 * DAY).height == 1


def test_an_opt_out_of_a_work_without_an_owner_is_listed_as_of_the_corpus(frozen):
    orphan = corpus_frames()["examples"].filter(pl.col("unmatched_reason").is_not_null())["work_id"][0]
    with pytest.raises(InputError, match="whose owner is not"):
        opt_out(frozen, "eve", orphan, choice="held", **SAID, now=NOW)
    opt_out(frozen, "eve", orphan, choice="held", **SAID, now=NOW, keep_unknown=True)
    assert list_optouts(frozen, now=LATER).select("work_id", "in_corpus").rows() == [(orphan, True)]


def test_what_will_count_later_does_not_hide_what_counts_today(frozen):
    opt_out(frozen, "owner-0", "work-0-0", choice="credited", **SAID, now=NOW)
    withdraw(frozen, "owner-0", "work-0-0", evidence="mail", by="dana", now=NOW + DAY / 24, day=TODAY + 8 * DAY)
    first, *_ = list_optouts(frozen, now=NOW + DAY / 12).select("action", "choice", "state").rows()
    assert first == ("optout", "credited", "in force")
    assert list_optouts(frozen, now=NOW + DAY / 12)["state"].to_list() == ["in force", "later"]
    assert list_optouts(frozen, now=NOW + 9 * DAY)["state"].to_list() == ["withdrawn"]
    with pytest.raises(InputError, match="expected an owner with works in the corpus in force.*Did you mean 'owner-1'"):
        opt_out(frozen, "owner1", None, choice="held", **SAID, now=NOW)


LINES = f"{HEADER}\nwork-0-0,owner-0,held,letter\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"line 1: expected the columns work_id, owner_id, choice, evidence, found no work_id"),
        (f"{HEADER}\n".encode(), r"expected a line for each opt-out, found none; nothing was recorded"),
        (b"work_id;owner_id;choice;evidence\n", r"line 1: expected commas between columns, found semicolons"),
        (b"work_id,owner_id,choise,evidence\n", r"line 1: expected some of .*, found 'choise'. Did you mean 'choice'"),
        (f"{HEADER},choice\n".encode(), r"line 1: expected every column once, found choice twice"),
        (LINES.encode("utf-16"), r"expected text in UTF-8, found null bytes, as UTF-16 has"),
        (LINES.encode("utf-16-le"), r"expected text in UTF-8, found null bytes, as UTF-16 has"),
        (LINES.encode() + "work-0-1,owner-0,held,Müller\n".encode("latin-1"),
         r"line 3: expected text in UTF-8, found byte 0xfc"),
        (f"{HEADER}\nwork-0-0,owner-0\n".encode(), r"line 2: expected as many fields as the header has, found more or fewer"),
        (f"{HEADER}\n,owner-0,held,x\n".encode(), r"line 2: work_id: expected a value, found none"),
        (f"{HEADER},effective_on\nwork-0-0,owner-0,held,x,20.11.2026\n".encode(),
         r"line 2: effective_on: expected a day as YYYY-MM-DD, found '20.11.2026'"),
        (LINES.encode() + b"work-0-9,owner-0,held,x\nwork-9-9,owner-0,held,x\nwork-0-1,owner-1,held,x\n",
         r"line 3: work_id: .*'work-0-9'. Did you mean 'work-0-\d'\? 2 more: .*line 4: work_id; .*line 5: owner_id"),
        (LINES.encode() + b"work-0-0,owner-0,paid,x\n",
         r"line 3: expected one line for each work and owner, found the pair of"),
        (f'{HEADER}\nwork-0-0,owner-0,held,"x\n'.encode(), r"expected CSV, found unexpected end of data"),
    ],
)  # fmt: skip
def test_a_file_with_an_error_records_nothing(frozen, tmp_path, data, message):
    path = tmp_path / "o.csv"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        import_file(frozen, path, by="dana", now=NOW)
    assert frozen.list("rights") == []


@pytest.mark.parametrize("name", HOSTILE_IDS)
def test_whatever_names_are_they_come_back(name):
    wish = Wish(name, name, OPTOUT, "held", "x")
    rows = new_rows([wish], EMPTY, pl.DataFrame({"work_id": [name], "owner_id": [name]}), now=NOW, by="dana")
    assert in_force(rows, TODAY).rows() == [(name, name, "held")]


def test_a_byte_order_mark_and_blanks_are_forgiven():
    wishes = read_file(f"\ufeff{HEADER},action\r\n w , ann ,, x ,withdraw\r\n".encode(), "o.csv")
    assert [(w.work_id, w.owner_id, w.action, w.choice) for w in wishes] == [("w", "ann", WITHDRAW, "paid")]


def opened(*rows):
    return table("work_id owner_id opened_on closed_on", *rows, closed_on=pl.Date)


def test_choices_and_disputes_say_who_stands_behind_a_work():
    examples = pl.DataFrame({"work_id": ["a", "b", "c", "d"], "owner_id": [None, None, None, "somebody"]})
    rows = [("a", "ann", 600_000_000), ("a", "bob", 400_000_000), ("b", "ann", PPB), ("c", "bob", PPB)]
    claims = check_claims(table("work_id owner_id stake_ppb", *rows), "claims")
    choices = table("work_id owner_id choice", ("a", "ann", "held"), ("b", "ann", "credited"), ("c", "bob", "paid"))
    disputes = opened(("c", "eve", TODAY, TODAY), ("d", "eve", TODAY, None))
    days = (TODAY - DAY, TODAY, TODAY + DAY)
    before, on, after = (parties(examples, with_choices(claims, day, choices, disputes), day).rows() for day in days)
    ann = [("a", "escrow", "held-ann", 600_000_000), ("a", "payable", "bob", 400_000_000), ("b", "unattributed", "ann", PPB)]
    assert before == [*ann, ("c", "payable", "bob", PPB), ("d", "escrow", "somebody", PPB)]
    names = dict(dispute_names(disputes, TODAY).iter_rows())
    assert all(re.fullmatch(rf"dispute-{TODAY}-[0-9a-f]{{8}}-{work}", name) for work, name in names.items())
    assert on == [*ann, ("c", "escrow", names["c"], PPB), ("d", "escrow", names["d"], PPB)]
    assert after == [*ann, ("c", "payable", "bob", PPB), ("d", "escrow", names["d"], PPB)]


def test_what_several_dispute_waits_apart_from_what_one_of_them_does():
    later = ("c", "dee", TODAY + 4 * DAY, TODAY + 5 * DAY)
    disputes = opened(("c", "eve", TODAY, None), ("c", "ann", TODAY, TODAY + DAY), later)
    names = [dispute_names(disputes, TODAY + n * DAY)["dispute"].item() for n in range(8)]
    assert names[0] == names[1] != names[2] == names[3] != names[4] == names[5] != names[6]
    assert names[6] == names[7] == names[2], "eve alone, as before"
    assert dispute_names(disputes, TODAY - DAY).is_empty()
