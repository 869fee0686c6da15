"""Audit `attacks`: measures the gain of an owner who splits, copies, pads or adds nonsense, under every royalty rule.

OUT/attacks/<attack>/corpus    the corpus that the attacker has changed
OUT/attacks/models/<digest>    the model of a corpus; its counterfactual models lie in the store beside it
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from provenance.core.errors import ContractError
from provenance.core.money import PPB
from provenance.core.store import Store, digest, sha256
from provenance.core.where import Where
from provenance.corpus.delivery import Corpus, read_corpus
from provenance.corpus.ownership import parties
from provenance.influence import audits
from provenance.inputs.contracts import Contract
from provenance.inputs.night import Night, read_whole, subject_of_night
from provenance.local.attribute import Request, folder_night
from provenance.local.royalty import value_night
from provenance.models.counterfactual_training import train_set
from provenance.models.model import read_model
from provenance.models.subject import with_duplicates
from provenance.models.trainer import check_trainable, point_to_base, train_model
from provenance.royalty.shares import BANZHAF, FAITHFUL, FLAT, PROPORTIONAL, SRS
from provenance.validation.audit import scores_of
from provenance.validation.coalitions import NODES
from provenance.validation.figures import attacks_figure
from provenance.validation.retrain import base_and_served, retrain
from provenance.validation.subsets import nodes

log = logging.getLogger("provenance.attacks")

SEED = 101
IDENTITIES, NOBODIES = 6, 20
# Contents of fewer words are altered byte by byte.
FEW_WORDS = 12
# Larger bytes are parts of UTF-8 letters and stay as they are.
LAST_ASCII = 0x7F
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
RULES = (FAITHFUL, SRS, BANZHAF, PROPORTIONAL, FLAT)
# Nonsense consists of letters of scripts in which no work is written.
NONSENSE = (0x0080, 0x0800)


@dataclass(frozen=True)
class Attack:
    """A corpus that an attacker has changed.

    Attributes:
        says: a description of the attack.
        identities: the owners that are the attacker; adding: those of them that have added works alone.
        seed: of the training.
    """

    name: str
    says: str
    corpus: Corpus
    identities: frozenset[str]
    adding: frozenset[str] = frozenset()
    seed: int = SEED


def audit_attacks(
    where: Where, request: Request, attacker: str = "", *, trainings: int = 16, pairs: int = 8, only: Sequence[str] = ()
) -> tuple[str, dict[str, Any], Store]:
    """Run every attack; returns the folder of the result, the result, and the store of both.

    Args:
        attacker: an owner; by default the one with the median share under `faithful`.
        trainings: the cost of the counterfactual models of each model, in full trainings.
        pairs: of trainings with and without the added works, at each of three parts of all other works.
        only: attacks to run, by name; by default all.
    """
    if pairs == 1:
        raise ContractError("--pairs", expected="0, or 2 and more, for a standard error", found="1")
    corpus = _dated(read_corpus(Store(f"file://{request.corpus.resolve().parent}", {}), request.corpus.resolve().name))
    check_trainable(read_model(request.model))
    local, night = folder_night(where, request)
    shares = partial(_shares, where, request, trainings)

    honest = Attack("honest", "nobody attacks", corpus, frozenset())
    before, honest_night, place = shares(honest)
    attacker = attacker or sorted(before["faithful"], key=before["faithful"].__getitem__)[len(before["faithful"]) // 2]
    if attacker not in before["faithful"]:
        raise ContractError("--attacker", expected=f"one of {', '.join(sorted(before['faithful']))}", found=repr(attacker))
    examples = honest_night.read_corpus(place.store, "example_id")["example_id"].to_list()
    influence = scores_of(place, honest_night, "factored")
    values = dict(zip(examples, influence.sum(axis=0).tolist(), strict=True))
    rows = [_row(honest, attacker, before, before)]
    again = replace(honest, name="trained again", says="nobody attacks; another training seed shows the noise", seed=SEED + 1)
    for attack in (again, *_attacks(corpus, attacker, values)):
        if only and attack.name not in only:
            continue
        after, attacked_night, place = shares(attack)
        rows.append(_row(attack, attacker, before, after))
        if attack.adding and pairs:
            rows[-1]["retrained"] = _retrained(attack, place, attacked_night, pairs)
        if "copies" in attack.name:
            without = replace(attack, name=f"{attack.name}, not looked for")
            rows.append(_row(without, attacker, before, shares(attack, duplicates="off")[0]))
    result = {"night": {"model_id": night.model_id}, "attacker": attacker, "rules": list(RULES), "attacks": rows}
    return audits.publish(local.store, "attacks", result, attacks_figure(result)), result, local.store


def _attacks(corpus: Corpus, attacker: str, values: dict[str, float]) -> list[Attack]:
    """Every attack on a corpus.

    Args:
        values: of examples, summed over outputs.
    """
    draws = np.random.default_rng(SEED)
    stakes = parties(corpus.examples, corpus.claims, _after(corpus).date())
    works = stakes.filter((pl.col("party_id") == attacker) & (pl.col("stake_ppb") == PPB))["work_id"].to_list()
    of_works = corpus.examples.filter(pl.col("work_id").is_in(works)).select("work_id", "example_id")
    worth = dict.fromkeys(works, 0.0)
    for work, example in of_works.iter_rows():
        worth[work] += values[example]
    by_value = sorted(works, key=worth.__getitem__)
    others = corpus.examples.filter(~pl.col("work_id").is_in(works))
    best = others.sort(pl.col("example_id").replace_strict(values), descending=True).head(max(1, len(of_works)))
    alike = others.head(len(of_works))["content"].to_list()
    copied = best["content"].to_list()
    alias = [f"{attacker}, too"]  # a separate identity shows the earnings of the added works; splitting gains nothing
    nobodies = [f"nobody-{number:02d}" for number in range(NOBODIES)]
    nonsense = [_nonsense(draws, len(content)) for content in others.head(2 * NOBODIES)["content"]]
    strange = [bytes([ord("A") + at % 26]) * len(content) for at, content in enumerate(alike)]
    padding = [_nonsense(draws, len(content)) for content in alike]
    shuffled = [_shuffled(draws, content) for content in copied]
    added = [
        _added("exact copies", "copies as many of the others' best works as it has", corpus, copied, alias),
        _added("near copies", "the same, every twelfth word changed", corpus, [_altered(c) for c in copied], alias),
        _added("padding", "adds as much nonsense as it has works", corpus, padding, alias),
        _added("outliers", "adds as many works unlike any other", corpus, strange, alias),
        _added("shuffled", "adds as many of the others' best works, their words in another order", corpus, shuffled, alias),
    ]
    return [
        _split("split at random", corpus, attacker, draws.permutation(works).tolist()),
        _split("split by value", corpus, attacker, by_value),
        *(replace(attack, identities=attack.identities | {attacker}) for attack in added),
        _added("nobodies", f"{NOBODIES} owners of nonsense alone, together", corpus, nonsense, nobodies),
    ]


def _split(name: str, corpus: Corpus, attacker: str, works: list[str]) -> Attack:
    """The corpus with the attacker's works divided among identities, in the order of the works."""
    by_work = {work: f"{attacker}-{at * IDENTITIES // len(works)}" for at, work in enumerate(works)}
    divided = pl.col("work_id").is_in(works) & (pl.col("owner_id") == attacker)
    owner = pl.when(divided).then(pl.col("work_id").replace_strict(by_work, default=None)).otherwise("owner_id")
    claims = corpus.claims.with_columns(owner_id=owner)
    identities = sorted(set(by_work.values()))
    owners = pl.concat([corpus.owners, _owners(identities)], how="diagonal_relaxed")
    says = f"the attacker is {IDENTITIES} people"
    return Attack(name, says, Corpus(corpus.examples, claims, owners), frozenset({attacker, *identities}))


