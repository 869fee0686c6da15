"""Makes a working set-up of a model folder, or of a training run, and a Parquet file of examples: what a first night needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import torch

from provenance.core.checks import conform
from provenance.core.errors import ContractError, ExampleError, InputError, did_you_mean
from provenance.core.settings import CHECKOUT
from provenance.core.tables import CLAIMS, EXAMPLES, OUTPUTS
from provenance.corpus.delivery import equal_claims, read_corpus_folder
from provenance.models.adapters.transformer import quiet
from provenance.models.importing.importing import Imported, Request, import_run
from provenance.models.model import Adapter, Example, all_losses, examples_in, read_model
from provenance.models.training_manifest import check_delivery

# Names under which people keep such a column, the likeliest first.
GUESSES = {
    "content": (
        *("content", "text", "completion", "response", "answer", "output", "messages", "conversations", "conversation", "code"),
        *("body", "chosen"),
    ),
    "prompt": ("prompt", "instruction", "question", "input", "query"),
    "owner": ("owner_id", "owner", "author", "authors", "creator", "artist", "publisher", "username", "user", "source"),
    "work": ("work_id", "work", "document_id", "doc_id", "document", "title", "url", "path", "file", "id"),
}
NEEDED = ("content", "owner")
NOBODY = "no owner is named"
# Columns that are taken over under their own names.
KEPT = ("licence_spdx", "source_uri", "acquired_at", "split", "modality")
NOTICE = "The revenue of this trial is invented, and no money moves."
# A trial day: its outputs, the longest answer in tokens, the letters of a content that the model goes on from if there are no
# prompts, and the invented revenue of an output in minor units.
OUTPUTS_OF_TRIAL, LONGEST, START, PRICE = 24, 64, 48, 100
SETTINGS = """# Settings of this set-up; every key and its meaning are in infra/settings/local.toml.
[store]
url = {store}

[database]
folder = {database}             # an embedded PostgreSQL

[model]
folder = {model}
cache = {cache}

[royalty]
contracts = {contracts}

[settlement]
key = {key}
retired = {retired}

