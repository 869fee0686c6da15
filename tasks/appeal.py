"""Appeals: an owner contests a share, and pairs of trainings with and without its works answer. Nothing is booked from it.

appeals/trainings/<digest>.parquet    losses of a day's outputs under one model; found again, it is not trained again
appeals/<digest>/report.json          what was contested, what the experiment was, what it found beside what was paid
appeals/<digest>/report.html          the same as a page, of which report.json has the SHA-256
appeals/<digest>/report.sig           the signature of report.json

A report is named by its inputs and never edited: the same appeal again finds its trainings and writes the same bytes.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from provenance.core.contracts import ESCROW, PAYABLE
from provenance.core.errors import ContractError, InputError, StoreError, did_you_mean
from provenance.core.money import NANO
from provenance.core.store import canonical_json, digest, sha256
from provenance.core.text import plain
from provenance.features.model import all_losses, read_model
from provenance.royalty.contracts import assign
from provenance.royalty.shares import FLAT
from provenance.settlement import ledger
from provenance.settlement.exports import APPEALS, MANIFEST, REPORT, described, in_force, published_days, write_folder
from provenance.settlement.verification import verify
from provenance.validation import appeals
from provenance.validation.appeal_page import as_html, verdicts
from tasks.cluster import compute, open_cluster
from tasks.counterfactuals import (
    VERSION,
    Subject,
    check_trainable,
    owner_of_examples,
    read_examples,
    recipe_of,
    train_model,
)
from tasks.database import open_ledger
from tasks.estimate import corpus_holdings
from tasks.keys import signing_key, trusted_keys
from tasks.night import load_night

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from provenance.core.store import Store
    from provenance.royalty.contracts import Contract
    from provenance.settlement.verification import Check
    from provenance.validation.appeals import Found, Pair
    from tasks.night import Night
    from tasks.settings import Settings

log = logging.getLogger("provenance.appeal")

TRAININGS = f"{APPEALS}/trainings"
BATCH = 64
# Raised when pairs are drawn or counted otherwise: what was answered before keeps its report.
METHOD = 1
# Of numbers that people read; money and shares are integers.
DECIMALS = 6


@dataclass(frozen=True)
class Case:
    """What an owner contests.

    Attributes:
        export: folder of the revision in force; manifest_sha256: of its manifest.
        outputs: `output_id, currency, paid_by, pool, paid, share_ppb, low_ppb, high_ppb`, sorted by id; `pool` and `paid`
            in nanominor.
        claimed: who has claimed what lay in escrow, by the name that it lay under.
    """

    owner_id: str
    owner_name: str
    day: str
    revision: int
    export: str
    manifest_sha256: str
    notice: str
    night: Night
    outputs: pl.DataFrame
    claimed: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """Losses to be had under one model.

    Attributes:
        examples: what to train on, by their places in the corpus; None for the model served.
        checkpoint: the base (0) or the last (-1). Who trains on nothing has the base.
        seed: of the training.
    """

    key: str
    examples: tuple[int, ...] | None
    checkpoint: int
    seed: int


@dataclass(frozen=True)
class Appeal:
    """An experiment that is planned.

    Attributes:
        examples: `work_id, example_id, position, content_sha256, owner` of the corpus, in its order.
        shared, elsewhere: examples of which others hold a part, and of which others hold the largest.
        base, served: of the model served; without, within: of each pair.
        there: keys of the losses that the store has already.
    """

    case: Case
    subject: Subject
    recipe: str
    draws: str
    examples: pl.DataFrame
    shared: int
    elsewhere: int
    pairs: tuple[Pair, ...]
    base: Run
    served: Run
    without: tuple[Run, ...]
    within: tuple[Run, ...]
    there: frozenset[str]

    @property
    def trainings(self) -> list[Run]:
        """All trainings, once each."""
        return list({run.key: run for run in (*self.without, *self.within)}.values())

    @cached_property
    def missing(self) -> list[Run]:
        """Trainings that the store lacks, the longest first: what runs beside one another then ends together."""
        lacking = [run for run in self.trainings if run.key not in self.there]
        return sorted(lacking, key=lambda run: (-len(run.examples or ()), run.key))

    @property
    def cost(self) -> dict[str, Any]:
        """What there is to train: `pairs`, `trainings`, how many are `there`, what those `missing` are `worth` on the whole."""
        work = sum(len(run.examples or ()) for run in self.missing)
        return {
            "pairs": len(self.pairs),
            "trainings": len(self.trainings),
            "there": len(self.trainings) - len(self.missing),
            "missing": len(self.missing),
            "worth": round(work / len(self.examples), 1),
        }

    @property
    def mine(self) -> pl.DataFrame:
        """The owner's examples."""
        return self.examples.filter(pl.col("owner") == _label(self.case.owner_id))

    @property
    def inputs(self) -> dict[str, Any]:
        """All that decides the report, by digest or name."""
        return {
            "export": self.case.export,
            "manifest": self.case.manifest_sha256,
            "night": self.case.night.folder,
            "corpus": self.case.night.corpus,
            "model": self.case.night.model,
            "model_id": self.case.night.model_id,
            "recipe": self.recipe,
            "draws": self.draws,
            "version": f"{METHOD}.{VERSION}",
        }

    @property
    def folder(self) -> str:
        """Where the report lies."""
        asked = {"owner": self.case.owner_id, "outputs": self.case.outputs["output_id"].to_list(), "pairs": len(self.pairs)}
        return f"{APPEALS}/{digest({**self.inputs, **asked})[:32]}"


