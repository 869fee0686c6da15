"""Decide the terms of each work from assertions.

    precedence: owner > source > aggregator; of one asserter the latest valid assertion, of several at one time the strictest

All assertions are kept; `weigh` gives the reason why one does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, cast

import polars as pl

from provenance.core.checks import conform, reject
from provenance.core.tables import ASSERTIONS, RIGHTS
from provenance.corpus.rights import spdx
from provenance.corpus.rights.policy import ASSERTERS, UNSPECIFIED, Asserter, Class, RightsPolicy

AGGREGATOR: Asserter = "aggregator"
NOBODY = "nobody"
FORBIDDEN: Class = "forbidden"
# Words with which terms speak of training, and may reserve it.
_TRAINING = re.compile(r"\b(no)?(ai|llms?|tdm|genai)\b|\btrain|data mining|machine learning|scrap(e|ing)\b", re.IGNORECASE)
# Prefix of the standing of expired assertions.
EXPIRED = "expired"


@dataclass(frozen=True)
class LicenceTerms:
    """Interpreted terms.

    Attributes:
        licence_spdx: the canonical SPDX expression; None if the terms are none.
        because: the reason for the class.
    """

    licence_spdx: str | None
    licence_class: Class
    because: str


@dataclass(frozen=True)
class WeighedAssertion:
    """One assertion with its terms and its standing: `counts`, or the reason why it does not."""

    row: Mapping[str, Any]
    terms: LicenceTerms
    standing: str


@dataclass(frozen=True)
class Outcome:
    """The terms that follow from all assertions on a work.

    Attributes:
        asserted_by: the decisive asserter, or `nobody`.
        conflict: assertions that differ in class or text; empty: all agree.
    """

    terms: LicenceTerms
    asserted_by: str
    assertions: tuple[WeighedAssertion, ...]
    conflict: str

    @property
    def counting(self) -> list[WeighedAssertion]:
        """The assertions that count."""
        return [weighed for weighed in self.assertions if weighed.standing == "counts"]

    @property
    def expired(self) -> str:
        """The expired assertions, with the end of their validity."""
        expired = (weighed for weighed in self.assertions if weighed.standing.startswith(EXPIRED))
        return "; ".join(f"{w.row['asserted_by']} said {w.row['licence']!r}, {w.standing}" for w in expired)


def check_assertions(frame: pl.DataFrame, file: str) -> pl.DataFrame:
    """Check assertions and keep their order; their terms may be any words."""
    frame = conform(ASSERTIONS, frame, file)
    reject(frame, pl.col("licence").str.strip_chars() == "", file, "licence", expected="terms", found="none")
    is_asserter = pl.col("asserted_by").is_in(ASSERTERS)
    reject(frame, ~is_asserter, file, "asserted_by", expected=f"one of {', '.join(ASSERTERS)}")
    digest = pl.col("evidence_sha256").str.contains(r"^[0-9a-f]{64}$")
    reject(frame, ~digest, file, "evidence_sha256", expected="a SHA-256 in hex")
    ends_early = pl.col("expires_at") < pl.col("asserted_at")
    reject(frame, ends_early, file, "expires_at", expected="a time after asserted_at")
    return frame


def classify(licence: str, policy: RightsPolicy) -> LicenceTerms:
    """Interpret terms: an SPDX expression by the policy's licences, other words by its patterns, else unspecified.

    Of a choice, a branch that cannot be read is left out, and the reason says so. A branch that forbids by the policy's words
    is no licence to choose but a reservation, and holds for the whole; one that speaks of training otherwise is left to a
    person.
    """
    try:
        expression, left_out = spdx.parse_choices(licence)
    except spdx.Unreadable as error:
        return _of_words(licence, str(error), policy)
    references = [key for key in spdx.names(expression) if spdx.REFERENCE.fullmatch(key)]
    known = policy.references.keys() | policy.exceptions.keys()
    if reserved := _reservation([*left_out, *(key for key in references if key not in known)], policy):
        return reserved
    licence_class, because = _of_expression(expression, policy)
    unread = f"; of the choice {', '.join(map(repr, left_out))} cannot be read" if left_out else ""
    return LicenceTerms(str(expression), licence_class, because + unread)


def join_assertions(examples: pl.DataFrame, assertions: pl.DataFrame) -> pl.DataFrame:
    """Add the examples' own `licence_spdx` to delivered assertions, as asserted by the aggregator.

    Works for which the aggregator has any other assertion, valid or not, get none.
    """
    has_assertion = assertions.filter(pl.col("asserted_by") == AGGREGATOR)["work_id"].unique().implode()
    own = (
        examples.filter(pl.col("licence_spdx").str.strip_chars() != "", ~pl.col("work_id").is_in(has_assertion))
        .group_by("work_id", licence="licence_spdx")
        .agg(asserted_at=pl.col("acquired_at").max())
        .with_columns(asserted_by=pl.lit(AGGREGATOR), evidence=pl.lit("licence_spdx of the work's examples"))
    )
    own = conform(ASSERTIONS, own, "examples")
    return pl.concat([assertions, own], how="diagonal_relaxed").sort(
        "work_id", "asserted_by", "asserted_at", "licence", "evidence", "evidence_sha256", maintain_order=True
    )


def weigh(rows: Sequence[Mapping[str, Any]], policy: RightsPolicy, now: datetime, terms: Mapping[str, LicenceTerms]) -> Outcome:
    """Decide the terms of one work from its assertions.

    Args:
        rows: rows of the assertions table.
        now: assertions that expired before, or were made later, do not count.
        terms: the interpreted terms of each row's `licence`.
    """
    invalid = [_why_invalid(row, now) for row in rows]
    words: dict[Asserter, list[int]] = {}
    for asserter in policy.precedence:
        valid = [at for at, row in enumerate(rows) if row["asserted_by"] == asserter and not invalid[at]]
        if valid:
            latest = max(_when(rows[at]) for at in valid)
            words[asserter] = [at for at in valid if _when(rows[at]) == latest]
    winner = next(iter(words), None)
    joint = {asserter: _joint([terms[rows[at]["licence"]] for at in places], policy) for asserter, places in words.items()}

    def standing(at: int) -> str:
        asserter = rows[at]["asserted_by"]
        if invalid[at]:
            return invalid[at]
        if asserter != winner:
            return f"the {winner}'s word counts before the {asserter}'s"
        return "counts" if at in words[asserter] else f"the {asserter} has said otherwise since"

    weighed = tuple(WeighedAssertion(row, terms[row["licence"]], standing(at)) for at, row in enumerate(rows))
    nothing = LicenceTerms(None, UNSPECIFIED, "nobody has said anything" + (" that is in force" if rows else ""))
    differing = {asserter: [weighed[at] for at in places] for asserter, places in words.items()}
    return Outcome(joint[winner] if winner else nothing, winner or NOBODY, weighed, _conflict(differing))


def rights_of(examples: pl.DataFrame, assertions: pl.DataFrame, policy: RightsPolicy, *, now: datetime) -> pl.DataFrame:
    """The rights table: one row for each work of the examples, whatever their split, sorted.

    Args:
        examples: `work_id, licence_spdx, acquired_at`, and `source_id` where there is a registry.
        assertions: checked (`check_assertions`); those on other works have no effect.
        now: the time of the judgement.
    """
    sources = (
        examples.group_by("work_id").agg(source_id=pl.col("source_id").drop_nulls().min())
        if "source_id" in examples.columns
        else examples.select("work_id", source_id=pl.lit(None, pl.String)).unique()
    )
    asserted = join_assertions(examples, assertions)
    terms = terms_of(asserted["licence"].unique(), policy)

    def judged(groups: Iterable[tuple[Any, list[dict[str, Any]]]], name: str, dtype: Any) -> pl.DataFrame:
        """What follows from groups of assertions, by their name."""
        schema = {name: dtype} | {k: v for k, v in RIGHTS.schema.items() if k not in ("work_id", "source_id")}
        return pl.DataFrame([{name: key} | _judge(rows, policy, now, terms) for key, rows in groups], schema=schema)

    # Most works have one assertion that is valid, or none: those whose assertions differ in time alone are judged once.
    valid = (pl.col("asserted_at").fill_null(now) <= now) & (pl.col("expires_at").is_null() | (pl.col("expires_at") > now))
    counted = asserted.with_columns(simple=valid & (pl.len().over("work_id") == 1))
    simple = counted.filter("simple").select("work_id", "asserted_at", *DECISIVE)
    kinds = simple.select(DECISIVE).unique(maintain_order=True).with_row_index("kind")
    simple = simple.join(kinds, on=DECISIVE, nulls_equal=True).select("work_id", "asserted_at", "kind")
    by_work = groupby(counted.filter(~pl.col("simple")).iter_rows(named=True), key=itemgetter("work_id"))
    silent = sources.join(asserted, on="work_id", how="anti").select("work_id")
    of_kinds = judged([(row["kind"], [row | {"asserted_at": None}]) for row in kinds.iter_rows(named=True)], "kind", pl.UInt32)
    rights = pl.concat(
        [
            simple.join(of_kinds.drop("asserted_at"), on="kind").drop("kind"),
            judged(((work, list(rows)) for work, rows in by_work), "work_id", pl.String),
            silent.join(judged([("", [])], "work_id", pl.String).drop("work_id"), how="cross"),
        ],
        how="diagonal",
    )
    return conform(RIGHTS, sources.join(rights, on="work_id").sort("work_id").select(RIGHTS.schema.names()), "rights")


# What decides the terms of a work with one assertion, beside its time.
DECISIVE = ["licence", "asserted_by", "evidence", "expires_at"]


def _judge(
    rows: list[dict[str, Any]], policy: RightsPolicy, now: datetime, terms: Mapping[str, LicenceTerms]
) -> dict[str, Any]:
    """What the rights table says of a work with some assertions, without its source."""
    outcome = weigh(rows, policy, now, terms)
    times = [w.row["asserted_at"] for w in outcome.counting if w.row["asserted_at"]]
    evidence = dict.fromkeys(w.row["evidence"] for w in outcome.counting)
    refusal = policy.refusal(outcome.terms.licence_class)
    return {
        "licence_spdx": outcome.terms.licence_spdx,
        "licence_class": outcome.terms.licence_class,
        "asserted_by": outcome.asserted_by,
        "asserted_at": max(times, default=None),
        "evidence": "; ".join(evidence) or outcome.terms.because,
        "conflict": outcome.conflict,
        "expired": outcome.expired,
        "quarantine": f"{outcome.terms.because}: {refusal}" if refusal else "",
    }


def terms_of(licences: Iterable[str], policy: RightsPolicy) -> dict[str, LicenceTerms]:
    """Interpret each distinct text of terms once."""
    return {licence: classify(licence, policy) for licence in sorted(set(licences))}


def _of_expression(expression: Any, policy: RightsPolicy) -> tuple[Class, str]:
    operator, terms = spdx.parts(expression)
    if operator == "":
        key = terms[0].key
        licence_class = policy.classes.get(key) or policy.classes.get(key.removesuffix(spdx.LATER))
        if licence_class is None:
            return UNSPECIFIED, f"the policy has no class for {key}"
        return licence_class, f"{key} is {licence_class}"
    if operator == "WITH":
        licence_class, because = _of_expression(terms[0], policy)
        name = terms[1].key
        if name in policy.exceptions:
            restriction = policy.exceptions[name]
            return policy.strictest((licence_class, restriction)), f"{because}, with {name}, which is {restriction}"
        if name in spdx.known_ids(exceptions=True):
            return licence_class, because
        return policy.strictest((licence_class, UNSPECIFIED)), f"{because}, and the policy has no class for {name}"
    parts = [_of_expression(term, policy) for term in terms]
    choose = policy.mildest if operator == "OR" else policy.strictest
    decisive = choose(licence_class for licence_class, _ in parts)
    reasons = dict.fromkeys(because for licence_class, because in parts if licence_class == decisive)
    relation = "of a choice" if operator == "OR" else "of terms that hold together"
    return decisive, f"{'; '.join(reasons)} ({relation})"


def _reservation(branches: Iterable[str], policy: RightsPolicy) -> LicenceTerms | None:
    """The terms that hold if any branch without a known licence forbids, or may forbid, training; None: none does."""
    doubt = None
    for branch in branches:
        name = re.sub(r"^(DocumentRef-[\w.-]+:)?(LicenseRef|AdditionRef)-", "", branch)
        # `NoMachineLearning` is three words, `NoAI` two.
        apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
        plain = " ".join(re.sub(r"[\s_-]+", " ", apart).split())
        if any(words.licence_class == FORBIDDEN and (words.match(branch) or words.match(plain)) for words in policy.words):
            because = f"{_short(branch)!r} is {FORBIDDEN} by the policy's words, whatever else may be chosen"
            return LicenceTerms(None, FORBIDDEN, because)
        if _TRAINING.search(plain):
            because = f"{_short(branch)!r} speaks of training, and the policy has no words for it"
            doubt = doubt or LicenceTerms(None, UNSPECIFIED, because)
    return doubt


def _of_words(text: str, unreadable: str, policy: RightsPolicy) -> LicenceTerms:
    plain = " ".join(text.split())
    matches = [words for words in policy.words if words.match(plain)]
    if not matches:
        return LicenceTerms(None, UNSPECIFIED, f"{_short(plain)!r}: {_short(unreadable, 200)}; no words of the policy's either")
    strictest = policy.strictest(words.licence_class for words in matches)
    match = next(words for words in matches if words.licence_class == strictest)
    # Only a single match names a licence.
    licence = str(spdx.parse(match.spdx)) if match.spdx and len(matches) == 1 else None
    return LicenceTerms(licence, strictest, f"{_short(plain)!r} is {strictest} by the policy's words")


def _joint(terms: Sequence[LicenceTerms], policy: RightsPolicy) -> LicenceTerms:
    """Join terms that one asserter states at one time: all of them hold."""
    distinct = list(dict.fromkeys(terms))
    if len(distinct) == 1:
        return distinct[0]
    strictest = policy.strictest(part.licence_class for part in distinct)
    because = "; ".join(dict.fromkeys(part.because for part in distinct if part.licence_class == strictest))
    expressions = [part.licence_spdx for part in distinct]
    readable = None if None in expressions else spdx.join(*cast("list[str]", expressions))
    return LicenceTerms(readable, strictest, because)


def _conflict(words: Mapping[Asserter, Sequence[WeighedAssertion]]) -> str:
    """Describe how valid assertions differ; empty if all agree."""
    everything = [weighed for assertions in words.values() for weighed in assertions]
    if len({_text(weighed) for weighed in everything}) < 2:
        return ""
    kind = "class" if len({weighed.terms.licence_class for weighed in everything}) > 1 else "text"
    statements = []
    for asserter, assertions in words.items():
        texts = dict.fromkeys(f"{_short(_text(weighed))} ({weighed.terms.licence_class})" for weighed in assertions)
        statements.append(f"{asserter} says {' and '.join(texts)}")
    return f"{kind}: {', '.join(statements)}"


def _text(weighed: WeighedAssertion) -> str:
    return weighed.terms.licence_spdx or " ".join(str(weighed.row["licence"]).split()).casefold()


def _why_invalid(row: Mapping[str, Any], now: datetime) -> str:
    """The reason why an assertion is not valid at a time; empty: it is valid."""
    if row["asserted_at"] is not None and row["asserted_at"] > now:
        return f"made only on {row['asserted_at']:%Y-%m-%d}"
    if row["expires_at"] is not None and row["expires_at"] <= now:
        return f"{EXPIRED} on {row['expires_at']:%Y-%m-%d}"
    return ""


def _when(row: Mapping[str, Any]) -> float:
    """A key for order in time; undated assertions come first."""
    return row["asserted_at"].timestamp() if row["asserted_at"] is not None else float("-inf")


def _short(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
