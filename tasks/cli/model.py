"""Commands for models: describe the one in use, import a training run, check a model, make a set-up of both."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import RenderableType
from typer import Argument, Option

from provenance.core.errors import CheckFailed, InputError
from provenance.core.where import Where
from tasks.cli.help import ATTRIBUTION, noun
from tasks.cli.shared import OnDevice, Shown, command, watched
from tasks.cli.tables import Grid, number, whole
from tasks.terminal import line

if TYPE_CHECKING:
    from provenance.local.setup import Made
    from provenance.models.importing.importing import Imported
    from provenance.validation.model_card import ModelCard
    from provenance.validation.model_check import Checked

root = typer.Typer()
app = noun("Describe the model in use (`card`), import a training run, check what a night can do with a model.")
Base = Annotated[
    Path | None, Option("--base", help="Folder of the model that training started from, or that an adapter stands on.")
]
Scratch = Annotated[bool, Option("--from-scratch", help="Training started from random weights.")]
Arguments = Annotated[
    Path | None, Option("--arguments", help="TrainingArguments as JSON, if training_args.bin cannot be read.")
]
TokenizerFolder = Annotated[Path | None, Option("--tokenizer", help="Folder of the tokenizer, if the run has none.")]
Begin = Annotated[str | None, Option("--begin", help="Token that began every sequence: its text, its number, or none.")]
End = Annotated[str | None, Option("--end", help="Token that ended every sequence: its text, its number, or none.")]
Template = Annotated[
    Literal["chat", "none"] | None, Option("--template", help="chat: prompt and answer stood in the chat template.")
]
Stated = Annotated[
    list[str] | None,
    Option("--training", metavar="KEY=VALUE", help="A value of the recipe that the run does not say; may be repeated."),
]


@command(app)
def card(
    where: Where,
    model_id: Annotated[str, Argument(help="A model of published nights; by default that of the newest.")] = "",
    last: Annotated[int, Option(min=1, help="Published nights listed.")] = 30,
    as_markdown: Annotated[bool, Option("--markdown", help="Print Markdown, to be kept beside the model.")] = False,
) -> Shown:
    """Describe the model in use: what it is, how far to trust its shares, what is followed, the cost of a night.

    From the manifests and files of published nights. *Fidelity*: counterfactual models, left out and predicted from the
    others, night by night, beside influence alone, TF-IDF and size; models set aside were never fitted on. Feature files are
    those of the run that was booked, times those of a night's last run in the lineage events on this machine.

    Example: `provenance model card --markdown > model-card.md`
    """
    from provenance.settlement import ledger
    from provenance.settlement.books import NIGHT
    from provenance.validation.model_card import markdown, model_card
    from tasks.lineage.durations import seconds_of_nights

    settings = where.settings
    times = seconds_of_nights(settings.lineage.path, where.store.url)
    booked = {booking.booking_id: booking.booked_at for booking in ledger.bookings(where.ledger, kind=NIGHT)}
    found = model_card(where.store, settings, model_id=model_id, last=last, seconds=times, booked=booked)
    if as_markdown:
        sys.stdout.write(markdown(found))
        return
    yield asdict(found), card_screen(found)


def card_screen(card: ModelCard) -> Iterator[RenderableType]:
    """A model card."""
    from provenance.validation import model_card as cards

    yield Grid(f"Model card: {card.model_id}", whole("what"), "value", rows=cards.identity(card))
    if card.trust:
        yield line(f"On {card.last.day}: {card.trust}", "bold")
    contracts = dict.fromkeys((facts.contract, facts.rule) for night in card.nights for facts in night.fidelity)
    yield line("Fidelity: 1 is perfect, 0 is chance. Inside: results of left-out (set-aside) models in 90 % intervals", "bold")
    for contract, rule in contracts:
        yield _fidelity_of(card, contract, rule)
    if not contracts:
        yield "It was not measured."
    if card.audit:
        columns = ("halves of", "method", number("LDS"), number("interval"), number("ceiling"))
        yield Grid("Audit by retraining", *columns, rows=cards.audit_rows(card))
    yield Grid("Coverage and what is followed", "what", "value", rows=cards.coverage(card))
    yield Grid(
        "Cost: feature files and time", "night", *map(number, ("outputs", "computed", "reused", "time", "worker time", "cost")),
        rows=cards.cost_rows(card),
    )  # fmt: skip
    if card.last.seconds:
        longest = sorted(card.last.seconds.items(), key=lambda row: -row[1])[:6]
        yield f"Longest on {card.last.day}: " + ", ".join(f"{stage} {_time(spent)}" for stage, spent in longest)
    yield from (line(sentence, "yellow") for sentence in card.warnings)
    yield line(cards.LIMITS, "dim")


def _fidelity_of(card: ModelCard, contract: str, rule: str) -> Grid:
    """The fidelity of a contract by night, newest first."""

    def percent(part: float | None) -> str:
        return "-" if part is None else f"{part:.0%}"

    names = ("models", "the estimate\n(range)", "influence\nalone", "TF-IDF", "size", "inside\nleft\nout", "inside\nset\naside")
    grid = Grid(f"Contract {contract!r}, rule {rule}", whole("night"), *(number(name, no_wrap=True) for name in names))
    for night in reversed(card.nights):
        for facts in night.fidelity:
            if (facts.contract, facts.rule) == (contract, rule):
                scores = facts.scores
                value = {name: f"{score.value:.2f}" for name, score in scores.items()}
                score = scores.get("estimate")
                estimate = f"{score.value:.2f} ({score.low:.2f}-{score.high:.2f})" if score else "-"
                rest = (value.get(name, "-") for name in ("influence", "tfidf", "size"))
                inside = (percent(facts.left_out), percent(facts.set_aside))
                grid.add_row(night.day, facts.models, estimate, *rest, *inside)
    return grid


@command(app, "import")
def import_model(
    run: Annotated[Path, Argument(help="Folder of the run: a Trainer's output, a PEFT run, or a saved model.")],
    out: Annotated[Path, Option("--out", help="Model folder to write; it must not be there.")],
    base: Base = None,
    from_scratch: Scratch = False,
    corpus: Annotated[
        Path | None, Option("--corpus", help="Corpus folder of the training; framing is measured on some of its examples.")
    ] = None,
    arguments: Arguments = None,
    tokenizer: TokenizerFolder = None,
    begin: Begin = None,
    end: End = None,
    template: Template = None,
    training: Stated = None,
    model_id: Annotated[str, Option("--model-id", help="Name of the model in outputs; by default the name of --out.")] = "",
) -> Shown:
    """Make a model folder of a training run, as `transformers.Trainer` or `peft` left it.

    Reads checkpoints (`checkpoint-*`, whole models or LoRA adapters, single or sharded) through transformers' own loading, and
    writes them in training order, the state that training started from first. For a full fine-tune that is `--base DIR`; an
    adapter's frozen base stays where it is, and the model folder names it. The recipe comes from `optimizer.pt`,
    `training_args.bin`, the model card and `trainer_state.json`; `--training KEY=VALUE` adds what they do not say. No pickle is
    read but weights-only, and nothing is fetched from the network.

    Which tokens began and ended each sequence decides every likelihood. With `--corpus` it is measured: the framing under which
    the last checkpoint finds its own training data most likely. Otherwise the tokenizer's habit counts, or what `--begin`,
    `--end` and `--template` say.

    Example: `provenance model import runs/finetune --base models/SmolLM2-135M --corpus corpus --out models/mine`
    """
    from provenance.models.importing.importing import Request, import_run

    stated = dict(_pair(text) for text in training or ())
    request = Request(
        run=run,
        out=out,
        base=base,
        fresh=from_scratch,
        arguments=arguments,
        tokenizer=tokenizer,
        corpus=corpus,
        begin=begin,
        end=end,
        template=template,
        training=stated,
        model_id=model_id,
    )
    with watched():
        imported = import_run(request)
    yield asdict(imported), imported_screen(imported, corpus)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError("--training", expected="KEY=VALUE, such as max_grad_norm=1.0", found=repr(text))
    return key.strip(), value.strip()


FRAMED = (
    "The lowest loss counts, unless the tokenizer's own habit is as good. That of an end is of this one token: it counts "
    "if it is no higher than that of the text, or than 1, and fell in the training. Say --begin, --end or --template if "
    "you know better."
)


def imported_screen(imported: Imported, corpus: Path | None) -> Iterator[RenderableType]:
    """What an import wrote and found, and what is left to say."""
    kind = {"full": "whole models", "adapter": f"adapters on {imported.base}"}[imported.kind]
    rows = ((row["step"], f"{row['learning_rate_sum']:.6g}", row["file"]) for row in imported.checkpoints)
    title = f"{imported.folder}: {len(imported.checkpoints)} checkpoints, {kind}"
    yield Grid(title, number("step"), number("sum of learning rates"), whole("file"), rows=rows)
    found = ((key, _value(value), source) for key, value, source in imported.found)
    yield Grid("The recipe, as far as it is known", whole("key"), "value", "from", rows=found)
    yield Grid("How sequences were framed", whole("part"), whole("token"), "from", rows=imported.framed)
    if imported.measured:
        rows_of = (
            (row.what, row.token, f"{row.nats:.3f}", "" if row.before is None else f"{row.before:.3f}")
            for row in imported.measured
        )
        headings = (whole("part"), whole("token"), number("nats a token"), number("before training"))
        yield Grid("Losses of the last checkpoint by framing", *headings, rows=rows_of)
        yield line(FRAMED, "dim")
    for note in imported.notes:
        yield line(note, "yellow")
    if imported.unknown:
        words = ", ".join(f"{key} ({why})" if why else key for key, why in imported.unknown.items())
        yield line(f"Not known: {words}; retraining will be refused until [training] in model.toml says it.", "yellow")
        options = " ".join(f"--training {key}=..." for key in imported.unknown)
        yield line(f"Say it with {options}, or write it into {imported.folder / 'model.toml'}.", "yellow")
    elif imported.refused:
        yield line(f"Retraining is refused: {imported.refused}", "yellow")
    place = f" --corpus {corpus}" if corpus else " --corpus CORPUS"
    yield f"Next: provenance model check {imported.folder}{place}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {inner}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        few = [f"{each:g}" if isinstance(each, float) else str(each) for each in value[:4]]
        return ", ".join(few) + (f", ... ({len(value)})" if len(value) > 4 else "")
    return f"{value:g}" if isinstance(value, float) else str(value)


@command(app)
def check(
    folder: Annotated[Path, Argument(help="Model folder.")],
    corpus: Annotated[
        Path | None, Option("--corpus", help="Folder with examples.parquet: what the model was trained on.")
    ] = None,
    outputs: Annotated[Path | None, Option("--outputs", help="Parquet file with `output_id` and `content`.")] = None,
    device: OnDevice = "auto",
) -> Shown:
    """Check a model folder before its first night: what can be believed of it, and what a night will cost.

    On a few examples of the corpus it holds gradient features against autograd, weight by weight; runs a pass twice; compares
    losses alone and in a batch; and compares the last checkpoint with the first one and with a uniform guess, so that a wrong
    tokenizer or framing betrays itself. It prints what is followed and at what rank, whether the model can be trained again,
    and what a night and its counterfactual models come to, from times measured here on one thread. Exit code 1 if a check
    failed.

    Example: `provenance model check models/mine --corpus corpus`
    """
    from provenance.validation.model_check import check_model
    from tasks.where import local_settings

    with watched():
        checked = check_model(folder, local_settings(device=device, workers=None), corpus=corpus, outputs=outputs)
    yield asdict(checked), checked_screen(checked)
    if checked.failed:
        raise CheckFailed(f"{folder}: {len(checked.failed)} of the checks failed, the first: {checked.failed[0]}")


def checked_screen(checked: Checked) -> Iterator[RenderableType]:
    """What a check found of a model."""
    model = checked.model
    part = f"{model['trainable']:,} of {model['parameters']:,} parameters are trained"
    rows = [
        ("architecture", f"{model['architecture']} by the adapter {model['adapter']}"),
        *([("adapter", f"{model['peft']}, on {model['base']}")] if model["peft"] else []),
        ("parameters", f"{part}, in {model['dtype']}"),
        (
            "checkpoints",
            f"{', '.join(map(str, model['checkpoints']))}; nights read {', '.join(model['checkpoints_of_a_night'])}",
        ),
        ("arguments", _value(model["adapter_args"])),
        ("recipe", _value({key: _value(value) for key, value in checked.recipe["known"].items()}) or "nothing is known"),
        ("retraining", "possible" if not checked.recipe["refused"] else "refused"),
    ]
    yield Grid(f"{model['model_id']} ({model['folder']})", whole("what"), "found", rows=rows)
    if losses := checked.losses:
        unit = losses["unit"]
        rows = [
            ("before the training", f"{losses['first']:.3f}"),
            ("after it", f"{losses['last']:.3f}"),
            *([("a uniform guess", f"{losses['uniform']:.3f}")] if losses["uniform"] else []),
        ]
        title = f"Loss of {losses['examples']} examples that it was trained on"
        yield Grid(title, whole("model"), number(f"nats {'an' if unit == 'example' else 'a'} {unit}"), rows=rows)
    if followed := checked.followed:
        yield (
            f"Followed: {followed['share']:.2%} of what is trained, {followed['followed']} weights at rank {followed['rank']} "
            f"({followed['numbers']:,} numbers an example), within {followed['largest_deviation']:.1e} of autograd "
            f"({followed['tolerance']:g} is allowed in {followed['dtype']})."
        )
        if followed["by_autograd"]:
            yield f"By autograd, one example at a time: {', '.join(followed['by_autograd'])}."
        if followed["without_gradient"]:
            yield line(f"Without a gradient: {', '.join(followed['without_gradient'])}.", "yellow")
    if agreement := checked.agreement:
        found = ", ".join(f"{name} {'none' if value is None else f'{value:.2f}'}" for name, value in agreement.items())
        yield f"Rank correlation of influences by two seeds of the projection (1: it loses nothing): {found}."
    if cost := checked.cost:
        yield cost_grid(cost)
    for warning in checked.warnings:
        yield line(warning, "yellow")
    for sentence in checked.failed:
        yield line(f"Failed: {sentence}", "red")
    if not checked.failed and checked.followed:
        yield line("All checks passed.", "green")


def cost_grid(cost: Mapping[str, Any]) -> RenderableType:
    """What a night costs, in time of one worker."""
    each = cost["seconds_per_example"]
    corpus = cost["features_of_the_corpus"]
    rows = [
        (
            "features of one example",
            f"{each['features']:.3g} s ({each['features'] / each['forward_and_backward']:.1f} bare passes)",
        ),
        ("stored of one example", f"{cost['bytes_per_example']:,} bytes for each checkpoint"),
        (
            f"features of the corpus, once ({cost['examples']:,} examples, {cost['checkpoints']} checkpoints)",
            f"{_time(corpus['seconds'])}, {_size(corpus['bytes'])}",
        ),
        *(
            [(f"features of {cost['outputs']:,} outputs", _time(cost["features_of_the_outputs"]["seconds"]))]
            if cost["features_of_the_outputs"]
            else []
        ),
        (
            "counterfactual models, once",
            "their time is not known without epochs"
            if cost["all_trainings"] is None
            else f"{_time(cost['all_trainings']['seconds'])} for the worth of {cost['trainings']} trainings",
        ),
        ("stored of one counterfactual model", _size(cost["bytes_of_a_counterfactual_model"])),
        ("peak memory of this check", f"{cost['peak_memory_mb']:,} MB"),
    ]
    return Grid(f"Cost, in time of one worker ({cost['device']})", "what", "estimate", rows=rows)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: float) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"


@command(root, group=ATTRIBUTION)
def init(
    folder: Annotated[Path, Argument(help="Folder to make; it must not be there.")],
    model: Annotated[Path, Option("--model", help="Training run to import, or a model folder.")],
    corpus: Annotated[Path, Option("--corpus", help="Parquet file of the examples that the model was trained on.")],
    content: Annotated[str | None, Option("--content", help="Column of the text, or of messages.")] = None,
    prompt: Annotated[str | None, Option("--prompt", help="Column of the prompt that the text answers, or none.")] = None,
    owner: Annotated[str | None, Option("--owner", help="Column of the owner, or of a list of owners.")] = None,
    work: Annotated[str | None, Option("--work", help="Column of the work, or none: each row is a work.")] = None,
    base: Base = None,
    from_scratch: Scratch = False,
    arguments: Arguments = None,
    tokenizer: TokenizerFolder = None,
    begin: Begin = None,
    end: End = None,
    template: Template = None,
    training: Stated = None,
    model_id: Annotated[
        str, Option("--model-id", help="Name of the model in outputs; by default the name of the folder.")
    ] = "",
    trial_day: Annotated[
        str | None,
        Option("--trial-day", metavar="DAY", help="Let the model serve this day, YYYY-MM-DD, with invented revenue."),
    ] = None,
) -> Shown:
    """Make a set-up of a training run and a Parquet file of its examples, ready for the first night.

    Writes the corpus (`store/corpus`: examples, owners and, where a work has several, claims), the model folder (as
    `provenance model import` does, framing measured on the corpus), `settings.toml` and `contracts.toml`. Columns are guessed
    by their names, and the guesses are printed. With `--trial-day` the model also answers a few prompts of the corpus, so that
    there is a day to pay; its revenue is invented and labelled so.

    Example: `provenance init mine --model run --base base --corpus train.parquet --trial-day 2026-11-20`
    """
    from provenance.core.errors import parse_day
    from provenance.local.setup import Setup, make
    from provenance.models.importing.importing import Request

    named = {"content": content, "prompt": prompt, "owner": owner, "work": work}
    importing = Request(
        run=model, out=folder, base=base, fresh=from_scratch, arguments=arguments, tokenizer=tokenizer, begin=begin, end=end,
        template=template, training=dict(_pair(text) for text in training or ()), model_id=model_id,
    )  # fmt: skip
    trial = parse_day("--trial-day", trial_day) if trial_day else None
    columns = {part: name for part, name in named.items() if name is not None}
    with watched():
        made = make(Setup(folder, model, corpus, columns, importing, trial))
    yield asdict(made), made_screen(made, trial_day)


def made_screen(made: Made, day: str | None) -> Iterator[RenderableType]:
    """What was made, and the next commands."""
    if made.imported:
        yield from list(imported_screen(made.imported, None))[:-1]
    rows = ((part, name or "none", "guessed" if part in made.guessed else "") for part, name in made.columns.items())
    counts = f"{made.counts['examples']:,} examples of {made.counts['works']:,} works by {made.counts['owners']:,} owners"
    yield Grid(f"{made.folder}: {counts}", whole("part"), whole("column"), "", rows=rows)
    settings = made.folder.resolve() / "settings.toml"
    paid = day or "DAY"
    place = made.folder.resolve() / "store"
    yield line("Next, in the checkout:", "bold")
    yield f"    export PROVENANCE_SETTINGS={settings}"
    yield f"    .venv/bin/provenance model check {made.model} --corpus {place / 'corpus'}"
    yield f"    .venv/bin/python -m infra.local_airflow run ingest_corpus {paid}"
    yield "    .venv/bin/provenance counterfactuals train --trainings 4"
    if day is None:
        yield line(f"Deliver a day's outputs to {place / 'outputs'}/day=DAY (docs/own-data.md), then:", "bold")
    yield f"    .venv/bin/python -m infra.local_airflow run nightly_payouts {paid}"
    yield f"    .venv/bin/provenance payouts {paid}"
    if made.imported and (made.imported.unknown or made.imported.refused):
        yield line(
            "Without a whole recipe no counterfactual model can be trained, and the fallback of contracts.toml pays.", "yellow"
        )
