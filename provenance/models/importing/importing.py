"""Writes the model folder of a training run: checkpoints in training order, tokenizer, framing, recipe and clock."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from provenance.core.errors import InputError, ModelError, did_you_mean
from provenance.core.progress import PROGRESS
from provenance.core.toml import validated
from provenance.corpus.delivery import read_corpus_folder
from provenance.models.adapters.training_loop import decayed_names
from provenance.models.adapters.transformer import quiet
from provenance.models.importing import framing
from provenance.models.importing.clock import learning_rate_sums
from provenance.models.importing.facts import STATED, Facts, read_facts, set_decay
from provenance.models.importing.framing import Framing, Measured
from provenance.models.importing.run import ADAPTER_CONFIG, Run, kind_of, read_json, read_run
from provenance.models.importing.weights import AdapterReader, Tensors, read_config, read_whole
from provenance.models.model import Example, Model, check_finite, examples_in, read_base, read_model
from provenance.models.recipe import Training
from provenance.models.trainer import check_trainable
from provenance.models.writing import save_checkpoint, tensors_of, write_card

log = logging.getLogger(__name__)
# Keys of [training] that an import looks for, in the order in which they are told.
RECIPE = (
    "optimizer", "betas", "eps", "weight_decay", "decay_all", "momentum", "learning_rate", "schedule", "schedule_args", "rates",
    "warmup", "batch_size", "last_batch", "epochs", "max_grad_norm", "dtype", "loss", "seed", "start",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What to import, and what the user says of it.

    Attributes:
        base: the weights that training started from; `fresh`: it started from random ones, and nobody kept them.
        arguments: JSON of the `TrainingArguments`.
        corpus: what the model was trained on, to measure framings; without one the tokenizer's habit counts.
        begin, end: a token, its number or `none`; template: `chat` or `none`; None: to be found.
        training: values of `[training]` by key, as text.
    """

    run: Path
    out: Path
    base: Path | None = None
    fresh: bool = False
    arguments: Path | None = None
    tokenizer: Path | None = None
    corpus: Path | None = None
    begin: str | None = None
    end: str | None = None
    template: str | None = None
    training: Mapping[str, str] = field(default_factory=dict)
    model_id: str = ""


@dataclass(frozen=True)
class Imported:
    """What an import wrote and found.

    Attributes:
        found: key of the recipe, its value and its source.
        framed: the same, of begin, end and template; measured: the losses behind it.
        unknown: keys of the recipe that nothing says, each with the reason if there is one.
        refused: why the model cannot be trained again as it stands; empty if it can.
    """

    folder: Path
    kind: str
    base: Path | None
    checkpoints: list[dict[str, Any]]
    found: list[tuple[str, Any, str]]
    framed: list[tuple[str, str, str]]
    measured: list[Measured]
    unknown: dict[str, str]
    refused: str
    notes: list[str]


