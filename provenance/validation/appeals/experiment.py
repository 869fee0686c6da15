"""Appeals: an owner contests a share, and pairs of trainings with and without its works answer. Nothing is booked from it.

audits/truth/<digest>.parquet         losses of a day's outputs under one model (`provenance.validation.retrain`), trained once
appeals/<digest>/report.json          what was contested, what the experiment was, what it found beside what was paid
appeals/<digest>/report.html          the same as a page, of which report.json has the SHA-256
appeals/<digest>/report.sig           the signature of report.json

A report is named by its inputs and never edited: the same appeal again finds its trainings and writes the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from provenance.core.contracts import ESCROW, PAYABLE
from provenance.core.errors import ContractError, InputError, StoreError, did_you_mean
from provenance.core.money import NANO, PPB
from provenance.core.store import canonical_json, digest, sha256
from provenance.core.text import plain
from provenance.inputs.contracts import assign
from provenance.inputs.night import Night, load_night
from provenance.models.counterfactuals import Subject, owner_of_examples, recipe_of
from provenance.royalty.shares import FLAT
from provenance.settlement import ledger
from provenance.settlement.exports.export import APPEALS, MANIFEST, REPORT, described, published_days, read_export, write_folder
from provenance.settlement.exports.keys import signing_key, trusted_keys
from provenance.settlement.exports.verification import Check, verify
from provenance.validation import retrain
from provenance.validation.appeals import effect as appeals
from provenance.validation.appeals.page import as_html, verdicts
from provenance.validation.retrain import Job
from tasks.database import open_ledger
from tasks.settings import Settings

log = logging.getLogger("provenance.appeal")

# Raised when pairs are drawn or counted otherwise: what was answered before keeps its report.
METHOD = 1
# Of numbers that people read; money and shares are integers.
DECIMALS = 6
# A mean and the ends of its interval, in the order in which they are computed, and what reports call those of shares.
ENDS = {"low": "low_ppb", "value": "ppb", "high": "high_ppb"}


@dataclass(frozen=True)
class Case:
    """What an owner contests.

    Attributes:
        facts: what the report says of it first: `owner_id, owner_name, day, revision, notice`.
        export: the folder of the revision in force, and the SHA-256 of its manifest.
        outputs: `output_id, currency, paid_by, pool_nanominor, paid_nanominor, paid` (share and interval), as the report has
            them, and `at`, their places among the night's; sorted by id.
        claimed: who has claimed what lay in escrow, by the name that it lay under.
    """

    facts: dict[str, Any]
    export: dict[str, str]
    night: Night
    outputs: pl.DataFrame
    claimed: Mapping[str, str]


@dataclass(frozen=True)
class Appeal:
    """An experiment that is planned.

    Attributes:
        inputs: all that decides the report besides what is asked, by digest or name.
        experiment: what the report says of it.
        examples: how many the corpus has.
        jobs: the trainings of each pair, without the owner and with it; missing: those that the store lacks.
    """

    case: Case
    inputs: dict[str, str]
    experiment: dict[str, Any]
    examples: int
    jobs: list[Job]
    missing: list[Job]

    @property
    def cost(self) -> dict[str, Any]:
        """What there is to train: `pairs`, `trainings`, how many are `there`, what those `missing` are `worth` on the whole."""
        trainings, missing = len({job.key for job in self.jobs}), len(self.missing)
        worth = round(sum(len(job.examples) for job in self.missing) / self.examples, 1)
        pairs, there = self.experiment["pairs"], trainings - missing
        return {"pairs": pairs, "trainings": trainings, "there": there, "missing": missing, "worth": worth}

    @property
    def folder(self) -> str:
        """Where the report lies."""
        outputs = self.case.outputs["output_id"].to_list()
        asked = {"owner": self.case.facts["owner_id"], "outputs": outputs, "pairs": self.experiment["pairs"]}
        return f"{APPEALS}/{digest({**self.inputs, **asked})[:32]}"


def contested(settings: Settings, owner_id: str, *, day: str | None = None, output_ids: Sequence[str] = ()) -> Case:
    """What an owner contests: outputs of a day as its revision in force has them.

    Args:
        day: by default the latest published day that has one of them.
        output_ids: by default all outputs that credit the owner.

    Raises:
        InputError: no such day, owner or output, or nothing of it can be contested.
    """
    store = settings.store.open()
    days = [day] if day else published_days(store)[::-1]
    if not days:
        hint = "Only what was paid can be contested. `make demo` pays a day."
        raise StoreError(store.locate("exports/payouts"), expected="a published day", found="none", hint=hint)
    wanted = pl.col("output_id").is_in(list(output_ids)) if output_ids else _credits(owner_id)
    exports = ((each, *read_export(store, each)) for each in days)
    found = next((export for export in exports if not export[-1].filter(wanted).is_empty()), None)
    each, manifest, payouts, credits = found or (days[0], *read_export(store, days[0]))
    night, looked = load_night(store, manifest["night"]), day or "a published day"
    names = dict(store.read_table(night.frozen_corpus(store).owners.key).select("owner_id", "name").iter_rows())
    if unknown := sorted(set(output_ids) - set(credits["output_id"])):
        expected, hint = f"an output of {each if found else looked}", did_you_mean(unknown[0], credits["output_id"].unique())
        raise ContractError(f"output {unknown[0]!r}", expected=expected, found="none of that id", hint=hint)
    if found is None and owner_id not in (known := {*names, *payouts["owner_id"]}):
        hint = did_you_mean(owner_id, sorted(known)) or "`provenance payouts DAY` lists owners."
        raise InputError(f"owner {owner_id!r}", expected="an owner of the corpus", found="none of that id", hint=hint)
    if found is None:
        hint = "Name the outputs that it should have been credited for: --outputs ID,ID."
        raise InputError(f"owner {owner_id!r}", expected=f"a credit on {looked}", found="none", hint=hint)
    chosen = credits.join(credits.filter(wanted), on="output_id", how="semi")
    outputs = paid_outputs(night, night.read_outputs(store), chosen, manifest["contract"]["weights"], owner_id)
    contestable = outputs.filter((pl.col("pool_nanominor") > 0) & (pl.col("rule") != FLAT))
    others = outputs.join(contestable, on="output_id", how="anti")["output_id"]
    if others.len() and (output_ids or contestable.is_empty()):
        hint = "A pool is money that outputs earned; `provenance contracts` says which rule divides it."
        expected = f"one with a pool that is divided by what works add, not by size ({FLAT})"
        raise ContractError(f"output {others[0]!r}", expected=expected, found="none such", hint=hint)
    facts = {"owner_id": owner_id, "owner_name": names.get(owner_id, owner_id), "day": each}
    facts |= {name: manifest[name] for name in ("revision", "notice")}
    export = {"export": manifest["folder"], "manifest": sha256(store.read(f"{manifest['folder']}/{MANIFEST}"))}
    standing = ledger.standing(open_ledger(settings.database, store), through=manifest["booking_id"])
    return Case(facts, export, night, contestable.drop("rule"), standing.claimed)


def _credits(owner_id: str) -> pl.Expr:
    return (pl.col("account") == PAYABLE) & (pl.col("owner_id") == owner_id)


def paid_outputs(
    night: Night, served: pl.DataFrame, credits: pl.DataFrame, weights: Mapping[str, float], owner_id: str
) -> pl.DataFrame:
    """Outputs with their pools, what the owner was paid of them, and by which rule: `Case.outputs`, and `rule`.

    Args:
        served: the night's outputs; credits: of the outputs asked for.
        weights: by contract, the part that its rule decided.
    """
    terms = {contract.name: contract for contract in night.contracts}
    names = assign(served.with_columns(pl.col("product").fill_null("")), night.contracts, f"night of {night.day}")
    ruled = []
    for rule, fallback, weight in ((terms[name].rule, terms[name].fallback, weights.get(name, 1.0)) for name in names):
        ruled.append({1.0: rule, 0.0: fallback}.get(weight, f"{weight:.0%} {rule}, {1 - weight:.0%} {fallback}"))
    said = served.select("output_id", rule=pl.Series([terms[name].rule for name in names]), paid_by=pl.Series(ruled))
    mine, amount = _credits(owner_id), pl.col("amount_nanominor")
    share = [pl.col("share_ppb" if end == "ppb" else end).filter(mine).sum().alias(end) for end in ENDS.values()]
    found = credits.group_by("output_id", "currency").agg(
        pool_nanominor=amount.sum(), paid_nanominor=amount.filter(mine).sum(), paid=pl.struct(share)
    )
    return found.join(said.with_row_index("at"), on="output_id", how="left").sort("output_id")


def plan(settings: Settings, case: Case, pairs: int) -> Appeal:
    """The experiment that answers a case, of which nothing is trained yet; InputError where there can be none."""
    if pairs < appeals.FEWEST_PAIRS or pairs % 2:
        expected = f"an even number from {appeals.FEWEST_PAIRS} on: pairs come in couples, and an interval takes two"
        raise InputError("--pairs", expected=expected, found=str(pairs))
    night, owner_id = case.night, case.facts["owner_id"]
    subject, me = Subject.of(settings.store.open(), night, settings.model.cache), f"{PAYABLE}/{owner_id}"
    claimants = {f"{ESCROW}/{name}": f"{PAYABLE}/{owner}" for name, owner in case.claimed.items()}
    examples = owner_of_examples(subject).with_columns(
        pl.col("owner").replace(claimants), pl.col("parties").list.eval(pl.element().replace(claimants))
    )
    mine, owner = examples.filter(owner=me), examples["owner"].to_numpy()
    elsewhere = examples.filter(pl.col("parties").list.contains(me) & (pl.col("owner") != me)).height
    if mine.is_empty():
        found = f"none; it has a smaller part in {elsewhere}" if elsewhere else "none"
        expected = "pieces of the corpus in which it has the largest part, to train with and without them"
        raise ContractError(f"owner {owner_id!r}", expected=expected, found=found)
    others = sorted(set(owner) - {me})
    if len(others) < 2:
        expected = "works of at least 2 other owners, to draw from"
        raise ContractError(f"corpus of {night.day}", expected=expected, found=f"{len(others)} other owner")
    draws = digest([owner_id, night.corpus, night.model])[:32]
    drawn = appeals.design(others, pairs, draws)
    masks = np.stack([np.isin(owner, inside) for pair in drawn for inside in (pair.others, [*pair.others, me])])
    jobs = retrain.jobs(settings, night, masks, [pair.seed for pair in drawn for _ in range(2)])
    inputs = {
        **case.export,
        "night": night.folder,
        "corpus": night.corpus,
        "model": night.model,
        "model_id": night.model_id,
        "recipe": recipe_of(subject.open()),
        "draws": draws,
        "version": f"{METHOD}.{retrain.VERSION}",
    }
    experiment = {
        "pairs": pairs,
        "confidence": appeals.CONFIDENCE,
        "others": len(others),
        "works": mine["work_id"].n_unique(),
        "examples": mine.height,
        "shared": (mine["parties"].list.n_unique() > 1).sum(),
        "elsewhere": elsewhere,
        "drawn": [
            {
                "rate": round(pair.rate, DECIMALS),
                "seed": pair.seed,
                "others": len(pair.others),
                "without": out.name,
                "with": in_.name,
            }
            for pair, out, in_ in zip(drawn, jobs[::2], jobs[1::2], strict=True)
        ],
    }
    return Appeal(case, inputs, experiment, examples.height, jobs, retrain.missing(subject.store, jobs))


def answer(settings: Settings, appeal: Appeal) -> dict[str, Any]:
    """Train what the store lacks, and publish what that says, once; returns the report."""
    night, at = appeal.case.night, appeal.case.outputs["at"].to_numpy()
    base, served = retrain.base_and_served(settings, night)[:, at]
    if not (served > base).any():
        expected = "an output that training made more likely, so that there is something to share"
        raise ContractError(f"outputs of {night.day}", expected=expected, found="none")
    losses = retrain.losses(settings, night, appeal.jobs, "trainings of the appeal")[:, at]
    found = report(appeal, appeals.by_couple(-losses.reshape(-1, 2, len(at))), served - base)
    store, files = settings.store.open(), {"report.html": as_html(found)}
    found["files"] = described(files)
    where = f"{appeal.folder}/{REPORT}"
    if write_folder(store, appeal.folder, files, found, signing_key(settings.settlement), name=REPORT):
        log.info("published %s", store.locate(appeal.folder))
    if store.read(where) != canonical_json(found):
        hint = "What is published is never edited. Run `provenance verify` on the folder to see whether it was changed."
        raise StoreError(store.locate(where), expected="the report that was published", found="another one", hint=hint)
    return found


def report(appeal: Appeal, couples: np.ndarray, brought: np.ndarray) -> dict[str, Any]:
    """What the experiment found, beside what was paid; without the digest of its page.

    Args:
        couples: what the owner's works add to the outputs contested, `(couples, Q)`.
        brought: what all training brought to them, `(Q,)`; an output that has nothing to share has no share to tell.
    """
    parts, rows = couples / np.where(brought > 0, brought, np.nan), appeal.case.outputs.drop("at").to_dicts()
    shares, effects = appeals.share(parts).T, appeals.interval(couples).T.round(DECIMALS)
    for row, share, effect, added in zip(rows, shares, effects, brought.tolist(), strict=True):
        row["found"] = _in_ppb(share) if added > 0 else None
        row["brought_nats"] = round(added, DECIMALS)
        row["effect_nats"] = dict(zip(ENDS, effect.tolist(), strict=True))
    told = [(row["currency"], at) for at, row in enumerate(rows) if row["found"]]
    currencies = []
    for currency in sorted({currency for currency, _ in told}):
        chosen = [at for other, at in told if other == currency]
        currencies.append({"currency": currency, **_together([rows[at] for at in chosen], parts[:, chosen])})
    facts = appeal.case.facts
    return {
        "format": 1,
        **facts,
        "verdict": verdicts(currencies, plain(facts["owner_name"]) or facts["owner_id"]),
        "currencies": currencies,
        "outputs": rows,
        "experiment": appeal.experiment,
        "inputs": appeal.inputs,
    }


def _in_ppb(share: np.ndarray) -> dict[str, int]:
    return {end: round(part * PPB) for end, part in zip(ENDS.values(), share.tolist(), strict=True)}


def _together(rows: Sequence[Mapping[str, Any]], parts: np.ndarray) -> dict[str, Any]:
    """What was paid and what was found of outputs of one currency together."""
    pools = [row["pool_nanominor"] for row in rows]
    pool, paid = sum(pools), sum(row["paid_nanominor"] for row in rows)
    found = _in_ppb(appeals.share(parts, np.array(pools, dtype=np.float64)))
    sums = {end: sum(each * row["paid"][end] for each, row in zip(pools, rows, strict=True)) for end in found}
    was = {end: appeals.nearest(weighed, pool) for end, weighed in sums.items()}
    return {
        "outputs": len(rows),
        "pool_minor": appeals.nearest(pool, NANO),
        "paid_minor": appeals.nearest(paid, NANO),
        "paid": was,
        "found": found,
        "verdict": appeals.verdict(was["ppb"], found["low_ppb"], found["high_ppb"]),
        "difference_minor": {name: appeals.difference(pool, paid, found[end]) for name, end in ENDS.items()},
    }


def check_report(settings: Settings, folder: str) -> list[Check]:
    """Check a report in the store: its page's checksum, and that a key that the settings trust has signed it."""
    return verify(settings.store.open(), folder, keys=trusted_keys(settings.settlement), chain=False, name=REPORT)
