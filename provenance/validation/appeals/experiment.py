"""Answers appeals: an owner contests a share, and pairs of trainings with and without its works test it. Books nothing.

audits/truth/<digest>.parquet         losses of a day's outputs under one model (`provenance.validation.retrain`), trained once
appeals/<digest>/report.json          the contested shares, the experiment, and its results beside the paid shares
appeals/<digest>/report.html          the same as a page; report.json has its SHA-256
appeals/<digest>/report.sig           the signature of report.json

A report is named by its inputs and never edited: the same appeal again reuses its trainings and writes the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from provenance.core.errors import ContractError, InputError, StoreError, did_you_mean
from provenance.core.money import NANO, PPB
from provenance.core.published import MANIFEST, in_force, published_days
from provenance.core.store import canonical_json, digest, sha256
from provenance.core.tables import ESCROW, PAYABLE
from provenance.core.text import plain
from provenance.core.where import Where
from provenance.inputs.contracts import assign
from provenance.inputs.night import Night, load_night, subject_of_night
from provenance.models.subject import owner_of_examples, recipe_of
from provenance.royalty.shares import FLAT
from provenance.settlement import ledger
from provenance.settlement.exports.export import APPEALS, REPORT, described, read_credits, read_export, write_folder
from provenance.settlement.exports.keys import signing_key, trusted_keys
from provenance.settlement.exports.verification import Check, verify
from provenance.validation import retrain
from provenance.validation.appeals.page import as_html, limits, verdicts
from provenance.validation.appeals.pairs import (
    CONFIDENCE,
    FEWEST_PAIRS,
    by_couple,
    design,
    difference,
    interval,
    nearest,
    share,
    verdict,
)
from provenance.validation.retrain import Job

log = logging.getLogger("provenance.appeal")

# Raised when pairs are drawn, evaluated or described differently, so that older reports stay.
METHOD = 3
# Decimal places of numbers for readers; money and shares are integers.
DECIMALS = 6
# A mean and the ends of its interval, in the order of computation, and their names for shares in reports.
ENDS = {"low": "low_ppb", "value": "ppb", "high": "high_ppb"}


@dataclass(frozen=True)
class Case:
    """The shares that an owner contests.

    Attributes:
        facts: the first fields of the report: `owner_id, owner_name, day, revision, notice`.
        export: the folder of the revision in force, and the SHA-256 of its manifest.
        outputs: the columns of the report, `output_id, currency, paid_by, pool_nanominor, paid_nanominor, paid` (share and
            interval), and `at`, the place among the night's outputs; sorted by id.
        claimed: the owners that have claimed escrow accounts, by the name of the account.
    """

    facts: dict[str, Any]
    export: dict[str, str]
    night: Night
    outputs: pl.DataFrame
    claimed: Mapping[str, str]


@dataclass(frozen=True)
class Appeal:
    """A planned experiment.

    Attributes:
        inputs: of the report, by digest or name, besides owner, outputs and number of pairs.
        experiment: its description in the report.
        examples: number of examples of the corpus.
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
        """Numbers of `pairs`, `trainings`, those `there`, and those `missing`, which cost `worth` full trainings together."""
        trainings, missing = len({job.key for job in self.jobs}), len(self.missing)
        worth = round(sum(len(job.examples) for job in self.missing) / self.examples, 1)
        pairs = self.experiment["pairs"]
        return {"pairs": pairs, "trainings": trainings, "there": trainings - missing, "missing": missing, "worth": worth}

    @property
    def folder(self) -> str:
        """The folder of the report."""
        outputs = self.case.outputs["output_id"].to_list()
        question = {"owner": self.case.facts["owner_id"], "outputs": outputs, "pairs": self.experiment["pairs"]}
        return f"{APPEALS}/{digest({**self.inputs, **question})[:32]}"


