"""Reads the results of a night's counterfactual models: the owners that trained each one, and the likelihoods of outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from provenance.core.where import Where
from provenance.corpus.holdings import PARTY
from provenance.inputs.night import Night, subject_of_night
from provenance.models.counterfactual_checks import check_works
from provenance.models.counterfactual_records import read_record, trained_on
from provenance.models.partition_plan import BOUNDS
from provenance.models.subject import works_served
from provenance.royalty.likelihoods import BASE, SERVED, read_likelihoods

PAIR = ["work_id", "content_sha256"]


@dataclass(frozen=True)
class Outcomes:
    """Results of models that were trained on parts of the owners.

    Attributes:
        inside: part of each owner's tokens that each model saw, `(M, n)`.
        partition: number of each model's partition, `(M,)`.
        value: log-likelihoods, `(M, Q)`; base, served: under the model before and after its training, `(Q,)`.
        size: part of all tokens of each owner, `(n,)`; sums to one.
        seen: z, the part of all tokens that each model was trained on, `(M,)`, including tokens that earn nothing.
        power: p, the exponent of the growth of contrasts with the amount of work.
    """

    inside: np.ndarray
    partition: np.ndarray
    value: np.ndarray
    base: np.ndarray
    served: np.ndarray
    size: np.ndarray
    seen: np.ndarray
    power: float = 0.0

    @property
    def contrast(self) -> np.ndarray:
        """`(2 z_m)^p (x_mo - sum_p size_p x_mp)`, `(M, n)`."""
        return np.asarray(self.growth[:, None] * (self.inside - (self.inside @ self.size)[:, None]))

    @property
    def growth(self) -> np.ndarray:
        """`(2 z_m)^p`, `(M,)`."""
        return np.asarray((2 * self.seen) ** self.power)

    @property
    def strata(self) -> np.ndarray:
        """The stratum of each model, `(M,)`."""
        return np.asarray(np.digitize(self.seen, BOUNDS))

    def subset(self, chosen: np.ndarray) -> Outcomes:
        """The outcomes of some models."""
        rows = {name: getattr(self, name)[chosen] for name in ("inside", "partition", "value", "seen")}
        return replace(self, **rows)


def read_outcomes(where: Where, night: Night, holdings: pl.DataFrame, parties: pl.DataFrame) -> tuple[Outcomes, Outcomes]:
    """The outcomes of the night's counterfactual models: those to fit on, and those set aside.

    Args:
        parties: `account, party_id`, in the order of the owners.

    Raises:
        ModelError: the model served was trained on other works than a counterfactual model.
    """
    store = where.store
    subject = subject_of_night(store, night, where.settings.model.cache)
    likelihoods = read_likelihoods(store, night.folder)
    records = sorted((read_record(store, night.model, name) for name in night.counterfactuals), key=lambda r: r.name)
    works = works_served(subject)
    served = _pairs(works)
    trained_holdings = holdings.join(served, on=PAIR, how="semi")
    whole = _by_party(trained_holdings, parties)
    trained = night.read_corpus(store, "work_id", "content_sha256", "tokens").join(served, on=PAIR, how="semi")
    inside, seen = np.empty((len(records), parties.height)), np.empty(len(records))
    for at, record in enumerate(records):
        manifest = trained_on(store, record)
        check_works(manifest, works, store.locate(record.key))
        pairs = _pairs(manifest.works)
        inside[at] = _by_party(trained_holdings.join(pairs, on=PAIR, how="semi"), parties)
        seen[at] = trained.join(pairs, on=PAIR, how="semi")["tokens"].sum()
    inside = np.divide(inside, whole, out=np.zeros_like(inside), where=whole > 0)
    outputs = len(likelihoods[SERVED])
    value = np.stack([likelihoods[record.name] for record in records]) if records else np.zeros((0, outputs))
    both = Outcomes(
        inside=inside,
        partition=np.array([record.partition for record in records], dtype=np.int64),
        value=value,
        base=likelihoods[BASE],
        served=likelihoods[SERVED],
        size=whole / whole.sum() if whole.sum() else whole,
        seen=seen / max(1, int(trained["tokens"].sum())),
    )
    aside = np.array([record.aside for record in records], dtype=bool)
    return both.subset(~aside), both.subset(aside)


def _pairs(works: Mapping[str, Iterable[str]]) -> pl.DataFrame:
    """Works and the digests of their examples, a row for each."""
    rows = [(work, content) for work, contents in works.items() for content in contents]
    return pl.DataFrame(rows, schema=dict.fromkeys(PAIR, pl.String), orient="row")


def _by_party(holdings: pl.DataFrame, parties: pl.DataFrame) -> np.ndarray:
    """Sums of weight in the order of the parties, `(n,)`."""
    terms = holdings.select(*PARTY, "weight").sort(*PARTY, "weight")
    sums = terms.group_by(*PARTY, maintain_order=True).agg(pl.col("weight").sum())
    ordered = parties.join(sums, on=PARTY, how="left", maintain_order="left")
    weights: np.ndarray = ordered["weight"].fill_null(0.0).to_numpy()
    return weights
