"""Works as people see them: titles, links, text, pictures, notes."""

import io
from datetime import UTC, datetime

import polars as pl
import pytest
from PIL import Image
from samples import freeze, table

from provenance.core.tables import SOURCES
from provenance.corpus import records
from provenance.corpus.packages.music import encode
from provenance.corpus.works import Note, link_of, notes_of, picture_of, read_passages, text_of, title_of


def png(size=(40, 20), mode="L") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, 200).save(file, format="PNG")
    return file.getvalue()


def test_passages_have_title_link_licence_and_content(store):
    rows = [
        (f"pkg==1.0/file-{n}.py", f"def function_{n}(): pass\n".encode() * 3, "pkg:pypi/pkg@1.0#file", "MIT", "ann", f"e{n}")
        for n in range(30)
    ]
    rows.append(("https://example.org/poem", b"Roses are red.", "https://example.org/poem", None, "bob", "poem"))
    examples = table("work_id content source_uri licence_spdx owner_id example_id", *rows)
    corpus = freeze(store, {"examples": examples}, shard_examples=4)
    assert len(corpus.shards) > 2
    when = datetime(2026, 11, 1, tzinfo=UTC)
    titled = table(
        "source_uri acquired_at collector evidence title", ("https://example.org/poem", when, "ann", "-", "A  Poem\x07")
    )
    records.append(store, SOURCES, titled)
    found = read_passages(
        store, corpus, {"e7": "pkg==1.0/file-7.py", "poem": "https://example.org/poem", "none": "no-such-work"}
    )
    assert sorted(found) == ["e7", "poem"]
    code, poem = found["e7"], found["poem"]
    assert (code.title, code.licence, code.link) == ("file-7.py (pkg 1.0)", "MIT", "https://pypi.org/project/pkg/1.0/")
    assert code.text.startswith("def function_7()")
    assert (poem.title, poem.licence, poem.link) == ("A Poem", "", "https://example.org/poem")
    assert (poem.picture, poem.notes) == (b"", ())


def test_only_shards_with_the_works_are_read(store, monkeypatch):
    corpus = freeze(store, shard_examples=4)
    name, work = "example_id", "work_id"
    examples = pl.concat([store.read_table(part.key, columns=[name, work]) for part in corpus.shards])
    wanted = dict(examples.filter(pl.col(work) == "work-2-1").rows())
    read_passages(store, corpus, wanted)  # learns where works lie
    keys = []
    plain = type(store).read
    monkeypatch.setattr(type(store), "read", lambda self, key: keys.append(key) or plain(self, key))
    assert read_passages(store, corpus, wanted).keys() == wanted.keys()
    assert 0 < len([key for key in keys if key.startswith("frozen/parts")]) < len(corpus.shards) / 2


@pytest.mark.parametrize(
    ("uri", "link"),
    [
        ("https://example.org/a?b=c", "https://example.org/a?b=c"),
        ("doi:10.1038/nature14539", "https://doi.org/10.1038/nature14539"),
        ("pkg:pypi/music21#bach/bwv1.6.mxl", "https://pypi.org/project/music21/"),
        ("pkg:npm/left-pad@1.0", "https://www.npmjs.com/package/left-pad/v/1.0"),
        ("pkg:nonsense", ""),
        ("javascript:alert(1)", ""),
        ("file:///etc/passwd", ""),
        ("", ""),
    ],
)
def test_links_lead_to_the_web_or_nowhere(uri, link):
    assert link_of(uri) == link


def test_titles_from_ids():
    assert title_of("attrs==26.1.0/attr/_make.py") == "attr/_make.py (attrs 26.1.0)"
    assert title_of("font-lato@1.0/Lato-Bold.ttf") == "Lato-Bold.ttf (font-lato 1.0)"
    assert title_of("https://example.org/x") == "example.org/x"
    assert title_of("work-1") == "work-1"


def test_text_is_safe_and_broken_characters_do_not_matter():
    assert text_of("naïve\x1b[31m\n".encode(), "text") == "naïve\\x1b[31m\n"
    assert text_of("é".encode()[1:] + b"t", "code") == "\ufffdt"
    assert text_of(b"\xff\xfe", "weights") == ""
    assert text_of(b"<xml/>", "molecule") == "<xml/>"


def test_pictures_are_small_pngs():
    shown = Image.open(io.BytesIO(picture_of(png((900, 300)), "image")))
    assert (shown.format, shown.size) == ("PNG", (256, 85))
    assert Image.open(io.BytesIO(picture_of(png(mode="P"), "image"))).size == (40, 20)
    assert picture_of(b"no image", "image") == b""
    assert picture_of(png(), "text") == b""


def test_music_is_notes():
    assert notes_of(encode([(60, 1), (None, 0.5), (64, 2)]), "music") == (
        Note(0.0, 1.0, 60), Note(1.0, 0.5, None), Note(1.5, 2.0, 64),
    )  # fmt: skip
    broken = bytes([200, 60, 200, 62, 64, 200, 250])
    assert [note.pitch for note in notes_of(broken, "music")] == [60, 62, 64]
    assert notes_of(bytes(range(60, 90)), "music") == (), "another coding"
    assert notes_of(bytes([60, 200]), "text") == ()
