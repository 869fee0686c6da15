"""A run that is being recorded, and the recording of any loop in PyTorch."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from provenance.core.canonical import sha256
from provenance.core.errors import InputError, ModelError
from provenance.corpus.rights.manifest import Manifest, read_manifest
from provenance.models.recipe import Training
from provenance.models.recording.facts import dtype_of, optimizer_facts, order_facts, schedule_facts, untrained
from provenance.models.recording.modules import adapter_config, base_folder, save_files, state_of, unwrapped
from provenance.models.writing import CARD, MANIFEST, RUN, UNFINISHED, save_checkpoint, write_card, write_whole

log = logging.getLogger("provenance.recording")

# Parts of the run after which a checkpoint is kept, besides the start. Most is learnt early.
KEEP = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0)
# Adapters that can have their base in bfloat16 in memory.
WITH_DTYPE = ("CausalLM", "Seq2SeqLM")
# Under several processes, steps between two gatherings of what was in their batches.
GATHER_EVERY = 100


@dataclass(frozen=True)
class Examples:
    """What the rows of a training dataset are: the work that each is a piece of, and the digest of its content."""

    works: Sequence[str]
    digests: Sequence[str]

    @classmethod
    def of(cls, works: Sequence[str], contents: Sequence[bytes | str] | None, digests: Sequence[str] | None) -> Examples:
        """Examples with their contents or, where those are large, with the contents' SHA-256 in hex."""
        if (contents is None) == (digests is None):
            found = "both" if contents is not None else "neither"
            raise ModelError("recording", expected="the contents of the examples, or their digests", found=found)
        named = [sha256(as_bytes(content)) for content in contents] if contents is not None else list(digests or ())
        if len(named) != len(works):
            found = f"{len(works)} works and {len(named)} contents"
            raise ModelError("recording", expected="the work of each example", found=found)
        return cls([str(work) for work in works], named)

    def manifest(self, rows: Sequence[int], facts: Mapping[str, Any]) -> Manifest:
        """The training manifest of some rows."""
        works: dict[str, list[str]] = {}
        for row in sorted(rows):
            works.setdefault(self.works[row], []).append(self.digests[row])
        return Manifest({work: tuple(digests) for work, digests in works.items()}, facts)

    def check_cleared(self, rows: Sequence[int], cleared: Path) -> None:
        """Raise InputError if a row is not in the manifest of what was cleared for training."""
        works = {work: set(digests) for work, digests in read_manifest(cleared.read_bytes(), str(cleared)).works.items()}
        foreign = [row for row in rows if self.digests[row] not in works.get(self.works[row], ())]
        if foreign:
            first = foreign[0]
            raise InputError(
                f"{cleared}: work {self.works[first]!r}",
                expected="every example of the training among those cleared",
                found=f"{len(foreign)} of {len(rows)} that are not, the first of them example {first}",
                hint="Leave these examples out, or have their works cleared.",
            )


def as_bytes(content: bytes | str) -> bytes:
    """A content as the corpus has it."""
    return content.encode() if isinstance(content, str) else content


@dataclass
class Target:
    """What is recorded, and where.

    Attributes:
        keep: parts of the run after which a checkpoint is kept.
        cleared: the training manifest of what may be trained on; checked before the first step and at the end.
        base: the folder of the frozen weights, where only an adapter (LoRA) trains.
        files: further files that the adapter reads.
    """

    out: Path
    examples: Examples
    adapter: str = "CausalLM"
    adapter_args: Mapping[str, Any] = field(default_factory=dict)
    model_id: str = ""
    keep: Sequence[float] = KEEP
    cleared: Path | None = None
    base: Path | None = None
    files: Sequence[Path] = ()


