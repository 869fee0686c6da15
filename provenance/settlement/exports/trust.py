"""Says in plain words how far shares can be trusted, from the fidelity in the manifests of one or more nights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from statistics import fmean
from typing import Any

from provenance.royalty.shares import BY_VALUE, FLAT

# `fidelity` of a night's manifest: measurements by contract.
Fidelity = Mapping[str, Mapping[str, Any]]


class Basis(IntEnum):
    """The basis of shares, in the order of the text."""

    MODELS = 1
    INFLUENCE = 2
    FALLBACK = 3
    SIZE = 4
    UNKNOWN = 5


# Of an interval in parts of its share: up to so wide the share is fairly sure, or roughly known.
FAIRLY, ROUGHLY = 0.5, 1.2


def how_sure(share_ppb: int, low_ppb: int, high_ppb: int) -> str:
    """In plain words how sure a share is, from its 90 % interval."""
    if low_ppb == high_ppb:
        return "fixed by the contract"
    if low_ppb * 20 <= share_ppb:
        return "unsure: it may be next to nothing"
    width = (high_ppb - low_ppb) / share_ppb
    return "fairly sure" if width <= FAIRLY else "roughly known" if width <= ROUGHLY else "unsure"


def in_words(nights: Iterable[Fidelity | None]) -> str:
    """The basis of the shares of some nights, and how well it predicts left-out models; empty if nothing was divided.

    Args:
        nights: `fidelity` of each; None for a night that did not measure it, empty for a night without outputs.
    """
    measured: list[list[Mapping[str, Any]]] = [[{}] if night is None else [*night.values()] for night in nights if night != {}]
    bases: dict[Basis, dict[int, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for number, contracts in enumerate(measured):
        for facts in contracts:
            bases[_basis(facts)][number].append(facts)
    sentences: list[str] = []
    for basis, own in sorted(bases.items()):
        mixed = any(own.keys() & other_nights.keys() for other, other_nights in bases.items() if other != basis)
        when = _when(len(own), len(measured), first=not sentences) + ("for some outputs " if mixed else "")
        sentence = f"{when}{_clause(basis, [facts for night in own.values() for facts in night])}."
        sentences.append(sentence[0].upper() + sentence[1:])
    return " ".join(sentences)


def _basis(facts: Mapping[str, Any]) -> Basis:
    if not facts:
        return Basis.UNKNOWN
    if facts["rule"] not in facts["paid_by"]:
        return Basis.FALLBACK
    if facts["rule"] == FLAT:
        return Basis.SIZE
    if not facts["lds"]:
        return Basis.UNKNOWN
    return Basis.MODELS if facts["rule"] in BY_VALUE else Basis.INFLUENCE


def _when(some: int, of: int, *, first: bool) -> str:
    if of == 1:
        return ""
    if some == of:
        return f"on all {of} nights "
    return f"on {some} of {of} nights " if first else f"on {some} {'night' if some == 1 else 'nights'} "


def _clause(basis: Basis, facts_of_nights: Sequence[Mapping[str, Any]]) -> str:
    if basis is Basis.UNKNOWN:
        return "how far shares can be trusted was not measured"
    if basis is Basis.SIZE:
        return "amounts were divided by size, as the contract says"
    beside = {rule for facts in facts_of_nights for rule in facts["paid_by"] if rule != facts["rule"]}
    fallback = " or ".join(sorted("size" if rule == FLAT else "influence" for rule in beside))
    if basis is Basis.FALLBACK:
        return f"the check failed and amounts were divided by {fallback}"
    few, many = (end(facts["models"] for facts in facts_of_nights) for end in (min, max))
    models = f"{few if few == many else f'{few} to {many}'} counterfactual models"
    rest = 1 - fmean(facts["paid_by"][facts["rule"]] for facts in facts_of_nights)
    also = f" and, for {100 * rest:.0f} %, on {fallback}" if beside else ""
    name = "estimate" if basis is Basis.MODELS else "influence"
    score = f"{fmean(facts['lds'][name]['value'] for facts in facts_of_nights):.2f} (1 is perfect, 0 is chance)"
    if basis is Basis.MODELS:
        rested = f"shares rest on {models}{also}: each was left out and predicted from the others"
        return f"{rested}, and prediction and result agree at {score}"
    return f"shares rest on influence{also}: by it {models} were predicted, and prediction and result agree at {score}"
