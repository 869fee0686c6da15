"""Decide which signals on an address count, and the verdict that follows.

Precedence, from the strongest:

1. An opt-out of the owner (`provenance.corpus.rights.optouts`). It is no signal and not weighed here: clearance looks at it
   first, and no signal overrides it.
2. The more specific scope: a page's own signals, then patterns by their number of fixed characters.
3. At the same scope a statement before silence, of any kind.
4. Of contradictory signals at the same scope the more restrictive one.

Inside one file the file's own standard decides first: the longest pattern in robots.txt, ai.txt, Content-Usage and RSL, the
first matching rule in TDMRep. Of several agents named by a robots.txt the most restricted one counts: a site that excludes one
collector for models and admits another has not agreed to a third.

The newest collection counts. Where it got no answer (5xx, 429, none), the earlier signals stay in force: a server that is down
has not changed its signals. A permission older than the limit does not count any more; a reservation counts until a newer
collection replaces it.

What a file says of itself (`embedded`) is about its content, `sha256:<digest>`, and weighed apart from its addresses: a
reservation of either counts.

Rules of robots.txt for all agents (`crawl`) do not count for training: most of them are about search engines and load, and
older than the training of models. Rules for a named agent that collects for models count, and so does a failing server, since
its file may name such an agent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

import polars as pl

from provenance.corpus.rights.signals.embedded import CONTENT
from provenance.corpus.rights.signals.patterns import matches, octets
from provenance.corpus.rights.signals.responses import USES, origin_of, page_of

Row = dict[str, Any]
# Wider uses: a signal that reserves these reserves the use, too.
WIDER = dict.fromkeys(("train", "ai-use", "ai-index"), ("tdm", "bots"))
# Kinds in which the order of rules decides, not their length.
IN_ORDER = {"tdmrep"}
# Kinds in which the more permissive of two equal patterns counts.
PERMISSIVE = {"robots", "ai.txt"}
# Reasons why a signal does not count; CONTRARY ones are shown beside the decisive signal.
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
    """A signal on an address, whether it counts, and why."""

    signal: Row
    counts: bool
    why: str


def verdicts(
    signals: pl.DataFrame, uris: Iterable[str], use: str = "train", *, now: datetime | None = None, days: int | None = None
) -> pl.DataFrame:
    """The verdict on a use of each address.

    Args:
        signals: the signals table, in order of its records.
        uris: addresses of sources or contents, in any order.
        use: train, search, crawl, or a use named by signals.
        now: the time for the age of signals.
        days: the greatest age of a permission; None: any.

    Returns:
        `source_uri, allowed, because`, sorted; `allowed` is null without a statement, and `because` lists decisive signals
        first.
    """
    words = _words_for(use)
    rounds = {  # without lines that cannot appear in reasons, such as most of a robots.txt
        about: [(r, over) for r, over in rows if over != REPLACED and (r["problem"] or not _silent(r, use, words))]
        for about, rows in _in_force(signals).items()
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
    """By origin or page: its signals, each with the reason why it is not in force (empty: it is)."""
    by_place: dict[str, list[tuple[Row, str]]] = defaultdict(list)
    for row in signals.iter_rows(named=True):
        by_place[row["about"]].append((row, ""))
    for about, rows in by_place.items():
        ordered = sorted((row for row, _ in rows), key=lambda row: row["fetched_at"], reverse=True)
        answered: set[str] = set()
        done, newest = False, True
        marked: list[tuple[Row, str]] = []
        for _, group in groupby(ordered, key=lambda row: row["fetched_at"]):
            round_rows = list(group)
            failed = {row["url"] for row in round_rows if not _answered(row)}
            for row in round_rows:
                over = done or row["url"] in answered or (row["url"] in failed and not newest)
                marked.append((row, REPLACED if over else ""))
            answered |= {row["url"] for row in round_rows} - failed
            done, newest = done or not failed, False
        marked = [(row, why or ("" if _answered(row) or row["url"] not in answered else UNANSWERED)) for row, why in marked]
        by_place[about] = marked
    return by_place


def _answered(row: Row) -> bool:
    return row["status"] not in {0, 429} and row["status"] < 500


def _weigh(
    rounds: dict[str, list[tuple[Row, str]]], uri: str, use: str, now: datetime | None, days: int | None
) -> tuple[bool | None, list[Weighed]]:
    origin, page = _place_of(uri)
    if origin is None or page is None:
        return None, []
    words = _words_for(use)
    weighed: list[Weighed] = []
    files: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row, over in [*rounds.get(page, ()), *(rounds.get(origin, ()) if origin != page else ())]:
        if not _on(row, origin, page):
            continue
        too_old = now is not None and days is not None and (now - row["fetched_at"]).total_seconds() > days * 86_400
        why = over or _silent(row, use, words)
        if not why and too_old and row["allowed"]:
            why = STALE
        if why:
            weighed.append(Weighed(row, counts=False, why=why))
        else:
            files[row["kind"], row["url"], row["about"]].append(row)
    leading = []
    for rows in files.values():
        decisive = _of_file(rows, origin)
        leading.append(decisive)
        weighed += [Weighed(row, counts=False, why=OTHER_RULE) for row in rows if row is not decisive]
    narrowest = max((_specific(row, origin) for row in leading), default=0)
    at_narrowest = [row for row in leading if _specific(row, origin) == narrowest]
    allowed = all(row["allowed"] for row in at_narrowest) if at_narrowest else None
    for row in leading:
        if _specific(row, origin) < narrowest:
            weighed.append(Weighed(row, counts=False, why=LESS_SPECIFIC))
        elif row["allowed"] == allowed:
            weighed.append(Weighed(row, counts=True, why=_counting(row, leading, now, days)))
        else:
            weighed.append(Weighed(row, counts=False, why=LESS_RESTRICTIVE))
    return allowed, sorted(weighed, key=lambda w: (not w.counts, w.signal["kind"], w.signal["url"], w.signal["scope"], w.why))


def _place_of(uri: str) -> tuple[str | None, str | None]:
    """Origin and page of an address on the web; a content is both."""
    return (uri, uri) if uri.startswith(CONTENT) else (origin_of(uri), page_of(uri))


def _words_for(use: str) -> set[str]:
    """The words of signals that cover a use."""
    own = USES.get(use, use)
    return {own, *WIDER.get(own, ())}


def _silent(row: Row, use: str, words: set[str]) -> str:
    """The reason why a signal makes no statement on a use; empty: it makes one."""
    if row["use"] not in words:
        return f"it is about {row['use']}, not about {use}"
    if row["allowed"] is None:
        return "it says nothing"
    return ""


def _on(row: Row, origin: str, page: str) -> bool:
    """Whether a signal covers a page."""
    if row["about"] == page and (row["about"] != origin or page.startswith(CONTENT)):
        return True
    # Suffixes in ai.txt are of files, without the query.
    return matches(_pattern(row, origin), page.partition("?")[0] if row["kind"] == "ai.txt" else page)


def _pattern(row: Row, origin: str) -> str:
    return str(row["scope"]).removeprefix(origin) or "/"


def _specific(row: Row, origin: str) -> float:
    return float("inf") if row["about"] != origin else octets(_pattern(row, origin))


def _of_file(rows: Sequence[Row], origin: str) -> Row:
    """The decisive rule of one file, by the file's own standard."""
    if rows[0]["about"] != origin or origin.startswith(CONTENT):  # what a page or a content says has one scope
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
    if any(rival["allowed"] != row["allowed"] for rival in leading):
        parts.append("others differ and are less specific or less restrictive")
    if now is not None and days is not None and (now - row["fetched_at"]).total_seconds() > days * 86_400:
        parts.append(f"stale: of more than {days} days ago")
    return "; ".join(parts)


def _because(
    rounds: dict[str, list[tuple[Row, str]]], uri: str, use: str, allowed: bool | None, weighed: Sequence[Weighed]
) -> list[str]:
    """The decisive signals, those that contradict them, and unreadable ones."""
    origin, page = _place_of(uri)
    if origin is None:
        return [NOT_ON_THE_WEB]
    if origin not in rounds and page not in rounds:
        return [NOT_COLLECTED]
    reasons = [describe(w) for w in weighed if w.counts]
    reasons += [describe(w) for w in weighed if w.why in CONTRARY and w.signal["allowed"] != allowed]
    unread = [w.signal for w in weighed if w.signal["problem"] and w.why != REPLACED]
    reasons += sorted({f"{row['url']}: {row['problem']}" for row in unread})
    return reasons if allowed is not None else [f"nothing is said on {use}", *reasons]


def describe(weighed: Weighed) -> str:
    """Describe a signal in one line."""
    row = weighed.signal
    terms = f"; terms: {row['terms']}" if row["terms"] else ""
    return f"{row['kind']}: {row['says']} ({row['url']}, {row['fetched_at']:%Y-%m-%d}): {weighed.why}{terms}"
