"""The page of one output: coloured spans, works side by side, other owners folded, and nothing of strangers runs."""

import re

import pytest
from jinja2 import Environment, PackageLoader, StrictUndefined

from infra.page import template_filters
from infra.page.app import HEADERS, style

HOSTILE = "<script>alert(1)</script>"
NOTES = [{"start": 0.0, "length": 1.0, "pitch": 60, "party": 2}, {"start": 1.0, "length": 0.5, "pitch": None, "party": None}]


def work(**more):
    piece = {"example_id": "e", "pieces": [], "picture": "", "notes": []}
    facts = {"work_id": "w", "title": f"Title {HOSTILE}", "link": "https://example.org/w", "source_uri": "", "licence": "MIT"}
    return facts | {"influence": 1.0, "passages": [piece | more]}


def credit(number, *works, **more):
    shares = {"share_ppb": 100_000_000, "low_ppb": 80_000_000, "high_ppb": 120_000_000, "amount_nanominor": 5_000_000_000}
    names = {"account": "payable", "owner_id": f"o{number}", "escrow_id": None, "owner_name": f"Owner {number} {HOSTILE}"}
    rules = [{"rule": "faithful", "share_ppb": 100_000_000}, {"rule": "flat", "share_ppb": 20_000_000}][: 1 + number % 2]
    own = {"number": number, "sure": "fairly sure", "leading": bool(works), "works": list(works), "rules": rules}
    return names | shares | own | {"top_works": [{"work_id": f"w{number}"}]} | more


def report(**more):
    text = {"example_id": "e", "pieces": [{"text": f"A passage {HOSTILE}", "word_for_word": 1}]}
    credits = [credit(1, work(**text)), credit(2, work(picture="aGVsbG8=")), *(credit(number) for number in range(3, 51))]
    return {
        "output_id": "out", "day": "2026-11-20", "revision": 1, "notice": "", "revenue_minor": 149, "currency": "EUR",
        "content": "x", "prompt": f"What is it? {HOSTILE}", "prompt_notes": [], "modality": "text", "text": "x", "picture": "",
        "notes": [], "without_colour": "", "trust": "Shares rest on 24 counterfactual models.", "credits": credits,
        "fidelity": None,
        "contract": {"name": "all", "rule": "faithful", "fallback": "flat", "weight": 1.0, "developer_ppb": 300_000_000},
        "spans": [
            {"text": f"First {HOSTILE}", "party": 2, "part": 0.6, "strength": 3, "word_for_word": None},
            {"text": " second", "party": 2, "part": 0.3, "strength": 2, "word_for_word": 1},
            {"text": " third", "party": None, "part": 0.1, "strength": 1, "word_for_word": 1},
        ],
        "word_for_word": [{"number": 1, "text": "second third", "works_in_all": 5, "works": [work()]}],
    } | more  # fmt: skip


@pytest.fixture
def page():
    environment = Environment(
        loader=PackageLoader("infra.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(template_filters.FILTERS)
    environment.globals.update(sections=(), predictors=())

    def render(**more):
        return environment.get_template("output.html").render(base="/payouts", airflow="", output=report(**more))

    return render


def test_spans_have_the_colours_and_numbers_of_owners_and_passages_are_underlined(page):
    text = page()
    assert HOSTILE not in text
    answer = re.search(r'<div class="answer">(.*?)</div>', text, re.DOTALL)[1]
    marks = re.findall(r'<mark class="(o\d s\d)" title="([^"]*)">', answer)
    assert [look for look, _ in marks] == ["o1 s3", "o1 s2"]
    assert marks[0][1].startswith("60 % of the influence on these words: Owner 2")
    assert answer.count("<sup>") == 1, "one number for neighbours of one owner"
    assert 'href="#owner-2"' in answer
    assert 'id="owner-2"' in text
    assert re.findall(r'<span class="verbatim">([^<]*)</span>', answer) == [" second", " third"]
    assert "and 4 more works" in text
    assert "What is it? &lt;script&gt;" in text


def test_leading_owners_have_their_works_and_the_others_are_folded(page):
    text = page()
    assert text.count('<article class="credit') == 2
    assert "nine times in ten between 8.00 % and 12.00 %" in text
    assert 'src="data:image/png;base64,aGVsbG8="' in text
    assert re.search(r'<a href="https://example.org/w" rel="noreferrer nofollow"[^>]*>Title &lt;script', text)
    before, folded = text.split("<summary>and 48 others with 480.00 % together</summary>")
    assert "Owner 3 " not in before
    assert "Owner 50 " in folded
    assert "data:" in HEADERS["Content-Security-Policy"]
    assert "script-src" not in HEADERS["Content-Security-Policy"]


def test_music_is_a_piano_roll_in_the_colours_of_owners(page):
    text = page(notes=NOTES, prompt_notes=NOTES, spans=[], modality="music", word_for_word=[])
    rolls = re.findall(r'<svg class="roll[^"]*".*?</svg>', text, re.DOTALL)
    assert len(rolls) == 2
    assert 'aria-label="Notes: C4 -"' in rolls[0]
    assert rolls[0].count("<rect") == 1, "a rest is not drawn"
    assert 'class="owned o1"' in rolls[1], "whose works the notes rest on"
    assert "<pre" not in text


def test_pictures_and_what_is_none_of_these_are_shown(page):
    assert 'class="drawn" src="data:image/png;base64,aGVsbG8="' in page(picture="aGVsbG8=", spans=[], prompt="")
    plain = page(spans=[], text="", modality="molecule", without_colour="Not cut <b>into</b> spans.")
    assert '<pre tabindex="0">x</pre>' in plain
    assert "Not cut &lt;b&gt;into&lt;/b&gt; spans." in plain


def test_every_class_of_the_templates_has_a_style(page):
    text = page(notes=NOTES) + page()
    used = {name for names in re.findall(r'class="([^"]+)"', text.split("<main")[-1]) for name in names.split()}
    styled = set(re.findall(r"\.([a-z][\w-]*)", bytes(style().body).decode()))
    # Without a look of their own.
    assert used - styled <= {"s1", "of", "head", "text", "cards", "code", "name", "n"}