def import_run(request: Request) -> Imported:
    """Import a run: everything is read and checked before the folder `request.out` appears, which must not be there.

    Raises:
        ModelError: the run cannot be read whole, or what it lacks was not said.
    """
    if request.out.exists() and (not request.out.is_dir() or any(request.out.iterdir())):
        hint = "Name a new folder: nothing is written over."
        raise ModelError(f"--out {request.out}", expected="a folder that is not there yet", found="one with files", hint=hint)
    stated = parsed(request.training)
    run = read_run(request.run)
    draft = request.out.resolve().with_name(f".{request.out.resolve().name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        imported, model = _write(request, run, stated, draft)
        if request.out.is_dir():
            request.out.rmdir()
        draft.rename(request.out.resolve())
        imported = replace(imported, refused=refusal(replace(model, folder=request.out)))
    except OSError as error:
        raise ModelError(f"--out {request.out}", expected="a folder to write to", found=str(error)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return imported


def parsed(training: Mapping[str, str]) -> dict[str, Any]:
    """Values of `[training]` that the user says, by key."""
    values: dict[str, Any] = {}
    for key, text in training.items():
        if key not in RECIPE:
            raise InputError(
                f"--training {key}", expected=f"one of {', '.join(RECIPE)}", found=repr(key), hint=did_you_mean(key, RECIPE)
            )
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    checked = validated(Training, values, STATED, InputError)
    return {key: getattr(checked, key) for key in values}


def _write(request: Request, run: Run, stated: Mapping[str, Any], draft: Path) -> tuple[Imported, Model]:
    """Write the model folder as a draft."""
    notes, out = list(run.notes), request.out.resolve()
    base = _base(request, run)
    places = [request.tokenizer] if request.tokenizer else [run.last, run.folder, *([base] if base else [])]
    frozen = read_base(base, "base") if run.kind == "adapter" and base is not None else None
    config = read_config(frozen.folder if frozen else run.last)
    tokenizer, source = framing.copy_tokenizer(places, draft, config, notes)
    if request.tokenizer is None and source not in (run.last, run.folder):
        notes.append(f"The run has no tokenizer; that of {source} was taken.")
    facts = read_facts(run, request.arguments, stated)
    steps = _steps(run, notes)
    files, stored, module = _write_weights(run, base, steps, draft=draft, notes=notes)
    frozen_dtypes = {tensor.dtype for tensor in module.parameters() if not tensor.requires_grad} - {torch.float32}
    if stored == torch.bfloat16 and facts.sources.get("dtype") != STATED:
        facts.forget("dtype", "")
        facts.set("the stored weights", dtype="bfloat16_weights")
    elif run.kind == "adapter" and frozen_dtypes and "dtype" not in facts.values:
        named = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in frozen_dtypes))
        facts.open["dtype"] = f"the base is stored in {named}, and nothing says in which dtype it was loaded"
    elif facts.asked:
        facts.set("the stored weights", dtype=str(stored).removeprefix("torch."))
    freeze = [] if run.kind == "adapter" or request.fresh else _unchanged(draft, files, dict(module.named_parameters()))
    if freeze:
        some = ", ".join(freeze[:3]) + (", ..." if len(freeze) > 3 else "")
        notes.append(f"{len(freeze)} tensors are the same in every checkpoint and are taken as frozen: {some}.")
    trained = {name for name, tensor in module.named_parameters() if tensor.requires_grad} - set(freeze)
    set_decay(facts, decayed_names(module) & trained, trained)
    facts.set("the run", start="fresh" if request.fresh else "base")
    sums = _clock(run, facts, steps, notes)
    checkpoints = [
        {"file": file, "step": step, "learning_rate_sum": rates}
        for file, step, rates in zip(files, (0, *steps), (0.0, *sums), strict=True)
    ]
    recipe = _recipe(facts)

    def write(how: Framing) -> None:
        card: dict[str, Any] = {"model_id": request.model_id or out.name, "adapter": "CausalLM", "adapter_args": how.arguments}
        card |= {"freeze": [escape(name) for name in freeze]} if freeze else {}
        stands_on = {"folder": _named_from(out, frozen.folder), "digest": frozen.digest} if frozen else None
        write_card(draft, card, recipe.model_dump(mode="json", exclude_none=True), checkpoints, base=stands_on)

    def opened() -> Model:
        return read_model(draft, base=frozen)

    how, framed, measured = _frame(request, write, opened, tokenizer)
    write(how)
    model = opened()
    notes += [late] if (late := model.card.lateness()) else []
    imported = Imported(
        folder=request.out,
        kind=run.kind,
        base=base,
        checkpoints=checkpoints,
        found=[(key, facts.values[key], facts.sources[key]) for key in RECIPE if key in facts.values],
        framed=framed,
        measured=measured,
        unknown={key: facts.open.get(key, "") for key in recipe.missing()},
        refused="",
        notes=[*notes, *facts.notes],
    )
    return imported, model


def refusal(model: Model) -> str:
    """Why a model cannot be trained again by its folder; empty if it can."""
    try:
        check_trainable(model)
    except ModelError as error:
        return str(error)
    return ""


def _recipe(facts: Facts) -> Training:
    """`[training]`, as far as it is known."""
    values = {key: facts.values[key] for key in RECIPE if key in facts.values}
    return validated(Training, {**values, "source": "imported"}, "[training]", ModelError)