def _label(owner_id: str) -> str:
    """An owner as `owner_of_examples` names it."""
    return f"{PAYABLE}/{owner_id}"


def contested(settings: Settings, owner_id: str, *, day: str | None = None, output_ids: Sequence[str] = ()) -> Case:
    """What an owner contests: outputs of a day as its revision in force has them.

    Args:
        day: by default the latest published day that has one of them.
        output_ids: by default all outputs that credit the owner.

    Raises:
        InputError: no such day, owner or output, or nothing of it can be contested.
    """
    store = settings.store.open()
    wanted = pl.col("output_id").is_in(list(output_ids)) if output_ids else _is_credited(owner_id)
    days = [day] if day else published_days(store)[::-1]
    for each in days:
        pointer = in_force(store, each)
        credits = store.read_table(f"{pointer['folder']}/credits.parquet")
        if not credits.filter(wanted).is_empty():
            break
    else:
        raise _nothing(store, owner_id, output_ids, day)
    known = credits["output_id"].unique()
    for output_id in output_ids:
        if output_id not in known:
            raise _no_output(output_id, each, known)
    folder = pointer["folder"]
    data = store.read(f"{folder}/{MANIFEST}")
    manifest = json.loads(data)
    night = load_night(store, manifest["night"])
    names = dict(store.read_table(night.frozen_corpus(store).owners.key).select("owner_id", "name").iter_rows())
    engine = open_ledger(settings.database, store)
    return Case(
        owner_id=owner_id,
        owner_name=names.get(owner_id, owner_id),
        day=each,
        revision=manifest["revision"],
        export=folder,
        manifest_sha256=sha256(data),
        notice=manifest["notice"],
        night=night,
        outputs=_outputs(
            store,
            night,
            credits,
            manifest["contract"]["weights"],
            owner_id=owner_id,
            chosen=set(output_ids) or set(credits.filter(wanted)["output_id"]),
            asked=bool(output_ids),
        ),
        claimed=ledger.standing(engine, through=manifest["booking_id"]).claimed,
    )


def _is_credited(owner_id: str) -> pl.Expr:
    return (pl.col("account") == PAYABLE) & (pl.col("owner_id") == owner_id)


def _no_output(output_id: str, day: str, known: Iterable[str]) -> InputError:
    hint = did_you_mean(output_id, known)
    return ContractError(f"output {output_id!r}", expected=f"an output of {day}", found="none of that id", hint=hint)


