"""Reads what a night's check of fidelity found: the part that each contract's rule decides, and what people are told of it.

`fidelity` computes it; whatever reads it does without SciPy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from provenance.core.store import Store
from provenance.inputs.contracts import Contract
from provenance.inputs.night import Night, read_manifest
from provenance.royalty.shares import BY_VALUE, FLAT, rule_weight


def unsupported(copies: Mapping[str, Any], contract: Contract) -> list[str]:
    """The reasons why a contract's rule may pay nothing tonight; empty if it may pay.

    Args:
        copies: the night's reports by rule on copies.
    """
    failed: list[str] = copies[contract.duplicates]["failed"] if contract.rule in BY_VALUE else []
    return failed


def signal_of(copies: Mapping[str, Any], contract: Contract) -> float | None:
    """The signal-to-noise ratio of a contract's rule; None if it was not measured, infinite for `flat`."""
    if contract.rule == FLAT:
        return math.inf
    signals = copies[contract.duplicates].get("signal_to_noise", {})
    signal: float | None = signals.get("estimate" if contract.rule in BY_VALUE else "influence")
    return signal


def rule_weights(copies: Mapping[str, Any], contracts: Mapping[str, Contract]) -> tuple[dict[str, float], dict[str, list[str]]]:
    """By contract, the part that its rule decides tonight, and the reasons from `unsupported`.

    Args:
        copies: the night's reports by rule on copies.
    """
    failed = {name: unsupported(copies, contract) for name, contract in contracts.items()}
    weights = {
        name: 0.0 if failed[name] else rule_weight(signal_of(copies, contract), contract.signal_to_noise)
        for name, contract in contracts.items()
    }
    return weights, failed


def fidelity_of(store: Store, night: Night) -> dict[str, Any] | None:
    """The fidelity of a night's shares, by contract that has some of its outputs.

    Returns:
        None if it was not measured: for a night of version 0.1, or without shares yet. By contract its `rule`; `paid_by`, the
        part that each rule decides; `models`, the number of counterfactual models that were left out and predicted; `lds`, the
        scores of the predictions by method; `intervals_hold`, the part of results inside the intervals by kind of models;
        `failed`, the reasons why the rule pays nothing. With too few models `lds` and `intervals_hold` are empty.
    """
    if not all(store.exists(f"{night.folder}/{stage}.json") for stage in ("estimate", "shares")):
        return None
    estimated, shared = (read_manifest(store, night.folder, stage) for stage in ("estimate", "shares"))
    covered = Counter(estimated["contracts"].values())
    fidelity = {}
    for contract in night.contracts:
        if covered[contract.name]:
            report, weight = estimated["copies"][contract.duplicates], shared["weights"][contract.name]
            same = contract.rule == contract.fallback
            parts = {contract.rule: 1.0} if same else {contract.rule: weight, contract.fallback: 1 - weight}
            fidelity[contract.name] = {
                "rule": contract.rule,
                "paid_by": {rule: part for rule, part in parts.items() if part},
                "models": report["models"],
                "lds": report.get("lds", {}),
                "intervals_hold": report.get("intervals_hold", {}),
                "failed": shared["unsupported"][contract.name],
            }
    return fidelity
