"""Under which terms each work came, on whose word, and what they allow.

    asserted: owner > source > aggregator; of one of them the latest that is good, of several at once the strictest

Nothing is thrown away: what does not count stays in the table of assertions, and `weigh` says why it does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, cast

import polars as pl

from provenance.core.contracts import ASSERTIONS, RIGHTS, conform, reject
from provenance.corpus.rights import spdx
from provenance.corpus.rights.policy import ASSERTERS, UNSPECIFIED, Asserter, Class, RightsPolicy

AGGREGATOR: Asserter = "aggregator"
NOBODY = "nobody"
# How a standing begins that an assertion loses by the time alone.
EXPIRED = "expired"


@dataclass(frozen=True)
class Terms:
    """Terms as they are read.

    Attributes:
        licence_spdx: one spelling of the expression; None where the terms are none.
        because: why they have their class.
    """

    licence_spdx: str | None
    licence_class: Class
    because: str


@dataclass(frozen=True)
class Said:
    """One assertion, what it means, and why it counts or does not (`counts`, or a reason)."""

    row: Mapping[str, Any]
    terms: Terms
    standing: str


@dataclass(frozen=True)
class Outcome:
    """What all assertions on a work come to.

    Attributes:
        asserted_by: whose word counts; `nobody` where there is none.
        conflict: whose words differ, in class or in text; empty: they agree.
    """

    terms: Terms
    asserted_by: str
    said: tuple[Said, ...]
    conflict: str

    @property
    def counting(self) -> list[Said]:
        """The assertions that count."""
        return [one for one in self.said if one.standing == "counts"]

    @property
    def expired(self) -> str:
        """The assertions that were good once, and until when."""
        gone = (one for one in self.said if one.standing.startswith(EXPIRED))
        return "; ".join(f"{one.row['asserted_by']} said {one.row['licence']!r}, {one.standing}" for one in gone)


def check_assertions(frame: pl.DataFrame, file: str) -> pl.DataFrame:
    """Check assertions, in the order in which they were delivered; their terms may be any words."""
    frame = conform(ASSERTIONS, frame, file)
    reject(frame, pl.col("licence").str.strip_chars() == "", file, "licence", expected="terms", found="none")
    known = pl.col("asserted_by").is_in(ASSERTERS)
    reject(frame, ~known, file, "asserted_by", expected=f"one of {', '.join(ASSERTERS)}")
    digest = pl.col("evidence_sha256").str.contains(r"^[0-9a-f]{64}$")
    reject(frame, ~digest, file, "evidence_sha256", expected="a SHA-256 in hex")
    backwards = pl.col("expires_at") < pl.col("asserted_at")
    reject(frame, backwards, file, "expires_at", expected="a time after asserted_at")
    return frame


def classify(licence: str, policy: RightsPolicy) -> Terms:
    """What terms mean: an SPDX expression by the policy's licences, other words by its patterns, or else unspecified."""
    try:
        expression = spdx.parse(licence)
    except spdx.Unreadable as error:
        return _of_words(licence, str(error), policy)
    licence_class, because = _of_expression(expression, policy)
    return Terms(str(expression), licence_class, because)


def stated(examples: pl.DataFrame, assertions: pl.DataFrame) -> pl.DataFrame:
    """All that is asserted: what was delivered, and the examples' own `licence_spdx` as the aggregator's word.

    The latter only of works of which the aggregator says nothing else, in force or not.
    """
    heard = assertions.filter(pl.col("asserted_by") == AGGREGATOR)["work_id"].unique().implode()
    own = (
        examples.filter(pl.col("licence_spdx").str.strip_chars() != "", ~pl.col("work_id").is_in(heard))
        .group_by("work_id", licence="licence_spdx")
        .agg(asserted_at=pl.col("acquired_at").max())
        .with_columns(asserted_by=pl.lit(AGGREGATOR), evidence=pl.lit("licence_spdx of the work's examples"))
    )
    own = conform(ASSERTIONS, own, "examples")
    return pl.concat([assertions, own], how="diagonal_relaxed").sort(
        "work_id", "asserted_by", "asserted_at", "licence", "evidence", "evidence_sha256", maintain_order=True
    )


