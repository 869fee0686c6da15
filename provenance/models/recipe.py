"""The recipe of a training run: all that decides a model besides its architecture, its works and the seed.

`[training]` of `model.toml` has it. Counterfactual models, audits, appeals and attacks are trained by the served model's own;
what is not known is refused by name, never replaced. Import-light: scripts that train load this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from provenance.core.errors import ModelError

# The schedule of the built-in adapters: linear warm-up, then a cosine down to 1 % of the peak.
COSINE = "cosine_to_1_percent"
# A schedule that is known by its rates alone, at equal parts of the run.
RECORDED = "recorded"
# Those of `transformers.SchedulerType` that depend on nothing but the step.
SCHEDULES = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", COSINE, RECORDED,
)  # fmt: skip
WITHOUT_WARMUP = ("constant", RECORDED)
# What each optimizer needs besides the learning rate.
OPTIMIZERS = {
    "adamw": ("betas", "eps", "weight_decay"),
    "adam": ("betas", "eps", "weight_decay"),
    "sgd": ("momentum", "weight_decay"),
    "adafactor": ("weight_decay",),
}
DTYPES = ("float32", "bfloat16", "bfloat16_weights")
# How built-in adapters train first; folders whose [adapter_args] hold the rest of the recipe were trained like this.
BUILT_IN_RUN: dict[str, Any] = {
    "optimizer": "adamw",
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.01,
    "decay_all": True,
    "batch_size": 32,
    "last_batch": "across",
    "learning_rate": 3e-3,
    "schedule": COSINE,
    "warmup": 0.05,
    "max_grad_norm": 1.0,
    "dtype": "float32",
    "start": "fresh",
    "keep": (0.1, 0.2, 0.4, 0.6, 1.0),
}
# Keys of the recipe that [adapter_args] of built-in adapters held before [training] had all of it.
ONCE_ARGUMENTS = ("epochs", "batch_size", "learning_rate", "warmup", "keep")
# Keys of [training] in such folders.
ONCE_TRAINING = ("optimizer", "weight_decay", "batch_size", "epochs", "manifest", "command")
# Facts of one run, not of the recipe.
FACTS = ("seed", "manifest", "source")
# Decides neither weights nor works: which checkpoints are kept. How a batch is cut decides where a pass draws noise or dropout.
INDIFFERENT = ("keep",)


class Training(BaseModel):
    """`[training]`: the recipe of the run, as far as it is known, and its facts.

    Attributes:
        optimizer: `adamw`, `adam`, `sgd` or `adafactor`; another name as it was found.
        decay_all: whether biases and norms decay as well; otherwise they do not, as in `transformers.Trainer`.
        batch_size: examples of a step, over all processes and accumulated batches. A step minimises the mean over all of its
            terms (tokens, pixels).
        micro_batch_size: examples of a pass, if a whole batch does not fit into memory.
        epochs: passes over the examples; they decide the number of steps, also on parts of the corpus.
        last_batch: what happens where the examples of an epoch are no multiple of the batch: a `short` batch, a batch that goes
            `across` the end into the next epoch, or they are left out (`drop`).
        learning_rate: the peak.
        schedule: a name of `transformers.SchedulerType`, `cosine_to_1_percent`, or `recorded`, which has `rates`: learning
            rates at equal parts of the run, from its first step to its last, divided by the peak.
        schedule_args: further arguments of the schedule, as `transformers.get_scheduler` takes them.
        warmup: part of the run in which the learning rate rises.
        max_grad_norm: gradients are clipped to this norm; 0 for never.
        dtype: `float32`; `bfloat16`, autocast over weights in float32; or `bfloat16_weights`, weights and optimizer in it.
        loss: what a step minimises, where that is not the mean over all terms of its batch.
        seed: of the run.
        start: `fresh`, weights drawn with the seed; or `base`, the first checkpoint's.
        keep: parts of the run after which a checkpoint is saved, besides the first.
        manifest: a file of the folder that lists the examples that the model was trained on.
        command: trains such a model (`trainer.run_command`); without one the adapter's `train` does.
        source: `recorded` while it trained, `imported` from what the run left; absent where the pipeline trained it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    optimizer: str | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float | None = None
    decay_all: bool | None = None
    momentum: float | None = None
    batch_size: Annotated[int, Field(gt=0)] | None = None
    micro_batch_size: Annotated[int, Field(gt=0)] | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    last_batch: Literal["short", "across", "drop"] | None = None
    learning_rate: float | None = None
    schedule: str | None = None
    schedule_args: dict[str, Any] | None = None
    rates: Annotated[tuple[float, ...], Field(min_length=1)] | None = None
    warmup: Annotated[float, Field(ge=0, le=1)] | None = None
    max_grad_norm: Annotated[float, Field(ge=0)] | None = None
    dtype: str | None = None
    loss: str | None = None
    seed: int | None = None
    start: Literal["fresh", "base"] | None = None
    keep: tuple[float, ...] | None = None
    manifest: str | None = None
    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    source: Literal["recorded", "imported"] | None = None

    def decisive(self) -> dict[str, Any]:
        """What decides another training by this recipe, without what is not known."""
        return self.model_dump(mode="json", exclude={*FACTS, *INDIFFERENT}, exclude_none=True)

    def missing(self) -> list[str]:
        """The keys that a training needs and that are not known."""
        needed = ["optimizer", *OPTIMIZERS.get(self.optimizer or "", ()), "batch_size", "epochs", "last_batch"]
        needed += ["learning_rate", "schedule", "max_grad_norm", "dtype", "start"]
        if self.weight_decay:
            needed.append("decay_all")
        if self.schedule == RECORDED:
            needed.append("rates")
        elif self.schedule not in (None, *WITHOUT_WARMUP):
            needed.append("warmup")
        return [name for name in needed if getattr(self, name) is None]

    def check(self, where: str) -> None:
        """Raise ModelError unless a model can be trained by this recipe, naming what is missing or what is not known here."""
        hint = (
            'Complete it, name a `command` that trains ("The recipe" in docs/own-data.md), or bring models that you trained: '
        )
        hint += "`provenance counterfactuals add`."
        if missing := self.missing():
            expected = f"the recipe of the run, with {', '.join(missing)}"
            raise ModelError(f"{where}: [training]", expected=expected, found="nothing that says so", hint=hint)
        known: Mapping[str, tuple[str, ...]] = {"optimizer": tuple(OPTIMIZERS), "schedule": SCHEDULES, "dtype": DTYPES}
        for name, values in known.items():
            if (value := getattr(self, name)) not in values:
                expected = f"one of {', '.join(values)}, to train again"
                raise ModelError(f"{where}: training.{name}", expected=expected, found=repr(value), hint=hint)
        if self.loss is not None:
            raise ModelError(
                f"{where}: training.loss", expected="the mean of a batch, to train again", found=repr(self.loss), hint=hint
            )
