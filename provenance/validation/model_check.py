"""Checks a model folder before its first night: what is followed, what it has learnt, whether it can be retrained, the cost."""

from __future__ import annotations

import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import save as save_tensors

from provenance.core.arrays import pass_namespace
from provenance.core.errors import ExampleError, InputError, ModelError
from provenance.core.progress import PROGRESS
from provenance.core.rows import Rows, encode
from provenance.core.settings import Settings
from provenance.core.store import Store
from provenance.corpus.delivery import identities, read_corpus_folder
from provenance.corpus.outputs import read_output_file
from provenance.features.checks import check_following
from provenance.features.gradients import gradient_features
from provenance.features.night_check import require_precision
from provenance.features.projection import Projection
from provenance.features.report import Report
from provenance.features.room import TRANSIENT
from provenance.influence.agreement import seed_agreement
from provenance.inputs.frozen import chosen_checkpoints
from provenance.models.adapters.transformer import quiet
from provenance.models.frozen import dtype_of
from provenance.models.importing.importing import refusal
from provenance.models.model import (
    Adapter,
    Example,
    Model,
    all_losses,
    examples_in,
    forward_and_backward,
    read_model,
    with_prompts,
)
from provenance.models.training_manifest import check_delivery

log = logging.getLogger("provenance.model_check")
WORK = "check of the model"
# Examples that are looked at: for losses, and for gradients and times.
LOOKED_AT, TIMED = 32, 8
# A time is measured so often, but not for longer than these seconds.
ROUNDS, LONG = 3, 10.0


@dataclass
class Checked:
    """What a check found, by section, ready for JSON.

    Attributes:
        agreement: of influences by two seeds of the projection, by component (`influence.agreement`); None where all are equal.
        failed: what must be put right before a night; each is a sentence.
        warnings: what a reader should know.
    """

    model: dict[str, Any]
    recipe: dict[str, Any]
    losses: dict[str, Any] | None = None
    followed: dict[str, Any] | None = None
    agreement: dict[str, float | None] | None = None
    cost: dict[str, Any] | None = None
    failed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Subject:
    """The model at its last checkpoint, and the settings of nights."""

    model: Model
    adapter: Adapter
    last: torch.nn.Module
    settings: Settings

    @property
    def device(self) -> str:
        """Where it computes."""
        return self.settings.cluster.device

    @property
    def passes(self) -> dict[str, Any]:
        """The arguments that say which features are meant."""
        projection = Projection(**self.settings.features.projection)
        return {"projection": projection, "checkpoint": self.model.card.checkpoints[-1].file}

    @property
    def batches(self) -> dict[str, Any]:
        """The arguments that say how many examples a pass has."""
        features = self.settings.features
        return {"batch_size": features.batch_size, "memory": features.memory_gb * 1e9 / TRANSIENT}


def check_model(folder: Path, settings: Settings, *, corpus: Path | None = None, outputs: Path | None = None) -> Checked:
    """Check a model folder; with a corpus also on its examples.

    Args:
        outputs: a file of outputs, to be looked at as well.

    Raises:
        InputError: the folder, the corpus or the file cannot be read.
    """
    with quiet():
        return _check(read_model(folder), settings, corpus, outputs)


