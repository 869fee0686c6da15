"""Read and check a delivery: examples, claims on their works, and owners."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import polars as pl

from provenance.core.canonical import identity
from provenance.core.checks import conform, reject, spelt_rightly, stack, typed, unique
from provenance.core.errors import ContractError, did_you_mean
from provenance.core.money import PPB, allocate
from provenance.core.store import Store
from provenance.core.tables import (
    ASSERTIONS,
    CLAIMS,
    DECISIONS,
    DISPUTED,
    DISPUTES,
    EXAMPLES,
    HELD_FOR,
    OWNERS,
    SOURCES,
    TableSchema,
)
from provenance.core.text import visible
from provenance.core.words import MODALITIES
from provenance.corpus.identifiers import OF_OWNERS, OF_WORKS, check_identifiers
from provenance.corpus.ownership import is_within, valid_on
from provenance.corpus.rights.licences import check_assertions

if TYPE_CHECKING:
    from provenance.corpus.pieces import Leaves

log = logging.getLogger("provenance.delivery")

# Tables of a delivery, each a Parquet file of that name; only the first is required.
DELIVERED = {schema.name: schema for schema in (EXAMPLES, CLAIMS, OWNERS, DECISIONS, ASSERTIONS, DISPUTES, SOURCES)}
TABLES = tuple(DELIVERED)
SPLITS = ("train", "held_out")
PARQUET = ".parquet"
# Parts of paths that begin so are working files of the tools that write tables: uncommitted parts, logs, checksums.
WORKING = ("_", ".")
# Names by which tools say that only some of a folder's data files still count: files of logs, or folders of changes.
LOGS = {
    "a table of Delta Lake": re.compile(r"/(_delta_log|_change_data)/|/deletion_vector_[^/]*\.bin$"),
    "a table of Hudi": re.compile(r"/\.hoodie(/|_partition_metadata)"),
    "a table of Iceberg": re.compile(
        r"/metadata/([^/]+\.metadata\.json(\.gz)?|[^/]+\.gz\.metadata\.json|version-hint\.text|(snap-[^/]+|[^/]+-m\d+)\.avro)$"
    ),
    "a table of Paimon": re.compile(
        r"/(snapshot/(snapshot-\d+|EARLIEST|LATEST)|manifest/manifest-(list-)?[^/]+|schema/schema-\d+)$"
    ),
    "a transactional table of Hive": re.compile(r"/((delete_)?delta_\d+_\d+(_\d+)?|base_\d+(_v\d+)?)/|/_orc_acid_version$"),
    "a table of DuckLake": re.compile(r"/ducklake-[0-9a-f-]{32,36}(-deletes?)?\.parquet$"),
    "a stream of Spark": re.compile(r"/_spark_metadata/"),
}
PLACES_OF_LOGS = ("_delta_log", "_change_data", ".hoodie", "metadata", "_spark_metadata", "snapshot", "manifest", "schema")
# The name of an empty value in the folders of a table that is split by a column, as Hive and Spark write them.
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
# Endings of files that may be tables, and not their checksums.
_TABLE = re.compile(
    r"\.(parquet|parq|pq|csv|tsv|jsonl?|ndjson|avro|orc|arrow|feather|xlsx)(\.(gz|zst|bz2|zip|tmp|part|crdownload))?$",
    re.IGNORECASE,
)
# What may be meant for a table: its name alone, or before a sign.
_LIKE_A_TABLE = re.compile(rf"(?P<table>{'|'.join(TABLES)})(?=[./\\ _(\[~+-]|$)", re.IGNORECASE)
# What follows a table's name in a numbered part or copy of it; a number of four digits may be a year.
_COPY = r"cop(?:y|ie|ia)|kopie|duplicate"
_NUMBER = r"c?(?:\d{1,3}|\d{5,})"
_NUMBERED = rf"(?:part|{_COPY})?[-_. ]*{_NUMBER}(?:[-_. ]*of[-_. ]*\d+)?"
_PART = re.compile(
    rf"[-_. ]*(?:[(\[](?:\d+|{_COPY})[)\]]|{_NUMBERED}|{_COPY})\.(?:parquet|parq|pq)$",
    re.IGNORECASE,
)
# How alike the name of a file, or a word of it, must be to a table that is missing, to be taken for it.
ALIKE = 0.85


@dataclass(frozen=True)
class Corpus:
    """A checked corpus: each work of a training example has claims that sum to one, or a reason why it is unmatched.

    Attributes:
        examples: with their contents, unless `contents` has them.
        contents: where contents are that memory does not hold (`corpus.pieces`).
    """

    examples: pl.DataFrame
    claims: pl.DataFrame
    owners: pl.DataFrame
    disputes: pl.DataFrame | None = None  # None: there are no disputes
    assertions: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=ASSERTIONS.schema))
    contents: Leaves | None = None


@dataclass(frozen=True)
class Files:
    """The files below a folder: keys of Parquet files, and why each other file is left out, by its name in the folder.

    Attributes:
        data: the names in the folder of the Parquet files.
    """

    parquet: tuple[str, ...]
    left_out: Mapping[str, str]
    data: tuple[str, ...] = ()

    @property
    def doubtful(self) -> list[str]:
        """The files left out that may hold rows: tables in other formats, or with another ending."""
        return [
            name for name in self.left_out if _TABLE.search(name) and not any(p.startswith(WORKING) for p in name.split("/"))
        ]

    def named(self) -> str:
        """Every file that is left out, with the reason; empty if there is none."""
        reasons: dict[str, list[str]] = {}
        for name, why in self.left_out.items():
            reasons.setdefault(why, []).append(visible(name))
        return "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())


def files_below(store: Store, folder: str) -> Files:
    """Sort the files below a folder into data and others.

    Data is what ends in `.parquet`, in small letters, and has no part of its path below the folder that begins with `_` or `.`:
    Spark writes rows below `_temporary/` before it commits them.
    """
    parquet, left_out = [], {}
    for key in store.list(folder, hidden=True):
        if key == folder:  # a file, no folder
            continue
        name = key.removeprefix(f"{folder}/")
        working = next((part for part in name.split("/") if part.startswith(WORKING)), "")
        if working:
            left_out[name] = f"a working file: names that begin with {working[0]} are no data"
        elif not name.endswith(PARQUET):
            left_out[name] = f"no name that ends in {PARQUET}"
        else:
            parquet.append(key)
    return Files(tuple(parquet), left_out, tuple(key.removeprefix(f"{folder}/") for key in parquet))


def log_files(store: Store, folder: str) -> Files:
    """The files of a table's log that lie right below a folder, without a list of all that lies deeper."""
    keys = (key for place in PLACES_OF_LOGS for key in store.list(f"{folder}/{place}", hidden=True))
    return Files((), {key.removeprefix(f"{folder}/"): "a log" for key in keys})