def contested(where: Where, owner_id: str, *, day: str | None = None, output_ids: Sequence[str] = ()) -> Case:
    """The outputs of a day that an owner contests, from the revision in force.

    Args:
        day: by default the latest published day with one of the outputs.
        output_ids: by default all outputs that credit the owner.

    Raises:
        InputError: there is no such day, owner or output, or none of the outputs can be contested.
    """
    store = where.store
    days = [day] if day else published_days(store)[::-1]
    if not days:
        hint = "Only paid shares can be contested. `make demo` pays a day."
        raise StoreError(store.locate("exports/payouts"), expected="a published day", found="none", hint=hint)
    wanted = pl.col("output_id").is_in(list(output_ids)) if output_ids else _credits(owner_id)
    found_on = ((name, read_credits(store, in_force(store, name)["folder"], "output_id", wanted=wanted)) for name in days)
    chosen_day, contesting = next((each for each in found_on if each[1].height), (days[0], None))
    manifest, payouts = read_export(store, chosen_day)
    night, searched = load_night(store, manifest["night"]), day or "a published day"
    names = dict(store.read_table(night.frozen_corpus(store).owners.key).select("owner_id", "name").iter_rows())
    if unknown := sorted(set(output_ids) - set(() if contesting is None else contesting["output_id"])):
        every = read_credits(store, manifest["folder"], "output_id")["output_id"].unique()
        hint, expected = did_you_mean(unknown[0], every), f"an output of {searched if contesting is None else chosen_day}"
        raise ContractError(f"output {unknown[0]!r}", expected=expected, found="none of that id", hint=hint)
    if contesting is None:
        owners = {*names, *payouts["owner_id"]}
        expected, found, hint = f"a credit on {searched}", "none", "Name the outputs that should credit it: --outputs ID,ID."
        if owner_id not in owners:
            expected, found = "an owner of the corpus", "none of that id"
            hint = did_you_mean(owner_id, sorted(owners)) or "`provenance payouts DAY` lists owners."
        raise InputError(f"owner {owner_id!r}", expected=expected, found=found, hint=hint)
    of_outputs = pl.col("output_id").is_in(contesting["output_id"].unique().implode())
    chosen = read_credits(store, manifest["folder"], wanted=of_outputs)
    outputs = paid_outputs(night, night.read_outputs(store), chosen, manifest["contract"]["weights"], owner_id)
    contestable = outputs.filter((pl.col("pool_nanominor") > 0) & (pl.col("rule") != FLAT))
    others = outputs.join(contestable, on="output_id", how="anti")["output_id"]
    if others.len() and (output_ids or contestable.is_empty()):
        hint = "A pool is money that outputs earned; `provenance contracts` says which rule divides it."
        expected = f"one with a pool that is divided by the effects of works, not by size ({FLAT})"
        raise ContractError(f"output {others[0]!r}", expected=expected, found="none such", hint=hint)
    facts = {"owner_id": owner_id, "owner_name": names.get(owner_id, owner_id), "day": chosen_day}
    facts |= {name: manifest[name] for name in ("revision", "notice")}
    digests = {"export": manifest["folder"], "manifest": sha256(store.read(f"{manifest['folder']}/{MANIFEST}"))}
    standing = ledger.standing(where.ledger, through=manifest["booking_id"])
    return Case(facts, digests, night, contestable.drop("rule"), standing.claimed)


def _credits(owner_id: str) -> pl.Expr:
    return (pl.col("account") == PAYABLE) & (pl.col("owner_id") == owner_id)


def paid_outputs(
    night: Night, served: pl.DataFrame, credits: pl.DataFrame, weights: Mapping[str, float], owner_id: str
) -> pl.DataFrame:
    """The contested outputs with their pools, the owner's paid shares and the rules: `Case.outputs`, and `rule`.

    Args:
        served: the night's outputs; credits: of the contested outputs.
        weights: by contract, the part that its rule decided.
    """
    terms = {contract.name: contract for contract in night.contracts}
    names = assign(served.with_columns(pl.col("product").fill_null("")), night.contracts, f"night of {night.day}")
    paid_by = []
    for rule, fallback, weight in ((terms[name].rule, terms[name].fallback, weights.get(name, 1.0)) for name in names):
        paid_by.append({1.0: rule, 0.0: fallback}.get(weight, f"{weight:.0%} {rule}, {1 - weight:.0%} {fallback}"))
    rules = served.select("output_id", rule=pl.Series([terms[name].rule for name in names]), paid_by=pl.Series(paid_by))
    own, amount = _credits(owner_id), pl.col("amount_nanominor")
    ends = [pl.col("share_ppb" if end == "ppb" else end).filter(own).sum().alias(end) for end in ENDS.values()]
    paid = credits.group_by("output_id", "currency").agg(
        pool_nanominor=amount.sum(), paid_nanominor=amount.filter(own).sum(), paid=pl.struct(ends)
    )
    return paid.join(rules.with_row_index("at"), on="output_id", how="left").sort("output_id")


def plan(where: Where, case: Case, pairs: int) -> Appeal:
    """Plan the experiment that answers a case; trains nothing. InputError: no experiment is possible."""
    if pairs < FEWEST_PAIRS or pairs % 2:
        expected = f"an even number from {FEWEST_PAIRS} on: pairs come in couples, and an interval takes two"
        raise InputError("--pairs", expected=expected, found=str(pairs))
    night, owner_id = case.night, case.facts["owner_id"]
    subject, party = subject_of_night(where.store, night, where.settings.model.cache), f"{PAYABLE}/{owner_id}"
    claimants = {f"{ESCROW}/{name}": f"{PAYABLE}/{owner}" for name, owner in case.claimed.items()}
    examples = owner_of_examples(subject).with_columns(
        pl.col("owner").replace(claimants), pl.col("parties").list.eval(pl.element().replace(claimants))
    )
    own, owner = examples.filter(owner=party), examples["owner"].to_numpy()
    elsewhere = examples.filter(pl.col("parties").list.contains(party) & (pl.col("owner") != party)).height
    if own.is_empty() and f"{ESCROW}/{owner_id}" in owner:
        hint = "`provenance claim` books whose it is; the owner can then contest."
        raise ContractError(f"owner {owner_id!r}", expected="an owner", found="a name in escrow", hint=hint)
    if own.is_empty():
        found = f"none; it has a smaller part in {elsewhere}" if elsewhere else "none"
        expected = "pieces of the corpus in which it has the largest part, to train with and without them"
        raise ContractError(f"owner {owner_id!r}", expected=expected, found=found)
    others = sorted(set(owner) - {party})
    if len(others) < 2:
        expected = "works of at least 2 other owners, to draw from"
        raise ContractError(f"corpus of {night.day}", expected=expected, found=f"{len(others)} other owner")
    draws = digest([owner_id, night.corpus, night.model])[:32]
    drawn = design(others, pairs, draws)
    masks = np.stack([np.isin(owner, inside) for pair in drawn for inside in (pair.others, [*pair.others, party])])
    jobs = retrain.jobs(where, night, masks, [pair.seed for pair in drawn for _ in range(2)])
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
        "confidence": CONFIDENCE,
        "others": len(others),
        "works": own["work_id"].n_unique(),
        "examples": own.height,
        "shared": (own["parties"].list.n_unique() > 1).sum(),
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


