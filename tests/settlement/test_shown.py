"""An output as people see it: spans with numbers of parties, passages word for word, works side by side, the rest folded."""

import base64
import io
import json

import paid
import polars as pl
import pytest
from PIL import Image
from samples import freeze, table

from provenance.core.money import PPB
from provenance.core.published import current_key, revision_folder
from provenance.core.store import canonical_json
from provenance.core.tables import CREDITS, MATCHES, SPANS
from provenance.corpus.packages.music import encode
from provenance.corpus.works import Passage
from provenance.settlement.exports.shown import EXCERPT, LARGEST, LEADING, melody, passage_data, shown
from provenance.settlement.exports.trust import how_sure

DAY, NIGHT = "2026-10-15", "nights/day=2026-10-15/x"
POEM, PROSE = "Roses are red, Violets are blue — naïve.".encode(), b"The cat sat on the mat, and the dog did not mind."


def credit(owner, share, *works, account="payable"):
    tops = [{"work_id": w, "example_id": f"e-{w}", "source_uri": f"https://example.org/{w}", "influence": 1.0} for w in works]
    row = dict.fromkeys(CREDITS.columns, 0) | {"day": DAY, "output_id": "o", "account": account, "currency": "EUR"}
    named = {"owner_id": owner, "escrow_id": None} if account == "payable" else {"owner_id": None, "escrow_id": owner}
    shares = {"share_ppb": share, "low_ppb": share * 9 // 10, "high_ppb": share * 11 // 10, "amount_nanominor": share}
    return row | named | shares | {"top_works": tops, "rules": []}


@pytest.fixture
def night(store):
    """A night on a corpus of a poem and prose; returns a function that shows an output of it."""
    rows = [("poem", POEM, "e-poem"), ("prose", PROSE, "e-prose")]
    examples = table("work_id content example_id owner_id", *((*row, "ann") for row in rows))
    corpus = freeze(store, {"examples": examples.with_columns(licence_spdx=pl.lit("CC0-1.0"))})
    folder = revision_folder(DAY, 1)
    store.write(f"{folder}/manifest.json", canonical_json({"inputs": {"corpus": corpus.digest}}))
    store.write(current_key(DAY), canonical_json({"revision": 1, "folder": folder, "manifest_sha256": "-"}))

    def show(content, credits, *, spans=(), matches=(), modality="text", prompt=None):
        tables = {"spans": SPANS.frame(list(spans)), "matches": MATCHES.frame(list(matches))}
        writes = {
            name: {"key": f"{NIGHT}/{name}.parquet", "sha256": store.write_table(f"{NIGHT}/{name}.parquet", frame)}
            for name, frame in tables.items()
        }
        store.write(f"{NIGHT}/credits.json", canonical_json({"writes": writes}))
        output = {"output_id": "o", "content": content, "prompt": prompt, "modality": modality}
        data = shown(store, NIGHT, corpus.digest, output, CREDITS.frame(credits))
        json.dumps(data)
        return data

    return show


def span(start, end, owner, part, account="payable", rank=0):
    return ("o", start, end, account, owner, part, 1.0, None, None)


def test_spans_have_the_numbers_of_the_parties_that_they_rest_on(night):
    credits = [credit("ann", PPB // 2, "poem"), credit("bob", PPB // 4), credit("eve", PPB // 4, account="escrow")]
    text = b"One two three. Four five six. Seven. Eight"
    spans = [
        span(0, 14, "bob", 0.9), span(0, 14, "ann", 0.1), span(14, 29, "eve", 0.45, "escrow"), span(29, 36, "ann", 0.39),
    ]  # fmt: skip
    data = night(text, credits, spans=spans)
    pieces = [(piece["text"], piece["party"], piece["strength"]) for piece in data["spans"]]
    assert pieces == [
        ("One two three.", 2, 3), (" Four five six.", 3, 2), (" Seven.", None, 2), (" Eight", None, 0),
    ], "nobody's works stand out below two fifths, and a piece without a span has none"  # fmt: skip
    assert "".join(piece["text"] for piece in data["spans"]).encode() == text


def test_a_span_of_somebody_without_a_share_has_no_number(night):
    data = night(b"One two three.", [credit("ann", PPB)], spans=[span(0, 14, "bob", 0.9)])
    assert [piece["party"] for piece in data["spans"]] == [None]
    assert data["without_colour"] == "No owner's works stand out in any part of it."


def test_an_output_without_colours_says_why(night):
    credits = [credit("ann", PPB)]
    assert night(b"One two.", credits)["without_colour"] == "No output of this night was cut into spans."
    assert night(b"One two.", credits, spans=[span(0, 8, "ann", 0.9)])["without_colour"] == ""
    others = [("other", *span(0, 8, "ann", 0.9)[1:])]
    assert night(b"One two.", credits, spans=others)["without_colour"].startswith(
        "Not cut into spans: of this night only the 1 "
    )


def test_what_stands_word_for_word_is_marked_in_both_and_told_apart(night):
    text = "He wrote: roses are red,\nviolets are blue — naïve. Then the cat sat on the mat.".encode()
    start, end = text.index(b"are red"), text.index(b" Then")
    at = POEM.index(b"are red")
    matches = [("o", start, end, "poem", "e-poem", at, 4)]
    credits = [credit("ann", PPB, "poem", "prose")]
    data = night(text, credits, spans=[span(0, 20, "ann", 1.0)], matches=matches)
    (match,) = data["word_for_word"]
    assert match["text"].encode() == text[start:end]
    assert (match["works_in_all"], match["works"][0]["title"], match["works"][0]["licence"]) == (4, "poem", "CC0-1.0")
    marked = "".join(piece["text"] for piece in data["spans"] if piece["word_for_word"] == 1)
    assert marked.encode() == text[start:end]
    assert {piece["party"] for piece in data["spans"] if piece["word_for_word"]} == {1, None}, "whatever the influence"
    poem, prose = data["shown"][1]
    pieces = [(piece["text"], piece["word_for_word"]) for piece in poem["passages"][0]["pieces"]]
    assert pieces == [("Roses ", None), ("are red, Violets are blue — naïve.", 1)]
    assert [piece["word_for_word"] for piece in prose["passages"][0]["pieces"]] == [None]


def test_leading_parties_are_shown_with_their_works_and_the_others_are_not(night):
    credits = [credit(f"owner-{n:02d}", PPB // 50, "poem") for n in range(50)]
    data = night(b"One two three. Four five six.", credits)
    assert list(data["shown"]) == list(range(1, LARGEST + 1))
    spans = [span(n, n + 1, f"owner-{40 - n:02d}", 0.6) for n in range(10)]
    data = night(b"One two three. Four five six.", credits, spans=spans)
    assert len(data["shown"]) == LEADING
    assert list(data["shown"])[:LARGEST] == list(range(1, LARGEST + 1))
    assert set(list(data["shown"])[LARGEST:]) <= set(range(31, 42)), "who lead spans"
    assert data["shown"][1][0]["title"] == "poem"


def test_music_is_notes_with_the_parties_of_their_stretches(night):
    tune = encode([(60, 1), (None, 0.5), (64, 2)])
    spans = [span(0, 4, "bob", 0.9), span(4, 6, "ann", 0.9)]
    credits = [credit("ann", PPB // 2), credit("bob", PPB // 2)]
    matches = [("o", 0, 6, "poem", "e-poem", 0, 1)]
    data = night(tune, credits, spans=spans, matches=matches, modality="music", prompt=tune[:2])
    assert [(note["pitch"], note["party"]) for note in data["notes"]] == [(60, 2), (None, 2), (64, 1)]
    assert (data["text"], data["spans"], melody(data["prompt_notes"])) == ("", [], "C4")
    assert data["word_for_word"][0]["text"] == "C4 - E4"


def test_a_night_without_the_tables_or_the_corpus_is_shown_without_them(night, store):
    data = night(PROSE, [credit("ann", PPB, "poem")])
    assert [(piece["text"], piece["party"]) for piece in data["spans"]] == [(PROSE.decode(), None)]
    store.remove(f"{NIGHT}/credits.json")
    output = {"output_id": "o", "content": PROSE, "prompt": None, "modality": "text"}
    data = shown(store, NIGHT, "0" * 64, output, CREDITS.frame([credit("ann", PPB, "poem")]))
    assert data["word_for_word"] == []
    assert data["shown"][1][0]["title"] == "poem"


def test_a_long_passage_is_cut_around_what_stands_in_the_output():
    content = ("ä" * 900 + "The one thing that matters." + "ö" * 900).encode()
    at = content.index(b"The one")
    passage = Passage("e", "w", "w", "", "", "", "text", content)
    pieces = passage_data(passage, [(at, at + 27, 7)])["pieces"]
    assert "".join(piece["text"] for piece in pieces if piece["word_for_word"] == 7) == "The one thing that matters."
    text = "".join(piece["text"] for piece in pieces)
    assert len(text.encode()) <= EXCERPT + 12
    assert text.startswith("… ä")
    assert text.endswith("ö …")
    assert passage_data(passage)["pieces"][0]["text"].startswith("ää")


def test_pictures_are_png_files():
    file = io.BytesIO()
    Image.new("L", (12, 12), 99).save(file, format="BMP")
    data = passage_data(Passage("e", "w", "w", "", "", "", "image", file.getvalue()))
    assert Image.open(io.BytesIO(base64.b64decode(data["picture"]))).format == "PNG"
    assert (data["pieces"], data["notes"]) == ([], [])


@pytest.mark.parametrize(
    ("share", "low", "high", "words"),
    [
        (300, 300, 300, "fixed by the contract"),
        (300, 260, 350, "fairly sure"),
        (300, 160, 450, "roughly known"),
        (300, 40, 600, "unsure"),
        (300, 15, 600, "unsure: it may be next to nothing"),
        (0, 0, 10, "unsure: it may be next to nothing"),
    ],
)
def test_how_sure_in_plain_words(share, low, high, words):
    assert how_sure(share, low, high) == words


def test_explain_shows_prompt_parties_and_the_works_behind_them(where, shown):
    paid.pay(where, paid.DAYS[:1])
    data = shown("explain", "o-0000001", "--json")
    assert [credit["number"] for credit in data["credits"]] == list(range(1, 11))
    assert sum(credit["leading"] for credit in data["credits"]) == LARGEST
    assert all(credit["works"] for credit in data["credits"] if credit["leading"])
    assert {credit["sure"] for credit in data["credits"]} == {"fairly sure"}
    assert data["spans"][0]["text"] == "x"
    screen = shown("explain", "o-0000001")
    assert "and 5 others with" in screen
    assert "under each rule" not in screen
    assert "under each rule: faithful" in shown("explain", "o-0000001", "--rules")


def test_explain_draws_text_pictures_and_notes(where, shown):
    from tasks.cli.attribution import output_screen
    from tasks.terminal import Terminal

    paid.pay(where, paid.DAYS[:1])
    report = shown("explain", "o-0000001", "--json")
    report["prompt"] = "What \x1b[31mis it?"
    report["spans"] = [
        {"text": "Long words " * 12, "party": 1, "part": 0.9, "strength": 3, "word_for_word": 1},
        {"text": "of nobody.", "party": None, "part": None, "strength": 0, "word_for_word": None},
    ]
    report["word_for_word"] = [{"text": "Long words", "works_in_all": 7, "works": [{"title": "A Book of Words"}]}]
    terminal = Terminal(width=60, record=True, file=io.StringIO())
    terminal.print(*output_screen(report, 2), sep="\n", soft_wrap=True)
    text = terminal.export_text()
    assert "[1]of nobody." in " ".join(text.replace("│", " ").split()).replace("[1] of", "[1]of")
    assert all(len(line) <= 60 for line in text.splitlines() if line.startswith("│")), "a long answer is wrapped, not cut"
    assert "What \\x1b[31mis it?" in text
    assert "'Long words' stands in A Book of Words; and 6 more" in text
