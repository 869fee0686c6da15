"""`provenance model check`: what can be believed of a model, before its first night."""

import hashlib
import json
import shutil
import sys

import numpy as np
import polars as pl
import pytest
import torch
from runs import BEGIN, END, TEXTS, lora, make_base, make_tokenizer, train
from samples import lay_corpus_out, reword, table

from provenance.core.settings import Settings
from provenance.features.room import TRANSIENT
from provenance.models.adapters.causal_lm import CausalLM
from provenance.models.importing.importing import Request, import_run
from provenance.validation import model_check

SETTINGS = Settings.model_validate({"features": {"dense": 64, "token_rank": 4}})


class Noisy(CausalLM):
    """A language model whose loss is drawn anew each time."""

    def loss(self, module, batch):
        return super().loss(module, batch) * (1 + torch.rand(1))


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(model_check, "ROUNDS", 1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def imported(base, folder, adapter=None):
    run = train(base, folder / "run", adapter=adapter)
    import_run(Request(run, folder / "model", base=base, begin=BEGIN, end=END))
    return folder / "model"


@pytest.fixture(scope="module")
def full(base, tmp_path_factory):
    return imported(base, tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def adapted(base, tmp_path_factory):
    return imported(base, tmp_path_factory.mktemp("lora"), lora())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return corpus_of(tmp_path_factory.mktemp("corpora"), TEXTS)


def corpus_of(folder, texts):
    rows = ((f"work-{number}", text.encode(), f"owner-{number % 5}") for number, text in enumerate(texts))
    lay_corpus_out(folder, {"examples": table("work_id content owner_id", *rows)})
    return folder / "corpus"


@pytest.fixture
def spoiled(full, tmp_path):
    return shutil.copytree(full, tmp_path / "spoiled")


def check(folder, **how):
    return model_check.check_model(folder, SETTINGS, **how)


def test_a_good_model_passes_with_what_it_costs(full, corpus):
    checked = check(full, corpus=corpus)
    assert checked.failed == checked.warnings == []
    assert checked.model["architecture"] == "LlamaForCausalLM"
    assert checked.model["trainable"] == checked.model["parameters"]
    assert checked.losses["last"] < checked.losses["first"] < checked.losses["uniform"] + 0.5
    assert checked.losses["unit"] == "token"
    assert checked.followed["share"] > 0.98
    assert checked.followed["largest_deviation"] < checked.followed["tolerance"]
    assert all(-1 <= value <= 1 for value in checked.agreement.values())
    assert set(checked.agreement) >= {"inner", "head"}
    cost = checked.cost
    assert (cost["examples"], cost["checkpoints"]) == (40, 2)
    each = cost["seconds_per_example"]["features"]
    assert cost["features_of_the_corpus"]["seconds"] == pytest.approx(40 * 2 * each)
    assert cost["features_of_the_corpus"]["bytes"] == pytest.approx(80 * cost["bytes_per_example"], rel=0.01)
    step = cost["seconds_per_example"]["forward_and_backward"]
    assert cost["all_trainings"]["seconds"] == pytest.approx(16 * 4.0 * 40 * step)
    assert json.dumps(checked.cost)


def test_losses_are_those_of_transformers(full, base, corpus):
    from transformers import AutoModelForCausalLM

    module, tokenizer = AutoModelForCausalLM.from_pretrained(full.parent / "run/checkpoint-20"), make_tokenizer()
    some = model_check.LOOKED_AT
    contents = pl.read_parquet(corpus / "examples.parquet")
    by_digest = sorted(contents["content"].to_list(), key=lambda content: hashlib.sha256(content).hexdigest())
    rows = [tokenizer(BEGIN + content.decode() + END)["input_ids"] for content in by_digest[:some]]
    with torch.no_grad():
        pairs = [(torch.tensor([ids]), len(ids) - 1) for ids in rows]
        losses = [float(module(input_ids=ids, labels=ids).loss) * count for ids, count in pairs]
    expected = np.sum(losses) / sum(len(ids) - 1 for ids in rows)
    assert check(full, corpus=corpus).losses["last"] == pytest.approx(expected, rel=1e-5)


def test_of_an_adapter_only_what_is_trained_counts(adapted, base, corpus):
    checked = check(adapted, corpus=corpus)
    assert checked.failed == []
    assert checked.model["peft"] == "LoRA, rank 4, on q_proj, v_proj"
    assert checked.model["base"] == str(base)
    assert checked.model["trainable"] == 512 < checked.model["parameters"]
    assert checked.followed["share"] == 1.0
    assert checked.cost["bytes_of_a_counterfactual_model"] == 2 * 512 * 4


def test_a_wrong_tokenizer_betrays_itself(spoiled, corpus):
    tokenizer = json.loads((spoiled / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    names = list(vocabulary)[3:]
    turned = dict(zip(names, (vocabulary[name] for name in reversed(names)), strict=True))
    tokenizer["model"]["vocab"] = vocabulary | turned
    (spoiled / "tokenizer.json").write_text(json.dumps(tokenizer))
    checked = check(spoiled, corpus=corpus)
    assert any("the tokenizer or the framing" in sentence for sentence in checked.failed)
    assert any("a uniform guess" in sentence for sentence in checked.failed)


def test_examples_and_outputs_that_have_no_likelihood_are_counted(full, corpus, tmp_path):
    folder = corpus_of(tmp_path, [*TEXTS[:6], "stone " * 200])
    checked = check(full, corpus=folder)
    assert len(checked.failed) == 1
    assert checked.failed[0].startswith("1 of 7 examples of the corpus have no likelihood")
    assert checked.cost is not None, "the others are looked at"
    outputs = pl.DataFrame({"output_id": ["a", "b"], "content": [b"a river", b"stone " * 200]})
    outputs.write_parquet(tmp_path / "outputs.parquet")
    checked = check(full, corpus=corpus, outputs=tmp_path / "outputs.parquet")
    assert [sentence[:24] for sentence in checked.failed] == ["1 of 2 outputs have no l"]
    assert checked.cost["outputs"] == 2
    assert checked.cost["features_of_the_outputs"]["seconds"] > 0


def test_a_loss_that_is_drawn_anew_fails(spoiled, corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "noisy", sys.modules[__name__])
    reword(spoiled / "model.toml", 'adapter = "CausalLM"', 'adapter = "noisy:Noisy"')
    checked = check(spoiled, corpus=corpus)
    assert any("draws random numbers" in sentence for sentence in checked.failed)
    assert checked.cost is None


def test_what_cannot_be_retrained_is_a_warning(spoiled, corpus):
    text = (spoiled / "model.toml").read_text()
    (spoiled / "model.toml").write_text(text.replace("max_grad_norm = 1.0\n", "").replace("epochs = 4.0\n", ""))
    checked = check(spoiled, corpus=corpus)
    assert checked.failed == []
    assert "epochs, max_grad_norm" in checked.warnings[0]
    assert checked.cost["all_trainings"] is None


def test_without_a_corpus_only_the_folder_is_looked_at(full):
    checked = check(full)
    assert checked.losses is checked.followed is checked.cost is None
    assert "--corpus" in checked.warnings[0]
    assert checked.model["checkpoints"] == [0, 5, 10, 15, 20]


def test_the_command_says_what_it_found_and_how_it_ended(full, spoiled, corpus, tmp_path, shown, refused, command_line):
    screen = shown("model", "check", str(full), "--corpus", str(corpus), "--device", "cpu")
    for words in ("LlamaForCausalLM", "nats a token", "Followed:", "retraining", "All checks passed", "Cost"):
        assert words in screen
    data = shown("model", "check", str(full), "--corpus", str(corpus), "--device", "cpu", "--json")
    assert data["failed"] == []
    assert "a corpus folder" in refused("model", "check", str(full), "--corpus", str(tmp_path / "nothing"), "--device", "cpu")
    assert "no such file" in refused("model", "check", str(tmp_path), "--device", "cpu")
    folder = corpus_of(tmp_path, [*TEXTS[:6], "stone " * 200])
    code, out, err = command_line("model", "check", str(full), "--corpus", str(folder), "--device", "cpu", "--json")
    assert code == 1
    assert len(json.loads(out)["failed"]) == 1
    assert "1 of the checks failed" in err


def test_times_are_those_of_passes_that_fit_the_memory_of_a_night(full, corpus, monkeypatch):
    given = []
    gradient_features = model_check.gradient_features
    monkeypatch.setattr(
        model_check, "gradient_features", lambda *args, **how: given.append(how["memory"]) or gradient_features(*args, **how)
    )
    assert check(full, corpus=corpus).failed == []
    assert set(given) == {SETTINGS.features.memory_gb * 1e9 / TRANSIENT}