def answer(where: Where, appeal: Appeal) -> dict[str, Any]:
    """Train the missing models and publish the report, once; returns the report."""
    night, at = appeal.case.night, appeal.case.outputs["at"].to_numpy()
    base, served = retrain.base_and_served(where, night)[:, at]
    if not (served > base).any():
        expected = "an output that training made more likely, so that there is something to share"
        raise ContractError(f"outputs of {night.day}", expected=expected, found="none")
    losses = retrain.losses(where, night, appeal.jobs, "trainings of the appeal")[:, at]
    result = report(appeal, by_couple(-losses.reshape(-1, 2, len(at))), served - base)
    store, files = where.store, {"report.html": as_html(result)}
    result["files"] = described(files)
    key = f"{appeal.folder}/{REPORT}"
    if write_folder(store, appeal.folder, files, result, signing_key(where.settings.settlement), name=REPORT):
        log.info("published %s", store.locate(appeal.folder))
    if store.read(key) != canonical_json(result):
        hint = "Published files are never edited. Run `provenance verify` on the folder to see whether it was changed."
        raise StoreError(store.locate(key), expected="the report that was published", found="another one", hint=hint)
    return result


def report(appeal: Appeal, couples: np.ndarray, gains: np.ndarray) -> dict[str, Any]:
    """The results of the experiment beside the paid shares; without the digest of the page.

    Args:
        couples: effects of the owner's works on the contested outputs, `(couples, Q)`.
        gains: effects of the whole training on them, `(Q,)`; an output without a positive gain has no share.
    """
    parts, rows = couples / np.where(gains > 0, gains, np.nan), appeal.case.outputs.drop("at").to_dicts()
    shares, effects = share(parts).T, interval(couples).T.round(DECIMALS)
    for row, part, effect, gain in zip(rows, shares, effects, gains.tolist(), strict=True):
        row["found"] = _in_ppb(part) if gain > 0 else None
        row["brought_nats"] = round(gain, DECIMALS)
        row["effect_nats"] = dict(zip(ENDS, effect.tolist(), strict=True))
    currencies = []
    for currency in sorted({row["currency"] for row in rows if row["found"]}):
        chosen = [at for at, row in enumerate(rows) if row["found"] and row["currency"] == currency]
        currencies.append({"currency": currency, **_together([rows[at] for at in chosen], parts[:, chosen])})
    facts = appeal.case.facts
    return {
        "format": 1,
        **facts,
        "verdict": verdicts(currencies, plain(facts["owner_name"]) or facts["owner_id"]),
        "limits": list(limits(rows, appeal.experiment)),
        "currencies": currencies,
        "outputs": rows,
        "experiment": appeal.experiment,
        "inputs": appeal.inputs,
    }


def _in_ppb(shares: np.ndarray) -> dict[str, int]:
    return {end: round(part * PPB) for end, part in zip(ENDS.values(), shares.tolist(), strict=True)}


def _together(rows: Sequence[Mapping[str, Any]], parts: np.ndarray) -> dict[str, Any]:
    """The paid shares and the experiment's shares of all outputs of one currency together."""
    pool, amount = sum(row["pool_nanominor"] for row in rows), sum(row["paid_nanominor"] for row in rows)
    found = _in_ppb(share(parts, np.array([row["pool_nanominor"] for row in rows], dtype=np.float64)))
    paid = {end: nearest(sum(row["pool_nanominor"] * row["paid"][end] for row in rows), pool) for end in found}
    return {
        "outputs": len(rows),
        "pool_minor": nearest(pool, NANO),
        "paid_minor": nearest(amount, NANO),
        "paid": paid,
        "found": found,
        "verdict": verdict(paid["ppb"], found["low_ppb"], found["high_ppb"]),
        "difference_minor": {name: difference(pool, amount, found[end]) for name, end in ENDS.items()},
    }


def check_report(where: Where, folder: str) -> list[Check]:
    """Check the page's checksum and the signature of a report in the store, by the keys that the settings trust."""
    return verify(where.store, folder, keys=trusted_keys(where.settings.settlement), chain=False, name=REPORT)
