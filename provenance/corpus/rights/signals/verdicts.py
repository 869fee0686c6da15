"""Which signals on an address count, and what follows from them.

Precedence, from the strongest:

1. The owner's own word, in the registry of opt-outs (`provenance.corpus.rights.optouts`). It is not among the signals and not weighed
   here: whoever clears a work asks it first, and nothing below speaks against it.
2. A more specific scope before a less specific one: what a page says of itself, then patterns by the characters that they fix.
3. At the same scope what is said before silence, whichever kind it is.
4. Where signals at the same scope contradict each other, the more restrictive one.

Inside one file its own standard decides first: the longest pattern in robots.txt, ai.txt, Content-Usage and RSL, the first rule
that matches in TDMRep. Of several agents that a robots.txt names, the one that it restricts most counts: a site that shuts out
one collector for models and lets in another has not agreed to a third.

The newest collection counts, and what it was not answered (5xx, 429, no answer) is as it was before: a server that is down has
not changed its mind. A permission older than the limit does not count any more; a reservation does, until it is known to be
over.

What robots.txt says to everybody (`crawl`) does not count for training: most of it is about search engines and load, and was
written before there was anything to train. It counts where it names an agent that collects for models, or says nothing because
the server fails, in which case nobody knows whom it names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

import polars as pl

from provenance.corpus.rights.signals.patterns import matches, octets
from provenance.corpus.rights.signals.responses import USES, origin_of, page_of

Row = dict[str, Any]
# What a use is a part of: whoever reserves these reserves it.
WIDER = {"train": ("tdm",), "ai-use": ("tdm",), "ai-index": ("tdm",)}
# Rules whose order decides, not their length.
IN_ORDER = {"tdmrep"}
# Whose standard lets the more permissive of two equal patterns count.
PERMISSIVE = {"robots", "ai.txt"}
# Why a signal on the use does not count; these are told of beside the one that does.
OTHER_RULE = "another rule of the same file goes before it"
LESS_SPECIFIC = "a more specific signal goes before it"
LESS_RESTRICTIVE = "a more restrictive signal on the same scope goes before it"
STALE = "stale: a permission that is too old"
REPLACED = "replaced by a newer collection"
UNANSWERED = "not answered, so what was said before counts"
CONTRARY = {OTHER_RULE, LESS_SPECIFIC, LESS_RESTRICTIVE, STALE}
NOT_ON_THE_WEB = "not an address of HTTP: there are no signals on it"
NOT_COLLECTED = "no signals have been collected on it"
SCHEMA = pl.Schema([("source_uri", pl.String()), ("allowed", pl.Boolean()), ("because", pl.List(pl.String()))])


@dataclass(frozen=True)
class Weighed:
    """A signal on an address: whether it counts, and why."""

    signal: Row
    counts: bool
    why: str


def verdicts(
    signals: pl.DataFrame, uris: Iterable[str], use: str = "train", *, now: datetime | None = None, days: int | None = None
) -> pl.DataFrame:
    """What the signals say of a use of each address.

    Args:
        signals: the signals table, in the order in which it was added.
        uris: source addresses, in any order; each comes once.
        use: train, search, crawl or as signals name it.
        now: the time at which a signal's age is taken.
        days: the age up to which a permission counts; None: any.

    Returns:
        `source_uri, allowed, because`, sorted; `allowed` is null where nothing is said, and `because` names what counts first.
    """
    asked = _asked(use)
    rounds = {  # what could be told of: most of a robots.txt is not about the use
        about: [(r, over) for r, over in found if over != REPLACED and (r["problem"] or not _silent(r, use, asked))]
        for about, found in _in_force(signals).items()
    }
    rows = []
    for uri in sorted(set(uris)):
        allowed, weighed = _weigh(rounds, uri, use, now, days)
        rows.append({"source_uri": uri, "allowed": allowed, "because": _because(rounds, uri, use, allowed, weighed)})
    return pl.DataFrame(rows, schema=SCHEMA)


def weigh(
    signals: pl.DataFrame, uri: str, use: str = "train", *, now: datetime | None = None, days: int | None = None
) -> tuple[bool | None, list[Weighed]]:
    """The verdict on one address, and every signal on it, those that count first; arguments as in `verdicts`."""
    return _weigh(_in_force(signals), uri, use, now, days)


def _in_force(signals: pl.DataFrame) -> dict[str, list[tuple[Row, str]]]:
    """By origin or page: its signals, and of each why it is over (nothing, where it is not)."""
    found: dict[str, list[tuple[Row, str]]] = defaultdict(list)
    for row in signals.iter_rows(named=True):
        found[row["about"]].append((row, ""))
    for about, rows in found.items():
        ordered = sorted((row for row, _ in rows), key=lambda row: row["fetched_at"], reverse=True)
        answered: set[str] = set()
        done, newest = False, True
        kept: list[tuple[Row, str]] = []
        for _, group in groupby(ordered, key=lambda row: row["fetched_at"]):
            one = list(group)
            fails = {row["url"] for row in one if not _answered(row)}
            for row in one:
                over = done or row["url"] in answered or (row["url"] in fails and not newest)
                kept.append((row, REPLACED if over else ""))
            answered |= {row["url"] for row in one} - fails
            done, newest = done or not fails, False
        kept = [(row, why or ("" if _answered(row) or row["url"] not in answered else UNANSWERED)) for row, why in kept]
        found[about] = kept
    return found


def _answered(row: Row) -> bool:
    return row["status"] not in {0, 429} and row["status"] < 500


def _weigh(
    rounds: dict[str, list[tuple[Row, str]]], uri: str, use: str, now: datetime | None, days: int | None
) -> tuple[bool | None, list[Weighed]]:
    origin, page = origin_of(uri), page_of(uri)
    if origin is None or page is None:
        return None, []
    asked = _asked(use)
    left: list[Weighed] = []
    files: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row, over in [*rounds.get(page, ()), *(rounds.get(origin, ()) if origin != page else ())]:
        if not _on(row, origin, page):
            continue
        too_old = now is not None and days is not None and (now - row["fetched_at"]).total_seconds() > days * 86_400
        why = over or _silent(row, use, asked)
        if not why and too_old and row["allowed"]:
            why = STALE
        if why:
            left.append(Weighed(row, counts=False, why=why))
        else:
            files[row["kind"], row["url"], row["about"]].append(row)
    leading = []
    for rows in files.values():
        best = _of_file(rows, origin)
        leading.append(best)
        left += [Weighed(row, counts=False, why=OTHER_RULE) for row in rows if row is not best]
    widest = max((_specific(row, origin) for row in leading), default=0)
    at_widest = [row for row in leading if _specific(row, origin) == widest]
    allowed = all(row["allowed"] for row in at_widest) if at_widest else None
    for row in leading:
        if _specific(row, origin) < widest:
            left.append(Weighed(row, counts=False, why=LESS_SPECIFIC))
        elif row["allowed"] == allowed:
            left.append(Weighed(row, counts=True, why=_counting(row, leading, now, days)))
        else:
            left.append(Weighed(row, counts=False, why=LESS_RESTRICTIVE))
    return allowed, sorted(left, key=lambda w: (not w.counts, w.signal["kind"], w.signal["url"], w.signal["scope"], w.why))


def _asked(use: str) -> set[str]:
    """The uses by which signals speak of a use."""
    own = USES.get(use, use)
    return {own, *WIDER.get(own, ())}


def _silent(row: Row, use: str, asked: set[str]) -> str:
    if row["use"] not in asked:
        return f"it is about {row['use']}, not about {use}"
    if row["allowed"] is None:
        return "it says nothing"
    return ""


def _on(row: Row, origin: str, page: str) -> bool:
    """Whether a signal speaks of a page."""
    if row["about"] == page and row["about"] != origin:
        return True
    # Its suffixes are of files, whatever is asked of them.
    return matches(_pattern(row, origin), page.partition("?")[0] if row["kind"] == "ai.txt" else page)


def _pattern(row: Row, origin: str) -> str:
    return str(row["scope"]).removeprefix(origin) or "/"


def _specific(row: Row, origin: str) -> float:
    return float("inf") if row["about"] != origin else octets(_pattern(row, origin))


def _of_file(rows: Sequence[Row], origin: str) -> Row:
    """The rule of one file that counts, by the file's own standard."""
    if rows[0]["about"] != origin:  # a page's headers and elements are of the same scope
        return min(rows, key=lambda row: bool(row["allowed"]))
    if rows[0]["kind"] in IN_ORDER:
        return rows[0]
    by_agents: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_agents[row["agents"] or ""].append(row)
    permissive = rows[0]["kind"] in PERMISSIVE
    best = [max(g, key=lambda r: (len(_pattern(r, origin)), r["allowed"] == permissive)) for g in by_agents.values()]
    return min(best, key=lambda row: bool(row["allowed"]))


