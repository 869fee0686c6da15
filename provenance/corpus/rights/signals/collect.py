"""Collect signals on the use of works from the servers of their sources, and show them."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import httpx
import polars as pl
from protego import Protego

from provenance.core.errors import InputError, did_you_mean
from provenance.core.progress import PROGRESS
from provenance.core.settings import SignalsSettings
from provenance.core.store import Store
from provenance.core.tables import SIGNALS
from provenance.core.where import Where
from provenance.corpus.records import append, keep_raw, read
from provenance.corpus.rights.signals import aipref, aitxt, html, noai, robots, rsl, tdmrep
from provenance.corpus.rights.signals.fetch import OTHER_BYTES, ROBOTS_BYTES, Limits, fetch, open_client
from provenance.corpus.rights.signals.responses import USES, Answer, Row, origin_of, page_of, silence
from provenance.corpus.rights.signals.verdicts import NOT_COLLECTED, NOT_ON_THE_WEB, describe, weigh
from provenance.corpus.rights.sources.canonical import says_where
from provenance.corpus.shards import CURRENT, corpus_in_force, read_examples

log = logging.getLogger("provenance.signals")
# Uses for `show`, besides those in signals.
SHOWN = ("train", "search", "ai-use", "ai-index", "crawl", "tdm")
# Origins asked at the same time; requests to one origin follow one another.
AT_ONCE = 8
# Origins whose signals are written together; a stopped collection loses at most these.
TOGETHER = 100
# Linked licences requested for each file.
MOST_LICENCES = 5
# Seconds between pages of one origin; its robots.txt may ask for more, up to the longest pause.
PAUSE, LONGEST_PAUSE = 0.5, 10.0


def collect(
    where: Where,
    uris: Iterable[str] | None = None,
    *,
    now: datetime | None = None,
    pages: bool = False,
    private: bool = False,
) -> dict[str, Any]:
    """Ask each origin of the sources once for its signals, and record them.

    Args:
        uris: addresses of works; by default those of the corpus in force.
        now: recorded time of the collection; by default the clock's.
        pages: request every page, too, for its headers and the head of its HTML.
        private: allow addresses that are not public.

    Returns:
        Counts of `sources`, `origins`, `pages` and `signals` (without silent ones), the `problems`, and `not_http`:
        the count of sources that are not on the web and so have no signals.
    """
    sources = sorted(set(corpus_uris(where.store) if uris is None else uris))
    by_origin: dict[str, list[str]] = defaultdict(list)
    for uri in sources:
        origin, page = origin_of(uri), page_of(uri)
        if origin is not None and page is not None and page not in by_origin[origin]:
            by_origin[origin].append(page)
    signals = where.settings.signals
    collection = _Collection(signals, where.store, now or datetime.now(UTC), Limits(signals.timeout, private), pages)
    rows = asyncio.run(collection.run(by_origin))
    counts = {
        "sources": len(sources),
        "not_http": sum(origin_of(uri) is None for uri in sources),
        "origins": len(by_origin),
        "pages": sum(map(len, by_origin.values())) if pages else 0,
        "signals": sum(row["allowed"] is not None for row in rows),
        "problems": sorted({f"{row['url']}: {row['problem']}" for row in rows if row["problem"]}),
    }
    log.info("%(signals)d signals of %(origins)d origins; %(not_http)d sources are not on the web", counts)
    return counts


def collect_all(where: Where) -> dict[str, Any]:
    """Stage `rights.signals`: collect the signals of the corpus in force, unless the settings disable it."""
    if not where.settings.signals.collect:
        log.info("signals: not collected (signals.collect is false)")
        return {}
    counts = collect(where)
    for problem in counts["problems"]:
        log.warning("%s", problem)
    return {name: count for name, count in counts.items() if name != "problems"} | {"problems": len(counts["problems"])}


def corpus_uris(store: Store) -> list[str]:
    """The addresses at which works of the corpus in force were collected."""
    return sorted(read_examples(store, corpus_in_force(store), "source_uri")["source_uri"].drop_nulls().unique().to_list())


def show(where: Where, uri: str, *, use: str = "train", known: datetime | None = None) -> dict[str, Any]:
    """All signals on an address, those that count first, and the verdict.

    Args:
        known: the time as of which signals are shown; by default now.

    Raises:
        InputError: `uri` is no address, or no signal of any kind has the use.
    """
    store = where.store
    signals = read(store, SIGNALS, known=known)
    if not says_where(uri):
        hint = f"It is a work, collected at {', '.join(places)}." if (places := _collected_at(store, uri)) else ""
        raise InputError("URI", expected="an address, such as https://example.org/story", found=repr(uri), hint=hint)
    uses = sorted({*SHOWN, *USES, *signals["use"]})
    if use not in uses:
        raise InputError("--use", expected=f"one of {', '.join(uses)}", found=repr(use), hint=did_you_mean(use, uses))
    allowed, weighed = weigh(signals, uri, use, now=known or datetime.now(UTC), days=where.settings.signals.days)
    because = NOT_ON_THE_WEB if origin_of(uri) is None else "" if weighed else NOT_COLLECTED
    rows = [w.signal | {"counts": w.counts, "why": w.why, "line": describe(w)} for w in weighed]
    return {"source_uri": uri, "use": use, "allowed": allowed, "because": because, "signals": rows}


def _collected_at(store: Store, work_id: str) -> list[str]:
    """The addresses of a work of the corpus in force; empty if there is no such work."""
    if not store.exists(CURRENT):
        return []
    examples = read_examples(store, corpus_in_force(store), "work_id", "source_uri")
    uris: list[str] = examples.filter(pl.col("work_id") == work_id)["source_uri"].drop_nulls().unique().sort().to_list()
    return uris


@dataclass(frozen=True)
class _Collection:
    signals: SignalsSettings
    store: Store
    now: datetime
    limits: Limits
    pages: bool
    # Licences linked by several sites are requested once.
    licences: dict[str, asyncio.Future[Answer]] = field(default_factory=dict)

    async def run(self, by_origin: dict[str, list[str]]) -> list[Row]:
        """Collect all rows and record them batch by batch."""
        origins = sorted(by_origin)
        gate = asyncio.Semaphore(AT_ONCE)
        rows: list[Row] = []
        log.info(PROGRESS, "origins", 0, len(origins))
        async with open_client(self.signals.user_agent, self.limits) as client:

            async def limited(origin: str) -> list[Row]:
                async with gate:
                    return await self.of_origin(client, origin, by_origin[origin])

            for start in range(0, len(origins), TOGETHER):
                batch = origins[start : start + TOGETHER]
                fresh = [row for part in await asyncio.gather(*map(limited, batch)) for row in part]
                append(self.store, SIGNALS, pl.DataFrame(fresh, schema=SIGNALS.schema), now=self.now)
                rows += fresh
                log.info(PROGRESS, "origins", start + len(batch), len(origins))
        return rows

    async def of_origin(self, client: httpx.AsyncClient, origin: str, pages: list[str]) -> list[Row]:
        """The rows of one origin, and of its pages if these are requested."""
        settings = self.signals
        file = await self.ask(client, origin + robots.PATH, origin, ROBOTS_BYTES)
        rows = robots.parse(file, agents=settings.agents) + aipref.parse_robots(file, agent=settings.user_agent)
        if file.status == 0:  # a server without an answer gets no more requests
            return rows
        rows += tdmrep.parse(await self.ask(client, origin + tdmrep.PATH, origin))
        rows += aitxt.parse(await self.ask(client, origin + aitxt.PATH, origin), agents=settings.agents)
        rows += await self.licences_of(client, file, rsl.linked(file))
        if self.pages:
            rules = Protego.parse(file.text()[0])
            delay = min(max(PAUSE, rules.crawl_delay(settings.user_agent) or 0.0), LONGEST_PAUSE)
            for page in pages:
                if file.status >= 500 or not rules.can_fetch(page, settings.user_agent):
                    problem = "not asked for: robots.txt does not let us"
                    rows.append(silence(Answer(page, page, self.now, 0, problem=problem, asked=False), aipref.KIND))
                else:
                    await asyncio.sleep(delay)
                    rows += await self.of_page(client, page)
        return rows

    async def of_page(self, client: httpx.AsyncClient, page: str) -> list[Row]:
        """The rows of one page, from its headers and its head."""
        answer = await self.ask(client, page, page, page=True)
        declarations = html.read_declarations(answer)
        rows = aipref.parse(answer) + tdmrep.parse_headers(answer) + tdmrep.parse_meta(answer, declarations.elements)
        if declarations.problem:
            rows.append(silence(answer, noai.KIND, problem=declarations.problem))
        rows += noai.parse_headers(answer, agents=self.signals.agents)
        rows += noai.parse_meta(answer, declarations.elements, agents=self.signals.agents)
        rows += await self.licences_of(client, answer, [*rsl.linked_by_header(answer), *declarations.linked])
        for licence in declarations.embedded[:MOST_LICENCES]:
            rows += rsl.parse(answer, licence.encode())
        if any(row["allowed"] is not None and row["url"] == page for row in rows):
            await self.keep(answer)
            return rows
        # Pages without signals are not stored.
        return [row | {"body_sha256": None} if row["url"] == page else row for row in rows]

    async def licences_of(self, client: httpx.AsyncClient, answer: Answer, urls: Sequence[str]) -> list[Row]:
        """The rows of licences linked by a robots.txt or a page; each licence is requested once."""
        rows: list[Row] = []
        linked = list(dict.fromkeys(urls))
        for url in linked[:MOST_LICENCES]:
            if url not in self.licences:
                self.licences[url] = asyncio.ensure_future(self.ask(client, url, answer.about))
            rows += rsl.parse(replace(await self.licences[url], about=answer.about))
        if len(linked) > MOST_LICENCES:
            rows.append(silence(answer, rsl.KIND, problem=f"links {len(linked)} licences: {MOST_LICENCES} were asked for"))
        return rows

    async def ask(
        self, client: httpx.AsyncClient, url: str, about: str, most: int = OTHER_BYTES, *, page: bool = False
    ) -> Answer:
        """Request a URL, and store the answer unless it is a page."""
        if page:
            return await fetch(client, url, about=about, now=self.now, limits=self.limits, wanted=html.is_html)
        answer = await fetch(client, url, about=about, now=self.now, limits=self.limits, most=most)
        await self.keep(answer)
        return answer

    async def keep(self, answer: Answer) -> None:
        """Store the body of an answer unchanged."""
        if answer.body:
            await asyncio.to_thread(keep_raw, self.store, answer.body)
