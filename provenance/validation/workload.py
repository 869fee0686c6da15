"""Makes workloads for audits: a corpus with real owners, a small model trained on it, and outputs.

    OUT/corpus/      examples, claims, owners
    OUT/model/       model.toml and checkpoints
    OUT/outputs.parquet

Half of the outputs are works that the model never saw (`facts`: facts that it remembers), half are answers of the model.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from provenance.core.errors import InputError
from provenance.core.progress import PROGRESS
from provenance.core.settings import CHECKOUT
from provenance.corpus.delivery import Corpus
from provenance.corpus.packages import answers, distributions, glyphs
from provenance.corpus.packages import music as music_corpus
from provenance.models.model import Example, examples_in, read_model, with_prompts
from provenance.validation import made_up

log = logging.getLogger("provenance.workload")

QUERIES = 24
SEED = 1
END = 1  # the token that ends an answer, in vocabularies of subwords
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
        fresh: returns an adapter that can train, from the examples for training and the folder for its files.
        answer: returns outputs of the trained model for some held-out examples, drawn with the keyword `seed`.
    """

    collect: Callable[[], Corpus]
    fresh: Callable[[list[Example], Path], Any]
    answer: Callable[..., list[Example]]


def make(name: str, out: Path, workload: Workload | None = None, *, device: str = "cpu") -> dict[str, Any]:
    """Write a workload; returns its counts.

    Args:
        workload: by default the one of that name in `WORKLOADS`.
        device: where the model is trained; it is asked on the CPU, whose random numbers are the same everywhere.
    """
    workload = workload or WORKLOADS[name]
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
    examples = examples_in(train)
    adapter = workload.fresh(examples, out / "model")
    options = {"seed": SEED, "folder": out / "model", "model_id": name, "progress": tell, "device": device}
    with_prompts(adapter.train, examples, name, **options)
    held_out = examples_in(corpus.examples.filter(pl.col("split") == "held_out"))
    held_out.sort(key=lambda example: hashlib.sha256(b"".join(filter(None, example))).digest())
    model = read_model(out / "model")
    module = model.load(model.card.checkpoints[-1])
    own = workload.answer(model.adapter(), module, held_out[-QUERIES:], seed=SEED)
    rows = [
        {"output_id": f"{kind}-{number:02d}", "modality": train["modality"][0], **example._asdict()}
        for kind, outputs in (("held-out", held_out[:QUERIES]), ("own", own))
        for number, example in enumerate(outputs)
    ]
    pl.DataFrame(rows, schema_overrides={"prompt": pl.Binary}).write_parquet(out / "outputs.parquet")
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


def _tokenizer(examples: list[Example], vocabulary: int, folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<begin>", "<end>"] if any(example.prompt for example in examples) else ["<begin>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text.decode() for example in examples for text in (example.prompt, example.content) if text]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def _language(
    examples: list[Example], folder: Path, *, width: int, layers: int, epochs: float, subwords: int = 0, batch_size: int = 32
) -> Any:
    """A transformer that reads a vocabulary of subwords, or bytes if `subwords` is 0. Answers to prompts then have an end."""
    from transformers import LlamaConfig

    from provenance.models.adapters.causal_lm import CausalLM

    if subwords:
        _tokenizer(examples, subwords, folder)
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
    ends = subwords and any(example.prompt for example in examples)
    return CausalLM(folder, end=END if ends else None, epochs=epochs, batch_size=batch_size)


def _music(_examples: list[Example], folder: Path, *, width: int, epochs: float, batch_size: int = 32) -> Any:
    from transformers import GPT2Config

    from provenance.models.adapters.event_sequence import EventSequence

    GPT2Config(
        vocab_size=257, n_embd=width, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=256, eos_token_id=None,
    ).save_pretrained(folder)  # fmt: skip
    return EventSequence(folder, epochs=epochs, batch_size=batch_size)


def _glyphs(_examples: list[Example], folder: Path, *, width: int, epochs: float) -> Any:
    from provenance.models.adapters.denoiser import Denoiser

    return Denoiser(folder, size=12, width=width, epochs=epochs, batch_size=8, spread=2)


def _styles(_examples: list[Example], folder: Path, *, width: int, before: float, epochs: float) -> Any:
    """A UNet that has learnt to draw from drawings of nobody, as the model before its first step in the eight styles."""
    from diffusers import DDPMScheduler, UNet2DModel

    from provenance.models.adapters.diffusion import CONFIG, SCHEDULER, Diffusion
    from provenance.models.writing import write_card

    first = folder.with_name("pretrained")
    first.mkdir(exist_ok=True)
    UNet2DModel(
        sample_size=16, in_channels=1, out_channels=1, block_out_channels=(width, 2 * width), layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), add_attention=False,
        norm_num_groups=4,
    ).save_config(first)  # type: ignore[attr-defined]  # fmt: skip
    DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2").save_pretrained(first)  # type: ignore[attr-defined]
    Diffusion(first, epochs=before, keep=(1.0,)).train(made_up.drawings(128), seed=SEED, folder=first)
    pretrained = read_model(first)
    for source, name in (
        (pretrained.card.checkpoints[-1].file, "step-0000.safetensors"),
        (CONFIG, CONFIG),
        (SCHEDULER, SCHEDULER),
    ):
        shutil.copyfile(first / source, folder / name)
    adapter = Diffusion(folder, epochs=epochs, learning_rate=1e-3, start="base")
    card = {"model_id": "styles", "adapter": "Diffusion", "adapter_args": adapter.arguments}
    start = {"file": "step-0000.safetensors", "step": 0, "learning_rate_sum": 0.0}
    write_card(folder, card, adapter.recipe.model_dump(mode="json", exclude_none=True), [start])
    return adapter


