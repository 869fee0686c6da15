"""Deliveries as real tools write them: folders of parts, uncommitted files, checksums, other endings, columns in names."""

import logging
from datetime import date, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import DAY, corpus_frames, deliver, outputs_frame

from provenance.core.errors import ContractError
from provenance.core.store import Store, to_parquet
from provenance.corpus.delivery import files_below, read_corpus
from provenance.corpus.outputs import read_outputs
from provenance.validation.status import _delivered, _not_read

FOLDER = f"outputs/day={DAY}"


def outputs(store):
    return read_outputs(store, date.fromisoformat(DAY), model_id="tiny")


@pytest.mark.parametrize("name", [
    "_temporary/0/_temporary/attempt_20261119_0001_m_000000_1/part-00000.snappy.parquet", "_temporary/part-00000.parquet",
    ".spark-staging-4f1a/part-00000.parquet", "_metadata.parquet",
    ".part-00001.parquet", ".part-00000.parquet.crc", "part-00000.parquet.crc", "late.parq", "late.PARQUET", "late.pq",
    "late.parquet.gz", "late.csv", "_SUCCESS", "deep/_started/part.parquet", "deep/.hidden/part.parquet", "late.parquet.tmp",
])  # fmt: skip
def test_what_is_no_committed_data_is_left_out_and_named(store, caplog, name):
    store.write_table(f"{FOLDER}/part-00000.snappy.parquet", outputs_frame())
    store.write(f"{FOLDER}/{name}", to_parquet(outputs_frame().with_columns(output_id=pl.lit("late") + pl.col("output_id"))))
    with caplog.at_level(logging.WARNING, "provenance.delivery"):
        assert outputs(store)["output_id"].to_list() == outputs_frame()["output_id"].to_list()
    assert name in caplog.text


def test_a_day_of_uncommitted_files_alone_has_no_outputs(store):
    store.write_table(f"{FOLDER}/_temporary/0/part-00000.parquet", outputs_frame())
    with pytest.raises(
        ContractError, match=r"found none; left out: _temporary/0/part-00000\.parquet .*begin with _ are no data"
    ):
        outputs(store)
    assert _delivered(files_below(store, "outputs")) == []


def test_what_may_hold_outputs_and_is_not_read_waits_for_a_person(store):
    today = date.fromisoformat(DAY) + timedelta(days=1)
    names = ["late.parq", "late.PARQUET", "late.parquet.gz", "late.csv", "deep/late.jsonl"]
    for name in [*names, "_temporary/late.csv", ".late.parq", "late.parquet.crc", "README.md", "_SUCCESS"]:
        store.write(f"{FOLDER}/{name}", b"x")
    store.write("outputs/day=2020-01-01/late.parq", b"x")
    waits = list(_not_read(files_below(store, "outputs"), today))
    assert sorted(wait.what.split(" ")[0] for wait in waits) == sorted(f"{FOLDER}/{name}" for name in names)
    assert all("name it .parquet" in wait.next_step for wait in waits)


PARTS = st.lists(st.sampled_from(["a", "part-0", "region=eu", "_tmp", ".staging", "b_c", "d.e"]), min_size=0, max_size=3)


@given(paths=st.lists(st.tuples(PARTS, st.sampled_from([".parquet", ".PARQUET", ".parq", ".parquet.crc", ""])), max_size=6))
def test_each_file_is_data_or_named(tmp_path_factory, paths):
    store = Store(f"file://{tmp_path_factory.mktemp('files')}", {})
    names = {"/".join([*parts, f"file-{number}{ending}"]) for number, (parts, ending) in enumerate(paths)}
    for name in names:
        store.write(f"in/{name}", b"x")
    files = files_below(store, "in")
    data = {key.removeprefix("in/") for key in files.parquet}
    assert data | files.left_out.keys() == names
    assert not data & files.left_out.keys()
    assert data == {n for n in names if n.endswith(".parquet") and not any(p[0] in "_." for p in n.split("/"))}
    assert all(name in files.named() for name in files.left_out)