def _base(request: Request, run: Run) -> Path | None:
    """The folder of the weights that training started from, or that an adapter stands on; None if the run holds them itself."""
    if request.base is not None:
        if request.fresh:
            raise InputError("--base and --from-scratch", expected="one of them", found="both")
        if not request.base.is_dir():
            raise ModelError(f"--base {request.base}", expected="the folder of the base model", found="no such folder")
        return request.base.resolve()
    if run.kind == "full" and (request.fresh or run.saved[0].step == 0):
        return None
    path = run.find(ADAPTER_CONFIG if run.kind == "adapter" else "config.json")
    key = "base_model_name_or_path" if run.kind == "adapter" else "_name_or_path"
    named = str(read_json(path).get(key) or "") if path else ""
    for folder in (Path(named), run.folder / named, run.folder.parent / named) if named else ():
        if (
            folder.is_dir()
            and kind_of(folder) == "full"
            and folder.resolve() not in {each.folder.resolve() for each in run.saved}
        ):
            return folder.resolve()
    what = "the frozen model that the adapter stands on" if run.kind == "adapter" else "the weights that training started from"
    hint = "Name its folder with --base DIR."
    if run.kind == "full":
        hint += " If it started from random weights, say --from-scratch."
    found = f"{key} = {named!r}, which is no folder here" if named else "nothing that names it"
    raise ModelError(str(path or run.last), expected=what, found=found, hint=hint)


def _steps(run: Run, notes: list[str]) -> list[int]:
    """The steps of the checkpoints after the first state."""
    saved = [each for each in run.saved if each.step != 0]
    if not saved:
        raise ModelError(str(run.folder), expected="a checkpoint after the first step", found="only one of step 0")
    if saved[-1].step is None:
        notes.append("Nothing says how many steps were trained; the checkpoint is counted as step 1.")
    return [1 if each.step is None else each.step for each in saved]


def _clock(run: Run, facts: Facts, steps: Sequence[int], notes: list[str]) -> list[float]:
    sums = learning_rate_sums(run, facts, steps)
    if sums is not None:
        return sums
    if len(steps) > 1:
        raise ModelError(
            f"{run.folder}: the learning rates",
            expected="trainer_state.json with logged rates, or a known schedule",
            found="neither",
            hint="Say them: --training learning_rate=2e-5 --training schedule=linear --training warmup=0.03.",
        )
    notes.append("The sum of learning rates is not known and was written as 0; with one checkpoint nothing rests on it.")
    return [0.0]