def check_no_log(files: Files, place: str) -> None:
    """Raise ContractError for a folder whose log says which of its files are data: others were removed, or never committed.

    Such are tables of Delta Lake, Hudi, Iceberg, Paimon and DuckLake, Hive's transactional ones, and what streams of Spark
    write. Their logs are not read.
    """
    for name in sorted({*files.left_out, *files.data}):
        for kind, log_of in LOGS.items():
            if log_of.search(f"/{name}"):
                raise ContractError(
                    f"{place}/{name}",
                    expected="a folder of Parquet files that are all data",
                    found=f"the log of {kind}, which says which files still count",
                    hint="Read the table with its own tool, and write its rows as plain Parquet files into another folder.",
                )


def log_left_out(files: Files, place: str) -> None:
    """Name the files that are left out in the log."""
    if files.left_out:
        log.warning("%s: left out: %s", place, files.named())


def read_parts(store: Store, keys: Sequence[str], folder: str, table: TableSchema) -> dict[str, pl.DataFrame]:
    """The frames of Parquet files below a folder, by place, with the columns that names of folders state (`with_stated`)."""
    return {store.locate(key): with_stated(store, store.read_table(key), key, folder, table) for key in keys}


def with_stated(store: Store, frame: pl.DataFrame, key: str, folder: str, table: TableSchema) -> pl.DataFrame:
    """The frame of a file with the columns that the names of its folders below `folder` state.

    Hive and Spark leave the column by which they split a table out of its files, and name folders `column=value`. Only columns
    of the table are read from names. A file that has the column itself must have the folder's value.

    Raises:
        ContractError: the name of a folder is a column's but for its spelling, its value has another type, or other values
            stand in a file below it, or in a folder above it.
    """
    place = store.locate(key)
    for part in key.removeprefix(f"{folder}/").split("/")[:-1]:
        name, equals, text = part.partition("=")
        if equals:
            spelt_rightly(table, name, f"{place}: folder {part!r}")
        if equals and name in table.columns:
            value = None if text == NO_VALUE else unquote(text)
            stated = _stated(name, value, table.columns[name].dtype, place)
            if name in frame.columns:
                _check_folder(typed(table, frame, place), name, stated, place, part)
            else:
                frame = frame.with_columns(stated)
    return frame