def test_columns_that_hive_writes_into_names_of_folders_are_read(store):
    frame = outputs_frame()
    for currency, rows in frame.drop("product", strict=False).group_by("currency"):
        store.write_table(f"{FOLDER}/currency={currency[0]}/product=Pro%20plan/part-0.parquet", rows.drop("currency"))
    read = outputs(store)
    assert read.select("output_id", "currency").equals(frame.select("output_id", "currency"))
    assert read["product"].unique().to_list() == ["Pro plan"]


def test_an_empty_value_and_a_wrong_one_in_a_name(store):
    store.write_table(f"{FOLDER}/product=__HIVE_DEFAULT_PARTITION__/part.parquet", outputs_frame())
    assert outputs(store)["product"].unique().to_list() == [""]
    store.write_table(f"{FOLDER}/revenue_minor=1.50/b.parquet", outputs_frame().drop("revenue_minor"))
    with pytest.raises(ContractError, match=r"b\.parquet: column 'revenue_minor': expected type Int64 .*found '1\.50'"):
        outputs(store)


def test_a_table_of_a_corpus_may_be_a_folder_of_parts(store):
    frames = corpus_frames()
    deliver(store, {name: frame for name, frame in frames.items() if name != "examples"}, days=())
    examples = frames["examples"]
    for number in range(3):
        store.write_table(f"corpus/examples.parquet/part-{number}.snappy.parquet", examples[number * 20 : number * 20 + 20])
    store.write_table("corpus/examples.parquet/_temporary/0/part-9.parquet", examples[:3])
    store.write("corpus/examples.parquet/_SUCCESS", b"")
    assert read_corpus(store, "corpus").examples.height == examples.height
    for number in range(3):
        store.remove(f"corpus/examples.parquet/part-{number}.snappy.parquet")
    with pytest.raises(ContractError, match=r"examples\.parquet"):
        read_corpus(store, "corpus")


@pytest.mark.parametrize("name", ["claims.PARQUET", "claims.parq", "Claims.parquet", "CLAIMS.PARQUET", "decisions.csv"])
def test_a_table_in_another_spelling_is_refused_by_name(store, name):
    frames = corpus_frames()
    deliver(store, {"examples": frames["examples"].with_columns(owner_id=pl.lit("a"), unmatched_reason=None)}, days=())
    store.write(f"corpus/{name}", b"x")
    with pytest.raises(ContractError, match=rf"corpus/{name}: expected the table as {name.split('.')[0].lower()}\.parquet"):
        read_corpus(store, "corpus")


ALONE = ["claims/part-0.parquet", "claims-00000-of-00002.parquet", "claims (1).parquet", "claims_part1.parquet",
         "claims_v2.csv", "claims-2026.parquet", "Claims (2).parquet", "claims/_temporary/0/part-0.parquet",
         "claims copy.parquet", "claims[1].parquet", "claim.parquet", "Claim.csv", "Copy of claims.parquet",
         "new_claims.parquet",
         "data/claims.parquet", "corpus_claims.parquet",
         "2026/Q4 claims/part-0.parquet", "claimes.parquet"]  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_a_table_under_another_name_is_refused_and_never_missing_silently(store, name):
    frames = corpus_frames()
    deliver(store, {"examples": frames["examples"].with_columns(owner_id=pl.lit("a"), unmatched_reason=None)}, days=())
    store.write(f"corpus/{name}", to_parquet(frames["claims"]))
    with pytest.raises(ContractError) as error:
        read_corpus(store, "corpus")
    assert f"corpus/{name}: expected the table as claims.parquet, found {name!r}".replace("'", "") in str(error.value)


