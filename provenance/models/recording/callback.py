"""Records the run of a `transformers.Trainer`."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from provenance.core.errors import ModelError
from provenance.models.recording.facts import trainer_facts
from provenance.models.recording.recording import Recording, as_bytes, check_framed, rate_of, target_of

try:
    from transformers import TrainerCallback
except ImportError:  # a loop in plain PyTorch needs none
    TrainerCallback = object  # type: ignore[assignment,misc]

# Examples whose tokens are compared with what the adapter reads.
COMPARED = 16


class Recorder(TrainerCallback):
    """Records the run of a `transformers.Trainer`.

    Row i of the training dataset is example i of `works` and `contents`.

    Args:
        prompts: what each content was an answer to, where the loss is on the answer alone.
        more: see `Target`.
    """

    def __init__(
        self,
        out: str | Path,
        works: Sequence[str],
        contents: Sequence[bytes | str] | None = None,
        *,
        digests: Sequence[str] | None = None,
        prompts: Sequence[bytes | str | None] | None = None,
        **more: Any,
    ) -> None:
        self.target = target_of(out, works, contents, digests, more)
        self.contents, self.prompts = contents, prompts
        self.recording: Recording | None = None
        self._drawn: deque[list[int]] = deque()
        self._skip, self._rate = 0, 0.0
        self._loss: str | None = None
        self._restore: Callable[[], None] = lambda: None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Check the data, and keep the state before the first step."""
        self._restore()
        if args.load_best_model_at_end:
            hint = "The recording ends with the last step. Set it to False, and record the run that you serve."
            expected = "load_best_model_at_end = False"
            raise ModelError("TrainingArguments", expected=expected, found="True", hint=hint)
        loader, count = kwargs["train_dataloader"], len(self.target.examples.works)
        self._restore = _watch(loader, self._drawn.append)
        if len(loader.dataset) != count:
            expected = f"a dataset with the {count} examples that the recorder was given"
            hint = "Each row is one example: give works and contents of the rows as the trainer reads them."
            raise ModelError("train_dataset", expected=expected, found=f"{len(loader.dataset)} rows", hint=hint)
        if self.contents is None:
            check_framed(self.target)
        tokenizer = kwargs.get("processing_class") or kwargs.get("tokenizer")
        self.recording = Recording(self.target, kwargs["model"], state.max_steps, tokenizer=tokenizer, resume=state.global_step)
        if self.recording.writes and self.contents is not None and self.target.adapter == "CausalLM":
            self._check_tokens(loader, self.recording)
        steps = max(1, -(-len(loader) // args.gradient_accumulation_steps))
        taken = 0 if args.ignore_data_skip else state.global_step % steps
        self._skip = taken * args.gradient_accumulation_steps

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Forget batches of the last epoch that were drawn ahead."""
        self._drawn.clear()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Note a batch whose gradient was added to those before it."""
        self._take()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Note the learning rate of the step; the schedule moves on next."""
        optimizer = kwargs["optimizer"]
        skipped = bool(getattr(optimizer, "step_was_skipped", False))  # by a gradient scaler
        self._rate = 0.0 if skipped else rate_of(optimizer)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Note the step; keep a checkpoint where it is time."""
        self._take()
        self._running().stepped(self._rate, gather=control.should_save)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Finish the folder."""
        recording = self._running()
        self._restore()
        facts = trainer_facts(args, state, recording.inner)
        recording.finish(kwargs["optimizer"], {**facts, "loss": facts.get("loss", self._loss)})
        recording.close()

    def _running(self) -> Recording:
        assert self.recording is not None
        return self.recording

    def _take(self) -> None:
        for _ in range(min(self._skip, len(self._drawn))):
            self._drawn.popleft()
        self._skip = 0
        self._running().note(self._drawn.popleft())

    def _check_tokens(self, loader: Any, recording: Recording) -> None:
        """Find how sequences are framed, and raise ModelError if the adapter would read other tokens than the batches have."""
        from provenance.models.model import ModelCard, load_adapter

        def adapter() -> Any:
            card = ModelCard.model_validate({**recording.card(), "checkpoints": []})
            return load_adapter(card, self.target.out, *([self.target.base] if recording.frozen else []))

        rows = sorted({round(part) for part in np.linspace(0, len(self.target.examples.works) - 1, COMPARED)})
        with _same_draws():
            batches = [loader.collate_fn([loader.dataset[row]]) for row in rows]
        if not all(isinstance(batch, Mapping) and "input_ids" in batch and len(batch["input_ids"]) == 1 for batch in batches):
            check_framed(self.target)
            self._loss = "that of a trainer whose batches are not token ids of single examples"
            return
        seen = [(row, *_tokens(batch)) for row, batch in zip(rows, batches, strict=True)]
        reader = adapter()
        if not {"begin", "end", "template"} & self.target.adapter_args.keys():
            framings = {_framing(tokens, reader, *self._example(row)) for row, tokens, _ in seen}
            if len(framings) == 1 and (framing := framings.pop()) is not None:
                found = dict(zip(("begin", "end"), framing, strict=True))
                others = {name: token for name, token in found.items() if token != getattr(reader, name, None)}
                stated = {name: False if token is None else token for name, token in others.items()}
                self.target.adapter_args = {**self.target.adapter_args, **stated}
                reader = adapter()
        for row, tokens, learnt in seen:
            content, prompt = self._example(row)
            read = reader.collate([content], *([[prompt]] if prompt is not None else []))
            if len(read.ids) == 1:  # not one that is cut into windows
                _compare_tokens(tokens, learnt, read, f"example {row} of the training")

    def _example(self, row: int) -> tuple[bytes, bytes | None]:
        """The content and the prompt of a row."""
        assert self.contents is not None
        prompt = self.prompts[row] if self.prompts is not None else None
        return as_bytes(self.contents[row]), None if prompt is None else as_bytes(prompt)


def _tokens(batch: Mapping[str, Any]) -> tuple[list[int], list[bool] | None]:
    """The tokens of a batch of one example, and which have a loss; None where the batch does not say."""
    ids, mask, labels = batch["input_ids"][0], batch.get("attention_mask"), batch.get("labels")
    there = mask[0].bool() if mask is not None else torch.ones_like(ids, dtype=torch.bool)
    tokens = ids[there].tolist()
    if labels is None:
        return tokens, None
    learnt = (labels[0][there] >= 0).tolist()
    while learnt and not learnt[-1]:  # tokens at the end without a loss change nothing
        learnt.pop()
    return tokens[: len(learnt)], learnt


def _framing(tokens: list[int], reader: Any, content: bytes, prompt: bytes | None) -> tuple[int | None, int | None] | None:
    """The tokens before and after an example, None for none; None alone if there are more, or others between."""
    between = [token for text in (prompt, content) if text is not None for token in reader.encode([text])[0]]
    for start in (0, 1):
        end = start + len(between)
        if tokens[start:end] == between and len(tokens) - end in (0, 1):
            return tokens[0] if start else None, tokens[end] if len(tokens) > end else None
    return None


def _compare_tokens(tokens: list[int], learnt: list[bool] | None, read: Any, where: str) -> None:
    """Compare the tokens of an example in the trainer's batch, and those with a loss, with the adapter's batch of it."""
    expected = read.ids[0][read.ids[0] >= 0].tolist()
    hint = "The adapter frames or tokenizes in another way: see `begin`, `end` and `template` of its arguments."
    if tokens != expected:
        at = next((at for at, pair in enumerate(zip(tokens, expected, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(tokens), len(expected)) if at is None else at
        found = f"{len(tokens)} in the batch, from place {at} on {tokens[at : at + 5]} and not {expected[at : at + 5]}"
        raise ModelError(where, expected=f"the adapter's {len(expected)} tokens", found=found, hint=hint)
    wanted = (read.targets[0][: len(expected)] >= 0).tolist()
    if learnt is not None and learnt[1:] != wanted[1:]:
        found = f"{sum(learnt[1:])} in the trainer's batch"
        raise ModelError(where, expected=f"a loss on {sum(wanted[1:])} tokens, as the adapter has it", found=found, hint=hint)


@contextmanager
def _same_draws() -> Iterator[None]:
    """Leave the random numbers of the run as they are."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002


def _watch(loader: Any, note: Callable[[list[int]], None]) -> Callable[[], None]:
    """Have a loader's batch sampler note the rows of each batch, which the loader yields in that order; returns the undoing.

    The class of the sampler is replaced, because loaders do not let a sampler be exchanged, and copies of them share it.
    """
    sampler = getattr(loader, "batch_sampler", None)
    stream = isinstance(loader.dataset, torch.utils.data.IterableDataset)
    if sampler is None or stream or type(loader).__name__ == "DataLoaderDispatcher" or not getattr(loader, "in_order", True):
        found = "a stream" if stream else type(loader).__name__
        hint = "Record such a run with `record`, whose `batch` says what is in each batch."
        raise ModelError("train_dataset", expected="a dataset whose rows have numbers, loaded in order", found=found, hint=hint)
    kind = type(sampler)

    class Watched(kind):  # type: ignore[misc,valid-type]
        def __iter__(self) -> Iterator[list[int]]:
            for rows in super().__iter__():
                note(list(rows))
                yield rows

    sampler.__class__ = Watched

    def restore() -> None:
        sampler.__class__ = kind

    return restore
