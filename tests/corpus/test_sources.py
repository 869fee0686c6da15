"""Sources: all spellings of a name are one name, distinct works stay apart, order and repetition have no effect."""

import random
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from provenance.core.tables import REGISTRY, SOURCES
from provenance.corpus.rights.sources import canonical as module
from provenance.corpus.rights.sources.canonical import MANY, PAGE, canonical, identify
from provenance.corpus.rights.sources.registry import MOST_LISTINGS, registry, source_ids

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
# One line for each work: its one spelling, then others that are seen.
SPELLINGS = {
    "youtube:dQw4w9WgXcQ": """https://www.youtube.com/watch?v=dQw4w9WgXcQ http://youtube.com/watch?v=dQw4w9WgXcQ&t=42s
        https://m.youtube.com/watch?app=desktop&v=dQw4w9WgXcQ https://youtu.be/dQw4w9WgXcQ?si=abc https://www.youtube.com/shorts/dQw4w9WgXcQ
        https://www.youtube.com/embed/dQw4w9WgXcQ?rel=0 https://www.youtube-nocookie.com/embed/dQw4w9WgXcQ
        https://music.youtube.com/watch?v=dQw4w9WgXcQ&list=RD https://www.youtube.com/live/dQw4w9WgXcQ?feature=share
        https://www.youtube.com/watch?v=dQw4w9WgXcQ&list=PLFgquLnL59alCl_2TQvOiD5Vgm1hCaGSI&index=2""",
    "arxiv:1706.03762": """arXiv:1706.03762 https://arxiv.org/abs/1706.03762 http://arxiv.org/pdf/1706.03762 https://arxiv.org/pdf/1706.03762.pdf
        https://export.arxiv.org/abs/1706.03762 https://doi.org/10.48550/arXiv.1706.03762 doi:10.48550/ARXIV.1706.03762
        https://ar5iv.labs.arxiv.org/html/1706.03762 https://arxiv.org/html/1706.03762""",
    "arxiv:1706.03762v5": "arXiv:1706.03762v5 https://arxiv.org/abs/1706.03762v5 https://arxiv.org/pdf/1706.03762v5.pdf",
    "arxiv:math/0309136": "arXiv:math.GT/0309136 https://arxiv.org/abs/math/0309136 https://arxiv.org/pdf/math.GT/0309136",
    "doi:10.1038/nature14539": """10.1038/nature14539 doi:10.1038/nature14539 DOI:10.1038/NATURE14539 https://doi.org/10.1038/nature14539
        http://dx.doi.org/10.1038/nature14539 https://www.doi.org/10.1038%2Fnature14539 info:doi/10.1038/nature14539
        urn:doi:10.1038/nature14539 https://doi.org/10.1038/nature14539?utm_source=mail""",
    "isbn:9780471117094": """isbn:9780471117094 ISBN:0-471-11709-9 urn:isbn:0471117099 978-0-471-11709-4 9780471117094
        isbn:978-0-471-11709-4""",
    "isrc:USSKG1912345": "isrc:US-SKG-19-12345 ISRC:usskg1912345 urn:isrc:USSKG1912345",
    "iswc:T0345246801": "iswc:T-034.524.680-1 ISWC:T0345246801",
    "pkg:pypi/zope-interface@5.0rc1": """pkg:pypi/zope.interface@5.0rc1 pkg:pypi/Zope_Interface@5.0-RC1
        https://pypi.org/project/zope.interface/5.0rc1/ https://pypi.org/pypi/zope-interface/5.0rc1/json""",
    "pkg:npm/%40angular/core@17.0.0": """pkg:npm/@angular/core@17.0.0 https://www.npmjs.com/package/@angular/core/v/17.0.0
        https://registry.npmjs.org/@angular/core/17.0.0 https://registry.npmjs.org/@angular/core/-/core-17.0.0.tgz""",
    "pkg:github/pallets/flask@main#src/flask/app.py": """https://github.com/pallets/flask/blob/main/src/flask/app.py#L10-L20
        https://raw.githubusercontent.com/pallets/flask/main/src/flask/app.py
        https://github.com/Pallets/Flask/raw/main/src/flask/app.py
        https://raw.githubusercontent.com/pallets/flask/refs/heads/main/src/flask/app.py
        pkg:github/Pallets/flask@main#src/flask/app.py""",
    "pkg:github/pallets/flask": """https://github.com/pallets/flask https://github.com/Pallets/Flask/
        git@github.com:pallets/flask.git
        git+https://github.com/pallets/flask.git https://github.com/pallets/flask.git ssh://git@github.com/pallets/flask.git""",
    "wikipedia:en:Alan_Turing": """https://en.wikipedia.org/wiki/Alan_Turing http://en.m.wikipedia.org/wiki/alan_Turing#Life
        https://en.wikipedia.org/wiki/Alan%20Turing https://en.wikipedia.org/w/index.php?title=Alan+Turing""",
    "wikipedia-version:en:1180000000": "https://en.wikipedia.org/w/index.php?title=Alan_Turing&oldid=1180000000",
    "commons:Foo_bar.jpg": """https://commons.wikimedia.org/wiki/File:Foo_bar.jpg
        https://upload.wikimedia.org/wikipedia/commons/a/ab/Foo_bar.jpg
        https://upload.wikimedia.org/wikipedia/commons/thumb/a/ab/Foo_bar.jpg/640px-Foo_bar.jpg""",
    "vimeo:76979871": """https://vimeo.com/76979871 https://player.vimeo.com/video/76979871?h=8272103f6e https://vimeo.com/76979871/8272103f6e
        https://vimeo.com/channels/staffpicks/76979871""",
    "soundcloud:forss/flickermood": """https://soundcloud.com/forss/flickermood https://m.soundcloud.com/forss/flickermood?in=a/sets/b
        https://soundcloud.com/forss/flickermood?utm_source=clipboard&si=1""",
    "spotify:track:11dFghVXANMlKmJXsNCbNl": """https://open.spotify.com/track/11dFghVXANMlKmJXsNCbNl?si=1
        https://open.spotify.com/intl-de/track/11dFghVXANMlKmJXsNCbNl""",
    "flickr:5332012345": """https://www.flickr.com/photos/some_one/5332012345/ https://flickr.com/photos/12@N00/5332012345/in/photostream/
        https://live.staticflickr.com/65535/5332012345_0a1b2c3d4e_b.jpg""",
    "pmcid:PMC3531190": "https://www.ncbi.nlm.nih.gov/pmc/articles/PMC3531190/ https://pmc.ncbi.nlm.nih.gov/articles/PMC3531190",
    "gutenberg:1342": """https://www.gutenberg.org/ebooks/1342 https://www.gutenberg.org/files/1342/1342-0.txt
        https://www.gutenberg.org/cache/epub/1342/pg1342.txt https://www.gutenberg.org/ebooks/1342.txt.utf-8""",
    "stackoverflow:11227902": """https://stackoverflow.com/a/11227902 https://stackoverflow.com/a/11227902/87234
        https://stackoverflow.com/questions/11227809/why-is-processing/11227902#11227902""",
    "tweet:20": "https://twitter.com/jack/status/20 https://x.com/jack/status/20?s=20 https://mobile.twitter.com/jack/status/20",
    "https://example.org/a/b?id=1&lang=en": """https://example.org/a/b?id=1&lang=en http://example.org/a/b?lang=en&id=1
        HTTPS://EXAMPLE.ORG:443/a/b?id=1&lang=en#part https://example.org/a/./c/../b?id=1&lang=en&utm_campaign=x&fbclid=y
        http://example.org:80/%61/b?id=1&lang=en https://user:secret@example.org/a/b?id=1&lang=en""",
    "https://xn--mnchen-3ya.example/stra%C3%9Fe": """https://münchen.example/straße https://MÜNCHEN.example/stra%c3%9fe
        http://xn--mnchen-3ya.example/stra%C3%9Fe""",
}  # fmt: skip
APART = (
    ("https://www.youtube.com/watch?v=dQw4w9WgXcQ", "https://www.youtube.com/watch?v=dQw4w9WgXcq"),  # ids have a case
    ("https://www.youtube.com/embed/videoseries?list=PL1", "https://www.youtube.com/embed/videoseries?list=PL2"),
    ("https://arxiv.org/abs/1706.03762", "https://arxiv.org/abs/1706.03762v1"),
    ("https://arxiv.org/abs/1706.03762v1", "https://arxiv.org/abs/1706.03762v2"),
    ("doi:10.1000/1", "doi:10.1000/12"),
    ("https://doi.org/10.1000/1#a", "https://doi.org/10.1000/1#b"),  # a name that somebody forgot to encode
    ("isbn:9780471117094", "isbn:9780471117100"),
    ("pkg:pypi/flask@3.0.0", "pkg:pypi/flask@3.0.1"),
    ("pkg:npm/JSONStream@1.3.5", "pkg:npm/jsonstream@1.3.5"),  # two packages
    ("pkg:pypi/x@1#a/../b.py", "pkg:pypi/x@1#a/b.py"),
    ("https://github.com/o/r/blob/main/a.py", "https://github.com/o/r/blob/dev/a.py"),
    ("https://github.com/o/r/blob/main/a.py", "https://github.com/o/r/blob/main/A.py"),
    ("https://en.wikipedia.org/wiki/Mercury", "https://de.wikipedia.org/wiki/Mercury"),
    ("https://en.wikipedia.org/wiki/C", "https://en.wikipedia.org/wiki/C%2B%2B"),
    ("https://en.wikipedia.org/wiki/AIDS", "https://en.wikipedia.org/wiki/Aids"),
    ("https://soundcloud.com/a/sets/b", "https://soundcloud.com/a/sets/c"),
    ("https://stackoverflow.com/q/11227809", "https://stackoverflow.com/a/11227902"),
    ("https://www.gutenberg.org/files/1342/1342-h/images/a.jpg", "https://www.gutenberg.org/ebooks/1342"),
    ("https://example.org/a", "https://example.org/a/"),
    ("https://example.org/a", "https://www.example.org/a"),
    ("https://example.org/a", "https://example.org/A"),
    ("https://example.org/a%2Fb", "https://example.org/a/b"),
    ("https://example.org/a%2541", "https://example.org/aA"),
    ("https://example.org/?id=1", "https://example.org/?id=2"),
    ("https://example.org/?ref=1", "https://example.org/"),
    ("https://example.org:8080/a", "https://example.org/a"),
    ("http://example.org:443/a", "http://example.org/a"),
    ("https://example.org/#/one", "https://example.org/#/two"),
    ("https://faß.example/", "https://fass.example/"),
    ("ftp://example.org/a", "https://example.org/a"),
    ("s3://bucket/Key", "s3://bucket/key"),
)  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_a_name_is_one(name):
    texts = [name, *SPELLINGS[name].split()]
    assert {text: canonical(text) for text in texts} == dict.fromkeys(texts, name)
    assert len({identify(text).kind for text in texts}) == 1