@pytest.mark.parametrize(("name", "refused"), [
    ("examples-00001-of-00002.parquet", True), ("examples (1).parquet", True), ("claims_2.parquet", True),
    ("claims.part-3.parquet", True), ("owners copy.parquet", True), ("claims-2025.parquet", False),
    ("claims (Kopie).parquet", True), ("claims.c000.parquet", True), ("claims copie 2.parquet", True), ("claim.parquet", False),
    ("claims_old.parquet", False), ("examples-notes.parquet", False), ("claimsmade.parquet", False), ("owners_1.txt", False),
])  # fmt: skip
def test_a_numbered_part_or_copy_beside_a_table_is_refused(store, caplog, name, refused):
    deliver(store, days=())
    store.write(f"corpus/{name}", to_parquet(corpus_frames()["claims"]))
    if refused:
        with pytest.raises(ContractError, match="lay it elsewhere"):
            read_corpus(store, "corpus")
    else:
        read_corpus(store, "corpus")
        assert name in caplog.text


LOGGED = [
    ("_delta_log/00000000000000000000.json", "Delta Lake"),
    ("_delta_log/00000000000000000010.checkpoint.parquet", "Delta Lake"),
    (".hoodie/20261119.commit", "Hudi"), ("region=eu/.hoodie_partition_metadata", "Hudi"),
    ("metadata/v3.metadata.json", "Iceberg"), ("metadata/00001-4f1a.metadata.json.gz", "Iceberg"),
    ("metadata/version-hint.text", "Iceberg"), ("_spark_metadata/0", "stream of Spark"),
    ("metadata/snap-81-1-4f1a.avro", "Iceberg"), ("metadata/4f1a-m0.avro", "Iceberg"),
    ("_change_data/cdc-0.parquet", "Delta Lake"),
    ("snapshot/snapshot-1", "Paimon"), ("snapshot/LATEST", "Paimon"), ("manifest/manifest-list-4f1a-0", "Paimon"),
    ("schema/schema-0", "Paimon"),
]  # fmt: skip


@pytest.mark.parametrize(("log", "kind"), LOGGED)
@pytest.mark.parametrize("place", [FOLDER, "outputs", "corpus/examples.parquet"])
def test_a_table_whose_log_says_which_files_count_is_refused(store, log, kind, place):
    """Of part-1, removed in the log, works were read and could be paid."""
    frames = corpus_frames()
    deliver(store, {name: frame for name, frame in frames.items() if name != "examples"}, days=())
    for number in range(2):
        store.write_table(f"corpus/examples.parquet/part-{number}.parquet", frames["examples"][number * 30 : number * 30 + 30])
    store.write_table(f"{FOLDER}/part-0.parquet", outputs_frame())
    if (place, log) == ("outputs", "region=eu/.hoodie_partition_metadata"):
        place = FOLDER
    store.write(f"{place}/{log}", b"{}")
    with pytest.raises(ContractError, match=rf"{log}: expected .* all data, found the log of a.*{kind}.*plain Parquet"):
        read_corpus(store, "corpus") if place.startswith("corpus") else outputs(store)


@pytest.mark.parametrize(("name", "kind"), [
    ("base_0000005/bucket_00000.parquet", "Hive"), ("delta_0000001_0000001_0000/bucket_00000.parquet", "Hive"),
    ("delete_delta_0000006_0000006/bucket_00000.parquet", "Hive"), ("base_0000005_v0000012/bucket_00000.parquet", "Hive"),
    ("delta_0000001_0000001_0000/_orc_acid_version", "Hive"),
    ("ducklake-019a4f1a-0000-7000-8000-00000000000a.parquet", "DuckLake"),
    ("ducklake-019a4f1a-0000-7000-8000-00000000000a-delete.parquet", "DuckLake"),
    ("region=eu/deletion_vector_0f3a.bin", "Delta Lake"),
])  # fmt: skip
@pytest.mark.parametrize("place", [FOLDER, "corpus/claims.parquet"])
def test_files_of_a_table_whose_catalogue_says_which_count_are_refused(store, name, kind, place):
    """Rows that Hive had deleted were paid: they lie in files like all others."""
    frames = corpus_frames()
    deliver(store, {n: frame for n, frame in frames.items() if n != "claims"}, days=())
    store.write_table("corpus/claims.parquet/part-0.parquet", frames["claims"])
    store.write_table(f"{FOLDER}/part-0.parquet", outputs_frame())
    rows = frames["claims"] if place.startswith("corpus") else outputs_frame()
    store.write(f"{place}/{name}", to_parquet(rows))
    with pytest.raises(ContractError, match=rf"{name}: expected .* all data, found the log of a.*{kind}"):
        read_corpus(store, "corpus") if place.startswith("corpus") else outputs(store)