def _nothing(store: Store, owner_id: str, output_ids: Sequence[str], day: str | None) -> InputError:
    """Why no output was found that could be contested."""
    days = published_days(store)
    if not days:
        hint = "Only what was paid can be contested. `make demo` pays a day."
        return StoreError(store.locate("exports/payouts"), expected="a published day", found="none", hint=hint)
    looked = day or days[-1]
    folder = in_force(store, looked)["folder"]
    credits = store.read_table(f"{folder}/credits.parquet")
    if output_ids:
        return _no_output(output_ids[0], day or "a published day", credits["output_id"].unique())
    night = load_night(store, store.read_json(f"{folder}/{MANIFEST}")["night"])
    known = set(store.read_table(night.frozen_corpus(store).owners.key)["owner_id"])
    known |= set(store.read_table(f"{folder}/payouts.parquet")["owner_id"])
    where = f"owner {owner_id!r}"
    if owner_id not in known:
        hint = did_you_mean(owner_id, sorted(known)) or "`provenance payouts DAY` lists owners."
        return InputError(where, expected="an owner of the corpus", found="none of that id", hint=hint)
    hint = "Name the outputs that it should have been credited for: --outputs ID,ID."
    return InputError(where, expected=f"a credit on {day or 'a published day'}", found="none", hint=hint)


def _outputs(
    store: Store,
    night: Night,
    credits: pl.DataFrame,
    weights: Mapping[str, float],
    *,
    owner_id: str,
    chosen: set[str],
    asked: bool,
) -> pl.DataFrame:
    """The outputs contested, with their pools and what the owner was paid of them.

    Args:
        weights: by contract, the part that its rule decided.
        asked: whether they were named one by one.

    Raises:
        ContractError: one that was asked for has nothing to share, or is shared by size; or all of them.
    """
    served = night.read_outputs(store).with_columns(pl.col("product").fill_null(""))
    terms = {contract.name: contract for contract in night.contracts}
    names = assign(served, night.contracts, f"night of {night.day}")
    said = served.select(
        "output_id",
        rule=pl.Series([terms[name].rule for name in names], dtype=pl.String),
        paid_by=pl.Series([_paid_by(terms[name], weights.get(name, 1.0)) for name in names], dtype=pl.String),
    )
    mine = _is_credited(owner_id)
    numbers = {name: pl.col(name).filter(mine).sum() for name in ("share_ppb", "low_ppb", "high_ppb")}
    amount = pl.col("amount_nanominor")
    found = (
        credits.filter(pl.col("output_id").is_in(list(chosen)))
        .group_by("output_id", "currency")
        .agg(pool=amount.sum(), paid=amount.filter(mine).sum(), **numbers)
        .join(said, on="output_id", how="left")
        .sort("output_id")
    )
    contestable = found.filter((pl.col("pool") > 0) & (pl.col("rule") != FLAT)).drop("rule")
    others = found.filter(~pl.col("output_id").is_in(contestable["output_id"].implode()))["output_id"]
    if others.len() and (asked or contestable.is_empty()):
        hint = "A pool is money that outputs earned; `provenance contracts` says which rule divides it."
        expected = f"one with a pool that is divided by what works add, not by size ({FLAT})"
        raise ContractError(f"output {others[0]!r}", expected=expected, found="none such", hint=hint)
    return contestable


def _paid_by(contract: Contract, weight: float) -> str:
    """The rules that divided a pool."""
    if contract.rule == contract.fallback or weight in (0, 1):
        return contract.rule if weight else contract.fallback
    return f"{weight:.0%} {contract.rule}, {1 - weight:.0%} {contract.fallback}"