def _added(name: str, says: str, corpus: Corpus, contents: list[bytes], owners: list[str]) -> Attack:
    """The corpus with more works, which were collected later than all others."""
    works = [f"{name}/{number:04d}" for number in range(len(contents))]
    more = pl.DataFrame({"work_id": works, "example_id": works, "content": contents})
    more = more.with_columns(
        modality=pl.lit(corpus.examples["modality"][0]), acquired_at=pl.lit(_after(corpus), pl.Datetime("us", "UTC"))
    )
    claims = [{"work_id": work, "owner_id": owners[at % len(owners)], "stake_ppb": PPB} for at, work in enumerate(works)]
    changed = Corpus(
        pl.concat([corpus.examples, more], how="diagonal_relaxed").with_columns(pl.col("split").fill_null("train")),
        pl.concat([corpus.claims, pl.DataFrame(claims)], how="diagonal_relaxed"),
        pl.concat([corpus.owners, _owners(owners)], how="diagonal_relaxed"),
    )
    return Attack(name, says, changed, frozenset(owners), frozenset(owners))


def _after(corpus: Corpus) -> datetime:
    """A day after everything of a corpus was collected."""
    latest: Any = corpus.examples["acquired_at"].max()
    return latest + timedelta(days=1)  # type: ignore[no-any-return]


def _owners(names: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"owner_id": names, "name": names}, schema={"owner_id": pl.String, "name": pl.String})