@pytest.mark.parametrize(("first", "second"), APART)
def test_near_misses_stay_apart(first, second):
    assert canonical(first) != canonical(second)


@pytest.mark.parametrize("text", [
    "https://example.org/", "http://www.example.org", "https://www.youtube.com/@veritasium", "https://www.youtube.com/playlist?list=PL1",
    "https://soundcloud.com/forss", "https://open.spotify.com/album/1ATL5GLyefJaxhQzSPVrLX", "https://www.flickr.com/photos/some_one/albums/7",
    "https://en.wikipedia.org/wiki/Category:Mathematicians", "https://github.com/pallets/flask", "https://pypi.org/project/flask/",
    "pkg:npm/express", "isni:0000 0001 2281 955X", "issn:0028-0836",
    "https://orcid.org/0000-0002-1825-0097", "isbn:9780471117095",
    "isrc:12", "unknown", "n/a",
])  # fmt: skip
def test_names_of_many_works_and_what_cannot_be_read_say_nothing(text):
    assert identify(text).kind == MANY


@given(st.text(max_size=60) | st.from_regex(r"https?://[A-Za-z0-9.-]{1,12}(:\d{1,4})?/[ -~]{0,30}", fullmatch=True))
def test_a_canonical_name_is_read_as_itself(text):
    identifier = identify(text)
    assert identify(identifier.name) == identifier


