from datetime import date

import polars as pl
import pytest
from samples import corpus_frames, deliver, table

from provenance.core.errors import ContractError
from provenance.corpus.delivery import check_claims, check_examples, read_corpus
from provenance.corpus.ownership import parties

PPB = 1_000_000_000


def test_a_good_corpus_is_read_whole_and_without_one_it_is_said_what_one_is(store):
    with pytest.raises(ContractError, match=r"corpus/examples.parquet: expected the examples .* A corpus is a folder"):
        read_corpus(store, "corpus")
    frames = corpus_frames()
    deliver(store, {**frames, "examples": frames["examples"].with_columns(mood=pl.lit("glad"))})
    corpus = read_corpus(store, "corpus")
    assert corpus.examples.height == 60
    assert corpus.examples["example_id"].n_unique() == 60
    assert corpus.examples["mood"].unique().to_list() == ["glad"], "extra columns are carried along"
    assert corpus.owners["name"].to_list()[0] == "Owner 0, Ltd."


def test_without_claims_and_owners_files_the_examples_speak(store):
    examples = pl.DataFrame({"work_id": ["a", "b"], "content": [b"x", b"x"], "owner_id": ["p", "q"]})
    deliver(store, {"examples": examples})
    corpus = read_corpus(store, "corpus")
    assert corpus.claims.select("work_id", "owner_id", "stake_ppb").rows() == [("a", "p", PPB), ("b", "q", PPB)]
    assert corpus.owners["name"].to_list() == ["p", "q"]
    with pytest.raises(ContractError, match="'owner_id': expected one owner per work"):
        check_examples(examples.with_columns(work_id=pl.lit("a"), content=pl.Series([b"x", b"y"])), "f")


def broken(**changes):
    frames = corpus_frames()
    for name, change in changes.items():
        frames[name] = change(frames.get(name))
    return frames


def nth(row, value):
    return pl.when(pl.int_range(pl.len()) == row).then(value)


def unmatched_as(column, name):
    unmatched = pl.col("unmatched_reason").is_not_null()
    return broken(examples=lambda f: f.with_columns(pl.when(unmatched).then(pl.lit(name)).otherwise(column).alias(column)))


def disputed(work, closed_on):
    row = {"work_id": work, "owner_id": "eve", "opened_on": date(2026, 1, 2), "closed_on": closed_on, "evidence": "x"}
    return broken(disputes=lambda _: pl.DataFrame([row], schema_overrides={"closed_on": pl.Date}))


def claimed_later(work, name):
    """A work without claims before a day; until then it is a name in escrow."""
    work_id = pl.when(pl.col("work_id") == work).then(pl.lit(name)).otherwise("work_id").alias("work_id")
    begins = pl.when(pl.col("work_id") == name).then(pl.lit(date(2027, 1, 1)))
    return broken(
        examples=lambda f: f.with_columns(work_id), claims=lambda f: f.with_columns(work_id).with_columns(valid_from=begins)
    )


TAKEN = "expected a name that does not begin with held- or dispute-, as names in escrow do"


@pytest.mark.parametrize(("frames", "message"), [
    (broken(examples=lambda f: f.with_columns(unmatched_reason=pl.lit(None, pl.String))),
     r"examples.parquet: row 48 .*'owner_id': expected an owner .*unmatched_reason, found neither \(and 11 more"),
    (broken(examples=lambda f: f.with_columns(example_id=pl.lit("same"))),
     r"examples.parquet: row 1: example_id: expected a key that no other row has, found 'same', which row 0 has"),
    (broken(examples=lambda f: f.with_columns(content=nth(3, pl.lit(b"")).otherwise("content"))),
     r"examples.parquet: row 3 .*'content': expected at least one byte, found none"),
    (broken(examples=lambda f: f.drop("content")), r"examples.parquet: column 'content': expected a required column"),
    (broken(examples=lambda f: f.with_columns(pl.col("content").cast(pl.String))),
     r"examples.parquet: column 'content': expected type Binary, found type String"),
    (broken(examples=lambda f: f.with_columns(modality=pl.lit("A smell"))),
     r"row 0 .*'modality': expected text, code, image, music, or another word in lower case, found 'A smell'"),
    (broken(examples=lambda f: f.with_columns(content_sha256=pl.lit("0" * 64))),
     r"'content_sha256': expected the content's SHA-256"),
    (broken(examples=lambda f: f.with_columns(unmatched_reason=pl.lit("no author"))),
     r"row 0 .*'unmatched_reason': expected nothing, since the work has an owner, found 'no author'"),
    (broken(claims=lambda f: f.with_columns(owner_id=nth(2, pl.lit("stranger")).otherwise("owner_id"))),
     r"claims.parquet: row \d+ .*'owner_id': expected an owner of .*owners.parquet, found 'stranger'"),
    (broken(claims=lambda f: f.with_columns(pl.col("stake_ppb") - 1)),
     r"claims.parquet: work_id 'work-0-0': column 'stake_ppb': expected stakes that sum to .*, found 999,999,998"),
    (broken(owners=lambda f: pl.concat([f, f.head(1)])),
     r"owners.parquet: row 4: owner_id: expected a key .*'owner-0', which row 0"),
    (disputed("work-9", None), r"disputes.parquet: row 0 .*'work_id': expected a work of"),
    (disputed("work-1-0", date(2026, 1, 1)), r"'closed_on': expected a day on or after"),
    (unmatched_as("owner_id", "held-ann"), f"column 'owner_id': {TAKEN}"),
    (unmatched_as("work_id", "dispute-w"), f"column 'work_id': {TAKEN}"),
    (claimed_later("work-3-0", "held-owner-2"), f"column 'work_id': {TAKEN}"),
])  # fmt: skip
def test_a_broken_delivery_names_file_row_column_expected_and_found(store, frames, message):
    deliver(store, frames)
    with pytest.raises(ContractError, match=message):
        read_corpus(store, "corpus")


