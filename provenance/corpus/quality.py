"""Measure the quality of a delivery: missing terms, owners, sources and dates, judged by rules.

A measure counts works (or claims, assertions, examples, sources) that lack something. A rule sets the part at which it warns,
and the part at which the delivery is not put in force.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from provenance.core.errors import CheckFailed, InputError, SettingsError, did_you_mean
from provenance.core.store import Store, canonical_json
from provenance.core.toml import read_toml, validated
from provenance.corpus import records
from provenance.corpus.delivery import Corpus
from provenance.corpus.disclosures import page
from provenance.corpus.ownership import open_on, valid_on

log = logging.getLogger("provenance.quality")

FOLDER = f"{records.ROOT}/quality"
# The level of a measure without a rule is `counted`.
COUNTED, GOOD, WARN, BLOCK = "counted", "good", "warn", "block"
# Names in a report, for each measure.
NAMED = 20
MEASURES = {
    "unmatched": "works whose owner is not known; what they earn waits in escrow",
    "unclaimed": "works without a claim in force, though owners have had one",
    "unspecified": "works without stated or readable terms",
    "forbidden": "works whose terms forbid the use",
    "quarantined": "works that the policy excludes from training",
    "conflicts": "works with contradictory terms",
    "expired": "assertions of terms whose evidence has expired",
    "strays": "assertions of terms about works that are not delivered; they have no effect",
    "disputed": "works that are in dispute",
    "copies": "examples that have a copy, exact or near",
    "sourceless": "works without the address of their collection",
    "undated": "works without the date of their collection",
    "unevidenced": "claims without evidence",
    "sources": "sources with records of two different works, kept apart",
}


class Rule(BaseModel):
    """Limits as parts, from 0 to 1; a greater part warns, or blocks."""

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
    """The result of a measure: count, total and first names, judged by its rule."""

    measure: str
    meaning: str
    level: str
    rule: str
    count: int
    total: int
    names: tuple[str, ...]

    @property
    def part(self) -> float:
        """Count over total; 0 of nothing."""
        return self.count / self.total if self.total else 0.0


@dataclass(frozen=True)
class Delivery:
    """The data of a report; tables that a delivery lacks are empty.

    Attributes:
        works: of RIGHTS, with `examples`, `source_uri`, `acquired_at`, `unmatched` and `claimed` (Booleans).
        contradictions: ids of sources with conflicts in the registry.
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
    """A report on a delivery; `classes` has `licence_class, asserted_by, works, examples`."""

    works: int
    examples: int
    owners: int
    classes: pl.DataFrame
    findings: tuple[Finding, ...]

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """The findings that keep the delivery from being put in force."""
        return tuple(finding for finding in self.findings if finding.level == BLOCK)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "works": self.works,
            "examples": self.examples,
            "owners": self.owners,
            "classes": self.classes.to_dicts(),
            "findings": [asdict(finding) for finding in self.findings],
        }


def read_rules(path: Path) -> dict[str, Rule]:
    """Read the rules, by measure, from a TOML file."""
    rules = read_toml(path, "rules for the quality of deliveries", SettingsError)
    for measure in rules:
        if measure not in MEASURES:
            expected = f"one of {', '.join(MEASURES)}"
            raise SettingsError(f"{path}: [{measure}]", expected=expected, found=measure, hint=did_you_mean(measure, MEASURES))
    return validated(Rules, rules, str(path), SettingsError).root


def assess(delivery: Delivery, rules: Mapping[str, Rule], now: datetime) -> Report:
    """Count every measure and judge it by its rule, if there is one."""
    findings = []
    for measure, (count, total, names) in _measure(delivery, now).items():
        rule = rules.get(measure, Rule())
        level = _level(count / total if total else 0.0, rule)
        findings.append(Finding(measure, MEASURES[measure], level, _describe(rule), count, total, tuple(names[:NAMED])))
    classes = (
        delivery.works.group_by("licence_class", "asserted_by")
        .agg(works=pl.len(), examples=pl.col("examples").sum())
        .sort("licence_class", "asserted_by")
    )
    return Report(delivery.works.height, delivery.examples, delivery.owners, classes, tuple(findings))


