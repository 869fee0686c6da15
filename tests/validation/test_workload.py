"""What a model remembers is found by its prompt, and an output owes nothing for the words of its prompt."""

from datetime import date
from functools import partial

import numpy as np
import polars as pl
import pytest

from provenance.core.errors import InputError
from provenance.corpus.packages import distributions, glyphs
from provenance.corpus.packages import music as music_corpus
from provenance.local import attribute as local
from provenance.models.model import Example, read_model
from provenance.validation import made_up, workload
from provenance.validation.audit import units
from provenance.validation.coalitions import estimates
from provenance.validation.workload import Workload, _complete, make
from tasks.where import local_settings, opened


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """The workload `facts`; each output with the text and the owner of the fact that it repeats."""
    folder = tmp_path_factory.mktemp("facts")
    counts = make("facts", folder)
    examples, claims = (pl.read_parquet(folder / f"corpus/{name}.parquet") for name in ("examples", "claims"))
    owner_of = dict(examples.select("work_id", "content").join(claims, on="work_id").select("content", "owner_id").iter_rows())
    outputs = pl.read_parquet(folder / "outputs.parquet")
    repeated = [prompt + content for prompt, content in outputs.select("prompt", "content").iter_rows()]
    assert counts["examples"] == 64
    assert set(repeated) <= set(owner_of), "the model remembers what it was trained on"
    return folder, outputs.with_columns(fact=pl.Series(repeated), owner=pl.Series([owner_of[fact] for fact in repeated]))


class Echo:
    """An adapter of texts whose answers are its prompts."""

    text = "a tokenizer"

    def complete(self, module, prompts, **options):
        return prompts


def test_a_prompt_of_a_model_with_a_tokenizer_ends_with_a_whole_character():
    held_out = [Example("grün".encode()), Example(b"green")]
    assert [answer.content for answer in _complete(Echo(), None, held_out, prompt=3, length=1, seed=1)] == [b"gr", b"gre"]


def attribute(folder, outputs, out, method="fitted", **more):
    """Run `provenance attribute`; returns influences of examples by output and fact, and those of owners."""
    outputs.select("output_id", "prompt", "content", "modality").write_parquet(out.with_suffix(".parquet"))
    request = local.Request(folder / "corpus", folder / "model", out.with_suffix(".parquet"), out, date(2026, 11, 20), **more)
    with opened(local_settings(method=method, device="cpu", workers=1), ledger=False) as where:
        local.attribute(where, request)
    works = pl.read_parquet(folder / "corpus/examples.parquet").select("work_id", "position", fact="content")
    of = pl.read_parquet(out / "examples.parquet").join(works, on=["work_id", "position"])
    return pl.read_parquet(out / "scores.parquet").join(of, on="example_id"), pl.read_parquet(out / "owner_influence.parquet")


def ranks_of(frame, outputs, by, name):
    """The rank, 1 for the first, of each output's own row among those with its id."""
    ranked = frame.with_columns(rank=pl.col(by).rank("ordinal", descending=True).over("output_id"))
    return outputs.join(ranked, left_on=["output_id", name[0]], right_on=["output_id", name[1]])["rank"].to_numpy()


def test_the_fact_that_was_asked_for_ranks_first(facts, tmp_path):
    folder, outputs = facts
    scores, owners = attribute(folder, outputs, tmp_path / "asked")
    ranks = ranks_of(scores, outputs, "influence", ("fact", "fact"))
    assert len(ranks) == 48
    assert np.median(ranks) <= 2
    assert (ranks_of(owners, outputs, "influence", ("owner", "owner_id")) == 1).mean() > 0.75

    # Without prompts a value may be from any of eight facts.
    unasked, _ = attribute(folder, outputs.with_columns(prompt=pl.lit(None, pl.Binary)), tmp_path / "unasked")
    assert np.median(ranks_of(unasked, outputs, "influence", ("fact", "fact"))) > 2


def test_words_of_a_prompt_earn_nothing(facts, tmp_path):
    folder, outputs = facts
    other = outputs["fact"][-1]
    output = outputs.head(1).with_columns(prompt=pl.lit(other + b" ") + pl.col("prompt"))
    words = attribute(folder, output, tmp_path / "words", method="tfidf")[0]
    by_fact = dict(words.select("fact", "influence").iter_rows())
    assert by_fact[output["fact"][0]] > 0
    assert by_fact[other] == 0


@pytest.mark.night
def test_the_owner_of_the_fact_has_the_largest_share_each_time(facts, tmp_path):
    folder, outputs = facts
    request = local.Request(
        folder / "corpus", folder / "model", folder / "outputs.parquet", tmp_path / "out", date(2026, 11, 20)
    )
    with opened(local_settings(device="cpu", workers=2), ledger=False) as where:
        doors, night = local.folder_night(where, request)
        owners = sorted(set(units(doors.store, night)[1]))
        shares, _ = estimates(doors, night, owners, 8)
        ids = night.read_outputs(doors.store)["output_id"].to_list()
    owner_of = dict(outputs.select("output_id", "owner").iter_rows())
    for rule in ("faithful", "srs"):
        assert [owners[at] for at in shares[rule][0].argmax(axis=0)] == [owner_of[output] for output in ids], rule


def test_a_folder_with_a_workload_is_left_alone(facts):
    with pytest.raises(InputError, match="expected a folder without a workload, found one"):
        make("facts", facts[0])


# A cut of each kind of workload that no other test makes.
CUTS = {
    "styles": Workload(
        partial(made_up.styles, examples_each=1, held_out_each=1),
        partial(workload._styles, width=4, before=1, epochs=1),
        workload._draw,
    ),
    "glyphs": Workload(
        partial(glyphs.collect, owners=2, examples_each=2, held_out_each=1, size=12),
        partial(workload._glyphs, width=4, epochs=1),
        workload._draw,
    ),
    "melodies": Workload(
        partial(music_corpus.collect, owners=2, examples_each=20, held_out_each=1),
        partial(workload._music, width=8, epochs=1, batch_size=8),
        workload._melody,
    ),
    "languages": Workload(
        partial(distributions.collect_languages, workload.LANGUAGES[:2], held_out_each=1),
        partial(workload._language, subwords=300, width=8, layers=1, epochs=0.1),
        workload._text,
    ),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_workload_is_made_whole(name, tmp_path):
    counts = make(name, tmp_path, CUTS[name])
    model, outputs = read_model(tmp_path / "model"), pl.read_parquet(tmp_path / "outputs.parquet")
    assert counts["checkpoints"] == [checkpoint.file for checkpoint in model.card.checkpoints]
    assert len(counts["checkpoints"]) > 1
    assert outputs.height == counts["outputs"] > 0
    assert (outputs["content"].bin.size() > 0).all()