def weigh(rows: Sequence[Mapping[str, Any]], policy: RightsPolicy, now: datetime, read: Mapping[str, Terms]) -> Outcome:
    """What the assertions on one work come to.

    Args:
        rows: of the table of assertions.
        now: assertions that have expired by then, or that are made later, do not count.
        read: what each row's `licence` means.
    """
    timely = [_timely(row, now) for row in rows]
    words: dict[Asserter, list[int]] = {}
    for who in policy.precedence:
        good = [at for at, row in enumerate(rows) if row["asserted_by"] == who and not timely[at]]
        if good:
            latest = max(_when(rows[at]) for at in good)
            words[who] = [at for at in good if _when(rows[at]) == latest]
    winner = next(iter(words), None)
    heard = {who: _joint([read[rows[at]["licence"]] for at in places], policy) for who, places in words.items()}

    def standing(at: int) -> str:
        who = rows[at]["asserted_by"]
        if timely[at]:
            return timely[at]
        if who != winner:
            return f"the {winner}'s word counts before the {who}'s"
        return "counts" if at in words[who] else f"the {who} has said otherwise since"

    said = tuple(Said(row, read[row["licence"]], standing(at)) for at, row in enumerate(rows))
    nothing = Terms(None, UNSPECIFIED, "nobody has said anything" + (" that is in force" if rows else ""))
    differing = {who: [said[at] for at in places] for who, places in words.items()}
    return Outcome(heard[winner] if winner else nothing, winner or NOBODY, said, _conflict(differing))


def rights_of(examples: pl.DataFrame, assertions: pl.DataFrame, policy: RightsPolicy, *, now: datetime) -> pl.DataFrame:
    """The rights table: one row for each work of the examples, whatever their split, sorted.

    Args:
        examples: `work_id, licence_spdx, acquired_at`, and `source_id` where there is a registry.
        assertions: as `check_assertions` returns them; those on other works change nothing.
        now: when it is judged.
    """
    sources = (
        examples.group_by("work_id").agg(source_id=pl.col("source_id").drop_nulls().min())
        if "source_id" in examples.columns
        else examples.select("work_id", source_id=pl.lit(None, pl.String)).unique()
    )
    said = stated(examples, assertions)
    read = terms_of(said["licence"], policy)
    by_work = {work: list(rows) for work, rows in groupby(said.iter_rows(named=True), key=itemgetter("work_id"))}
    rows = []
    for work, source in sources.sort("work_id").iter_rows():
        outcome = weigh(by_work.get(work, []), policy, now, read)
        times = [one.row["asserted_at"] for one in outcome.counting if one.row["asserted_at"]]
        evidence = dict.fromkeys(one.row["evidence"] for one in outcome.counting)
        refusal = policy.refusal(outcome.terms.licence_class)
        rows.append(
            {
                "work_id": work,
                "source_id": source,
                "licence_spdx": outcome.terms.licence_spdx,
                "licence_class": outcome.terms.licence_class,
                "asserted_by": outcome.asserted_by,
                "asserted_at": max(times, default=None),
                "evidence": "; ".join(evidence) or outcome.terms.because,
                "conflict": outcome.conflict,
                "expired": outcome.expired,
                "quarantine": f"{outcome.terms.because}: {refusal}" if refusal else "",
            }
        )
    return conform(RIGHTS, pl.DataFrame(rows, schema=RIGHTS.schema), "rights")


def terms_of(licences: Iterable[str], policy: RightsPolicy) -> dict[str, Terms]:
    """What each of many terms means; each is read once."""
    return {licence: classify(licence, policy) for licence in sorted(set(licences))}


