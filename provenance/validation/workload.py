"""Makes workloads for audits: a corpus with real owners, a small model trained on it, and outputs.

    OUT/corpus/      examples, claims, owners
    OUT/model/       model.toml and checkpoints
    OUT/outputs.parquet

Half of the outputs are works that the model never saw, half are answers of the model.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from provenance.core.errors import InputError
from provenance.core.progress import PROGRESS
from provenance.core.settings import CHECKOUT
from provenance.corpus.delivery import Corpus
from provenance.corpus.packages import distributions, glyphs
from provenance.corpus.packages import music as music_corpus
from provenance.models.model import read_model

log = logging.getLogger("provenance.workload")

QUERIES = 24
SEED = 1
# Kinds of text from installed distributions, as different as possible, of different lengths.
LANGUAGES = (
    distributions.Language("apache-airflow-core", ".json", 40),  # translations
    distributions.Language("botocore", ".json", 32),
    distributions.Language("matplotlib", ".afm", 24),
    distributions.Language("torch", ".h", 40),
    distributions.Language("numpy", ".csv", 16),
    distributions.Language("googleapis-common-protos", ".proto", 32),
    distributions.Language("tzdata", ".tab", 24),
    distributions.Language("asyncpg", ".pyx", 40),
)


@dataclass(frozen=True)
class Workload:
    """The recipe of a workload.

    Attributes:
        collect: returns the corpus.
        fresh: returns an adapter that can train, from the corpus' contents and the folder for its files.
        answer: returns outputs of the trained model for some held-out contents.
    """

    collect: Callable[[], Corpus]
    fresh: Callable[[list[bytes], Path], Any]
    answer: Callable[[Any, Any, list[bytes]], list[bytes]]


def make(name: str, out: Path) -> dict[str, Any]:
    """Write a workload; returns its counts."""
    workload = WORKLOADS[name]
    if (out / "outputs.parquet").exists():
        raise InputError(str(out), expected="a folder without a workload", found="one", hint="Remove it, or name another.")
    corpus = workload.collect()
    (out / "corpus").mkdir(parents=True, exist_ok=True)
    train = corpus.examples.filter(pl.col("split") == "train")
    for table, frame in (("examples", train), ("claims", corpus.claims), ("owners", corpus.owners)):
        frame.write_parquet(out / "corpus" / f"{table}.parquet")
    shutil.rmtree(out / "model", ignore_errors=True)

    def tell(done: int, steps: int, _: float) -> None:
        log.info(PROGRESS, "training", done, steps)

    (out / "model").mkdir()
    contents = train["content"].to_list()
    workload.fresh(contents, out / "model").train(contents, seed=SEED, folder=out / "model", model_id=name, progress=tell)
    held_out = corpus.examples.filter(pl.col("split") == "held_out")["content"].to_list()
    held_out.sort(key=lambda content: hashlib.sha256(content).digest())
    model = read_model(out / "model")
    module = model.load(model.card.checkpoints[-1])
    own = workload.answer(model.adapter(), module, held_out[-QUERIES:])
    rows = [
        {"output_id": f"{kind}-{number:02d}", "content": content, "modality": train["modality"][0]}
        for kind, outputs in (("held-out", held_out[:QUERIES]), ("own", own))
        for number, content in enumerate(outputs)
    ]
    pl.DataFrame(rows).write_parquet(out / "outputs.parquet")
    return {
        "examples": train.height,
        "owners": corpus.owners.height,
        "outputs": len(rows),
        "parameters": sum(p.numel() for p in module.parameters()),
        "checkpoints": [checkpoint.file for checkpoint in model.card.checkpoints],
    }


def _code(count: int, each: int) -> Corpus:
    corpus = distributions.collect(CHECKOUT / "infra/requirements/run.txt", distributions=count, examples_each=each)
    readable = pl.Series([_is_utf8(content) for content in corpus.examples["content"]])
    return replace(corpus, examples=corpus.examples.filter(readable))


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _tokenizer(contents: list[bytes], vocabulary: int, folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<begin>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([content.decode() for content in contents], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def _language(contents: list[bytes], folder: Path, *, width: int, layers: int, epochs: float, subwords: int = 0) -> Any:
    """A transformer that reads a vocabulary of subwords, or bytes if `subwords` is 0."""
    from transformers import LlamaConfig

    from provenance.models.adapters.causal_lm import CausalLM

    if subwords:
        _tokenizer(contents, subwords, folder)
    LlamaConfig(
        vocab_size=subwords or 257,
        hidden_size=width,
        intermediate_size=5 * width // 2,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=0 if subwords else 256,
        eos_token_id=None,
    ).save_pretrained(folder)
    return CausalLM(folder, epochs=epochs)


def _music(_contents: list[bytes], folder: Path, *, width: int, epochs: float) -> Any:
    from transformers import GPT2Config

    from provenance.models.adapters.event_sequence import EventSequence

    GPT2Config(
        vocab_size=257, n_embd=width, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=256, eos_token_id=None,
    ).save_pretrained(folder)  # fmt: skip
    return EventSequence(folder, epochs=epochs)


def _glyphs(_contents: list[bytes], folder: Path, *, width: int, epochs: float) -> Any:
    from provenance.models.adapters.denoiser import Denoiser

    return Denoiser(folder, size=12, width=width, epochs=epochs, batch_size=8, spread=2)


def _complete(
    adapter: Any, module: Any, held_out: list[bytes], *, prompt: int = 64, length: int, temperature: float = 0.7
) -> list[bytes]:
    prompts = [content[:prompt] for content in held_out]
    if getattr(adapter, "tokenizer", None) is not None:
        prompts = [cut.decode(errors="ignore").encode() for cut in prompts]  # no half of a character
    return list(adapter.complete(module, prompts, length=length, temperature=temperature, seed=SEED))


def _draw(adapter: Any, module: Any, held_out: list[bytes]) -> list[bytes]:
    return list(adapter.sample(module, len(held_out), seed=SEED))


_melody, _text = partial(_complete, prompt=16, length=48, temperature=1.0), partial(_complete, length=60)
WORKLOADS = {
    "code": Workload(partial(_code, 32, 24), partial(_language, width=64, layers=2, epochs=8), partial(_complete, length=192)),
    "subwords": Workload(partial(_code, 32, 24), partial(_language, subwords=1500, width=64, layers=2, epochs=12), _text),
    "large": Workload(partial(_code, 24, 16), partial(_language, subwords=3000, width=128, layers=4, epochs=30), _text),
    "glyphs": Workload(
        partial(glyphs.collect, owners=12, examples_each=16, held_out_each=4, size=12),
        # A long training in small steps on few letters: otherwise its random order changes more than the corpus does.
        partial(_glyphs, width=24, epochs=400),
        _draw,
    ),
    "music": Workload(
        partial(music_corpus.collect, owners=24, examples_each=40, held_out_each=3),
        partial(_music, width=64, epochs=20),
        _melody,
    ),
    # Few owners, so that audits of royalty rules can train every coalition of them.
    "languages": Workload(
        partial(distributions.collect_languages, LANGUAGES[:6], held_out_each=6, copied="botocore"),
        partial(_language, width=32, layers=2, epochs=8),
        partial(_complete, length=128),
    ),
    "eight": Workload(
        partial(distributions.collect_languages, LANGUAGES, held_out_each=6),
        partial(_language, subwords=600, width=48, layers=2, epochs=10),
        _text,
    ),
    "designers": Workload(
        partial(glyphs.collect, owners=8, examples_each=24, held_out_each=4, size=12),
        partial(_glyphs, width=12, epochs=60),
        _draw,
    ),
    "composers": Workload(
        partial(music_corpus.collect, owners=8, examples_each=32, held_out_each=4),
        partial(_music, width=32, epochs=16),
        _melody,
    ),
}