@pytest.mark.parametrize("log", ["_delta_log/00000000000000000000.json", ".hoodie/hoodie.properties", "snapshot/LATEST"])
def test_a_corpus_that_is_such_a_table_itself_is_refused(store, log):
    deliver(store, days=())
    store.write(f"corpus/{log}", b"{}")
    with pytest.raises(ContractError, match=rf"corpus/{log}: expected .* all data"):
        read_corpus(store, "corpus")


@pytest.mark.parametrize(("folder", "column", "value"), [
    ("split=held_out", "split", "train"), ("owner_id=p", "owner_id", "o"), ("split=held_out", "split", None),
    ("split=train/split=held_out", None, None), ("owner_id=__HIVE_DEFAULT_PARTITION__", "owner_id", "o"),
])  # fmt: skip
def test_a_folder_and_a_file_that_state_different_values_are_refused(store, folder, column, value):
    """A file's own `train` counted below `split=held_out`: works set aside were trained on and paid."""
    part = pl.DataFrame({"work_id": ["a"], "content": [b"x"]} | ({} if column == "owner_id" else {"owner_id": ["o"]}))
    if column:
        part = part.with_columns(pl.lit(value, pl.String).alias(column))
    store.write_table(f"corpus/examples.parquet/{folder}/part-0.parquet", part)
    expected = folder.rsplit("/", 1)[-1]
    with pytest.raises(
        ContractError, match=rf"part-0\.parquet: row 0.*expected the value in the name of its folder, '{expected}'"
    ):
        read_corpus(store, "corpus")


def test_a_folder_and_a_file_that_state_the_same_are_read(store):
    for split in ("train", "held_out"):
        part = pl.DataFrame({"work_id": [f"{split}-work"], "content": [b"x"], "owner_id": ["o"], "split": [split]})
        store.write_table(f"corpus/examples.parquet/split={split}/owner_id=o/part-0.parquet", part)
    assert sorted(read_corpus(store, "corpus").examples["split"]) == ["held_out", "train"]


@pytest.mark.parametrize(("column", "values", "found"), [
    ("owner_id", [7.0, 8.0], "Float64"), ("owner_id", [7, 8], "Int64"), ("work_id", [1e16, 2.5], "Float64"),
    ("work_id", [True, False], "Boolean"), ("work_id", [date(2026, 1, 1)] * 2, "Date"), ("split", [1, 0], "Int64"),
])  # fmt: skip
@pytest.mark.parametrize("odd", [0, 1])
def test_a_part_of_another_type_is_refused_as_a_file_of_it_is(store, column, values, found, odd):
    """Put together, 7.0 became the owner "7.0", 1e16 the work "1e+16", and True the work "true"."""
    same = {"content": [b"x", b"y"], "owner_id": ["o", "p"], "split": ["train"] * 2}
    parts = [pl.DataFrame({"work_id": [f"a{n}", f"b{n}"]} | same) for n in range(2)]
    parts[odd] = parts[odd].with_columns(pl.Series(column, values))
    for number, part in enumerate(parts):
        store.write_table(f"corpus/examples.parquet/part-{number}.parquet", part)
    with pytest.raises(
        ContractError, match=rf"part-{odd}\.parquet: column '{column}': expected type String, found type {found}"
    ):
        read_corpus(store, "corpus")