def _of_expression(expression: Any, policy: RightsPolicy) -> tuple[Class, str]:
    operator, terms = spdx.parts(expression)
    if operator == "":
        key = terms[0].key
        found = policy.classes.get(key)
        return (found, f"{key} is {found}") if found else (UNSPECIFIED, f"the policy has no class for {key}")
    if operator == "WITH":
        found, because = _of_expression(terms[0], policy)
        name = terms[1].key
        if name in policy.exceptions:
            taken_back = policy.exceptions[name]
            return policy.strictest((found, taken_back)), f"{because}, with {name}, which is {taken_back}"
        if name in spdx.known(exceptions=True):
            return found, because
        return policy.strictest((found, UNSPECIFIED)), f"{because}, and the policy has no class for {name}"
    inside = [_of_expression(term, policy) for term in terms]
    choose = policy.mildest if operator == "OR" else policy.strictest
    chosen = choose(found for found, _ in inside)
    reasons = dict.fromkeys(because for found, because in inside if found == chosen)
    how = "of a choice" if operator == "OR" else "of terms that hold together"
    return chosen, f"{'; '.join(reasons)} ({how})"


def _of_words(text: str, unreadable: str, policy: RightsPolicy) -> Terms:
    plain = " ".join(text.split())
    found = [words for words in policy.words if words.match(plain)]
    if not found:
        return Terms(None, UNSPECIFIED, f"{_short(plain)!r}: {_short(unreadable, 200)}; no words of the policy's either")
    strictest = policy.strictest(words.licence_class for words in found)
    chosen = next(words for words in found if words.licence_class == strictest)
    # Only words that leave no doubt name a licence.
    named = str(spdx.parse(chosen.spdx)) if chosen.spdx and len(found) == 1 else None
    return Terms(named, strictest, f"{_short(plain)!r} is {strictest} by the policy's words")


def _joint(terms: Sequence[Terms], policy: RightsPolicy) -> Terms:
    """What terms say that one asserts at one time: all of them hold."""
    distinct = list(dict.fromkeys(terms))
    if len(distinct) == 1:
        return distinct[0]
    strictest = policy.strictest(one.licence_class for one in distinct)
    because = "; ".join(dict.fromkeys(one.because for one in distinct if one.licence_class == strictest))
    expressions = [one.licence_spdx for one in distinct]
    readable = None if None in expressions else spdx.both(*cast("list[str]", expressions))
    return Terms(readable, strictest, because)


def _conflict(words: Mapping[Asserter, Sequence[Said]]) -> str:
    """Whose words differ and how; empty where all words that are in force are the same."""
    everything = [one for said in words.values() for one in said]
    if len({_text(one) for one in everything}) < 2:
        return ""
    what = "class" if len({one.terms.licence_class for one in everything}) > 1 else "text"
    said = []
    for who, ones in words.items():
        texts = dict.fromkeys(f"{_short(_text(one))} ({one.terms.licence_class})" for one in ones)
        said.append(f"{who} says {' and '.join(texts)}")
    return f"{what}: {', '.join(said)}"


def _text(said: Said) -> str:
    return said.terms.licence_spdx or " ".join(str(said.row["licence"]).split()).casefold()


def _timely(row: Mapping[str, Any], now: datetime) -> str:
    """Why an assertion does not count at a time; empty: it does."""
    if row["asserted_at"] is not None and row["asserted_at"] > now:
        return f"made only on {row['asserted_at']:%Y-%m-%d}"
    if row["expires_at"] is not None and row["expires_at"] <= now:
        return f"{EXPIRED} on {row['expires_at']:%Y-%m-%d}"
    return ""


def _when(row: Mapping[str, Any]) -> float:
    """For the order in time; what has no date comes before all that has one."""
    return row["asserted_at"].timestamp() if row["asserted_at"] is not None else float("-inf")


def _short(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