def _stated(name: str, value: str | None, dtype: Any, place: str) -> pl.Expr:
    """A column of one value, which the name of a folder states."""
    text = pl.Series(name, [value], dtype=pl.String)
    try:
        values = text.str.to_datetime(time_unit="us", time_zone="UTC") if isinstance(dtype, pl.Datetime) else text.cast(dtype)
    except pl.exceptions.PolarsError:
        raise ContractError(
            f"{place}: column {name!r}", expected=f"type {dtype} in the name of its folder", found=repr(value)
        ) from None
    return pl.lit(values[0], dtype=dtype).alias(name)


def _check_folder(frame: pl.DataFrame, name: str, stated: pl.Expr, place: str, part: str) -> None:
    """Raise ContractError for rows whose value differs from that in the name of their folder: one of the two is wrong."""
    differs = ~pl.col(name).eq_missing(stated)
    reject(frame, differs, place, name, expected=f"the value in the name of its folder, {part!r}")


def _check_names(store: Store, folder: str) -> None:
    """Raise ContractError for a table under another name or in another format, which would be left out silently."""
    files = files_below(store, folder)
    check_no_log(files, store.locate(folder))
    tables = {f"{table}{PARQUET}" for table in TABLES}
    found = {name.split("/")[0] for name in files.data} & tables
    others = {name: "no table of a delivery" for name in files.data if name.split("/")[0] not in tables}
    left_out = {**files.left_out, **others}
    for name in sorted(left_out):
        match = _LIKE_A_TABLE.match(name)
        table, rest = (match["table"], name[match.end("table") :]) if match else (_meant(name), name)
        if table is None:
            continue
        missing = f"{table.lower()}{PARQUET}" not in found
        # `claims.csv`; a part or a copy of a table, such as `claims/part-0.parquet`, also beside the table: it may be the rest.
        if (missing and (rest.startswith(".") or _TABLE.search(name))) or (match and _PART.match(rest)):
            raise ContractError(
                store.locate(f"{folder}/{name}"),
                expected=f"the table as {table.lower()}{PARQUET}",
                found=rest if table in TABLES and rest.startswith(".") else name,
                hint=f"A table is one file, or a folder {table.lower()}{PARQUET} with files."
                + (" If this is none of its rows, lay it elsewhere." if found or not missing else ""),
            )
    log_left_out(Files((), left_out), store.locate(folder))


def _meant(name: str) -> str | None:
    """The table that a file's name may mean in other words: `claim.parquet`, `new_claims.parquet`, `Copy of claims.parquet`."""
    if not _TABLE.search(name) or any(part.startswith(WORKING) for part in name.split("/")):
        return None
    words = re.findall(r"[a-z]+", re.sub(r"\..*", "", name.lower()))
    near = (get_close_matches(word, TABLES, n=1, cutoff=ALIKE) for word in words)
    return next((tables[0] for tables in near if tables), None)


def read_corpus(store: Store, folder: str) -> Corpus:
    """Read and check `examples.parquet`, `claims.parquet`, `owners.parquet` and `disputes.parquet` below a key of the store.

    Without a claims file, an example's `owner_id` claims the whole of its work. Without an owners file, owners are named
    by their ids. Assertions of works' terms are in `assertions.parquet`, if there is one.
    """
    root = examples_root(folder)
    frames = {
        place: check_rows(frame, place)
        for place, frame in read_parts(store, find_examples(store, folder), root, EXAMPLES).items()
    }
    file = store.locate(root)
    return with_tables(store, folder, check_together(stack(EXAMPLES, frames), file))