[lineage]
folder = {lineage}
"""


@dataclass(frozen=True)
class Setup:
    """The arguments of `provenance init`.

    Attributes:
        model: a model folder, or a run to import by `importing`.
        columns: the column of `content`, `prompt`, `owner` and `work`, where the user names it; `none` for no such column.
        trial: a day to make outputs of, with invented revenue.
    """

    folder: Path
    model: Path
    corpus: Path
    columns: Mapping[str, str]
    importing: Request
    trial: date | None = None


@dataclass(frozen=True)
class Made:
    """What was made: the columns that were taken, counts, and what the import found, if there was one."""

    folder: Path
    model: Path
    columns: dict[str, str | None]
    guessed: list[str]
    counts: dict[str, int]
    imported: Imported | None


def make(setup: Setup) -> Made:
    """Write the set-up: a corpus, a model folder, settings and contracts; whole, or not at all.

    Raises:
        InputError: the folder has files, a column is missing, the delivery breaks its contract, or the run cannot be imported.
    """
    folder = setup.folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        hint = "Name a new folder: nothing is written over."
        raise ContractError(str(setup.folder), expected="a folder that is not there yet", found="one with files", hint=hint)
    if setup.trial and setup.trial >= datetime.now(UTC).date():
        raise InputError("--trial-day", expected="a day that is over (UTC)", found=str(setup.trial))
    frame = _read(setup.corpus)
    columns, guessed = choose(frame.columns, setup.columns, str(setup.corpus))
    tables = tables_of(frame, columns, str(setup.corpus))
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        corpus = draft / "store/corpus"
        corpus.mkdir(parents=True)
        for name, table in tables.items():
            table.write_parquet(corpus / f"{name}.parquet")
        delivered = read_corpus_folder(corpus).examples
        model, imported = _model(setup, draft, corpus, delivered.filter(pl.col("split") == "train"))
        placed = folder / "model" if imported else model.resolve()
        if setup.trial:
            _write_trial(draft, model, tables["examples"], setup.trial)
        (draft / "settings.toml").write_text(settings_text(folder, placed), encoding="utf-8")
        shutil.copyfile(CHECKOUT / "infra/settings/contracts.toml", draft / "contracts.toml")
        if folder.is_dir():
            folder.rmdir()
        draft.rename(folder)
    except OSError as error:
        raise ContractError(str(setup.folder), expected="a folder to write to", found=str(error)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    counts = {name: table.height for name, table in tables.items()} | {"works": tables["examples"]["work_id"].n_unique()}
    if imported:
        imported = replace(imported, folder=placed)
    return Made(setup.folder, placed, columns, guessed, counts, imported)


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise ContractError(f"--corpus {path}", expected="a Parquet file of examples", found="no such file")
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        found = str(error).splitlines()[0]
        raise ContractError(f"--corpus {path}", expected="a Parquet file of examples", found=found) from error
    if frame.is_empty():
        raise ContractError(f"--corpus {path}", expected="at least one example", found="none")
    return frame


def choose(names: Sequence[str], stated: Mapping[str, str], file: str) -> tuple[dict[str, str | None], list[str]]:
    """The column of each part of an example, as stated or else guessed by its name; and which parts were guessed."""
    columns: dict[str, str | None] = {}
    guessed = []
    for part, likely in GUESSES.items():
        option = f"--{part}"
        if (name := stated.get(part)) is not None:
            if name != "none" and name not in names:
                expected = f"a column of {file}: {', '.join(names)}"
                raise InputError(option, expected=expected, found=repr(name), hint=did_you_mean(name, names))
            columns[part] = None if name == "none" else name
        else:
            columns[part] = next((name for name in likely if name in names and name not in columns.values()), None)
            guessed += [part] * (columns[part] is not None)
        if columns[part] is None and part in NEEDED:
            expected, found = f"a column with the {part} of each example", f"none that {option} names, among {', '.join(names)}"
            raise InputError(file, expected=expected, found=found, hint=f"Name it: {option} COLUMN.")
    return columns, guessed


def tables_of(frame: pl.DataFrame, columns: Mapping[str, str | None], file: str) -> dict[str, pl.DataFrame]:
    """The tables of a delivery: examples, owners and, where works have several owners, claims."""
    content, owner, work = columns["content"], columns["owner"], columns["work"]
    assert content is not None
    assert owner is not None
    texts, prompts = _texts(frame, content, file), None
    if columns["prompt"] is not None:
        prompts = _bytes(frame[columns["prompt"]], columns["prompt"], file)
    if isinstance(frame.schema[content], pl.List):
        if prompts is not None:
            raise InputError("--prompt", expected="none, because messages hold it", found=repr(columns["prompt"]))
        prompts = [prompt for prompt, _ in texts]
    works = _ids(frame[work], work, file) if work else pl.Series([f"row-{number:07d}" for number in range(frame.height)])
    several = isinstance(frame.schema[owner], pl.List)
    rows: dict[str, Any] = {"work_id": works, "content": pl.Series([text for _, text in texts], dtype=pl.Binary)}
    if prompts is not None:
        rows["prompt"] = pl.Series(prompts, dtype=pl.Binary)
    examples = pl.DataFrame(rows)
    examples = examples.with_columns(position=pl.int_range(pl.len()).over("work_id"))
    examples = examples.with_columns(*(frame[name] for name in KEPT if name in frame.columns))
    lists = frame[owner].cast(pl.List(pl.String)) if several else frame[owner].cast(pl.String).reshape((-1, 1)).arr.to_list()
    owners = [sorted({name.strip() for name in names or () if name and name.strip()}) for names in lists.to_list()]
    examples = examples.with_columns(
        pl.Series("unmatched_reason", [None if names else NOBODY for names in owners], dtype=pl.String)
    )
    ids = sorted({name for names in owners for name in names})
    tables = {"owners": pl.DataFrame({"owner_id": ids, "name": ids}, schema={"owner_id": pl.String, "name": pl.String})}
    if several:
        tables["claims"] = _claims(examples, owners, file)
    else:
        examples = examples.with_columns(
            pl.Series("owner_id", [names[0] if names else None for names in owners], dtype=pl.String)
        )
    return {"examples": conform(EXAMPLES, examples, file), **tables}


def _claims(examples: pl.DataFrame, owners: Sequence[Sequence[str]], file: str) -> pl.DataFrame:
    """Claims in equal parts on each work; all its examples name the same owners."""
    by_work: dict[str, Sequence[str]] = {}
    for work, names in zip(examples["work_id"], owners, strict=True):
        if by_work.setdefault(work, names) != names:
            expected = f"the same owners in all rows of the work, {', '.join(by_work[work]) or 'none'}"
            raise ContractError(f"{file}: work {work!r}", expected=expected, found=", ".join(names) or "none")
    evidence = f"the file {Path(file).name}"
    rows = [row for work, names in by_work.items() if names for row in equal_claims([{"work_id": work}], names, evidence)]
    return conform(CLAIMS, pl.DataFrame(rows, schema_overrides={"stake_ppb": pl.Int64}), file) if rows else CLAIMS.frame()


def _texts(frame: pl.DataFrame, name: str, file: str) -> list[tuple[bytes | None, bytes]]:
    """The prompt, where messages have one, and the content of each row."""
    column = frame[name]
    if not isinstance(column.dtype, pl.List):
        return [(None, text) for text in _bytes(column, name, file, empty=False) if text is not None]
    rows = []
    for number, messages in enumerate(column.to_list()):
        where = f"{file}: row {number}: column {name!r}"
        turns = [_turn(message, where) for message in messages or ()]
        if not turns or turns[-1]["role"] != "assistant" or not turns[-1]["content"]:
            expected = "messages of which the last is an answer of the assistant"
            raise ContractError(where, expected=expected, found=f"{len(turns)} messages")
        before = turns[:-1]
        plain = len(before) == 1 and before[0]["role"] == "user"
        asked = before[0]["content"] if plain else json.dumps(before, ensure_ascii=False)
        rows.append((asked.encode() if before else None, turns[-1]["content"].encode()))
    return rows


def _turn(message: Any, where: str) -> dict[str, str]:
    """A message as `role` and `content`; some sets call them `from` and `value`."""
    values = message if isinstance(message, dict) else {}
    role, content = values.get("role", values.get("from")), values.get("content", values.get("value"))
    if not isinstance(role, str) or not isinstance(content, str):
        raise ContractError(where, expected="messages with role and content", found=repr(message)[:80])
    return {"role": {"human": "user", "gpt": "assistant"}.get(role, role), "content": content}


def _bytes(column: pl.Series, name: str, file: str, *, empty: bool = True) -> list[bytes | None]:
    """A column's texts as bytes."""
    if column.dtype not in (pl.String, pl.Binary):
        raise ContractError(f"{file}: column {name!r}", expected="text, or messages", found=str(column.dtype))
    values = [value.encode() if isinstance(value, str) else value for value in column.to_list()]
    if not empty and (bad := next((number for number, value in enumerate(values) if not value), None)) is not None:
        raise ContractError(f"{file}: row {bad}: column {name!r}", expected="a text", found="none")
    return values