def test_a_table_in_another_format_is_not_passed_over(store):
    deliver(store, {name: frame for name, frame in corpus_frames().items() if name != "owners"}, days=())
    store.write("corpus/owners.csv", "owner_id,name\nann,Anné\n".encode("latin-1"))
    with pytest.raises(ContractError, match=r"corpus/owners.csv: expected the table as owners.parquet, found .csv"):
        read_corpus(store, "corpus")
    deliver(store, corpus_frames(), days=())
    assert read_corpus(store, "corpus").owners.height, "beside the table it is somebody's own"


def claims(*rows):
    return table("work_id owner_id stake_ppb valid_from valid_to", *rows, valid_from=pl.Date, valid_to=pl.Date)


def test_stakes_must_sum_to_one_on_every_day():
    half = PPB // 2
    sold = claims(("w", "a", PPB, None, date(2026, 1, 31)), ("w", "b", PPB, date(2026, 2, 1), None))
    assert check_claims(sold, "f").height == 2
    lapsed = claims(("w", "a", PPB, date(2026, 1, 1), date(2026, 1, 31)))
    assert check_claims(lapsed, "f").height == 1, "nobody claims it afterwards, so it goes to escrow"
    overlap = claims(("w", "a", PPB, None, date(2026, 2, 5)), ("w", "b", PPB, date(2026, 2, 1), None))
    with pytest.raises(ContractError, match=r"work_id 'w'.* on 2026-02-01, found 2,000,000,000 \(200.00%\), of a, b"):
        check_claims(overlap, "f")
    leaves = claims(("w", "a", half, None, None), ("w", "b", half, None, date(2026, 3, 1)))
    with pytest.raises(ContractError, match="on 2026-03-02, found 500,000,000"):
        check_claims(leaves, "f")
    joins = claims(("w", "a", half, None, None), ("w", "b", half, date(2026, 6, 1), None))
    with pytest.raises(ContractError, match="on 2026-05-31, found 500,000,000"):
        check_claims(joins, "f")
    with pytest.raises(ContractError, match="'valid_to': expected a day on or after valid_from, found 2026-02-01$"):
        check_claims(claims(("w", "a", PPB, date(2026, 2, 2), date(2026, 2, 1))), "f")


def test_parties_follow_the_claims_of_the_day_and_each_is_one_however_many_claims_it_has():
    rows = [("sold", b"x", None, None), ("free", b"y", "unmatched-b", "no name"), ("lost", b"z", None, "no name")]
    examples = check_examples(table("work_id content owner_id unmatched_reason", *rows), "f")
    sold = claims(("sold", "a", PPB, None, date(2026, 1, 31)), ("sold", "b", PPB, date(2026, 2, 1), None))

    def on(day):
        return parties(examples, check_claims(sold, "f"), day).rows()

    escrow = [("free", "escrow", "unmatched-b", PPB), ("lost", "escrow", "lost", PPB)]
    assert on(date(2026, 1, 31)) == [*escrow, ("sold", "payable", "a", PPB)]
    assert on(date(2026, 2, 1)) == [*escrow, ("sold", "payable", "b", PPB)]
    sold = claims(("sold", "a", 600_000_000, None, None), ("sold", "a", 400_000_000, None, None))
    assert on(date(2026, 1, 1)) == [*escrow, ("sold", "payable", "a", PPB)]