def _write_weights(
    run: Run, base: Path | None, steps: Sequence[int], *, draft: Path, notes: list[str]
) -> tuple[list[str], torch.dtype, torch.nn.Module]:
    """Write one safetensors file a checkpoint.

    Returns:
        Their names in order; the dtype that weights are stored in; and the module, whose weights may have no values.
    """
    names: dict[int, str] = {}
    shapes: dict[str, torch.Size] = {}
    dtypes: set[torch.dtype] = set()
    if run.kind == "adapter":
        assert base is not None
        reader = AdapterReader(base, run.last)
        module, states = reader.module, _adapters(run, reader, steps, notes)
    else:
        with torch.device("meta"), quiet():
            module = AutoModelForCausalLM.from_config(read_config(run.last))
        states = _wholes(run, base, steps, notes)
    work, all_of_them = f"checkpoints of {run.folder.name}", len(steps) + 1
    log.info(PROGRESS, work, 0, all_of_them)
    for step, tensors, where in states:
        _check_tensors(tensors, shapes, where)
        shapes = shapes or {name: tensor.shape for name, tensor in tensors.items()}
        names[step] = save_checkpoint(tensors, draft, step)
        if step:
            dtypes |= {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
        log.info(PROGRESS, work, len(names), all_of_them)
    own = ADAPTER_CONFIG if run.kind == "adapter" else "config.json"
    shutil.copyfile(run.last / own, draft / own)
    return [names[step] for step in sorted(names)], max(dtypes, key=lambda dtype: dtype.itemsize), module


def _unchanged(folder: Path, files: Sequence[str], names: Iterable[str]) -> list[str]:
    """The parameters with the same values in every checkpoint; none if all have."""
    with ExitStack() as stack:
        first, *others = (stack.enter_context(safe_open(folder / file, framework="pt")) for file in files)
        held = set(first.keys())
        found = [
            name
            for name in names
            if name in held
            and all(torch.equal(first.get_tensor(name).float(), other.get_tensor(name).float()) for other in others)
        ]
        return [] if held <= set(found) else found


# A checkpoint's step, its tensors, and the place that errors name.
State = tuple[int, Tensors, str]


def _adapters(run: Run, reader: AdapterReader, steps: Sequence[int], notes: list[str]) -> Iterator[State]:
    """The states of a run that trained an adapter alone."""
    saved = [each for each in run.saved if each.step != 0]
    if len(saved) < len(run.saved):
        yield 0, reader.read(run.saved[0].folder), str(run.saved[0].folder)
    else:
        yield 0, reader.start(reader.read(saved[0].folder)), str(reader.base)
        notes.append("The run kept no adapter of step 0: it is taken as A of the first checkpoint and B = 0.")
    for step, each in zip(steps, saved, strict=True):
        yield step, reader.read(each.folder), str(each.folder)


def _wholes(run: Run, base: Path | None, steps: Sequence[int], notes: list[str]) -> Iterator[State]:
    """The states of a run that trained a whole model; the first one last, because the others say what it must be like."""
    saved = [each for each in run.saved if each.step != 0]
    for step, each in zip(steps, saved, strict=True):
        yield step, tensors_of(read_whole(each.folder)), str(each.folder)
    if len(saved) < len(run.saved):
        yield 0, tensors_of(read_whole(run.saved[0].folder)), str(run.saved[0].folder)
    elif base is not None:
        yield 0, tensors_of(read_whole(base)), str(base)
    else:
        torch.manual_seed(0)
        yield 0, tensors_of(AutoModelForCausalLM.from_config(read_config(run.last))), str(run.last)
        notes.append("The random weights that training started from were not kept; others stand for them in step 0.")


def _check_tensors(tensors: Tensors, shapes: Mapping[str, torch.Size], where: str) -> None:
    """Raise ModelError for weights that are not finite, or not those of another checkpoint with these shapes."""
    for name, tensor in tensors.items():
        check_finite(tensor, f"{where}: tensor {name!r}")
    for name in sorted(shapes.keys() | tensors.keys()) if shapes else ():
        old, new = shapes.get(name), tensors[name].shape if name in tensors else None
        if old != new:
            expected, found = ("no such tensor" if shape is None else f"shape {tuple(shape)}" for shape in (old, new))
            hint = "If the script resized embeddings before training, save the resized base, and name that folder."
            raise ModelError(
                f"{where}: tensor {name!r}", expected=f"{expected}, as in other checkpoints", found=found, hint=hint
            )


def _frame(
    request: Request, write: Callable[[Framing], None], opened: Callable[[], Model], tokenizer: PreTrainedTokenizerBase
) -> tuple[Framing, list[tuple[str, str, str]], list[Measured]]:
    """The framing: as the user says, else as it was measured, else as the tokenizer does; and where each part comes from."""
    said = {
        name: framing.token_of(f"--{name}", text, tokenizer)
        for name, text in (("begin", request.begin), ("end", request.end))
        if text is not None
    }
    if request.template not in (None, framing.CHAT, "none"):
        raise InputError("--template", expected="chat or none", found=repr(request.template))
    if request.template == framing.CHAT and not getattr(tokenizer, "chat_template", None):
        raise ModelError("--template chat", expected="a tokenizer with a chat template", found="one without")
    measured: list[Measured] = []
    if request.template == framing.CHAT or (len(said) == 2 and request.template):
        how, source = Framing(None, None), ""
    elif request.corpus is not None:
        write(Framing(None, None))
        model, examples = opened(), some_examples(request.corpus, framing.EXAMPLES)
        with quiet():
            first, last = (model.load(model.card.checkpoints[at]) for at in (0, -1))
        how, measured = framing.measure(last, None if request.fresh else first, tokenizer, examples)
        source = f"measured on {len(examples)} examples"
    else:
        how = Framing(None, None) if len(said) == 2 else framing.habit(tokenizer)
        source = "the tokenizer's habit; --corpus measures it"
    # A begin or an end that the user says is of a sequence without a template.
    template = (
        how.template if request.template is None and not said else {framing.CHAT: framing.CHAT}.get(request.template or "")
    )
    chosen = Framing(said.get("begin", how.begin), said.get("end", how.end), template)
    framed = (
        []
        if template
        else [
            (name, framing.name_of(token, tokenizer), f"--{name}" if name in said else source)
            for name, token in (("begin", chosen.begin), ("end", chosen.end))
        ]
    )
    return chosen, [*framed, ("template", template or "none", "--template" if request.template else source)], measured


def some_examples(corpus: Path, count: int) -> list[Example]:
    """Some examples that the model saw, of a corpus folder: a sample that does not depend on their order."""
    examples = read_corpus_folder(corpus).examples
    return examples_in(examples.filter(pl.col("split") == "train").sort("content_sha256", "example_id").head(count))


def _named_from(out: Path, base: Path) -> str:
    """The base as `model.toml` names it: relative where both lie together, so that they can be moved together."""
    near = base.is_relative_to(out.parent)
    return os.path.relpath(base, out) if near else str(base)