def _ids(column: pl.Series, name: str, file: str) -> pl.Series:
    if column.dtype.is_nested() or column.null_count():
        found = str(column.dtype) if column.dtype.is_nested() else f"{column.null_count()} empty ones"
        raise ContractError(f"{file}: column {name!r}", expected="the name of a work in every row", found=found)
    return column.cast(pl.String)


def _model(setup: Setup, draft: Path, corpus: Path, examples: pl.DataFrame) -> tuple[Path, Imported | None]:
    """The model folder, and what an import found; a model folder stays where it is."""
    if (setup.model / "model.toml").is_file():
        model = read_model(setup.model)
        try:
            check_delivery(model, examples)
        except ContractError:  # it is no manifest
            raise
        except InputError as error:
            hint = "Name the column of the works that its training was given (--work), or give the file that it was trained on."
            raise InputError(error.where, expected=error.expected, found=error.found, hint=hint) from error
        return setup.model, None
    model_id = setup.importing.model_id or setup.folder.resolve().name
    request = replace(setup.importing, run=setup.model, out=draft / "model", corpus=corpus, model_id=model_id)
    return draft / "model", import_run(request)


def _write_trial(draft: Path, folder: Path, examples: pl.DataFrame, day: date) -> None:
    """Let the model serve a day: it answers prompts of the corpus, or goes on from the beginnings of its contents."""
    model = read_model(folder)
    adapter: Any = model.adapter()
    if not callable(getattr(adapter, "complete", None)):
        hint = "Write outputs of your own instead, and leave --trial-day away."
        raise InputError("--trial-day", expected="an adapter that answers prompts", found=model.card.adapter, hint=hint)
    train = examples.filter(pl.col("split") == "train")
    chosen = examples_in(train.sample(min(OUTPUTS_OF_TRIAL, train.height), seed=day.toordinal()))
    length = min(LONGEST, adapter.context // 2)
    asked = [example.prompt or _beginning(example) for example in chosen]
    asked = [prompt for prompt in asked if len(adapter.encode([prompt])[0]) <= adapter.context // 3]
    with quiet():
        module = model.load(model.card.checkpoints[-1])
        answers = adapter.complete(module, asked, length=length, temperature=0.7, seed=day.toordinal())
        pairs = [pair for pair in zip(asked, answers, strict=True) if _has_likelihood(adapter, module, *pair)]
    if not pairs:
        hint = "Leave --trial-day away, and deliver outputs of your own."
        raise InputError("--trial-day", expected="prompts in the corpus that the model answers", found="none", hint=hint)
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    rows = [
        {
            "output_id": f"{day}-{number:03d}",
            "content": answer,
            "model_id": model.card.model_id,
            "prompt": prompt,
            "revenue_minor": PRICE,
            "currency": "EUR",
            "served_at": midnight + timedelta(minutes=20 * number),
            "notice": NOTICE,
        }
        for number, (prompt, answer) in enumerate(pairs)
    ]
    target = draft / f"store/outputs/day={day}/trial.parquet"
    target.parent.mkdir(parents=True)
    conform(OUTPUTS, pl.DataFrame(rows), "outputs of the trial").write_parquet(target)


def _has_likelihood(adapter: Adapter, module: torch.nn.Module, prompt: bytes, answer: bytes) -> bool:
    """Whether an answer fits the model's context, read as text again."""
    try:
        all_losses(adapter, module, [Example(answer, prompt)], batch_size=1)
    except ExampleError:
        return False
    return True


def _beginning(example: Example) -> bytes:
    return example.content.decode(errors="ignore")[:START].encode()


def settings_text(folder: Path, model: Path) -> str:
    """Settings that keep everything of a set-up in its folder."""
    places: dict[str, str] = {
        "store": f"file://{folder / 'store'}",
        "database": str(folder / "postgres"),
        "model": str(model),
        "cache": str(folder / "cache"),
        "contracts": str(folder / "contracts.toml"),
        "key": str(folder / "keys/signing.pem"),
        "retired": str(folder / "keys/retired"),
        "lineage": str(folder / "logs/lineage"),
    }
    return SETTINGS.format(**{name: json.dumps(place, ensure_ascii=False) for name, place in places.items()})
