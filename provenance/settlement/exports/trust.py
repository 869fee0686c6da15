"""How far shares can be trusted, in plain words: of one night, or of the nights of a period, by what their manifests say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from statistics import fmean
from typing import Any

from provenance.royalty.shares import BY_VALUE, FLAT

# `fidelity` of a night's manifest: what was measured, by contract.
Fidelity = Mapping[str, Mapping[str, Any]]


class Basis(IntEnum):
    """What shares can rest on, in the order in which it is told."""

    MODELS = 1
    INFLUENCE = 2
    FALLBACK = 3
    SIZE = 4
    UNKNOWN = 5


def in_words(nights: Iterable[Fidelity | None]) -> str:
    """What shares of some nights rest on, and how well it predicts what was left out; nothing where nothing was divided.

    Args:
        nights: `fidelity` of each; None of one that did not measure it, empty of one without outputs.
    """
    told: list[list[Mapping[str, Any]]] = [[{}] if night is None else [*night.values()] for night in nights if night != {}]
    bases: dict[Basis, dict[int, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for number, contracts in enumerate(told):
        for facts in contracts:
            bases[_basis(facts)][number].append(facts)
    sentences: list[str] = []
    for basis, mine in sorted(bases.items()):
        mixed = any(mine.keys() & others.keys() for other, others in bases.items() if other != basis)
        when = _when(len(mine), len(told), first=not sentences) + ("for some outputs " if mixed else "")
        said = f"{when}{_said(basis, [facts for night in mine.values() for facts in night])}."
        sentences.append(said[0].upper() + said[1:])
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


def _said(basis: Basis, told: Sequence[Mapping[str, Any]]) -> str:
    if basis is Basis.UNKNOWN:
        return "how far shares can be trusted was not measured"
    if basis is Basis.SIZE:
        return "amounts were divided by size, as the contract says"
    beside = {rule for facts in told for rule in facts["paid_by"] if rule != facts["rule"]}
    fallback = " or ".join(sorted("size" if rule == FLAT else "influence" for rule in beside))
    if basis is Basis.FALLBACK:
        return f"the check failed and amounts were divided by {fallback}"
    few, many = (end(facts["models"] for facts in told) for end in (min, max))
    models = f"{few if few == many else f'{few} to {many}'} counterfactual models"
    rest = 1 - fmean(facts["paid_by"][facts["rule"]] for facts in told)
    also = f" and, for {100 * rest:.0f} %, on {fallback}" if beside else ""
    name = "estimate" if basis is Basis.MODELS else "influence"
    score = f"{fmean(facts['lds'][name]['value'] for facts in told):.2f} (1 is perfect, 0 is chance)"
    if basis is Basis.MODELS:
        return f"shares rest on {models}{also}; left out and predicted, these ranked at {score}"
    return f"shares rest on influence{also}; {models}, predicted by it, ranked at {score}"