@given(st.from_regex(
    r"https?://[a-zA-Z]{1,4}\.(org|COM)(/[a-z.~-]{0,3}){0,3}"
    r"(\?[ab]=[0-9a]{0,2}(&(utm_source|[ab])=[0-9]{0,2}){0,2})?(#[a-z]{0,3})?",
    fullmatch=True
))  # fmt: skip
def test_plain_addresses_are_spelt_as_the_library_spells_them(text):
    assert module._plain_url(text) in {None, module._url(text)}


def test_long_names_are_cut_and_stay_apart():
    first, second = ("https://example.org/" + "x" * 5000 + end for end in "ab")
    assert canonical(first) != canonical(second)
    assert len(canonical(first).encode()) <= 1000
    assert canonical(canonical(first)) == canonical(first)


def record(uri, *names, at=NOON, collector="c", evidence="e", sha=None, title=None):
    values = (uri, at, collector, evidence, list(names), sha, title)
    return dict(zip(SOURCES.schema.names(), values, strict=True))


def table(*rows):
    return pl.DataFrame(list(rows), schema=SOURCES.schema)


def together(sources):
    return {frozenset(names) for names in sources["identifiers"].to_list()}


def test_a_registry_of_nothing_is_empty():
    assert registry(table()).schema == REGISTRY.schema
    assert source_ids(registry(table()), pl.Series(["https://a.example/x", None], dtype=pl.String)).to_list() == [None, None]


