"""`provenance init`: a set-up of a model and a Parquet file, ready for a night."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from runs import BEGIN, END, TEXTS, make_base, train
from trainers import corpus, tiny_llama, trainer

from provenance.core.errors import ContractError, InputError, ModelError
from provenance.corpus.delivery import read_corpus_folder
from provenance.corpus.outputs import read_outputs
from provenance.local.setup import Setup, choose, make
from provenance.models.importing.importing import Request
from provenance.models.model import read_model
from provenance.models.recording import Recorder
from provenance.validation.model_check import check_model
from tasks.settings import load

DAY = date(2026, 11, 19)
ROWS = {"text": ["one stone", "two clouds", "three rivers", "four"], "author": ["Ann", "Bob", " Ann ", None]}


def rows(path, **columns):
    pl.DataFrame({**ROWS, **columns}).write_parquet(path / "train.parquet")
    return path / "train.parquet"


def made(tmp_path, model, file, trial=None, **columns):
    importing = Request(model, tmp_path, begin=BEGIN, end=END)
    return make(Setup(tmp_path / "mine", model, file, columns, importing, trial))


def delivered(tmp_path):
    return read_corpus_folder(tmp_path / "mine/store/corpus")


def test_a_file_becomes_a_corpus_with_its_owners(tmp_path, tiny_model):
    report = made(tmp_path, tiny_model, rows(tmp_path))
    assert report.columns == {"content": "text", "prompt": None, "owner": "author", "work": None}
    assert sorted(report.guessed) == ["content", "owner"]
    corpus = delivered(tmp_path)
    assert corpus.examples["content"].to_list() == [text.encode() for text in ROWS["text"]]
    assert corpus.examples["owner_id"].to_list() == ["Ann", "Bob", "Ann", None]
    assert corpus.examples["unmatched_reason"].to_list() == [None, None, None, "no owner is named"]
    assert corpus.owners["name"].to_list() == ["Ann", "Bob"]
    assert report.counts == {"examples": 4, "owners": 2, "works": 4}


def test_the_settings_keep_everything_in_the_folder(tmp_path, tiny_model):
    made(tmp_path, tiny_model, rows(tmp_path))
    folder = tmp_path / "mine"
    settings = load({"PROVENANCE_SETTINGS": str(folder / "settings.toml")})
    assert settings.store.url == f"file://{folder}/store"
    assert settings.model.folder == tiny_model, "a model folder stays where it is"
    assert settings.royalty.contracts == folder / "contracts.toml"
    assert settings.royalty.contracts.is_file()
    for place in (settings.model.cache, Path(settings.database.folder), settings.settlement.key, Path(settings.lineage.folder)):
        assert place.is_relative_to(folder)


def test_columns_may_be_named_and_works_have_several_rows(tmp_path, tiny_model):
    file = rows(tmp_path, body=["a", "b", "c", "d"], book=["x", "x", "y", "y"], by=["Cid"] * 4, ask=["q", None, "r", "s"])
    report = made(tmp_path, tiny_model, file, content="body", owner="by", work="book", prompt="ask")
    examples = delivered(tmp_path).examples
    assert examples["work_id"].to_list() == ["x", "x", "y", "y"]
    assert examples["position"].to_list() == [0, 1, 0, 1]
    assert examples["prompt"].to_list() == [b"q", None, b"r", b"s"]
    assert report.guessed == []


def test_a_list_of_owners_is_claims_in_equal_parts(tmp_path, tiny_model):
    file = rows(tmp_path, author=[["Bob", "Ann"], ["Ann"], [], None])
    made(tmp_path, tiny_model, file)
    corpus = delivered(tmp_path)
    assert corpus.claims.select("work_id", "owner_id", "stake_ppb").rows() == [
        ("row-0000000", "Ann", 500_000_000), ("row-0000000", "Bob", 500_000_000), ("row-0000001", "Ann", 1_000_000_000),
    ]  # fmt: skip
    assert corpus.examples["unmatched_reason"].null_count() == 2


def test_messages_are_a_prompt_and_an_answer(tmp_path, tiny_model):
    user, answer = {"role": "user", "content": "why?"}, {"role": "assistant", "content": "so"}
    system = {"role": "system", "content": "be short"}
    other = [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "so"}]
    pl.DataFrame({"messages": [[user, answer], [system, user, answer]], "author": "Ann"}).write_parquet(tmp_path / "a.parquet")
    report = made(tmp_path, tiny_model, tmp_path / "a.parquet")
    examples = delivered(tmp_path).examples
    assert examples["content"].to_list() == [b"so", b"so"]
    assert examples["prompt"][0] == b"why?"
    assert json.loads(examples["prompt"][1]) == [system, user]
    assert report.columns["content"] == "messages"
    pl.DataFrame({"conversations": [other], "author": ["Ann"]}).write_parquet(tmp_path / "b.parquet")
    (tmp_path / "second").mkdir()
    made(tmp_path / "second", tiny_model, tmp_path / "b.parquet")
    assert delivered(tmp_path / "second").examples.select("content", "prompt").row(0) == (b"so", b"why?")


def test_answers_are_to_the_whole_prompts(tiny_model):
    model = read_model(tiny_model)
    adapter, module = model.adapter(), model.load(model.card.checkpoints[-1])
    read = []
    module.register_forward_pre_hook(lambda _, __, given: read.append(given["input_ids"].tolist()), with_kwargs=True)
    prompts = [b"a much longer prompt", b"short", b"first"]
    answers = adapter.complete(module, prompts, length=1, temperature=0.7, seed=3)
    begin = [] if adapter.begin is None else [adapter.begin]
    assert read == [[[*begin, *b"short"], [*begin, *b"first"]], [[*begin, *b"a much longer prompt"]]]
    assert [len(answer) for answer in answers] == [1, 1, 1]


def test_a_guess_is_never_the_same_column_twice():
    columns, guessed = choose(["text", "source"], {"work": "source", "owner": "source"}, "file")
    assert columns == {"content": "text", "prompt": None, "owner": "source", "work": "source"}
    assert guessed == ["content"]
    assert choose(["text", "owner", "prompt", "id"], {"work": "none"}, "file")[0]["work"] is None


@pytest.mark.parametrize(
    ("columns", "stated", "message"),
    [
        ({"author": None}, {}, "a column with the owner of each example.*--owner COLUMN"),
        ({"text": None}, {}, "a column with the content of each example"),
        ({}, {"owner": "autor"}, "Did you mean 'author'"),
        ({"text": ["a", "", "c", "d"]}, {}, "row 1: column 'text'"),
        ({"text": [1, 2, 3, 4]}, {}, "expected text, or messages, found Int64"),
        ({"book": ["x", None, "y", "z"]}, {"work": "book"}, "1 empty ones"),
        ({"author": ["a\nb", "b", "c", "d"]}, {}, "owner_id"),
        ({"book": ["x"] * 4}, {"work": "book"}, "owner"),
        (
            {"messages": [[{"role": "user", "content": "x"}]] * 4},
            {"content": "messages"},
            "row 0: .*an answer of the assistant",
        ),
        ({"messages": [[{"role": "user"}]] * 4}, {"content": "messages"}, "messages with role and content"),
        (
            {"book": ["x"] * 4, "author": [["A"], ["B"], ["A"], ["A"]]},
            {"work": "book"},
            "the same owners in all rows of the work",
        ),
    ],
)
def test_what_cannot_be_a_corpus_is_named_and_nothing_is_left(tmp_path, tiny_model, columns, stated, message):
    frame = pl.DataFrame({name: values for name, values in {**ROWS, **columns}.items() if values is not None}, strict=False)
    frame.write_parquet(tmp_path / "train.parquet")
    with pytest.raises(InputError, match=f"(?s){message}"):
        made(tmp_path, tiny_model, tmp_path / "train.parquet", **stated)
    assert [path.name for path in tmp_path.iterdir()] == ["train.parquet"]


def test_files_that_cannot_be_read_are_named(tmp_path, tiny_model):
    with pytest.raises(ContractError, match="no such file"):
        made(tmp_path, tiny_model, tmp_path / "train.parquet")
    (tmp_path / "train.parquet").write_text("text,author\n")
    with pytest.raises(ContractError, match="a Parquet file of examples"):
        made(tmp_path, tiny_model, tmp_path / "train.parquet")
    with pytest.raises(ModelError, match="no such folder"):
        made(tmp_path, tmp_path / "model", rows(tmp_path))
    with pytest.raises(InputError, match="a day that is over"):
        made(tmp_path, tiny_model, rows(tmp_path), trial=datetime.now(UTC).date())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    with pytest.raises(ContractError, match="nothing is written over"):
        made(tmp_path, tiny_model, rows(tmp_path))


def test_a_run_is_imported_and_serves_a_day_with_invented_revenue(tmp_path):
    base = make_base(tmp_path / "base")
    run = train(base, tmp_path / "run", max_steps=10)
    pl.DataFrame({"text": TEXTS, "owner": [f"owner-{n % 5}" for n in range(40)]}).write_parquet(tmp_path / "train.parquet")
    importing = Request(run, tmp_path, base=base)
    report = make(Setup(tmp_path / "mine", run, tmp_path / "train.parquet", {}, importing, DAY))
    model = read_model(tmp_path / "mine/model")
    assert model.card.model_id == "mine"
    assert model.card.adapter_args["begin"] == 1, "measured on the corpus"
    assert report.imported.folder == tmp_path / "mine/model"
    settings = load({"PROVENANCE_SETTINGS": str(tmp_path / "mine/settings.toml")})
    outputs = read_outputs(settings.store.open(), DAY, model_id="mine")
    assert outputs.height > 0
    assert set(outputs["revenue_minor"]) == {100}
    assert "invented" in outputs["notice"][0]
    assert any(text.encode().startswith(outputs["prompt"][0]) for text in TEXTS)


def test_a_recorded_model_has_the_works_of_the_corpus(tmp_path):
    works, contents = corpus(12)
    trainer(tiny_llama(), contents, tmp_path / "run", Recorder(tmp_path / "model", works=works, contents=contents)).train()
    table = pl.DataFrame({"text": [content.decode() for content in contents], "author": "Ann", "work": works})
    table.write_parquet(tmp_path / "train.parquet")
    assert made(tmp_path, tmp_path / "model", tmp_path / "train.parquet").columns["work"] == "work"
    settings = load({"PROVENANCE_SETTINGS": str(tmp_path / "mine/settings.toml")})
    delivery = tmp_path / "mine/store/corpus"
    checked = check_model(tmp_path / "model", settings, corpus=delivery)
    assert not any("A night" in sentence for sentence in [*checked.failed, *checked.warnings])

    examples = pl.read_parquet(delivery / "examples.parquet")
    pl.concat([examples, examples.head(1).with_columns(pl.lit("new").alias("work_id"))]).write_parquet(
        delivery / "examples.parquet"
    )
    warned = check_model(tmp_path / "model", settings, corpus=delivery).warnings
    assert any("unless clearance leaves out what it was not trained on: " in sentence for sentence in warned)
    examples.filter(pl.col("work_id") != works[0]).write_parquet(delivery / "examples.parquet")
    failed = check_model(tmp_path / "model", settings, corpus=delivery).failed
    assert any(f"A night will refuse this model: {tmp_path}/model/manifest.json" in sentence for sentence in failed)


def test_a_recorded_model_with_works_of_other_names_is_refused(tmp_path):
    works, contents = corpus(12)
    trainer(tiny_llama(), contents, tmp_path / "run", Recorder(tmp_path / "model", works=works, contents=contents)).train()
    table = pl.DataFrame({"text": [content.decode() for content in contents], "author": "Ann"})
    table.write_parquet(tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"manifest.json: expected the works .* found work .*\(--work\)"):
        made(tmp_path, tmp_path / "model", tmp_path / "train.parquet")
    assert not (tmp_path / "mine").exists()


def test_the_command_prints_guesses_and_the_way_to_the_first_night(tmp_path, tiny_model, shown):
    words = ("init", str(tmp_path / "mine"), "--model", str(tiny_model), "--corpus", str(rows(tmp_path)))
    screen = shown(*words)
    for line in (
        "author  guessed",
        f"export PROVENANCE_SETTINGS={tmp_path}/mine/settings.toml",
        "model check",
        "ingest_corpus",
        "counterfactuals train",
        "nightly_payouts DAY",
        "store/outputs/day=DAY",
    ):
        assert line in screen