def _measure(delivery: Delivery, now: datetime) -> dict[str, tuple[int, int, Sequence[str]]]:
    """Count, total and names, by measure."""
    works, claims, assertions = delivery.works, delivery.claims, delivery.assertions
    copies = delivery.duplicates["example_id"].sort()
    column = pl.col
    return {
        "unmatched": _count(works, column("unmatched")),
        "unclaimed": _count(works, ~column("unmatched") & ~column("claimed")),
        "unspecified": _count(works, column("licence_class") == "unspecified"),
        "forbidden": _count(works, column("licence_class") == "forbidden"),
        "quarantined": _count(works, column("quarantine") != ""),
        "conflicts": _count(works, column("conflict") != ""),
        "expired": _count(assertions, column("expires_at") <= now),
        "strays": _count(assertions, ~column("work_id").is_in(works["work_id"].implode())),
        "disputed": (len(delivery.disputed), works.height, delivery.disputed),
        "copies": (copies.len(), delivery.examples, copies.head(NAMED).to_list()),
        "sourceless": _count(works, column("source_uri").is_null()),
        "undated": _count(works, column("acquired_at").is_null()),
        "unevidenced": _count(claims, column("evidence").fill_null("") == ""),
        "sources": (len(delivery.contradictions), delivery.sources, delivery.contradictions),
    }


def _count(frame: pl.DataFrame, bad: pl.Expr) -> tuple[int, int, Sequence[str]]:
    rows = frame.filter(bad.fill_null(value=False))
    return rows.height, frame.height, rows["work_id"].unique().sort().head(NAMED).to_list()


def _level(part: float, rule: Rule) -> str:
    if rule.block is not None and part > rule.block:
        return BLOCK
    if rule == Rule():
        return COUNTED
    return WARN if rule.warn is not None and part > rule.warn else GOOD


def _describe(rule: Rule) -> str:
    limits = [
        f"{word} above {limit:.1%}" for word, limit in (("warns", rule.warn), ("blocks", rule.block)) if limit is not None
    ]
    return ", ".join(limits) or "only counted"


def report_on(
    corpus: Corpus,
    *,
    rights: pl.DataFrame,
    duplicates: pl.DataFrame,
    registry: pl.DataFrame,
    rules: Mapping[str, Rule],
    now: datetime,
) -> Report:
    """Report on a checked delivery.

    Args:
        rights: the rights table, with `source_id`.
        registry: the registry of sources.
    """
    day = now.date()
    claimed = valid_on(corpus.claims, day)["work_id"].unique().implode()
    works = (
        corpus.examples.group_by("work_id")
        .agg(
            examples=pl.len(),
            source_uri=pl.col("source_uri").drop_nulls().min(),
            acquired_at=pl.col("acquired_at").min(),
            unmatched=pl.col("unmatched_reason").is_not_null().any(),
        )
        .with_columns(claimed=pl.col("work_id").is_in(claimed))
        .join(rights, on="work_id")
        .sort("work_id")
    )
    disputed = [] if corpus.disputes is None else sorted(set(open_on(corpus.disputes, day)["work_id"]))
    delivery = Delivery(
        works=works,
        claims=corpus.claims,
        assertions=corpus.assertions,
        duplicates=duplicates,
        disputed=tuple(disputed),
        sources=registry.height,
        contradictions=tuple(registry.filter(pl.col("conflicts").list.len() > 0)["source_id"].sort()),
        examples=corpus.examples.height,
        owners=corpus.owners.height,
    )
    return assess(delivery, rules, now)


def keep(store: Store, report: Report, now: datetime) -> str:
    """Store a report as JSON and page, unless it equals the last one; returns the page's key. CheckFailed: it blocks."""
    data, earlier = canonical_json(report.as_json()), _reports(store)
    if earlier and store.read(earlier[-1]) == data:
        stem = earlier[-1].removesuffix(".json")
    else:
        stem = f"{FOLDER}/{now:%Y%m%dT%H%M%S%fZ}"
        store.write(f"{stem}.html", page.quality_page(report, str(now.date())))
        store.write(f"{stem}.json", data)
    for finding in report.findings:
        if finding.level in {WARN, BLOCK}:
            facts = (finding.level, finding.count, finding.total, finding.meaning, finding.rule, finding.names[0])
            log.warning("%s: %d of %d %s (%s), the first: %r", *facts)
    log.info("report on the delivery: %s.html", store.locate(stem))
    if report.blocking:
        because = "; ".join(f"{finding.count} of {finding.total} {finding.meaning}" for finding in report.blocking)
        raise CheckFailed(f"the delivery is not put in force: {because}. The report: {store.locate(stem)}.html")
    return f"{stem}.html"


def last_report(store: Store) -> dict[str, Any]:
    """The last report as JSON values, with the place of its `page`; InputError if there is none."""
    keys = _reports(store)
    if not keys:
        hint = "Run the DAG ingest_corpus first, or make demo."
        raise InputError(store.locate(FOLDER), expected="a report on a delivery", found="none", hint=hint)
    report: dict[str, Any] = json.loads(store.read(keys[-1]))
    return report | {"page": store.locate(keys[-1].replace(".json", ".html"))}


def _reports(store: Store) -> list[str]:
    """Keys of the reports as JSON, in order of time."""
    return [key for key in store.list(FOLDER) if key.endswith(".json")]