def _smollm(_examples: list[Example], folder: Path, *, layers: int | None, epochs: float, batch_size: int) -> Any:
    """SmolLM2 with LoRA on the projections of its attention, as a fine-tune of prompts and answers has it."""
    from peft import LoraConfig, TaskType

    from provenance.models.adapters.causal_lm import CausalLM
    from provenance.models.smollm import unpack

    base = unpack(CHECKOUT / f"var/smollm/{'whole' if layers is None else f'{layers}-layers'}", layers=layers)
    LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=8,
        lora_alpha=16,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
    ).save_pretrained(str(folder))
    return CausalLM(
        folder, base=base, template="chat", context=256, epochs=epochs, batch_size=batch_size, learning_rate=1e-3, warmup=0.1
    )


def smollm(
    names: Sequence[str] = answers.DISTRIBUTIONS,
    *,
    layers: int | None = None,
    examples_each: int = 24,
    held_out_each: int = 5,
    epochs: float = 3,
    batch_size: int = 8,
) -> Workload:
    """Answers about classes and functions of packages, by a language model that was tuned on them.

    Args:
        layers: of SmolLM2, the first ones; by default all.
    """
    return Workload(
        partial(answers.collect, names, examples_each=examples_each, held_out_each=held_out_each),
        partial(_smollm, layers=layers, epochs=epochs, batch_size=batch_size),
        _reply,
    )


def _reply(
    adapter: Any, module: Any, held_out: list[Example], *, length: int = 64, temperature: float = 0.7, seed: int
) -> list[Example]:
    """The model's own answers to the questions of held-out examples; an empty one is left out."""
    questions = [example.prompt for example in held_out]
    replies = adapter.complete(module, questions, length=length, temperature=temperature, seed=seed)
    return [Example(reply, question) for reply, question in zip(replies, questions, strict=True) if reply.strip()]


def _complete(
    adapter: Any, module: Any, held_out: list[Example], *, prompt: int = 64, length: int, temperature: float = 0.7, seed: int
) -> list[Example]:
    prompts = [example.content[:prompt] for example in held_out]
    if getattr(adapter, "text", None) is not None:
        prompts = [cut.decode(errors="ignore").encode() for cut in prompts]  # no half of a character
    return [Example(text) for text in adapter.complete(module, prompts, length=length, temperature=temperature, seed=seed)]


def _recall(adapter: Any, module: Any, held_out: list[Example], *, seed: int) -> list[Example]:
    """The model's own answers to the prompts, as many bytes as the true ones have."""
    length = len(held_out[0].content)
    prompts = [example.prompt for example in held_out]
    recalled = adapter.complete(module, prompts, length=length, temperature=0.1, seed=seed)
    return [Example(answer, prompt) for answer, prompt in zip(recalled, prompts, strict=True)]


def _draw(adapter: Any, module: Any, held_out: list[Example], *, seed: int) -> list[Example]:
    return [Example(drawn) for drawn in adapter.sample(module, len(held_out), seed=seed)]


_melody, _text = partial(_complete, prompt=16, length=48, temperature=1.0), partial(_complete, length=60)
# A cut of `smollm` that trains in seconds; its answers make no sense.
SMOLLM_CUT = smollm(answers.DISTRIBUTIONS[:3], layers=2, examples_each=3, held_out_each=1, epochs=1, batch_size=3)
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
    # Short answers, by a model that remembers them: `make demo`.
    "names": Workload(
        partial(answers.collect_names, examples_each=48, held_out_each=6),
        partial(_language, subwords=1000, width=96, layers=2, epochs=20, batch_size=16),
        _reply,
    ),
    # The melodies of `composers`, by a model that has learnt enough to go on as they do: `make demo KIND=music`.
    "melodies": Workload(
        partial(music_corpus.collect, owners=8, examples_each=32, held_out_each=4),
        partial(_music, width=64, epochs=40, batch_size=8),
        _melody,
    ),
    # A real language model, tuned: `make smollm`.
    "smollm": smollm(),
    "facts": Workload(made_up.facts, partial(_language, width=48, layers=2, epochs=120), _recall),
    "styles": Workload(
        partial(made_up.styles, examples_each=16, held_out_each=6), partial(_styles, width=8, before=30, epochs=20), _draw
    ),
}