def test_parts_whose_types_are_of_one_kind_are_one_table(store):
    part = pl.DataFrame({"work_id": ["a", "b"], "content": [b"x", b"y"], "owner_id": ["o", "p"], "position": [0, 0]})
    kinds = [pl.Int32, pl.Int64, pl.UInt8]
    for number, kind in enumerate(kinds):
        works = pl.Series("work_id", [f"a{number}", f"b{number}"], dtype=pl.Categorical if number else pl.String)
        times = pl.lit(date(2026, 1, 1)).cast(pl.Datetime(["ns", "us", "ms"][number], [None, "UTC", None][number]))
        store.write_table(
            f"corpus/examples.parquet/part-{number}.parquet",
            part.with_columns(works, pl.col("position").cast(kind), acquired_at=times, mood=pl.lit(number, kind)),
        )
    examples = read_corpus(store, "corpus").examples
    assert sorted(examples["work_id"]) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert examples["acquired_at"].n_unique() == 1
    assert sorted(examples["mood"]) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("name", ["Split", "SPLIT", " split", "split "])
@pytest.mark.parametrize("place", ["column", "folder", "part"])
def test_a_column_in_another_spelling_is_refused_and_has_no_default(store, name, place):
    """`Split` was an extra column, and works held out were trained on and paid."""
    part = pl.DataFrame({"work_id": ["a", "b"], "content": [b"x", b"y"], "owner_id": ["o", "p"]})
    held = part.with_columns(pl.Series(name, ["train", "held_out"]))
    if place == "column":
        store.write_table("corpus/examples.parquet", held)
    elif place == "part":
        store.write_table("corpus/examples.parquet/part-0.parquet", held)
    else:
        store.write_table(f"corpus/examples.parquet/{name}=held_out/part-0.parquet", part)
    with pytest.raises(ContractError, match=rf"expected the column as 'split', found '{name}'"):
        read_corpus(store, "corpus")


@pytest.mark.parametrize(
    "name", ["dispute.parquet", "disputed/part-0.parquet", "assertion.jsonl", "decision.csv", "source.parquet"]
)
def test_a_table_that_may_be_missing_is_not_missed_under_nearly_its_name(store, name):
    """A dispute in `dispute.parquet` was passed over, and the work was paid to one party."""
    deliver(store, days=())
    store.write(f"corpus/{name}", b"x")
    with pytest.raises(ContractError, match=rf"corpus/{name}: expected the table as .*lay it elsewhere"):
        read_corpus(store, "corpus")


@pytest.mark.parametrize("name", ["license_spdx", "License_SPDX", "licenceSpdx"])
def test_american_spelling_of_a_column_is_refused_and_not_passed_over(store, name):
    store.write_table(
        "corpus/examples.parquet", pl.DataFrame({"work_id": ["a"], "content": [b"x"], "owner_id": ["o"], name: ["MIT"]})
    )
    with pytest.raises(ContractError, match=f"expected the column as 'licence_spdx', found '{name}'"):
        read_corpus(store, "corpus")


@pytest.mark.parametrize("name", ["Product", "servedAt", "Revenue-Minor", "PROMPT"])
def test_a_column_of_outputs_in_another_spelling_is_refused(store, name):
    store.write_table(f"{FOLDER}/part-0.parquet", outputs_frame().with_columns(pl.lit("x").alias(name)))
    with pytest.raises(ContractError, match=f"found '{name}'"):
        outputs(store)


def test_what_is_no_table_beside_a_corpus_is_named(store, caplog):
    deliver(store, days=())
    for name in ("owner.parquet", "README.md", "claims.parquet.crc", ".claims.parquet.crc"):
        store.write(f"corpus/{name}", b"x")
    read_corpus(store, "corpus")
    assert all(name in caplog.text for name in ("owner.parquet", "README.md", "claims.parquet.crc", ".claims.parquet.crc"))