def _check(model: Model, settings: Settings, corpus: Path | None, outputs: Path | None) -> Checked:
    adapter = model.adapter()
    precision = settings.features.precision
    require_precision(precision, on_base=model.base is not None)
    last = model.load(model.card.checkpoints[-1], device=settings.cluster.device, dtype=dtype_of(precision))
    subject = _Subject(model, adapter, last, settings)
    checked = Checked(
        _described(subject),
        {"known": model.card.training.model_dump(mode="json", exclude_none=True), "refused": refusal(model)},
    )
    if checked.recipe["refused"]:
        checked.warnings.append(f"It cannot be trained again: {checked.recipe['refused']}")
    checked.warnings += [late] if (late := model.card.lateness()) else []
    if corpus is None:
        checked.warnings.append("Losses, gradients and cost were not looked at: that takes examples (--corpus).")
        return checked
    examples = read_corpus_folder(corpus).examples.filter(pl.col("split") == "train")
    try:
        if more := check_delivery(model, examples):
            checked.warnings.append(
                f"A night refuses this model, unless clearance leaves out what it was not trained on: {more}"
            )
    except InputError as error:
        checked.failed.append(f"A night will refuse this model: {error}")
    log.info(PROGRESS, WORK, 0, 4)
    usable, served = _usable(subject, _some(examples), "examples of the corpus", checked), []
    counts = {"examples": examples.height, "outputs": None, "checkpoints": len(checked.model["checkpoints_of_a_night"])}
    if outputs is not None:
        frame = read_output_file(Store(f"file://{outputs.resolve().parent}", {}), outputs.name)
        served = _usable(subject, _some(frame), "outputs", checked)
        counts["outputs"] = frame.height
    if usable:
        checked.losses = _losses(subject, usable, checked)
        log.info(PROGRESS, WORK, 1, 4)
        with one_thread():
            report = _followed(subject, [*usable, *served], checked)
            log.info(PROGRESS, WORK, 2, 4)
            if report is not None:
                checked.agreement = _agreement(subject, usable, served or usable, report)
                log.info(PROGRESS, WORK, 3, 4)
                checked.cost = _cost(subject, usable[:TIMED], report, counts)
                log.info(PROGRESS, WORK, 4, 4)
    return checked


def _described(subject: _Subject) -> dict[str, Any]:
    model, parameters = subject.model, dict(subject.last.named_parameters())
    config: Any = getattr(subject.last, "peft_config", {}).get("default")
    adapted = None
    if config is not None:
        kind = "DoRA" if getattr(config, "use_dora", False) else "LoRA"
        adapted = f"{kind}, rank {config.r}, on {', '.join(sorted(map(str, config.target_modules or ())))}"
    return {
        "model_id": model.card.model_id,
        "folder": str(model.folder),
        "adapter": model.card.adapter,
        "adapter_args": model.card.adapter_args,
        "architecture": type(subject.last).__name__,
        "peft": adapted,
        "base": str(model.base.folder) if model.base else None,
        "checkpoints": [checkpoint.step for checkpoint in model.card.checkpoints],
        "checkpoints_of_a_night": list(chosen_checkpoints(model, subject.settings)),
        "parameters": sum(p.numel() for p in parameters.values()),
        "trainable": sum(p.numel() for p in parameters.values() if p.requires_grad),
        "dtype": str(next(iter(parameters.values())).dtype).removeprefix("torch."),
    }


def _some(frame: pl.DataFrame) -> list[Example]:
    """Some examples of different lengths, chosen by their contents and prompts alone."""
    sample = frame.sort(pl.Series(identities(frame), dtype=pl.String)).head(LOOKED_AT)
    return sorted(examples_in(sample), key=lambda example: example.size)


def _usable(subject: _Subject, examples: Sequence[Example], what: str, checked: Checked) -> list[Example]:
    """The examples that have a loss; those that have none are a failed check."""
    usable, first = [], None
    for example in examples:
        try:
            all_losses(subject.adapter, subject.last, [example], batch_size=1)
        except ExampleError as error:
            first = first or error
        else:
            usable.append(example)
    if first is not None:
        bad = len(examples) - len(usable)
        checked.failed.append(f"{bad} of {len(examples)} {what} have no likelihood; the first: {first}")
    return usable


def _losses(subject: _Subject, examples: Sequence[Example], checked: Checked) -> dict[str, Any]:
    """Loss a token before and after the training, on examples that it saw; a wrong tokenizer or framing betrays itself here."""
    model, adapter = subject.model, subject.adapter
    terms = getattr(with_prompts(adapter.collate, examples, "adapter"), "terms", None)
    unit, count = ("token", terms) if isinstance(terms, int) else ("example", len(examples))
    after = float(all_losses(adapter, subject.last, examples, batch_size=8).sum()) / count
    first = model.load(model.card.checkpoints[0], device=subject.device, dtype=dtype_of(subject.settings.features.precision))
    before = float(all_losses(adapter, first, examples, batch_size=8).sum()) / count
    vocabulary = getattr(getattr(adapter, "config", None), "vocab_size", None)
    chance = math.log(vocabulary) if unit == "token" and isinstance(vocabulary, int) else None
    if after >= before:
        each = "a token" if unit == "token" else "an example"
        checked.failed.append(
            f"On examples that it was trained on, the last checkpoint has {after:.3f} nats {each}, the first one {before:.3f}: "
            "the corpus, the tokenizer or the framing (begin, end, template) is not that of the training."
        )
    if chance is not None and after >= chance:
        checked.failed.append(
            f"The last checkpoint has {after:.3f} nats a token, a uniform guess {chance:.3f}: the tokenizer is not the model's."
        )
    return {"unit": unit, "examples": len(examples), "first": before, "last": after, "uniform": chance}


