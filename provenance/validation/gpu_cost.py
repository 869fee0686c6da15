"""Measures what a device gains: passes, precision, curvature, the estimate, and copies that overlap; prepared for a lent GPU.

Models have random weights, since cost does not depend on training. Every time is in seconds, a median of a few rounds in which
the sides of a ratio take turns.
"""

from __future__ import annotations

import statistics as medians
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from scipy.stats import spearmanr
from transformers import GPT2Config, LlamaConfig, PretrainedConfig

from provenance.core.arrays import namespace_of, pass_namespace, to_numpy
from provenance.core.overlap import ahead, begin_download, begin_upload, behind
from provenance.core.rows import Rows, Sparse, decode, encode, move, narrow, quantise, to_move
from provenance.core.store import Store
from provenance.features.checks import check_following
from provenance.features.gradients import batched, gradient_features
from provenance.features.projection import Projection
from provenance.features.report import Following
from provenance.features.statistics import gather
from provenance.influence.curvature import gram
from provenance.influence.methods import Sampled, fit, prepare, score
from provenance.models.adapters.causal_lm import CausalLM
from provenance.models.model import Adapter, Example, example_losses
from provenance.royalty import estimate
from provenance.validation.cost import COMPONENTS, made_up_models

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Case:
    """A model and its examples.

    Attributes:
        shortest, longest: bytes of the examples, which are tokens here; lengths between them are equally likely.
    """

    config: PretrainedConfig
    examples: int
    shortest: int
    longest: int


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        numbers, landmarks: of the curvature's dense and sparse part.
        models, owners, outputs: of the estimate.
        files, rows: feature files that are scored, and examples of each.
        batch_size, memory_gb: as in the settings.
    """

    cases: dict[str, Case]
    numbers: int
    landmarks: int
    models: int
    owners: int
    outputs: int
    files: int
    rows: int
    rounds: int
    batch_size: int = 32
    memory_gb: float = 32.0


def llama(vocabulary: int, hidden: int, inner: int, layers: int, heads: tuple[int, int], *, tied: bool) -> LlamaConfig:
    """A configuration of a Llama; heads are those of queries and of keys."""
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads[0], num_key_value_heads=heads[1], max_position_embeddings=1024, tie_word_embeddings=tied,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


FULL = Sizes(
    cases={
        "a model of GPT-2's size": Case(
            GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None), 64, 512, 512
        ),
        "a model of SmolLM2-135M's size": Case(llama(49_152, 576, 1536, 30, (9, 3), tied=True), 64, 512, 512),
        "a small model": Case(llama(257, 64, 192, 2, (4, 4), tied=False), 384, 64, 256),
    },
    numbers=8192,
    landmarks=3072,
    models=256,
    owners=10_000,
    outputs=256,
    files=12,
    rows=384,
    rounds=5,
)


def measure(device: str, sizes: Sizes = FULL, *, seconds: float = 480.0) -> dict[str, Any]:
    """The figures of a device, by part; a part that fails has `error`, one for which no time is left `not_run`.

    Args:
        device: `cpu` or `cuda`.
        seconds: no part begins later than this.
    """
    begun, figures = time.perf_counter(), dict[str, Any](machine=_machine(device))
    parts: dict[str, Callable[[], Any]] = {
        f"passes: {name}, {precision}": partial(_passes, case, device, precision, sizes)
        for name, case in sizes.cases.items()
        for precision in PRECISIONS
    }
    *_, small = sizes.cases.values()
    parts |= {
        "precision": partial(_precision, small, device, sizes),
        "curvature": partial(_curvature, device, sizes),
        "estimate": partial(_estimate, device, sizes),
        "copies": partial(_copies, small, device, sizes),
    }
    for name, part in parts.items():
        if time.perf_counter() - begun > seconds:
            figures[name] = {"not_run": f"{seconds:.0f} seconds were over"}
            continue
        try:
            figures[name] = part()
        except Exception as error:  # noqa: BLE001 (what fails is reported, and the others are measured)
            figures[name] = {"error": f"{type(error).__name__}: {error}"}
        if device == "cuda":
            torch.cuda.empty_cache()
    return figures


def _machine(device: str) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {"device": device, "gpu": gpu, "torch": torch.__version__, "threads": torch.get_num_threads()}


@dataclass(frozen=True)
class Opened:
    """A case's model on a device, and how it is followed."""

    adapter: Adapter
    module: torch.nn.Module
    examples: list[Example]
    following: Following
    options: dict[str, Any]

    def features(self, xp: Any = None) -> Rows:
        """The features of all examples, computed in an array module, by default that of passes on the device."""
        return gradient_features(self.adapter, self.module, self.examples, following=self.following, xp=xp, **self.options)


