"""The registry of sources: one row for each source, joined from all records and spellings of it.

A record has the place of collection (`source_uri`) and other names (`identifiers`). The registry depends only on the *set* of
records: order and repetition of lists have no effect, and parts are merged by joining their records.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from provenance.core.checks import conform
from provenance.core.tables import REGISTRY, SOURCES
from provenance.core.where import SerialWorkers, Workers
from provenance.corpus.rights.sources.canonical import MANY, PAGE, canonical, identify

# An identifier listed by more places than this counts as a name of many works, such as the DOI of a data set listed with each
# of its pictures.
MOST_LISTINGS = 50
# Sources listed as having the same content; an empty file has thousands.
MOST_COPIES = 100


def registry(records: pl.DataFrame) -> pl.DataFrame:
    """Join the records of each source: one row for each, from a frame of SOURCES.

    A chain of shared identifiers, places or listed names, joins records of one source. Three rules keep distinct works apart:

    1. *Names of many works join nothing*: home pages, channels, lists, whole packages and repositories, people, journals,
       unreadable names, and names listed by more than `MOST_LISTINGS` places. They are shown in `related`.
    2. *Contradictions join nothing.* Two different names of one kind (two DOIs, ISBNs, releases, videos) mean two works. If a
       record gives a source two of them, all its listed names are ignored. If joined records contradict each other, two
       groups of names stop joining: those beside two different names of one kind, and those in records that name only pages.
       If contradictions remain, none of the names that these records list join. Order and alphabet never decide.
    3. Listed names that in the end do not belong to their record's source are shown in `conflicts`, for a person to look at.

    Records with the same place are always of one source. Equal contents join nothing: they are copies, or empty pages.

    Returns:
        REGISTRY, sorted by `source_id`.
    """
    unique_records = distinct(records).with_row_index("record")
    listed_names = unique_records.select("record", name=pl.col("identifiers").list.unique()).explode("name").drop_nulls()
    texts = pl.concat([unique_records["source_uri"], listed_names["name"]]).unique()
    identifiers = [identify(text) for text in texts.to_list()]
    columns = {"text": texts, "name": [i.name for i in identifiers], "kind": [i.kind for i in identifiers]}
    spellings = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    # Equal names have equal kinds, so each name has one row; codes are in alphabetical order of names.
    names = spellings.select("name", "kind").unique("name").sort("name").with_row_index("code")
    code_of = spellings.select("text", "name").join(names, on="name").select("text", "code", "kind")

    own = (
        unique_records.select("record", text="source_uri")
        .join(code_of, on="text")
        .select("record", own="code", own_kind="kind")
    )
    links = listed_names.rename({"name": "text"}).join(code_of, on="text").join(own, on="record").drop("text")
    links = links.filter(pl.col("code") != pl.col("own")).unique()
    is_hub = pl.col("own").n_unique().over("code") > MOST_LISTINGS
    joins_nothing = (pl.col("kind") == MANY) | (pl.col("own_kind") == MANY) | is_hub
    links = links.with_columns(related=joins_nothing)
    joining = links.filter(~pl.col("related"))

    source = _sources(own, joining, names)
    placed = own.join(source.rename({"code": "own"}), on="own").select("record", "source")
    placed_links = links.join(placed, on="record").join(source.rename({"source": "named"}), on="code")
    foreign = placed_links.filter(pl.col("named") != pl.col("source")).join(names.select("code", "name"), on="code")
    foreign_names = foreign.group_by("source").agg(
        related=pl.col("name").filter("related").unique().sort(),
        conflicts=pl.col("name").filter(~pl.col("related")).unique().sort(),
    )
    names_of_source = source.join(names, on="code").group_by("source").agg(identifiers=pl.col("name").sort())
    facts = (
        unique_records.join(placed, on="record")
        .sort("acquired_at", "title", "record", nulls_last=True)
        .group_by("source", maintain_order=True)
        .agg(
            records=pl.len().cast(pl.Int64),
            collectors=pl.col("collector").unique().sort(),
            first_acquired_at=pl.col("acquired_at").min(),
            last_acquired_at=pl.col("acquired_at").max(),
            contents=pl.col("content_sha256").drop_nulls().unique().sort(),
            title=pl.col("title").drop_nulls().first(),
        )
    )
    sources = facts.join(names_of_source, on="source").join(foreign_names, on="source", how="left")
    sources = sources.with_columns(pl.col("related", "conflicts").fill_null([]), source_id=pl.col("identifiers").list.first())
    sources = _with_copies(sources.drop("source"))
    return conform(REGISTRY, sources.select(REGISTRY.schema.names()), "registry").sort("source_id")


def distinct(records: pl.DataFrame) -> pl.DataFrame:
    """The distinct records, in an order that does not depend on theirs."""
    frame = conform(SOURCES, records, "sources").select(SOURCES.schema.names())
    frame = frame.with_columns(pl.col("identifiers").fill_null([]).list.drop_nulls())
    # Lists cannot be compared, but joined texts can: names have no control characters.
    frame = frame.with_columns(_listed=pl.col("identifiers").list.join("\x00"))
    columns = [name for name in SOURCES.schema.names() if name != "identifiers"]
    return frame.unique([*columns, "_listed"]).sort(*columns, "_listed", nulls_last=True).drop("_listed")


def source_ids(registry: pl.DataFrame, uris: pl.Series, workers: Workers | None = None) -> pl.Series:
    """The source of each URI, by any of its names; null if the registry has none."""
    if registry.is_empty():
        return pl.Series("source_id", [None] * len(uris), dtype=pl.String)
    names = registry.select("source_id", name="identifiers").explode("name")
    texts = uris.drop_nulls().unique().sort()
    parts = [texts[start : start + AT_ONCE].to_list() for start in range(0, len(texts), AT_ONCE)]
    mapped = (workers or SerialWorkers()).map(_canonical, None, parts, what="addresses of works")
    spellings = pl.DataFrame({"text": texts, "name": [name for part in mapped for name in part]}, schema_overrides=_TEXTS)
    requested = pl.DataFrame({"text": uris}, schema_overrides=_TEXTS)
    rows = requested.join(spellings, on="text", how="left", maintain_order="left")
    return rows.join(names, on="name", how="left", maintain_order="left", validate="m:1")["source_id"]


def _canonical(_: None, texts: list[str]) -> list[str]:
    return [canonical(text) for text in texts]


_TEXTS = {"text": pl.String, "name": pl.String}
# Addresses brought into canonical form at a time.
AT_ONCE = 2**14


def _sources(own: pl.DataFrame, links: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """The source of each name, `code, source`, without joins that lead to contradictions (see `registry`)."""
    decisive = names.filter(~pl.col("kind").is_in([PAGE, MANY])).select("code", "kind")
    stated = pl.concat([own.select("record", code="own"), links.select("record", "code")]).join(decisive, on="code")
    # 1. Ignore listed names of records that contradict themselves.
    contradicting = _two_of_a_kind(stated, "record")
    links = links.join(contradicting, on="record", how="anti")
    stated = stated.join(contradicting, on="record", how="anti")
    source = _components(links, names.height)
    # 2. In remaining contradictions, ignore names beside two of a kind, and records of pages alone.
    contradictory = _contradictory(source, decisive)
    doubtful = links.join(source.join(contradictory, on="source"), left_on="own", right_on="code")
    neighbours = pl.concat([doubtful.select("record", code="own"), doubtful.select("record", "code")]).unique()
    ambiguous = _two_of_a_kind(neighbours.join(stated.rename({"code": "telling"}), on="record"), "code", "telling")["code"]
    dropped = doubtful.filter(
        pl.col("own").is_in(ambiguous.implode())
        | pl.col("code").is_in(ambiguous.implode())
        | ~pl.col("record").is_in(stated["record"].unique().implode())
    )
    links = links.join(dropped, on=["record", "code"], how="anti")
    source = _components(links, names.height)
    # 3. Ignore all listed names in contradictions that still remain.
    unresolved = source.join(_contradictory(source, decisive), on="source")["code"]
    return _components(links.filter(~pl.col("own").is_in(unresolved.implode())), names.height)


def _two_of_a_kind(frame: pl.DataFrame, by: str, name: str = "code") -> pl.DataFrame:
    """The values of a column with two different names of one kind."""
    return frame.group_by(by, "kind").agg(pl.col(name).n_unique()).filter(pl.col(name) > 1).select(by).unique()


def _contradictory(source: pl.DataFrame, decisive: pl.DataFrame) -> pl.DataFrame:
    return _two_of_a_kind(source.join(decisive, on="code"), "source")


def _components(links: pl.DataFrame, names: int) -> pl.DataFrame:
    """`code, source` of the connected components of links between names."""
    ends = links["own"].to_numpy(), links["code"].to_numpy()
    graph = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(names, names))
    _, label = connected_components(graph, directed=False)
    return pl.DataFrame({"code": np.arange(names, dtype=np.uint32), "source": label})


def _with_copies(sources: pl.DataFrame) -> pl.DataFrame:
    """Add `same_content_as`: the first other sources, alphabetically, with a content of the source."""
    contents_of = sources.select("source_id", content="contents").explode("content").drop_nulls()
    shared = contents_of.group_by("content").agg(others=pl.col("source_id").sort().head(MOST_COPIES + 1))
    shared = shared.filter(pl.col("others").list.len() > 1)
    pairs = contents_of.join(shared, on="content").explode("others").filter(pl.col("others") != pl.col("source_id"))
    copies = pairs.group_by("source_id").agg(same_content_as=pl.col("others").unique().sort().head(MOST_COPIES))
    return sources.join(copies, on="source_id", how="left").with_columns(pl.col("same_content_as").fill_null([]))