def _followed(subject: _Subject, examples: Sequence[Example], checked: Checked) -> Report | None:
    """How gradients are followed, held against autograd; None if they cannot be."""
    try:
        report = check_following(subject.adapter, subject.last, examples, xp=pass_namespace(subject.device), **subject.passes)
    except ModelError as error:
        checked.failed.append(str(error))
        return None
    for layer in report.failed:
        how = "is too large to be followed" if layer.deviation is None else f"deviates from autograd by {layer.deviation:.2g}"
        sentence = f"{layer.weight} ({layer.parameters:,} numbers) {how}"
        if subject.settings.features.unfollowed == "refuse":
            checked.failed.append(f"{sentence}. Freeze it, or set features.unfollowed = 'leave_out'.")
        else:
            checked.warnings.append(f"{sentence}; it is left out.")
    checked.followed = report.summary() | {"share": report.share}
    return report


def _agreement(
    subject: _Subject, examples: Sequence[Example], outputs: Sequence[Example], report: Report
) -> dict[str, float | None] | None:
    """How well influences by two seeds of the projection agree; None for fewer than three examples."""
    if len(examples) < 3:
        return None
    options = subject.passes | subject.batches | {"following": report.following}
    found = seed_agreement(subject.adapter, subject.last, examples, outputs[:TIMED], **options)
    return {component: value if math.isfinite(value) else None for component, value in found.items()}


def _cost(subject: _Subject, examples: Sequence[Example], report: Report, counts: dict[str, Any]) -> dict[str, Any]:
    """Measured times of one worker, and what a night and its counterfactual models come to."""
    adapter, module, settings, device = subject.adapter, subject.last, subject.settings, subject.device
    size, bits = settings.features.batch_size, settings.features
    passes = subject.passes | subject.batches

    def features() -> Rows:
        return gradient_features(adapter, module, examples, following=report.following, **passes)

    stored = len(save_tensors(encode(features(), dense_bits=bits.dense_bits, sparse_bits=bits.sparse_bits))) / len(examples)
    per_features = _seconds(features, device) / len(examples)
    per_step = _seconds(lambda: forward_and_backward(adapter, module, examples, size), device) / len(examples)
    per_loss = _seconds(lambda: all_losses(adapter, module, examples, batch_size=size), device) / len(examples)
    rows, outputs = counts["examples"] * counts["checkpoints"], counts["outputs"]
    epochs, trainings = subject.model.card.training.epochs, settings.counterfactuals.trainings
    one_training = None if epochs is None else {"seconds": epochs * counts["examples"] * per_step}
    trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    return {
        **counts,
        "device": device,
        "seconds_per_example": {"features": per_features, "forward_and_backward": per_step, "loss": per_loss},
        "bytes_per_example": round(stored),
        "peak_memory_mb": round(_peak(device) / 2**20),
        "features_of_the_corpus": {"seconds": rows * per_features, "bytes": round(rows * stored)},
        "features_of_the_outputs": None if outputs is None else {"seconds": outputs * counts["checkpoints"] * per_features},
        "likelihoods_of_an_output_by_a_model": {"seconds": per_loss},
        "trainings": trainings,
        "one_training": one_training,
        "all_trainings": None if one_training is None else {"seconds": trainings * one_training["seconds"]},
        "bytes_of_a_counterfactual_model": 2 * trained,  # its first and its last checkpoint
    }


def _seconds(function: Callable[[], Any], device: str) -> float:
    """The median time of a call, after one that warms up; of a slow one the first time counts."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        if sum(times) > LONG:
            break
    return float(np.median(times[1:] or times))


def _peak(device: str) -> int:
    """The most memory that this process, or the GPU, held so far, in bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, as a worker does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