def test_records_are_counted_and_their_facts_kept():
    rows = (
        record("https://doi.org/10.1000/1", at=NOON, collector="b", sha="2", title="later"),
        record("https://a.example/x", "doi:10.1000/1", "issn:0028-0836", at=NOON - timedelta(days=1), collector="a", sha="1"),
        record("https://a.example/x", "doi:10.1000/1", at=NOON - timedelta(hours=1), collector="a", sha="1", title="first"),
        record("https://copy.example/y", sha="1"),
    )
    assert registry(table(*rows, *rows)).row(0, named=True) == {
        "source_id": "doi:10.1000/1", "identifiers": ["doi:10.1000/1", "https://a.example/x"], "records": 3,
        "collectors": ["a", "b"],
        "first_acquired_at": NOON - timedelta(days=1), "last_acquired_at": NOON, "contents": ["1", "2"],
        "same_content_as": ["https://copy.example/y"], "title": "first", "related": ["issn:00280836"], "conflicts": [],
    }  # fmt: skip


def test_a_shared_identifier_makes_one_source_of_different_places():
    rows = record("https://a.example/x", "doi:10.1000/1"), record("http://b.example/y", "https://doi.org/10.1000/1")
    sources = registry(table(*rows))
    assert together(sources) == {frozenset({"doi:10.1000/1", "https://a.example/x", "https://b.example/y"})}
    uris = pl.Series(["http://b.example:80/y#top", "10.1000/1", "https://nowhere.example/z", None])
    assert source_ids(sources, uris).to_list() == ["doi:10.1000/1", "doi:10.1000/1", None, None]


def test_names_of_many_works_join_nothing():
    rows = (record(f"https://a.example/{n}", "https://a.example/", "https://www.youtube.com/@a") for n in range(9))
    sources = registry(table(*rows))
    assert sources.height == 9
    assert sources["related"].to_list() == [["https://a.example/", "https://www.youtube.com/@a"]] * 9
    assert not any(sources["conflicts"].to_list())


def test_what_too_many_places_list_joins_nothing():
    def sources_listed_by(places):
        return registry(table(*(record(f"https://a.example/{n}", "doi:10.1000/data.set") for n in range(places))))

    assert sources_listed_by(MOST_LISTINGS).height == 1
    assert sources_listed_by(MOST_LISTINGS + 1).height == MOST_LISTINGS + 1
    assert sources_listed_by(MOST_LISTINGS + 1)["related"].to_list() == [["doi:10.1000/data.set"]] * (MOST_LISTINGS + 1)