def _nonsense(draws: np.random.Generator, size: int) -> bytes:
    return "".join(map(chr, draws.integers(*NONSENSE, max(1, size // 2)))).encode()


def _shuffled(draws: np.random.Generator, content: bytes) -> bytes:
    """The same words in a random order; with few words, the same letters or events."""
    words = content.split(b" ")
    if len(words) >= FEW_WORDS:
        return b" ".join(words[at] for at in draws.permutation(len(words)))
    try:
        letters = content.decode()
    except UnicodeDecodeError:
        return bytes(content[at] for at in draws.permutation(len(content)))
    return "".join(letters[at] for at in draws.permutation(len(letters))).encode()


def _altered(content: bytes) -> bytes:
    """The content with every twelfth word reversed; with few words, every 24th letter or event raised by one."""
    words = content.split(b" ")
    if len(words) >= FEW_WORDS:
        return b" ".join(word[::-1] if at % 12 == 11 and word.isascii() else word for at, word in enumerate(words))
    return bytes(byte + (at % 24 == 23 and byte < LAST_ASCII) for at, byte in enumerate(content))


def _dated(corpus: Corpus) -> Corpus:
    """The examples of training; those without a date count as collected long before the attack."""
    examples = corpus.examples.filter(pl.col("split") == "train").drop("content_sha256")
    if examples["modality"][0] == "image":
        raise ContractError("audit attacks: corpus", expected="text, code or music, to copy and to alter", found="images")
    long_ago = pl.lit(LONG_AGO, pl.Datetime("us", "UTC"))
    return Corpus(examples.with_columns(pl.col("acquired_at").fill_null(long_ago)), corpus.claims, corpus.owners)


def _shares(
    where: Where, request: Request, trainings: int, attack: Attack, *, duplicates: Literal["earliest", "off"] = "earliest"
) -> tuple[dict[str, dict[str, float]], Night, Where]:
    """Mean shares of parties by rule, on the models of the corpus; the night, and the doors to its store."""
    folder = request.out / "attacks" / attack.name.replace(" ", "-")
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for name in ("examples", "claims", "owners"):
        getattr(attack.corpus, name).write_parquet(folder / "corpus" / f"{name}.parquet")
    # All attacks use one store, so their common results are computed once.
    request = replace(request, corpus=folder / "corpus", model=_trained(attack, request))
    contract = Contract(name="attacked", developer_ppb=0, duplicates=duplicates)
    local, plain = folder_night(where, request)
    store = local.store
    corpus = plain.frozen_corpus(store)
    corpus = corpus if duplicates == "off" else with_duplicates(store, corpus)
    subject = replace(subject_of_night(store, plain, local.settings.model.cache), corpus=corpus)
    chosen = train_set(local, subject, trainings)
    night = value_night(local, replace(plain, counterfactuals=chosen), contract)
    table = read_whole(store, night.folder, "estimate", "rule_shares")
    outputs = night.read_outputs(store).height
    means: dict[str, dict[str, float]] = {rule: {} for rule in RULES}
    for rule, party, share in table.group_by("rule", "party_id").agg(pl.col("share").sum() / outputs).iter_rows():
        means[rule][party] = share
    return means, night, local


def _retrained(attack: Attack, where: Where, night: Night, pairs: int) -> dict[str, float]:
    """The added works' part of the model's learning by retraining, and its standard error.

    Averages their effect on a part t of all other works over t, as `faithful` does (Aumann and Shapley 1974).
    """
    works = night.read_corpus(where.store, "work_id")["work_id"]
    claims = attack.corpus.claims.filter(pl.col("owner_id").is_in(list(attack.adding)))
    added = works.is_in(claims["work_id"].to_list()).to_numpy()
    base, served = base_and_served(where, night)
    draws, part, square = np.random.default_rng(SEED), 0.0, 0.0
    for rate, weight in zip(*nodes(NODES), strict=True):
        without = (draws.random((pairs, len(added))) < rate) & ~added
        masks = np.concatenate([without, without | added])
        seeds = [SEED + at for at in range(pairs)] * 2
        losses = retrain(where, night, masks, seeds, f"{attack.name}, with {rate:.2f} of all other works")
        effects = ((losses[:pairs] - losses[pairs:]) / (served - base)).mean(axis=1)
        part += weight * effects.mean()
        square += weight**2 * effects.var(ddof=1) / pairs
    return {"part": float(part), "error": float(np.sqrt(square))}


def _trained(attack: Attack, request: Request) -> Path:
    """Train the model of a corpus, unless its folder exists; returns the folder."""
    contents = attack.corpus.examples["content"].to_list()
    inputs = [read_model(request.model).files, attack.seed, *map(sha256, contents)]
    folder = request.out / "attacks/models" / digest(inputs)[:32]
    if not folder.exists():
        log.info("attacks: training with %s", attack.name)
        aside = folder.with_name(f".{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(parents=True, exist_ok=True)
        works = attack.corpus.examples.select("work_id", "example_id", "content", "prompt")
        model = read_model(request.model)
        train_model(model, works, seed=attack.seed, folder=aside)
        point_to_base(model, aside)
        aside.rename(folder)
    return folder


def _row(
    attack: Attack, attacker: str, before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """The attacker's shares before and after, under every rule, and the shares of the added works."""

    def total(shares: dict[str, dict[str, float]], owners: Iterable[str]) -> dict[str, float]:
        return {rule: sum(shares[rule].get(owner, 0.0) for owner in owners) for rule in RULES}

    identities = attack.identities or {attacker}
    had, has = total(before, identities), total(after, identities)
    gain = {rule: has[rule] - had[rule] for rule in RULES}
    return {
        "attack": attack.name, "says": attack.says, "had": had, "has": has, "gain": gain, "added": total(after, attack.adding),
    }  # fmt: skip