def plan(settings: Settings, case: Case, pairs: int) -> Appeal:
    """The experiment that answers a case; nothing is trained yet.

    Raises:
        InputError: the model cannot be trained, the owner's works cannot be left out, or there are too few others.
    """
    if pairs < appeals.FEWEST_PAIRS or pairs % 2:
        expected = f"an even number from {appeals.FEWEST_PAIRS} on: pairs come in couples, and an interval takes two"
        raise InputError("--pairs", expected=expected, found=str(pairs))
    store, night = settings.store.open(), case.night
    subject = Subject(store, night.model, night.model_files, night.frozen_corpus(store), night.date, settings.model.cache)
    model = subject.open()
    check_trainable(model)
    claimants = {f"{ESCROW}/{name}": _label(owner) for name, owner in case.claimed.items()}
    examples = owner_of_examples(subject).with_columns(pl.col("owner").replace(claimants))
    me, owner = _label(case.owner_id), examples["owner"].to_numpy()
    shared, elsewhere = _held_with_others(store, night, examples, case.owner_id)
    if me not in set(owner):
        found = f"none; it has a smaller part in {elsewhere}" if elsewhere else "none"
        expected = "pieces of the corpus in which it has the largest part, to train with and without them"
        raise ContractError(f"owner {case.owner_id!r}", expected=expected, found=found)
    others = sorted(set(owner) - {me})
    if len(others) < 2:
        expected = "works of at least 2 other owners, to draw from"
        raise ContractError(f"corpus of {case.day}", expected=expected, found=f"{len(others)} other owner")
    recipe, draws = recipe_of(model), digest([case.owner_id, night.corpus, night.model])[:32]
    drawn = appeals.design(others, pairs, draws)
    names = night.read_outputs(store).select("output_id", "content_sha256").rows()
    contents = examples["content_sha256"].to_numpy()

    def training(parties: Sequence[str], seed: int) -> Run:
        inside = np.flatnonzero(np.isin(owner, parties))
        made_of = {"recipe": recipe, "examples": contents[inside].tolist(), "seed": seed}
        return Run(_key(names, made_of), tuple(inside.tolist()), -1 if len(inside) else 0, seed)

    def forward(checkpoint: int) -> Run:
        made_of = {"model": night.model, "checkpoint": model.card.checkpoints[checkpoint].file}
        return Run(_key(names, made_of), None, checkpoint, 0)

    return Appeal(
        case=case,
        subject=subject,
        recipe=recipe,
        draws=draws,
        examples=examples.select("work_id", "example_id", "position", "content_sha256", "owner"),
        shared=shared,
        elsewhere=elsewhere,
        pairs=drawn,
        base=forward(0),
        served=forward(-1),
        without=tuple(training(pair.others, pair.seed) for pair in drawn),
        within=tuple(training([*pair.others, me], pair.seed) for pair in drawn),
        there=frozenset(store.list(TRAININGS)),
    )


def _key(outputs: Sequence[tuple[str, str]], made_of: Mapping[str, Any]) -> str:
    """Where losses lie: the digest of all that decides them."""
    return f"{TRAININGS}/{digest({'version': VERSION, 'outputs': outputs, **made_of})}.parquet"


def _held_with_others(store: Store, night: Night, examples: pl.DataFrame, owner_id: str) -> tuple[int, int]:
    """Of the examples in which an owner has a part: how many go with it though others have a part, and how many do not."""
    held = corpus_holdings(store, night, "earliest").with_columns(holders=pl.len().over("example_id"))
    mine = held.filter((pl.col("account") == PAYABLE) & (pl.col("party_id") == owner_id))
    whose = mine.join(examples.select("example_id", "owner"), on="example_id")
    goes_along = pl.col("owner") == _label(owner_id)
    return whose.filter(goes_along & (pl.col("holders") > 1)).height, whose.filter(~goes_along).height


@dataclass(frozen=True)
class _Laboratory:
    """What every worker needs."""

    subject: Subject
    night: Night
    examples: pl.DataFrame