def _counting(row: Row, leading: Sequence[Row], now: datetime | None, days: int | None) -> str:
    parts = ["allows" if row["allowed"] else "reserves"]
    if any(other["allowed"] != row["allowed"] for other in leading):
        parts.append("others differ and are less specific or less restrictive")
    if now is not None and days is not None and (now - row["fetched_at"]).total_seconds() > days * 86_400:
        parts.append(f"stale: of more than {days} days ago")
    return "; ".join(parts)


def _because(
    rounds: dict[str, list[tuple[Row, str]]], uri: str, use: str, allowed: bool | None, weighed: Sequence[Weighed]
) -> list[str]:
    """What counts, what contradicts it, and what could not be read."""
    origin, page = origin_of(uri), page_of(uri)
    if origin is None:
        return [NOT_ON_THE_WEB]
    if origin not in rounds and page not in rounds:
        return [NOT_COLLECTED]
    told = [described(w) for w in weighed if w.counts]
    told += [described(w) for w in weighed if w.why in CONTRARY and w.signal["allowed"] != allowed]
    unread = [w.signal for w in weighed if w.signal["problem"] and w.why != REPLACED]
    told += sorted({f"{row['url']}: {row['problem']}" for row in unread})
    return told if allowed is not None else [f"nothing is said on {use}", *told]


def described(weighed: Weighed) -> str:
    """A signal in a line."""
    row = weighed.signal
    terms = f"; terms: {row['terms']}" if row["terms"] else ""
    return f"{row['kind']}: {row['says']} ({row['url']}, {row['fetched_at']:%Y-%m-%d}): {weighed.why}{terms}"