def examples_root(folder: str) -> str:
    """The key of the examples of a delivery: a file, or a folder with files."""
    return f"{folder}/{EXAMPLES.name}{PARQUET}"


def find_examples(store: Store, folder: str) -> tuple[str, ...]:
    """The keys of the files with a delivery's examples; ContractError if there is none, or a table is spelt otherwise."""
    _check_names(store, folder)
    keys = _files_of(store, examples_root(folder))
    if not keys:
        hint = "A corpus is a folder with examples.parquet and, optionally, claims.parquet and owners.parquet."
        place = store.locate(examples_root(folder))
        raise ContractError(place, expected="the examples of a corpus", found="no such file", hint=hint)
    return keys


def with_tables(store: Store, folder: str, examples: pl.DataFrame) -> Corpus:
    """The corpus of checked examples, with the other tables of their delivery, checked; contents are not looked at."""
    file = store.locate(examples_root(folder))
    claims, claims_file = read_delivered(store, folder, "claims")
    if claims is None:
        claims, claims_file = _claims_of_examples(examples, file), file
    else:
        claims = check_claims(claims, claims_file)

    owners, owners_file = read_delivered(store, folder, "owners")
    if owners is None:
        ids = claims["owner_id"].unique().sort()
        owners = conform(OWNERS, pl.DataFrame({"owner_id": ids, "name": ids}), claims_file)
    else:
        owners = conform(OWNERS, owners, owners_file)
        check_identifiers(owners, owners_file, OF_OWNERS)
        unique(OWNERS, owners, owners_file)
        unknown = ~pl.col("owner_id").is_in(owners["owner_id"].implode())
        reject(claims, unknown, claims_file, "owner_id", expected=f"an owner of {owners_file}")

    claimed = claims["work_id"].unique().implode()
    matched, unmatched = pl.col("work_id").is_in(claimed), pl.col("unmatched_reason").is_not_null()
    expected_owner = "an owner (owner_id, or claims on the work) or an unmatched_reason"
    reject(examples, ~matched & ~unmatched, file, "owner_id", expected=expected_owner, found="neither")
    reject(examples, matched & unmatched, file, "unmatched_reason", expected="nothing, since the work has an owner")
    # An unclaimed work is a name in escrow: it must not look like another kind of name in escrow.
    dated = pl.any_horizontal(pl.col("valid_from", "valid_to").is_not_null())
    ends = pl.col("work_id").is_in(claims.filter(dated)["work_id"].unique().implode())
    for column in ("work_id", "owner_id"):
        looks_like_escrow = pl.col(column).str.starts_with(HELD_FOR) | pl.col(column).str.starts_with(DISPUTED)
        expected = f"a name that does not begin with {HELD_FOR} or {DISPUTED}, as names in escrow do"
        reject(examples, (unmatched | ends) & looks_like_escrow, file, column, expected=expected)
    assertions, assertions_file = read_delivered(store, folder, "assertions")
    return Corpus(
        examples,
        claims,
        owners.sort("owner_id"),
        disputes=read_disputes(store, folder, examples),
        assertions=check_assertions(
            pl.DataFrame(schema=ASSERTIONS.schema) if assertions is None else assertions, assertions_file
        ),
    )


def read_corpus_folder(folder: Path) -> Corpus:
    """Read and check a corpus in a folder of this machine."""
    if not folder.is_dir():
        raise ContractError(str(folder), expected="a corpus folder with examples.parquet", found="no such folder")
    return read_corpus(Store(f"file://{folder.resolve().parent}", {}), folder.resolve().name)


def read_delivered(store: Store, folder: str, table: str) -> tuple[pl.DataFrame | None, str]:
    """Read a table of a delivery, None if it is missing; and the table's place.

    The table is a file, or a folder of that name with files, as Spark and Dask write them.
    """
    key = f"{folder}/{table}{PARQUET}"
    place, keys = store.locate(key), _files_of(store, key)
    if not keys:
        return None, place
    if keys == (key,):
        return store.read_table(key), place
    frames = read_parts(store, keys, key, DELIVERED[table])
    # Types are checked file by file: put together first, numbers of one file would become the text of another.
    return stack(DELIVERED[table], {file: typed(DELIVERED[table], frame, file) for file, frame in frames.items()}), place


