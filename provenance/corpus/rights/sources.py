"""The registry of sources: what was collected, once each, however often, by whomever and in whatever spelling it was listed.

A record says where something was collected (`source_uri`) and by which other names it goes (`identifiers`). The registry is a
function of the *set* of records: the order in which lists arrive, and how often, change nothing, and a registry of parts is
made by putting their records together.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from provenance.core.contracts import REGISTRY, SOURCES, conform
from provenance.corpus.rights.canonical import MANY, PAGE, canonical, identify

__all__ = ["canonical", "distinct", "registry", "source_ids"]

# An identifier that more places than this list as theirs is taken for a name of many works, whatever its kind says: the DOI of
# a data set beside each of its pictures.
MOST_LISTINGS = 50
# Of sources with the same content no more are listed with each: an empty file has thousands.
MOST_COPIES = 100


def registry(records: pl.DataFrame) -> pl.DataFrame:
    """What was collected, one row for each source, from a frame of SOURCES.

    Records are about the same source if a chain of shared identifiers, of their own places or listed ones, joins them. Three
    rules keep distinct works apart:

    1. *Names of many works join nothing*: home pages, channels, lists, packages and repositories as a whole, people, journals,
       what cannot be read, and what more than `MOST_LISTINGS` places list. They are shown in `related`.
    2. *Contradictions join nothing.* Two different names of one kind (two DOIs, ISBNs, releases, videos) name two works. A
       record that gives a source two of them is not believed in what it lists. Where joined records contradict each other, an
       identifier joins no longer if it stands beside two different names of one kind, nor do records that name pages alone;
       and if that is not enough, nothing of what these records list joins. Nobody wins by coming first, or by the alphabet.
    3. What a record lists and what is then no name of its source is shown in `conflicts`, and is for a person to look at.

    Records with the same own place are always of one source. Equal contents join nothing: they are copies, or empty pages.

    Returns:
        REGISTRY, sorted by `source_id`.
    """
    kept = distinct(records).with_row_index("record")
    listed = kept.select("record", name=pl.col("identifiers").list.unique()).explode("name").drop_nulls()
    texts = pl.concat([kept["source_uri"], listed["name"]]).unique()
    read = [identify(text) for text in texts.to_list()]
    columns = {"text": texts, "name": [one.name for one in read], "kind": [one.kind for one in read]}
    spelt = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    # Texts that name the same alike are of one kind, so each name has one row; codes are in the order of the alphabet.
    names = spelt.select("name", "kind").unique("name").sort("name").with_row_index("code")
    code_of = spelt.select("text", "name").join(names, on="name").select("text", "code", "kind")

    own = kept.select("record", text="source_uri").join(code_of, on="text").select("record", own="code", own_kind="kind")
    links = listed.rename({"name": "text"}).join(code_of, on="text").join(own, on="record").drop("text")
    links = links.filter(pl.col("code") != pl.col("own")).unique()
    hub = pl.col("own").n_unique().over("code") > MOST_LISTINGS
    says_nothing = (pl.col("kind") == MANY) | (pl.col("own_kind") == MANY) | hub
    links = links.with_columns(related=says_nothing)
    joining = links.filter(~pl.col("related"))

    source = _sources(own, joining, names)
    placed = own.join(source.rename({"code": "own"}), on="own").select("record", "source")
    told = links.join(placed, on="record").join(source.rename({"source": "named"}), on="code")
    beside = told.filter(pl.col("named") != pl.col("source")).join(names.select("code", "name"), on="code")
    others = beside.group_by("source").agg(
        related=pl.col("name").filter("related").unique().sort(),
        conflicts=pl.col("name").filter(~pl.col("related")).unique().sort(),
    )
    called = source.join(names, on="code").group_by("source").agg(identifiers=pl.col("name").sort())
    facts = (
        kept.join(placed, on="record")
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
    made = facts.join(called, on="source").join(others, on="source", how="left")
    made = made.with_columns(pl.col("related", "conflicts").fill_null([]), source_id=pl.col("identifiers").list.first())
    made = _with_copies(made.drop("source"))
    return conform(REGISTRY, made.select(REGISTRY.schema.names()), "registry").sort("source_id")


def distinct(records: pl.DataFrame) -> pl.DataFrame:
    """The different records, in one order, whatever order they came in and however often."""
    frame = conform(SOURCES, records, "sources").select(SOURCES.schema.names())
    frame = frame.with_columns(pl.col("identifiers").fill_null([]).list.drop_nulls())
    # Lists cannot be compared; as names have no control characters, nothing else is joined to the same text.
    frame = frame.with_columns(_listed=pl.col("identifiers").list.join("\x00"))
    what = [name for name in SOURCES.schema.names() if name != "identifiers"]
    return frame.unique([*what, "_listed"]).sort(*what, "_listed", nulls_last=True).drop("_listed")


def source_ids(registry: pl.DataFrame, uris: pl.Series) -> pl.Series:
    """The source of each URI, by any of its names; empty where the registry has none."""
    known = registry.select("source_id", name="identifiers").explode("name")
    texts = uris.drop_nulls().unique()
    spelt = pl.DataFrame({"text": texts, "name": [canonical(text) for text in texts.to_list()]}, schema_overrides=_TEXTS)
    asked = pl.DataFrame({"text": uris}, schema_overrides=_TEXTS)
    found = asked.join(spelt, on="text", how="left", maintain_order="left")
    return found.join(known, on="name", how="left", maintain_order="left", validate="m:1")["source_id"]


_TEXTS = {"text": pl.String, "name": pl.String}


def _sources(own: pl.DataFrame, links: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """`code, source`: which source each name is one of, after what contradicts itself was taken apart (see `registry`)."""
    telling = names.filter(~pl.col("kind").is_in([PAGE, MANY])).select("code", "kind")
    said = pl.concat([own.select("record", code="own"), links.select("record", "code")]).join(telling, on="code")
    # 1. Records that contradict themselves.
    twice = _two_of_a_kind(said, "record")
    links = links.join(twice, on="record", how="anti")
    said = said.join(twice, on="record", how="anti")
    source = _joined(links, names.height)
    # 2. In what is still contradictory: names that stand beside two of a kind, and records of pages alone.
    wrong = _contradictory(source, telling)
    doubted = links.join(source.join(wrong, on="source"), left_on="own", right_on="code")
    beside = pl.concat([doubted.select("record", code="own"), doubted.select("record", "code")]).unique()
    ambiguous = _two_of_a_kind(beside.join(said.rename({"code": "telling"}), on="record"), "code", "telling")["code"]
    drop = doubted.filter(
        pl.col("own").is_in(ambiguous.implode())
        | pl.col("code").is_in(ambiguous.implode())
        | ~pl.col("record").is_in(said["record"].unique().implode())
    )
    links = links.join(drop, on=["record", "code"], how="anti")
    source = _joined(links, names.height)
    # 3. What no rule can tell apart.
    lost = source.join(_contradictory(source, telling), on="source")["code"]
    return _joined(links.filter(~pl.col("own").is_in(lost.implode())), names.height)


def _two_of_a_kind(frame: pl.DataFrame, by: str, name: str = "code") -> pl.DataFrame:
    """The values of a column that two different names of one kind go with."""
    return frame.group_by(by, "kind").agg(pl.col(name).n_unique()).filter(pl.col(name) > 1).select(by).unique()


def _contradictory(source: pl.DataFrame, telling: pl.DataFrame) -> pl.DataFrame:
    return _two_of_a_kind(source.join(telling, on="code"), "source")


def _joined(links: pl.DataFrame, names: int) -> pl.DataFrame:
    """`code, source` of the connected components of links between names."""
    ends = links["own"].to_numpy(), links["code"].to_numpy()
    graph = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(names, names))
    _, label = connected_components(graph, directed=False)
    return pl.DataFrame({"code": np.arange(names, dtype=np.uint32), "source": label})


def _with_copies(made: pl.DataFrame) -> pl.DataFrame:
    """With `same_content_as`: the first others, by the alphabet, that had a content of a source's."""
    had = made.select("source_id", content="contents").explode("content").drop_nulls()
    shared = had.group_by("content").agg(others=pl.col("source_id").sort().head(MOST_COPIES + 1))
    shared = shared.filter(pl.col("others").list.len() > 1)
    pairs = had.join(shared, on="content").explode("others").filter(pl.col("others") != pl.col("source_id"))
    copies = pairs.group_by("source_id").agg(same_content_as=pl.col("others").unique().sort().head(MOST_COPIES))
    return made.join(copies, on="source_id", how="left").with_columns(pl.col("same_content_as").fill_null([]))
