"""Lists of sources are read in every format, checked row by row and added once; a bad file adds nothing."""

import json
import re
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from provenance.core.errors import InputError
from provenance.core.tables import SOURCES
from provenance.core.where import Where
from provenance.corpus import records
from provenance.corpus.rights.sources.lists import (
    LARGEST_CELL,
    REJECTED,
    find_sources,
    import_sources,
    registry_in_force,
    show_source,
)
from provenance.corpus.rights.sources.registry import registry
from tasks.settings import load

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
ROWS = [
    {"source_uri": "https://a.example/x", "acquired_at": "2026-11-19T10:00:00+02:00", "evidence": "line 1",
     "identifiers": ["doi:10.1000/1"]},
    {"source_uri": "https://youtu.be/dQw4w9WgXcQ", "acquired_at": "2026-11-19", "evidence": "line 2",
     "title": 'A "video", of sorts'},
]  # fmt: skip


@pytest.fixture
def where(tmp_path):
    settings = load({"PROVENANCE_STORE__URL": f"file://{tmp_path / 'store'}"})
    return Where(settings, settings.store.open())


def as_csv(path, rows):
    flat = [row | {"identifiers": " ".join(row.get("identifiers", []))} for row in rows]
    pl.DataFrame(flat, infer_schema_length=None).write_csv(path)