class Recording:
    """A run that is being recorded; `Recorder` and `record` drive it. Every process has one, and the first writes."""

    def __init__(self, target: Target, module: torch.nn.Module, steps: int, *, tokenizer: Any = None, resume: int = 0) -> None:
        if steps < 1:
            raise ModelError("recording: steps", expected="1 or more", found=str(steps))
        self.target, self.module, self.steps, self.step = target, module, steps, resume
        self.inner = unwrapped(module)
        self.points = {max(1, round(part * steps)) for part in target.keep}
        self.writes = rank() == 0
        self.pending: list[tuple[int, float, list[int]]] = []
        self.rows: list[int] = []
        self.micro = 0
        self.checkpoints: list[dict[str, Any]] = []
        self.rates: list[float] = []
        self._writer, self._written = ThreadPoolExecutor(1), Future[None]()
        self._written.set_result(None)
        self.frozen = adapter_config(module) is not None
        self.untrained, self.freeze = untrained(self.inner), list[str]()
        if self.writes:
            self._open(tokenizer, resume)
        if resume == 0:
            self._checkpoint()

    def note(self, rows: Iterable[int]) -> None:
        """Note the examples of a batch of this process that goes into the next step."""
        numbers = [int(row) for row in rows]
        if bad := [row for row in numbers if not 0 <= row < len(self.target.examples.works)]:
            expected = f"numbers of examples, 0 to {len(self.target.examples.works) - 1}"
            raise ModelError(f"recording: step {self.step + 1}", expected=expected, found=str(bad[0]))
        self.rows += numbers
        self.micro = max(self.micro, len(numbers))

    def stepped(self, rate: float, *, gather: bool = False) -> None:
        """Note that the optimizer has stepped with a learning rate; keeps a checkpoint where it is time.

        Args:
            gather: have all until now on disk, because somebody else is about to keep this step and may resume from it.
        """
        if not self.rows and world() == 1:
            hint = "Call `run.batch(rows)` before each optimizer.step()."
            expected = "the examples of the batch"
            raise ModelError(f"recording: step {self.step + 1}", expected=expected, found="none", hint=hint)
        self.step += 1
        self.pending.append((self.step, rate, self.rows))
        self.rows = []
        keep = self.step in self.points
        if keep or gather or world() == 1 or len(self.pending) >= GATHER_EVERY:
            self._gather()
        if keep:
            self._checkpoint()
        if gather:
            self._wait()

    def finish(self, optimizer: Any, facts: Mapping[str, Any]) -> None:
        """Keep the last state, and write the manifest and, last, `model.toml`.

        Args:
            facts: what is known of the recipe besides what the optimizer says.

        Raises:
            InputError: the run saw something that is not cleared; then there is no `model.toml`.
        """
        self._gather()
        if self.step == 0:
            raise ModelError("recording", expected="a run of at least one step", found="none")
        if self.step not in self.points:  # it ended early, or a little off the plan
            self._checkpoint()
        if not self.writes:
            return
        self._wait()
        out, examples = self.target.out, self.target.examples
        batches = [line["examples"] for line in _lines(out / RUN)[1]]
        seen = sorted({row for batch in batches for row in batch})
        if self.target.cleared is not None:
            examples.check_cleared(seen, self.target.cleared)
        facts = {**optimizer_facts(optimizer, self.inner), **facts, **self._frozen_facts(optimizer, facts)}
        order = order_facts(batches, len(seen), facts.get("last_batch"))
        training = {**facts, **order, **schedule_facts(self.rates, facts), "keep": list(self.target.keep)}
        # Where one pass is one batch, nothing was cut.
        training |= {"micro_batch_size": self.micro} if self.micro < (order["batch_size"] or 0) else {}
        training |= {"start": "base", "manifest": MANIFEST, "source": "recorded"}
        known = Training.model_validate(training).model_dump(mode="json", exclude_none=True)
        manifest = examples.manifest(seen, {"seed": facts["seed"]} if facts.get("seed") is not None else {})
        write_whole(out / MANIFEST, manifest.as_bytes())
        write_card(out, self.card(), known, self.checkpoints, base=self.base())
        (out / UNFINISHED).unlink(missing_ok=True)
        log.info("recorded %d steps on %d examples: %s", self.step, len(seen), out)

    def close(self) -> None:
        """Wait for files that are being written."""
        self._writer.shutdown()

    def _frozen_facts(self, optimizer: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Note what did not train, and in which dtype that was; returns what the recipe cannot say by its own names."""
        if not self.frozen:
            self.freeze = [escape(name) for name in untrained(self.inner, optimizer)]
        known: dict[str, Any] = {}
        if untrained(self.inner) != self.untrained:
            known["loss"] = "the mean of a batch, by parameters that were frozen for a part of the run"
        trained, still = (
            {tensor.dtype for tensor in self.inner.parameters() if tensor.requires_grad == trains} for trains in (True, False)
        )
        if self.frozen and still == {torch.bfloat16} and self.target.adapter in WITH_DTYPE:
            self.target.adapter_args = {"dtype": "bfloat16", **self.target.adapter_args}
        elif not still <= trained and "base_bits" not in self.target.adapter_args:
            named = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in still))
            known["dtype"] = f"{facts.get('dtype')} over frozen weights in {named}"
        return known

    def card(self) -> dict[str, Any]:
        """The first keys of `model.toml`."""
        target = self.target
        return {
            **({"freeze": self.freeze} if self.freeze else {}),
            "model_id": target.model_id or target.out.name,
            "adapter": target.adapter,
            "adapter_args": dict(target.adapter_args),
        }

    def base(self) -> dict[str, str] | None:
        """`[base]` of `model.toml`: the frozen weights, their folder from the model's own and their digest."""
        if self.target.base is None:
            return None
        from provenance.models.model import read_base

        folder = os.path.relpath(self.target.base, self.target.out)
        return {"folder": folder, "digest": read_base(self.target.base, "recording: base").digest}

    def _open(self, tokenizer: Any, resume: int) -> None:
        """Check what is known before the first step, and write the files that do not change."""
        target, out = self.target, self.target.out
        if (out / CARD).exists():
            hint = "Remove it, or name another."
            raise ModelError(str(out), expected="a folder without a model", found="a finished one", hint=hint)
        if target.cleared is not None:
            target.examples.check_cleared(range(len(target.examples.works)), target.cleared)
        if self.frozen:
            self.target.base = base_folder(self.module, target.base)
        head = {
            "format": 1,
            "steps": self.steps,
            "examples": [list(pair) for pair in zip(target.examples.works, target.examples.digests, strict=True)],
        }
        if resume:
            self._resume(head)
            return
        out.mkdir(parents=True, exist_ok=True)
        for file in (*out.glob("step-*.safetensors"), out / RUN):
            file.unlink(missing_ok=True)
        save_files(self.module, self.inner, tokenizer, target.files, out)
        write_whole(out / RUN, (json.dumps(head) + "\n").encode())

    def _resume(self, head: Mapping[str, Any]) -> None:
        """Go on with the recording in the folder, as it was after a step."""
        out, step = self.target.out, self.step
        expected = f"the recording of this run, up to step {step} at least"
        if not (out / UNFINISHED).exists():
            hint = "Record a run from its first step."
            raise ModelError(str(out), expected=expected, found="none", hint=hint)
        recorded, lines = _lines(out / RUN)
        if recorded["examples"] != head["examples"]:
            raise ModelError(str(out / RUN), expected="the examples of this run", found="others")
        kept = [line for line in lines if line["step"] <= step]
        if [line["step"] for line in kept] != list(range(1, step + 1)):
            raise ModelError(str(out / RUN), expected=expected, found=f"one up to step {len(lines)}")
        text = "".join(json.dumps(line) + "\n" for line in (head, *kept))
        write_whole(out / RUN, text.encode())
        self.rates = [line["rate"] for line in kept]
        self.micro = max((line.get("micro", 0) for line in kept), default=0)
        for checkpoint in json.loads((out / UNFINISHED).read_text())["checkpoints"]:
            if checkpoint["step"] <= step:
                self.checkpoints.append(checkpoint)
            else:
                (out / checkpoint["file"]).unlink(missing_ok=True)
        missing = sorted({0, *(at for at in self.points if at <= step)} - {each["step"] for each in self.checkpoints})
        if missing:
            found = f"none of step {missing[0]}"
            raise ModelError(str(out), expected=f"the recording's checkpoints up to step {step}", found=found)

    def _gather(self) -> None:
        """Write what was in the batches of all processes since the last time."""
        mine, self.pending = self.pending, []
        parts: list[Any] = [mine]
        if world() > 1:
            parts = [None] * world()
            distributed.gather_object(mine, parts if self.writes else None)
        if not self.writes:
            return
        lines = []
        for step in range(len(mine)):
            number, rate, _ = mine[step]
            rows = [row for part in parts for row in part[step][2]]
            self.rates.append(rate)
            lines.append(json.dumps({"step": number, "rate": rate, "micro": self.micro, "examples": rows}) + "\n")
        with (self.target.out / RUN).open("a") as file:
            file.writelines(lines)

    def _checkpoint(self) -> None:
        """Copy the state, and have it written while the run goes on."""
        tensors = state_of(self.module, self.inner, trained_only=self.frozen, wanted=self.writes)
        if not self.writes:
            return
        self._wait()  # one copy in memory at a time
        self._written = self._writer.submit(self._write, tensors, self.step, float(np.sum(self.rates)))

    def _write(self, tensors: Mapping[str, torch.Tensor], step: int, rate_sum: float) -> None:
        out = self.target.out
        name = save_checkpoint(tensors, out, step)
        self.checkpoints.append({"file": name, "step": step, "learning_rate_sum": rate_sum})
        far = {"step": step, "steps": self.steps, "checkpoints": self.checkpoints}
        write_whole(out / UNFINISHED, json.dumps(far).encode())

    def _wait(self) -> None:
        """Wait for the last checkpoint; raises what its writing raised."""
        self._written.result()


class Run:
    """A run of a plain loop, as `record` yields it."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def batch(self, rows: Iterable[int]) -> None:
        """Note the examples of a batch, by number, before the optimizer steps; of several batches if gradients accumulate."""
        self._recording.note(rows)


@contextmanager
def record(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    out: str | Path,
    steps: int,
    works: Sequence[str],
    contents: Sequence[bytes | str] | None = None,
    digests: Sequence[str] | None = None,
    tokenizer: Any = None,
    seed: int | None = None,
    max_grad_norm: float | None = None,
    resume: int = 0,
    **more: Any,
) -> Iterator[Run]:
    """Record a loop in PyTorch; each `optimizer.step()` is a step of the run.

    Args:
        module: what trains; wrapped in DDP or FSDP as the loop uses it.
        steps: optimizer steps that the whole run will have.
        works: the work that each example is a piece of; contents: what the model learns from, or digests: their SHA-256.
        tokenizer: of `transformers`, saved to the folder.
        max_grad_norm: what the loop clips gradients to, 0 for never; without it no other model can be trained by the recipe.
        resume: the step after which a resumed run goes on.
        more: `adapter`, `adapter_args`, `model_id`, `keep`, `cleared`, `base` and `files` of `Target`. For `CausalLM` the
            arguments say which tokens begin and end a sequence: nothing else does.

    A step is taken to minimise the mean over all terms of its batch. Leave the context without an error to finish the folder.
    """
    target = target_of(out, works, contents, digests, more)
    check_framed(target)
    recording = Recording(target, module, steps, tokenizer=tokenizer, resume=resume)
    dtypes: list[str] = []

    def look(*_: object) -> None:
        if not dtypes:
            dtypes.append(dtype_of(recording.inner))

    forward = module.register_forward_pre_hook(look)
    stepping = optimizer.register_step_post_hook(lambda *_: recording.stepped(rate_of(optimizer)))
    try:
        yield Run(recording)
        facts = {"seed": seed, "max_grad_norm": max_grad_norm, "dtype": dtypes[0] if dtypes else None}
        recording.finish(optimizer, facts)
    finally:
        forward.remove()
        stepping.remove()
        recording.close()


def target_of(
    out: str | Path,
    works: Sequence[str],
    contents: Sequence[bytes | str] | None,
    digests: Sequence[str] | None,
    more: Mapping[str, Any],
) -> Target:
    """What is recorded, of the arguments that `record` and `Recorder` share."""
    paths = {name: Path(more[name]) for name in ("cleared", "base") if more.get(name) is not None}
    files = [Path(file) for file in more.get("files", ())]
    return Target(Path(out), Examples.of(works, contents, digests), **{**more, **paths, "files": files})


def check_framed(target: Target) -> None:
    """Raise ModelError if nobody says how the sequences of a language model are framed."""
    stated = target.adapter_args.keys()
    if target.adapter == "CausalLM" and "template" not in stated and not {"begin", "end"} <= stated:
        raise ModelError(
            "recording: adapter_args",
            expected="begin and end, the tokens around a sequence (False for none), or template",
            found=", ".join(sorted(stated)) or "none",
            hint='They decide every likelihood. Say them: adapter_args={"begin": 1, "end": 2}.',
        )


def rank() -> int:
    """The number of this process."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rate_of(optimizer: Any) -> float:
    """The learning rate of a step; the largest, if groups of parameters have different ones."""
    return max(float(group["lr"]) for group in optimizer.param_groups if group["params"])


def _lines(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The head of a record, and its steps; a last line that was cut off by a kill is left out."""
    with path.open() as file:
        texts = file.read().split("\n")
    return json.loads(texts[0]), [json.loads(text) for text in texts[1:-1]]
