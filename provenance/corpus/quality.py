"""What a delivery is like: how much of it has terms, owners, sources and dates, and whether that is good enough.

A measure counts the works (or whatever it is about) that lack something. A rule gives the part of all at which it warns, and
the part at which the delivery is not put in force.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from provenance.core.errors import SettingsError, did_you_mean
from provenance.core.toml import read_toml, validated

# Without a rule there is no good and bad.
COUNTED, GOOD, WARN, BLOCK = "counted", "good", "warn", "block"
# So many names stand in a report; the tables have the others.
NAMED = 20
MEASURES = {
    "unmatched": "works whose owner is not known; what they earn waits in escrow",
    "unclaimed": "works without a claim in force, though owners have had one",
    "unspecified": "works under terms that nobody states, or not in words that can be read",
    "forbidden": "works whose terms forbid the use",
    "quarantined": "works that no model to come may be trained on, by the policy",
    "conflicts": "works of whose terms two say different things",
    "expired": "assertions of terms whose evidence has expired",
    "strays": "assertions of terms about works that are not delivered, which change nothing",
    "disputed": "works that are in dispute",
    "copies": "examples that have a copy, exact or near",
    "sourceless": "works that do not say where they were collected",
    "undated": "works that do not say when they were collected",
    "unevidenced": "claims that rest on nothing that is stated",
    "sources": "sources whose records name two different works, and were kept apart",
}


class Rule(BaseModel):
    """Parts of all, from 0 to 1; more than that warns, or blocks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    warn: float | None = Field(default=None, ge=0, le=1)
    block: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _warns_first(self) -> Rule:
        if self.warn is not None and self.block is not None and self.block < self.warn:
            raise ValueError("no block below warn")
        return self


Rules = RootModel[dict[str, Rule]]


@dataclass(frozen=True)
class Finding:
    """What a measure found, how many of how many and the first of them by name, held against its rule."""

    measure: str
    meaning: str
    level: str
    rule: str
    count: int
    total: int
    names: tuple[str, ...]

    @property
    def part(self) -> float:
        """Of all; nothing of nothing is nothing."""
        return self.count / self.total if self.total else 0.0


@dataclass(frozen=True)
class Delivery:
    """What a report looks at; tables that a delivery does not have are empty.

    Attributes:
        works: of RIGHTS, with `examples`, `source_uri`, `acquired_at`, `unmatched` and `claimed` (Booleans).
        contradictions: names of sources of which the registry says so.
    """

    works: pl.DataFrame
    claims: pl.DataFrame
    assertions: pl.DataFrame
    duplicates: pl.DataFrame
    disputed: tuple[str, ...]
    sources: int
    contradictions: tuple[str, ...]
    examples: int
    owners: int


@dataclass(frozen=True)
class Report:
    """What is known of a delivery; `classes` has `licence_class, asserted_by, works, examples`."""

    works: int
    examples: int
    owners: int
    classes: pl.DataFrame
    findings: tuple[Finding, ...]

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """The findings for which the delivery must not be put in force."""
        return tuple(finding for finding in self.findings if finding.level == BLOCK)

    def as_json(self) -> dict[str, Any]:
        """The report for machines."""
        return {
            "works": self.works,
            "examples": self.examples,
            "owners": self.owners,
            "classes": self.classes.to_dicts(),
            "findings": [asdict(finding) for finding in self.findings],
        }


def read_rules(path: Path) -> dict[str, Rule]:
    """The rules by measure, of a TOML file."""
    stated = read_toml(path, "rules for the quality of deliveries", SettingsError)
    for measure in stated:
        if measure not in MEASURES:
            expected = f"one of {', '.join(MEASURES)}"
            raise SettingsError(f"{path}: [{measure}]", expected=expected, found=measure, hint=did_you_mean(measure, MEASURES))
    return validated(Rules, stated, str(path), SettingsError).root


def assess(delivery: Delivery, rules: Mapping[str, Rule], now: datetime) -> Report:
    """Count everything, and hold it against the rules; what has no rule is counted all the same."""
    findings = []
    for measure, (count, total, names) in _measured(delivery, now).items():
        rule = rules.get(measure, Rule())
        level = _level(count / total if total else 0.0, rule)
        findings.append(Finding(measure, MEASURES[measure], level, _spelt(rule), count, total, tuple(names[:NAMED])))
    classes = (
        delivery.works.group_by("licence_class", "asserted_by")
        .agg(works=pl.len(), examples=pl.col("examples").sum())
        .sort("licence_class", "asserted_by")
    )
    return Report(delivery.works.height, delivery.examples, delivery.owners, classes, tuple(findings))


def _measured(delivery: Delivery, now: datetime) -> dict[str, tuple[int, int, Sequence[str]]]:
    """By measure: how many, of how many, and their names."""
    works, claims, assertions = delivery.works, delivery.claims, delivery.assertions
    copies = delivery.duplicates["example_id"].sort()
    column = pl.col
    return {
        "unmatched": _counted(works, column("unmatched")),
        "unclaimed": _counted(works, ~column("unmatched") & ~column("claimed")),
        "unspecified": _counted(works, column("licence_class") == "unspecified"),
        "forbidden": _counted(works, column("licence_class") == "forbidden"),
        "quarantined": _counted(works, column("quarantine") != ""),
        "conflicts": _counted(works, column("conflict") != ""),
        "expired": _counted(assertions, column("expires_at") <= now),
        "strays": _counted(assertions, ~column("work_id").is_in(works["work_id"].implode())),
        "disputed": (len(delivery.disputed), works.height, delivery.disputed),
        "copies": (copies.len(), delivery.examples, copies.head(NAMED).to_list()),
        "sourceless": _counted(works, column("source_uri").is_null()),
        "undated": _counted(works, column("acquired_at").is_null()),
        "unevidenced": _counted(claims, column("evidence").fill_null("") == ""),
        "sources": (len(delivery.contradictions), delivery.sources, delivery.contradictions),
    }


def _counted(frame: pl.DataFrame, bad: pl.Expr) -> tuple[int, int, Sequence[str]]:
    found = frame.filter(bad.fill_null(value=False))
    return found.height, frame.height, found["work_id"].unique().sort().head(NAMED).to_list()


def _level(part: float, rule: Rule) -> str:
    if rule.block is not None and part > rule.block:
        return BLOCK
    if rule == Rule():
        return COUNTED
    return WARN if rule.warn is not None and part > rule.warn else GOOD


def _spelt(rule: Rule) -> str:
    said = [f"{word} above {limit:.1%}" for word, limit in (("warns", rule.warn), ("blocks", rule.block)) if limit is not None]
    return ", ".join(said) or "only counted"