def train(settings: Settings, appeal: Appeal) -> None:
    """Compute the losses that the store lacks, on the cluster. Logs progress and the time left.

    Raises:
        InputError: a training has failed; or no output contested became more likely by training.
    """
    shared = _Laboratory(appeal.subject, appeal.case.night, appeal.examples.drop("owner"))
    passes = [each for each in (appeal.base, appeal.served) if each.key not in appeal.there]
    if not passes and not appeal.missing:
        log.info("appeal: all %d trainings are there", len(appeal.trainings))
        return
    with open_cluster(settings.cluster) as client:

        def computed(runs: Sequence[Run], what: str) -> Iterator[int]:
            return compute(client, _losses_of, shared, runs, settings=settings.cluster, what=what, name=lambda each: each.key)

        for _ in computed(passes, "likelihoods of outputs"):
            pass
        if not (_brought(appeal) > 0).any():
            expected = "an output that training made more likely, so that there is something to share"
            raise ContractError(f"outputs of {appeal.case.day}", expected=expected, found="none")
        work, done, started = sum(len(each.examples or ()) for each in appeal.missing), 0, time.monotonic()
        for size in computed(appeal.missing, "trainings of the appeal"):
            done += size
            if done:
                left = timedelta(seconds=round((time.monotonic() - started) * (work - done) / done))
                log.info("trainings of the appeal: about %s left", left)


def _losses_of(where: _Laboratory, each: Run) -> int:
    """Write the losses of the day's outputs under one model; returns how many examples it was trained on."""
    subject = where.subject
    model = subject.open()
    outputs = where.night.read_outputs(subject.store)
    with tempfile.TemporaryDirectory() as scratch:
        if each.examples is not None:
            rows = list(each.examples) or [0]
            works = where.examples[rows].with_columns(content=read_examples(subject, "content")["content"][rows])
            train_model(model, works, seed=each.seed, folder=Path(scratch) / "model")
            model = read_model(Path(scratch) / "model")
        module = model.load(model.card.checkpoints[each.checkpoint])
        losses = all_losses(model.adapter(), module, outputs["content"].to_list(), batch_size=BATCH)
    subject.store.write_table(each.key, outputs.select("output_id").with_columns(loss=losses))
    return len(each.examples or ())


def _likelihoods(appeal: Appeal, each: Run) -> np.ndarray:
    """Log-likelihoods of the outputs contested under one model, `(Q,)`."""
    losses = appeal.subject.store.read_table(each.key)
    mine = appeal.case.outputs.select("output_id").join(losses, on="output_id", how="left", maintain_order="left")
    found: np.ndarray = -mine["loss"].to_numpy()
    return found


def _brought(appeal: Appeal) -> np.ndarray:
    """v_1 - v_0: what training brought to each output contested, `(Q,)`."""
    found: np.ndarray = _likelihoods(appeal, appeal.served) - _likelihoods(appeal, appeal.base)
    return found


def report(appeal: Appeal) -> dict[str, Any]:
    """What the experiment found, beside what was paid; without the digest of its page."""
    case, brought = appeal.case, _brought(appeal)
    without, within = (np.stack([_likelihoods(appeal, each) for each in side]) for side in (appeal.without, appeal.within))
    couples = appeals.by_couple(without, within)
    effect, told = appeals.mean_of(couples), brought > 0
    shares = appeals.share_of(couples[:, told], brought[told])
    found: list[dict[str, int] | None] = [None] * len(told)
    for place, at in enumerate(np.flatnonzero(told)):
        found[at] = _in_ppb(shares, place)
    rows = [
        {
            "output_id": row["output_id"],
            "currency": row["currency"],
            "paid_by": row["paid_by"],
            "pool_nanominor": row["pool"],
            "paid_nanominor": row["paid"],
            "paid": {"ppb": row["share_ppb"], "low_ppb": row["low_ppb"], "high_ppb": row["high_ppb"]},
            "found": found[at],
            "brought_nats": round(float(brought[at]), DECIMALS),
            "effect_nats": {end: round(float(getattr(effect, end)[at]), DECIMALS) for end in ("value", "low", "high")},
        }
        for at, row in enumerate(case.outputs.iter_rows(named=True))
    ]
    currencies = [
        _currency(currency, rows, couples, brought, told & (case.outputs["currency"] == currency).to_numpy())
        for currency in sorted({row["currency"] for row in rows if row["found"]})
    ]
    mine = appeal.mine
    return {
        "format": 1,
        "owner_id": case.owner_id,
        "owner_name": case.owner_name,
        "day": case.day,
        "revision": case.revision,
        "notice": case.notice,
        "verdict": verdicts(currencies, plain(case.owner_name) or case.owner_id),
        "currencies": currencies,
        "outputs": rows,
        "experiment": {
            "pairs": len(appeal.pairs),
            "confidence": appeals.CONFIDENCE,
            "others": appeal.examples["owner"].n_unique() - 1,
            "works": mine["work_id"].n_unique(),
            "examples": mine.height,
            "shared": appeal.shared,
            "elsewhere": appeal.elsewhere,
            "drawn": [
                {
                    "rate": round(pair.rate, DECIMALS),
                    "seed": pair.seed,
                    "others": len(pair.others),
                    "without": Path(without_.key).stem,
                    "with": Path(with_.key).stem,
                }
                for pair, without_, with_ in zip(appeal.pairs, appeal.without, appeal.within, strict=True)
            ],
        },
        "inputs": appeal.inputs,
    }


