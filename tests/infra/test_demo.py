"""The demo: what it asks, what it shows at the end, and what it refuses."""

import io
import re
import subprocess
import sys
from dataclasses import replace

import polars as pl
import pytest
from paid import DAYS, pay
from rich.console import Console
from samples import table

from infra import demo
from provenance.core.settings import CHECKOUT
from provenance.corpus.delivery import Corpus
from provenance.models.model import Example
from tasks.settings import load


@pytest.fixture
def corpus():
    """Questions of three owners, one of them unknown; two questions have several owners."""
    rows = [(f"a-{n}", f"What does {name} do?".encode(), None) for n, name in enumerate(("join", "copy", "draw", "scale"))]
    rows += [(f"b-{n}", f"What does {name} do?".encode(), None) for n, name in enumerate(("join", "parse"))]
    rows += [("c-0", b"What does copy do?", "unmatched-c")]
    examples = table("work_id prompt owner_id", *rows).with_columns(split=pl.lit("train"), content=pl.lit(b"An answer."))
    claims = table("work_id owner_id", *((work, work[0]) for work, _, owner in rows if owner is None))
    return Corpus(examples, claims, pl.DataFrame({"owner_id": ["a", "b"]}))


def test_a_day_asks_about_names_of_several_owners_and_of_one(corpus, monkeypatch):
    monkeypatch.setattr(demo, "OWN", 2)
    asked = demo.KINDS["answers"].prompts(corpus, 7)
    assert set(asked[:2]) == {b"What does join do?", b"What does copy do?"}
    assert len(set(asked)) == 4
    assert set(asked[2:]) < {b"What does draw do?", b"What does scale do?", b"What does parse do?"}
    assert asked == demo.KINDS["answers"].prompts(corpus, 7)
    assert any(demo.KINDS["answers"].prompts(corpus, day) != asked for day in range(8, 16)), "days differ"


def test_a_melody_begins_with_notes_that_were_held_out():
    notes = [bytes((60 + n, 200)) * 16 for n in range(4)]
    frame = pl.DataFrame({"content": notes, "split": ["train", "held_out", "held_out", "train"]})
    openings = demo.KINDS["music"].prompts(Corpus(frame, pl.DataFrame(), pl.DataFrame()), 1)
    assert sorted(openings) == [note[: 2 * demo.GIVEN] for note in notes[1:3]]


def test_the_output_shown_is_the_one_with_the_largest_share_of_an_owner():
    columns = "output_id account share_ppb"
    credits = table(columns, ("one", "payable", 5), ("two", "payable", 7), ("two", "escrow", 1), ("three", "escrow", 9))
    assert demo.of_largest_share(credits) == "two"


def test_the_end_shows_owners_an_output_with_its_works_and_what_to_do_next(where):
    store, _ = pay(where, days=DAYS[:1])
    for kind in demo.KINDS.values():
        console = Console(record=True, file=io.StringIO(), width=100)
        demo.show(store, DAYS[0], kind, console)
        screen = console.export_text()
        assert f"Payouts for {DAYS[0]}" in screen
        assert re.search(r"[\d.]+ = .*\(developer, owners, escrow, unattributed\)", screen)
        assert "One output, and the works behind it" in screen
        _, _, end = screen.partition("Try next")
        assert len(end.strip().splitlines()) == 3
        assert end.count("PROVENANCE_SETTINGS=infra/settings/music.toml") == (3 if kind is demo.KINDS["music"] else 0)


def test_kinds_have_stores_ledgers_and_models_of_their_own(monkeypatch):
    folders = set()
    for kind in demo.KINDS.values():
        settings = load({"PROVENANCE_SETTINGS": kind.settings})
        folders |= {settings.store.url, settings.database.folder, str(settings.model.folder)}
    assert len(folders) == 3 * len(demo.KINDS)


@pytest.mark.parametrize(("option", "value"), [("--kind", "musik"), ("--day", "2999-01-01"), ("--day", "yesterday")])
def test_bad_input_is_named(option, value):
    done = subprocess.run(
        [sys.executable, "-m", "infra.demo", option, value], check=False, cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Bad input" in done.stderr
    assert value in done.stderr
    assert ("music" in done.stderr) == (option == "--kind")


def test_a_model_is_trained_once_for_the_same_examples(tmp_path, monkeypatch):
    from provenance.validation.workload import WORKLOADS

    content = [f"Return the number {n} of a thing.".encode() for n in range(4)]
    examples = pl.DataFrame(
        {"example_id": [f"e{n}" for n in range(4)], "work_id": "w", "content": content, "prompt": b"What is it?"}
    ).with_columns(split=pl.lit("train"), content_sha256=pl.lit("0" * 64), source_uri=pl.lit(None, pl.String))
    tiny = replace(WORKLOADS["names"], fresh=_tiny)
    monkeypatch.setitem(WORKLOADS, "names", tiny)
    settings = load({"PROVENANCE_MODEL__FOLDER": str(tmp_path / "model")})
    corpus = Corpus(examples, pl.DataFrame(), pl.DataFrame())
    said = []
    for _ in range(2):
        console = Console(record=True, file=io.StringIO(), width=200)
        demo._model(corpus, settings, console, demo.KINDS["answers"])
        said.append(console.export_text())
    assert re.search("Model: trained in .* s", said[0])
    assert said[1].startswith("Model: reused")

    from provenance.models.model import read_model

    model = read_model(tmp_path / "model")
    answers = demo.KINDS["answers"].answer(model.adapter(), model.load(model.card.checkpoints[-1]), [b"What is it?"] * 3, 1)
    assert all(answers), "an answer has at least one token"
    assert not any(b"<" in answer for answer in answers)


def _tiny(examples, folder):
    from provenance.validation.workload import _language

    assert examples[0] == Example(b"Return the number 0 of a thing.", b"What is it?")
    return _language(examples, folder, width=16, layers=1, epochs=2, subwords=280)