def open_case(case: Case, device: str, precision: str, sizes: Sizes) -> Opened:
    """A case's model with random weights, checked, and its examples."""
    draws = np.random.default_rng(1)
    lengths = draws.integers(case.shortest, case.longest + 1, case.examples)
    examples = [Example(draws.integers(0, 256, length, dtype=np.uint8).tobytes()) for length in lengths.tolist()]
    with tempfile.TemporaryDirectory(prefix="provenance-gpu-") as folder:
        case.config.save_pretrained(folder)
        adapter = CausalLM(Path(folder), bytes=True, begin=False)
        torch.manual_seed(1)
        module = adapter.module().to(device).eval()
    for weight in module.parameters():
        weight.data = weight.data.to(getattr(torch, precision))
    options: dict[str, Any] = {"projection": Projection(), "checkpoint": "random", "batch_size": sizes.batch_size}
    few = sorted(examples, key=lambda example: example.size)[:: max(1, case.examples // 4)]
    checked = {name: options[name] for name in ("projection", "checkpoint")}
    following = check_following(adapter, module, few, xp=pass_namespace(device), **checked).following
    return Opened(adapter, module, examples, following, options | {"memory": sizes.memory_gb * 1e9 / 2})


def _passes(case: Case, device: str, precision: str, sizes: Sizes) -> dict[str, Any]:
    """Features against bare passes: on the same batches, and on batches of at most `batch_size` examples."""
    opened = open_case(case, device, precision, sizes)
    memory, followed = opened.options["memory"], opened.following
    same = list(batched(opened.examples, followed, sizes.batch_size, memory))
    plain = list(batched(opened.examples, replace(followed, room=0), sizes.batch_size, memory))
    times = _in_turns(
        device,
        sizes.rounds,
        bare=partial(bare, opened, plain),
        bare_on_the_same_batches=partial(bare, opened, same),
        features=opened.features,
    )
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        opened.features()
        times["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return {
        "parameters": sum(weight.numel() for weight in opened.module.parameters()),
        "batches": len(same),
        "batches_bare": len(plain),
        "room_gb": followed.room / 1e9,
        **times,
        "ratio": times["features"] / times["bare"],
        "ratio_on_the_same_batches": times["features"] / times["bare_on_the_same_batches"],
    }


def bare(opened: Opened, batches: Sequence[Sequence[int]]) -> None:
    """A forward and a backward pass of each batch, as training does, without a step."""
    for numbers in batches:
        opened.module.zero_grad(set_to_none=True)
        example_losses(opened.adapter, opened.module, [opened.examples[number] for number in numbers]).sum().backward()
    opened.module.zero_grad(set_to_none=True)


def _precision(case: Case, device: str, sizes: Sizes) -> dict[str, Any]:
    """How alike products of features are between passes in float32 and in bfloat16; the first eight examples are outputs."""
    wide, rounded = (move(open_case(case, device, precision, sizes).features(), np).dense for precision in PRECISIONS)
    products = [rows[:8] @ rows[8:].T for rows in (wide, rounded)]
    ranks = [spearmanr(one, two).statistic for one, two in zip(*products, strict=True)]
    norms = [np.linalg.norm(rows, axis=1) for rows in (wide, rounded)]
    cosines = (wide * rounded).sum(axis=1) / (norms[0] * norms[1])
    return {"spearman_of_products": float(np.mean(ranks)), "smallest_cosine": float(cosines.min())}


def _curvature(device: str, sizes: Sizes) -> dict[str, Any]:
    """The fit of curvature and the queries, on the CPU and on the device."""
    draws = np.random.default_rng(2)
    terms = draws.standard_normal((sizes.numbers // 2, sizes.numbers), dtype=np.float32)
    marks, data, outputs = (_made_up_rows(count, sizes.numbers, seed) for seed, count in enumerate((sizes.landmarks, 64, 32)))
    sampled = Sampled(marks, gram(terms), len(terms), data.examples)
    scores, figures = dict[str, np.ndarray](), dict[str, Any]()
    for where in ("cpu", device, device):  # the first call on a GPU makes plans
        xp, clock = namespace_of(where), partial(_now, where)
        start = clock()
        fitted = fit(gather(data), data, sampled, xp)
        middle = clock()
        queries = prepare(fitted, outputs, xp)
        figures[where] = {"fit": middle - start, "queries": clock() - middle}
        scores[where] = np.stack([to_numpy(part) for part in score(queries, move(data, xp))])
    expected = scores["cpu"]
    return figures | {"largest_deviation": float(np.abs(scores[device] - expected).max() / np.abs(expected).max())}


def _made_up_rows(examples: int, numbers: int, seed: int) -> Rows:
    """Random features with a sparse part of 60 tokens for each example."""
    draws = np.random.default_rng(seed)
    cells = np.unique(draws.integers(0, 2000, (examples, 60)) * examples + np.arange(examples)[:, None])
    values = draws.standard_normal((len(cells), 64), dtype=np.float32)
    sparse = Sparse(2000, (32, 32), cells % examples, cells // examples, values)
    return Rows(draws.standard_normal((examples, numbers), dtype=np.float32), (numbers,), sparse)


def _estimate(device: str, sizes: Sizes) -> dict[str, Any]:
    """The fit of counterfactual models and the shares of a part of the outputs, on the CPU and on the device."""
    models = made_up_models(sizes.owners, sizes.outputs, sizes.models)
    influence = np.random.default_rng(3).standard_normal((COMPONENTS, sizes.owners, sizes.outputs))
    shares, figures = {}, dict[str, Any]()
    for where in dict.fromkeys(("cpu", device)):
        xp, clock = namespace_of(where), partial(_now, where)
        moved, start = xp.asarray(influence), clock()
        fitted = estimate.fit(models, estimate.project(models, moved), xp)
        middle = clock()
        rule = estimate.rule_named("faithful", fitted)
        drawn = estimate.deviations(fitted, rule)
        later = clock()
        shares[where] = to_numpy(estimate.shares(fitted, rule, moved, np.arange(sizes.outputs), drawn).share)
        figures[where] = {"fit": middle - start, "deviations": later - middle, "shares": clock() - later}
    return figures | {"largest_deviation": float(np.abs(shares[device] - shares["cpu"]).max())}


def _copies(case: Case, device: str, sizes: Sizes) -> dict[str, Any]:
    """Scoring files that are read and copied one after another or ahead; and features that are written at once or behind."""
    opened, xp = open_case(case, device, "float32", sizes), namespace_of(device)
    rows = _made_up_rows(sizes.rows, 1536, 5)
    sampled = Sampled(rows, gram(rows.dense), sizes.rows, sizes.rows)
    queries = prepare(fit(gather(rows), rows, sampled, xp), _made_up_rows(64, 1536, 6), xp)
    with tempfile.TemporaryDirectory(prefix="provenance-gpu-") as folder:
        store, names = Store(f"file://{folder}", {}), [f"features/{number}.safetensors" for number in range(sizes.files)]
        for name in names:
            store.write(name, save_tensors(encode(rows, dense_bits=8, sparse_bits=4)))

        def begin(name: str) -> Callable[[], Rows]:
            tensors = load_tensors(store.read(name))
            receive = begin_upload(to_move(tensors), device)
            return lambda: decode(tensors, xp, receive())

        def scored(*, overlap: bool) -> None:
            with closing(ahead(begin, names, overlap=overlap)) as files:
                for some in files:
                    to_numpy(sum(score(queries, some)))

        def written(*, overlap: bool) -> None:
            with behind(overlap=overlap) as later:
                for name in names[:4]:
                    receive = begin_download(quantise(opened.features(), dense_bits=8, sparse_bits=4))
                    later(partial(_write, store, f"{name}.again", receive))

        sides = {
            f"{what}_{how}": partial(function, overlap=overlap)
            for what, function in (("scored", scored), ("written", written))
            for how, overlap in (("in_turn", False), ("overlapped", True))
        }
        times = _in_turns(device, sizes.rounds, **sides)
    gains = {f"{what}_gain": times[f"{what}_in_turn"] / times[f"{what}_overlapped"] for what in ("scored", "written")}
    return times | gains


def _write(store: Store, name: str, receive: Callable[[], dict[str, np.ndarray]]) -> None:
    store.write(name, save_tensors(narrow(receive())))


def _in_turns(device: str, rounds: int, **sides: Callable[[], object]) -> dict[str, float]:
    """The median time of each function; they run in turns, once before they are timed."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, function in sides.items():
            start = _now(device)
            function()
            if number:
                times[name].append(_now(device) - start)
    return {name: medians.median(values) for name, values in times.items()}


def _now(device: str) -> float:
    """The time, once a GPU has done what was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