def test_equal_contents_are_shown_and_not_merged():
    rows = (record(f"https://{at}.example/{at}", sha=sha) for at, sha in (("x", "1"), ("y", "1"), ("z", "2")))
    sources = registry(table(*rows))
    assert sources["same_content_as"].to_list() == [["https://y.example/y"], ["https://x.example/x"], []]


A, B = "doi:10.1000/a", "doi:10.1000/b"
GOOD = (record("https://a.example/x", A), record("https://a.example/y", A), record("https://b.example/x", B))


@pytest.mark.parametrize(("wrong", "where", "conflicts"), [
    ((record("https://w.example/w", A, B),), "https://w.example/w", [A, B]),  # a record that contradicts itself
    ((record("https://w.example/w", A), record("https://w.example/w", B)), "https://w.example/w", [A, B]),  # two that do
    ((record("https://a.example/x", "https://b.example/x"),), A, ["https://b.example/x"]),  # a page that says it is another
    ((record("https://doi.org/10.1000/a", B),), A, [B]),
])  # fmt: skip
def test_contradictions_join_nothing_take_nothing_apart_and_are_listed(wrong, where, conflicts):
    sources = registry(table(*GOOD, *wrong))
    assert frozenset({A, "https://a.example/x", "https://a.example/y"}) in together(sources)
    assert frozenset({B, "https://b.example/x"}) in together(sources)
    clashes = sources.select("source_id", "conflicts").filter(pl.col("conflicts").list.len() > 0).rows()
    assert clashes == [(where, conflicts)]


def test_chapters_that_list_their_book_are_not_one():
    isbn = "isbn:9780471117094"
    sources = registry(table(record("https://a.example/1", A, isbn), record("https://a.example/2", B, isbn)))
    assert together(sources) == {frozenset({A, "https://a.example/1"}), frozenset({B, "https://a.example/2"})}
    assert sources["conflicts"].to_list() == [[isbn], [isbn]]


# Few names, so that everything happens: chains, contradictions, pages that are each other.
PLACES = ["https://a.example/1", "http://a.example:80/1", "https://a.example/2", "https://b.example/", "https://doi.org/10.1000/A",
          "doi:10.1000/b", "isbn:0471117099", "9780471117094", "isbn:9780306406157", "https://youtu.be/dQw4w9WgXcQ",
          "https://www.youtube.com/watch?v=dQw4w9WgXcQ", "https://github.com/o/r", "unknown"]  # fmt: skip
ROWS = st.builds(
    record, st.sampled_from(PLACES), st.sampled_from(PLACES), st.sampled_from(PLACES),
    at=st.sampled_from([NOON, NOON + timedelta(days=1)]),
    collector=st.sampled_from("ab"), sha=st.sampled_from([None, "1", "2"]), title=st.sampled_from([None, "s", "t"]),
)  # fmt: skip
LISTS = st.lists(st.lists(ROWS | st.builds(record, st.sampled_from(PLACES)), max_size=6), max_size=5)


@given(LISTS, st.randoms(use_true_random=False))
def test_order_repetition_and_cuts_change_nothing_no_name_of_a_kind_is_two_and_no_record_lost(lists, chance: random.Random):
    rows = [row for part in lists for row in part]
    sources = registry(table(*rows))
    again = [*rows, *chance.choices(rows, k=len(rows))] if rows else []
    chance.shuffle(again)
    cut = chance.randint(0, len(again))
    parts = table(*again[cut:]), table(*again[:cut])
    assert_frame_equal(registry(pl.concat(parts)), sources)
    all_names = [name for names in sources["identifiers"].to_list() for name in names]
    assert len(all_names) == len(set(all_names))
    for names in sources["identifiers"].to_list():
        kinds = [kind for kind in (identify(name).kind for name in names) if kind not in {PAGE, MANY}]
        assert len(kinds) == len(set(kinds))
    assert sources["records"].sum() == len({str(row) for row in rows})
    assert source_ids(sources, pl.Series([row["source_uri"] for row in rows], dtype=pl.String)).null_count() == 0