def as_json(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")


FORMATS = {"csv": as_csv, "jsonl": as_json}


def write(folder, rows, ending="jsonl", name="list"):
    path = folder / f"{name}.{ending}"
    FORMATS[ending](path, rows)
    return path


def test_the_same_list_in_any_format_is_the_same_records(where, tmp_path):
    (first,) = import_sources(where, [write(tmp_path, ROWS)], collector="me", now=NOON)
    assert (first.new, first.known, first.rejected) == (2, 0, 0)
    paths = [write(tmp_path, ROWS), write(tmp_path, ROWS[::-1], "csv")]
    again, again_csv = import_sources(where, paths, collector="me", now=NOON + timedelta(hours=1))
    assert (again.new, again.known, again_csv.new, again_csv.known) == (0, 2, 0, 2)
    assert len(where.store.list("rights/sources")) == 1
    recorded = records.read(where.store, SOURCES).sort("source_uri")
    assert recorded["acquired_at"].to_list() == [datetime(2026, 11, 19, 8, tzinfo=UTC), datetime(2026, 11, 19, tzinfo=UTC)]
    assert recorded["title"].to_list() == [None, 'A "video", of sorts']
    assert recorded["collector"].to_list() == ["me", "me"]


def test_parquet_has_lists_and_times_of_its_own(where, tmp_path):
    times = pl.Series([datetime.fromisoformat(row["acquired_at"]).replace(tzinfo=None) for row in ROWS])
    frame = pl.DataFrame(ROWS, infer_schema_length=None).with_columns(acquired_at=times)
    frame.write_parquet(tmp_path / "list.parquet")
    (imported,) = import_sources(where, [tmp_path / "list.parquet"], collector="me", now=NOON)
    assert imported.new == 2
    assert registry_in_force(where.store)["source_id"].to_list() == ["doi:10.1000/1", "youtube:dQw4w9WgXcQ"]


def test_what_was_known_then_is_the_registry_of_then(where, tmp_path):
    import_sources(where, [write(tmp_path, ROWS[:1])], collector="me", now=NOON)
    import_sources(where, [write(tmp_path, ROWS)], collector="me", now=NOON + timedelta(days=1))
    store = where.store
    assert registry_in_force(store, NOON - timedelta(seconds=1)).is_empty()
    assert registry_in_force(store, NOON)["source_id"].to_list() == ["doi:10.1000/1"]
    assert registry_in_force(store).equals(registry(records.read(store, SOURCES)))


@pytest.mark.parametrize(("column", "value", "why"), [
    ("acquired_at", "yesterday", "column 'acquired_at': expected a time"),
    ("acquired_at", 1763600000, "column 'acquired_at': expected a time"),
    ("acquired_at", "2027-11-20", "not in the future"),
    ("acquired_at", "9999-12-31T23:59-12:00", "column 'acquired_at': expected a time"),
    ("title", "half a character: \ud800", "column 'title'"),
    ("title", 10**100, "column 'title': expected up to 1,000,000 characters, found 101 characters"),
    ("source_uri", None, "(https:, doi:, isbn:), found none"),
    ("source_uri", "  ", "column 'source_uri'"),
    ("source_uri", "no address", "column 'source_uri': expected one line of 1 to 8,192 characters, an address"),
    ("source_uri", "https://a.example/\u202egpj.exe", "column 'source_uri'"),
    ("evidence", "x" * (LARGEST_CELL + 1), "column 'evidence': expected 1 to 1,000,000 characters, found 1,000,001 characters"),
    ("content_sha256", "abc", "column 'content_sha256': expected 64 hex digits"),
    ("identifiers", ["a\x00b"], "column 'identifiers'"),
    ("identifiers", 5, "column 'identifiers': expected up to"),
    ("identifiers", True, "column 'identifiers': expected up to"),
    ("identifiers", {"a": 1}, "column 'identifiers': expected up to"),
])  # fmt: skip
def test_a_row_that_cannot_be_read_is_kept_with_the_reason(where, tmp_path, column, value, why):
    bad = ROWS[0] | {column: value}
    for _ in range(2):
        (imported,) = import_sources(where, [write(tmp_path, [bad, ROWS[1]])], collector="me", now=NOON)
        assert imported.rejected == 1
        assert imported.problems[0].startswith("1 such as ")
        assert "list.jsonl: line 1: " in imported.problems[0]
        assert why in imported.problems[0]
        assert imported.kept in {where.store.locate(key) for key in where.store.list(REJECTED)}
    store = where.store
    (rejected,) = (store.read_table(key) for key in store.list(REJECTED))  # once, however often it came
    assert json.loads(rejected["written"][0]) == bad
    assert rejected["row"].to_list() == ["line 1"]
    assert records.read(store, SOURCES)["source_uri"].to_list() == [ROWS[1]["source_uri"]]


def test_lines_that_are_no_rows_are_kept_as_they_came(where, tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"source_uri": \n[1, 2]\n\n' + "[" * 100_000 + "\n" + json.dumps(ROWS[0]) + "\n")
    short = tmp_path / "b.csv"
    short.write_text("source_uri,acquired_at,evidence\nhttps://a.example/1,2026-11-19\nhttps://a.example/2,2026-11-19,e\n")
    first, second = import_sources(where, [lines, short], collector="me", now=NOON)
    assert (first.new, first.rejected, second.new, second.rejected) == (1, 3, 1, 1)
    store = where.store
    texts = [text for key in store.list(REJECTED) for text in store.read_table(key)["written"].to_list()]
    assert sorted(texts) == ["[1, 2]", "[" * 100_000, "https://a.example/1,2026-11-19", '{"source_uri": ']


COLUMNS = b"source_uri,acquired_at,evidence\n"


@pytest.mark.parametrize(("name", "data", "why"), [
    ("a.csv", COLUMNS + b"https://a.example/\xe9,2026-11-19,e\n", "a.csv: line 2: expected text in UTF-8, found the byte 0xe9"),
    ("a.csv", COLUMNS.decode().encode("utf-16"), "line 1: expected text in UTF-8"),
    ("a.csv", b"source_uri,acquired_at,evidnce\n", "found 'evidnce'. Did you mean 'evidence'"),
    ("a.csv", b"source_uri,acquired_at,evidence,evidence\n", "column 'evidence': expected every column once"),
    ("a.csv", b"source_uri;acquired_at;evidence\n", "a.csv: line 1: columns: .*found 'source_uri;acquired_at;evidence'"),
    ("a.csv", b"source_uri,evidence\n", "column 'acquired_at': expected a column that is needed"),
    ("a.csv", COLUMNS + b'"a"b,c,d\n', "a.csv: line 2: expected a CSV file"),
    ("a.csv", COLUMNS, "expected a row for each source, found none"),
    ("a.jsonl", b'{"source_uri": "https://a.example/x", "url": 1}\n', "a.jsonl: line 1: columns: .*found 'url'"),
    ("a.jsonl", b'{"source_uri": "https://a.example/x"}\n', "a.jsonl: line 1: column 'acquired_at': .* found none"),
    ("a.parquet", b"not parquet", "a.parquet: expected a Parquet file"),
    ("a.xlsx", b"", "expected a file that ends in .parquet"),
])  # fmt: skip
def test_a_file_that_is_no_list_is_refused_and_nothing_of_any_is_added(where, tmp_path, name, data, why):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=why):
        import_sources(where, [write(tmp_path, ROWS, name="good"), tmp_path / name], collector="me", now=NOON)
    assert not where.store.list("rights")


def test_a_list_that_says_its_collector_is_believed_and_one_that_does_not_needs_the_option(where, tmp_path):
    with pytest.raises(InputError, match="column 'collector': expected a name"):
        import_sources(where, [write(tmp_path, ROWS)], now=NOON)
    import_sources(where, [write(tmp_path, [ROWS[0] | {"collector": "them"}, ROWS[1]])], collector="me", now=NOON)
    assert records.read(where.store, SOURCES)["collector"].sort().to_list() == ["me", "them"]
    as_git_spells_it = [ROWS[0] | {"source_uri": "git@github.com:org/repo.git"}]
    assert import_sources(where, [write(tmp_path, as_git_spells_it)], collector="me", now=NOON)[0].new == 1


def test_sources_are_found_by_any_name_and_by_their_contradictions(where, tmp_path):
    two = {"source_uri": "https://w.example/w", "identifiers": ["doi:10.1000/1", "doi:10.1000/2"]}
    wrong = two | {"acquired_at": "2026-11-19", "evidence": "e"}
    import_sources(where, [write(tmp_path, [*ROWS, wrong])], collector="me", now=NOON)
    sources = registry_in_force(where.store)
    assert find_sources(sources, like="A.EXAMPLE")["source_id"].to_list() == ["doi:10.1000/1"]
    assert find_sources(sources, like="of sorts")["source_id"].to_list() == ["youtube:dQw4w9WgXcQ"]
    assert find_sources(sources, conflicts=True)["source_id"].to_list() == ["https://w.example/w"]
    with pytest.raises(
        InputError, match=r"found none. Records of 'https://w.example/w' list it, though it belongs to another work"
    ):
        show_source(where.store, "doi:10.1000/2")


def test_the_command_line_imports_and_lists(tmp_path, monkeypatch, shown, refused):
    monkeypatch.setenv("PROVENANCE_STORE__URL", f"file://{tmp_path / 'store'}")
    path = write(tmp_path, [ROWS[0] | {"title": "[red]x[/]"}, ROWS[1] | {"acquired_at": "?"}])
    assert "1 new, 0 known, 1 rejected" in shown("rights", "sources", "import", str(path), "--collector", "me")
    output = shown("rights", "sources", "list")
    for text in ("doi:10.1000/1", "[red]x[/]", "1 of 1 sources"):
        assert text in output
    output = shown("rights", "sources", "show", "http://doi.org/10.1000/1")
    assert "https://a.example/x" in output
    assert "line 1" in output
    text = refused("rights", "sources", "show", "doi:10.1000/2")
    assert re.search(r"source 'doi:10.1000/2': .* found none. Did you mean 'doi:10.1000/1'", text)
    assert shown("rights", "sources", "list", "--json", "--known", "2020-01-01") == []


def test_rejected_rows_are_shown_whole_with_the_reason(tmp_path, monkeypatch, shown):
    monkeypatch.setenv("PROVENANCE_STORE__URL", f"file://{tmp_path / 'store'}")
    assert "There are none." in shown("rights", "sources", "rejected")
    first = write(tmp_path, [ROWS[0], ROWS[1] | {"acquired_at": "?"}], name="first")
    second = write(tmp_path, [ROWS[0], ROWS[1] | {"source_uri": "no address"}, "odd"], name="second")
    for _ in range(2):
        shown("rights", "sources", "import", str(first), str(second), "--collector", "me")
    rows = shown("rights", "sources", "rejected", "--json")
    assert [(row["file"].rsplit("/", 1)[-1], row["row"]) for row in rows] == [
        ("first.jsonl", "line 2"), ("second.jsonl", "line 2"), ("second.jsonl", "line 3"),
    ]  # fmt: skip
    assert json.loads(rows[0]["written"])["acquired_at"] == "?"
    assert [row["why"] for row in rows] == [row["why"] for row in shown("rights", "sources", "rejected", "--json")]
    assert len(shown("rights", "sources", "rejected", "--like", "SECOND", "--json")) == 2
    assert "2 of 3 rows" in shown("rights", "sources", "rejected", "--most", "2")