def _in_ppb(found: Found, at: Any = ()) -> dict[str, int]:
    return {
        "ppb": appeals.ppb(found.value[at]),
        "low_ppb": appeals.ppb(found.low[at]),
        "high_ppb": appeals.ppb(found.high[at]),
    }


def _currency(
    currency: str, rows: Sequence[Mapping[str, Any]], couples: np.ndarray, brought: np.ndarray, chosen: np.ndarray
) -> dict[str, Any]:
    """What was paid and what was found of the chosen outputs together, which are of one currency."""
    mine = [row for row, is_in in zip(rows, chosen, strict=True) if is_in]
    pools = [row["pool_nanominor"] for row in mine]
    pool, paid = sum(pools), sum(row["paid_nanominor"] for row in mine)
    together = appeals.pooled(couples[:, chosen], brought[chosen], np.array(pools, dtype=np.float64))
    found = _in_ppb(together)
    was = {
        end: _nearest(sum(each * row["paid"][end] for each, row in zip(pools, mine, strict=True)), pool)
        for end in ("ppb", "low_ppb", "high_ppb")
    }
    names = {"low": "low_ppb", "value": "ppb", "high": "high_ppb"}
    return {
        "currency": currency,
        "outputs": len(mine),
        "pool_minor": _nearest(pool, NANO),
        "paid_minor": _nearest(paid, NANO),
        "paid": was,
        "found": found,
        "verdict": appeals.verdict(was["ppb"], found["low_ppb"], found["high_ppb"]),
        "difference_minor": {end: appeals.difference(pool, paid, found[name]) for end, name in names.items()},
    }


def _nearest(number: int, unit: int) -> int:
    """A number in whole units, halves upwards."""
    return (2 * number + unit) // (2 * unit)


def publish(settings: Settings, appeal: Appeal) -> dict[str, Any]:
    """Write the report, its page and its signature, once; returns the report.

    Raises:
        StoreError: it was published before with other content.
    """
    store, found = appeal.subject.store, report(appeal)
    files = {"report.html": as_html(found)}
    found["files"] = described(files)
    where = f"{appeal.folder}/{REPORT}"
    if write_folder(store, appeal.folder, files, found, signing_key(settings.settlement), name=REPORT):
        log.info("published %s", store.locate(appeal.folder))
    if store.read(where) != canonical_json(found):
        hint = "What is published is never edited. Run `provenance verify` on the folder to see whether it was changed."
        raise StoreError(store.locate(where), expected="the report that was published", found="another one", hint=hint)
    return found


def check_report(settings: Settings, folder: str) -> list[Check]:
    """Check a report in the store: its page's checksum, and that a key that the settings trust has signed it."""
    return verify(settings.store.open(), folder, keys=trusted_keys(settings.settlement), chain=False, name=REPORT)