def _files_of(store: Store, key: str) -> tuple[str, ...]:
    """The keys of the files of a table: the file at `key`, or Parquet files in a folder of that name; none if it is missing."""
    if not store.exists(key):
        return ()
    parts, place = files_below(store, key), store.locate(key)
    if not parts.parquet and not parts.left_out:
        return (key,)
    if not parts.parquet:
        raise ContractError(place, expected="a file, or a folder with Parquet files", found=f"a folder with {parts.named()}")
    check_no_log(parts, place)
    return parts.parquet


def read_disputes(store: Store, folder: str, examples: pl.DataFrame) -> pl.DataFrame | None:
    """Read and check disputes; None if there are none. The disputing party need not be an owner yet."""
    table, file = read_delivered(store, folder, "disputes")
    if table is None:
        return None
    disputes = conform(DISPUTES, table, file)
    unknown = ~pl.col("work_id").is_in(examples["work_id"].unique().implode())
    reject(disputes, unknown, file, "work_id", expected="a work of the examples")
    reject(disputes, pl.col("closed_on") < pl.col("opened_on"), file, "closed_on", expected="a day on or after opened_on")
    return disputes.sort("work_id", "opened_on", "owner_id") if disputes.height else None


def equal_claims(pieces: Iterable[Mapping[str, Any]], owners: Sequence[str], evidence: str) -> list[dict[str, Any]]:
    """Claims of owners on the works of some pieces, in equal parts."""
    stakes = dict(zip(owners, allocate(PPB, [1] * len(owners)), strict=True))
    works = sorted({str(piece["work_id"]) for piece in pieces})
    return [
        {"work_id": work, "owner_id": owner, "stake_ppb": stake, "evidence": evidence}
        for work in works
        for owner, stake in stakes.items()
    ]


def make_corpus(
    rows: Sequence[dict[str, Any]],
    claims: Sequence[dict[str, Any]],
    owners: Mapping[str, str],
    assertions: Sequence[dict[str, Any]] = (),
) -> Corpus:
    """Make a corpus from a collector's rows, and owners' names by id."""
    owner_rows = [{"owner_id": owner, "name": name} for owner, name in sorted(owners.items())]
    return Corpus(
        conform(EXAMPLES, pl.DataFrame(rows, infer_schema_length=None), "examples"),
        conform(CLAIMS, pl.DataFrame(claims), "claims"),
        conform(OWNERS, pl.DataFrame(owner_rows), "owners"),
        assertions=check_assertions(pl.DataFrame(assertions, schema=ASSERTIONS.schema), "assertions"),
    )


def check_examples(frame: pl.DataFrame, file: str) -> pl.DataFrame:
    """Check the examples of a corpus and fill in defaults."""
    return check_together(check_rows(frame, file), file)


def check_rows(frame: pl.DataFrame, file: str) -> pl.DataFrame:
    """Check examples one by one and fill in defaults."""
    frame = conform(EXAMPLES, frame, file)
    check_contents(frame, file)
    check_identifiers(frame, file, OF_WORKS)
    reject(frame, ~pl.col("split").is_in(SPLITS), file, "split", expected=f"one of {', '.join(SPLITS)}")
    computed = pl.Series("content_sha256", [hashlib.sha256(content).hexdigest() for content in frame["content"]])
    stated = pl.col("content_sha256")
    reject(frame, stated.is_not_null() & (stated != computed), file, "content_sha256", expected="the content's SHA-256")
    ids = [
        stated or hashlib.sha256(f"{work}\n{position}\n{own}".encode()).hexdigest()[:32]
        for stated, work, position, own in zip(
            frame["example_id"], frame["work_id"], frame["position"], identities(frame.with_columns(computed)), strict=True
        )
    ]
    return frame.with_columns(computed, pl.Series("example_id", ids, dtype=pl.String))


def check_together(frame: pl.DataFrame, file: str) -> pl.DataFrame:
    """Check what the examples of a corpus must keep together; contents are not looked at."""
    unique(EXAMPLES, frame, file)
    if "train" not in frame["split"]:
        found = f"none among {frame.height} rows"
        raise ContractError(file, expected="at least one example that the model was trained on (split = train)", found=found)
    several = pl.col("owner_id").drop_nulls().n_unique().over("work_id") > 1
    reject(frame, several, file, "owner_id", expected="one owner per work (more take a claims file)")
    return frame


def identities(frame: pl.DataFrame) -> list[str]:
    """The digest of each content and its prompt: of the content alone if it has no prompt.

    Args:
        frame: `content_sha256` and, optionally, `prompt`.
    """
    if "prompt" not in frame.columns:
        return frame["content_sha256"].to_list()
    return [identity(*row) for row in frame.select("content_sha256", "prompt").iter_rows()]


def check_contents(frame: pl.DataFrame, file: str) -> None:
    """Check contents and modalities, of examples or outputs."""
    reject(frame, pl.col("content").bin.size() == 0, file, "content", expected="at least one byte", found="none")
    word = pl.col("modality").str.contains(r"^[a-z][a-z0-9_-]{0,31}$")
    reject(frame, ~word, file, "modality", expected=f"{', '.join(MODALITIES)}, or another word in lower case")
    misspelt = [
        name for name in frame["modality"].drop_nulls().unique() if name not in MODALITIES and did_you_mean(name, MODALITIES)
    ]
    reject(
        frame, pl.col("modality").is_in(misspelt), file, "modality", expected=f"{', '.join(MODALITIES)}, or a word unlike them"
    )


def check_claims(frame: pl.DataFrame, file: str) -> pl.DataFrame:
    """Check claims: positive stakes, intervals that end after they start, stakes that sum to one on every day."""
    frame = conform(CLAIMS, frame, file)
    stake = pl.col("stake_ppb")
    reject(frame, (stake <= 0) | (stake > PPB), file, "stake_ppb", expected=f"1 to {PPB:,}")
    reject(frame, pl.col("valid_to") < pl.col("valid_from"), file, "valid_to", expected="a day on or after valid_from")
    for work, day, total in _totals(frame).iter_rows():
        if total not in (0, PPB):  # 0: all claims have ended, and the work is in escrow
            when = f" on {day}" if day else ""
            stakes = frame.filter(pl.col("work_id") == work)
            stakes = valid_on(stakes, day) if day else stakes.filter(pl.col("valid_from").is_null())
            owners = ", ".join(stakes["owner_id"].unique().sort())
            raise ContractError(
                f"{file}: work_id {work!r}: column 'stake_ppb'",
                expected=f"stakes that sum to {PPB:,}{when}",
                found=f"{total:,} ({total / PPB:.2%}), of {owners}",
            )
    return frame.sort("work_id", "owner_id", "valid_from")


def _totals(claims: pl.DataFrame) -> pl.DataFrame:
    """The sum of each work's stakes on each day of a change: `work_id, day, total`; `day` is null without changes."""
    dated = pl.any_horizontal(pl.col("valid_from", "valid_to").is_not_null()).any().over("work_id")
    constant = claims.filter(~dated).group_by("work_id").agg(day=pl.lit(None, pl.Date), total=pl.col("stake_ppb").sum())
    changing = claims.filter(dated)
    starts = changing.select("work_id", day="valid_from")
    ends = changing.select("work_id", day=pl.col("valid_to").dt.offset_by("1d"))
    before = starts.with_columns(pl.col("day").dt.offset_by("-1d"))
    days = pl.concat([before, starts, ends]).drop_nulls().unique()
    inside = is_within(pl.col("day"), "valid_from", "valid_to")
    totals = days.join(changing, on="work_id").group_by("work_id", "day").agg(total=pl.col("stake_ppb").filter(inside).sum())
    return pl.concat([constant, totals]).sort("work_id", "day")


def _claims_of_examples(examples: pl.DataFrame, file: str) -> pl.DataFrame:
    has_owner = pl.col("owner_id").is_not_null() & pl.col("unmatched_reason").is_null()
    owned = examples.filter(has_owner).select("work_id", "owner_id").unique().sort("work_id")
    return conform(CLAIMS, owned.with_columns(stake_ppb=pl.lit(PPB)), file)
