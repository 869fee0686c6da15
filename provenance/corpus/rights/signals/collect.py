"""What the sources of works say of their use: collected from their servers, and shown."""

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

from provenance.core.contracts import SIGNALS
from provenance.core.errors import InputError, did_you_mean
from provenance.core.store import Store
from provenance.corpus.records import append, keep_raw, read
from provenance.corpus.rights.canonical import says_where
from provenance.corpus.rights.signals import aipref, aitxt, html, robots, rsl, tdmrep
from provenance.corpus.rights.signals.fetch import OTHER_BYTES, ROBOTS_BYTES, Limits, fetch, open_client
from provenance.corpus.rights.signals.responses import USES, Answer, Row, origin_of, page_of, silence
from provenance.corpus.rights.signals.verdicts import NOT_COLLECTED, NOT_ON_THE_WEB, described, weigh
from provenance.corpus.shards import CURRENT, corpus_in_force, read_examples
from tasks.cluster import PROGRESS
from tasks.settings import Settings, load

log = logging.getLogger("provenance.signals")
# Uses that can be asked after, beside those that signals name.
SHOWN = ("train", "search", "ai-use", "ai-index", "crawl", "tdm")
# Origins asked at a time; each of them is asked for one thing after the other.
AT_ONCE = 8
# Origins whose signals are written together: what a collection that is stopped has at least kept.
TOGETHER = 100
# A file may link any number of licences, anywhere; so many are asked for.
MOST_LICENCES = 5
# Seconds between pages of one origin, unless its robots.txt asks for more, which is followed up to the longest.
PAUSE, LONGEST_PAUSE = 0.5, 10.0


def collect(
    settings: Settings,
    uris: Iterable[str] | None = None,
    *,
    now: datetime | None = None,
    pages: bool = False,
    private: bool = False,
) -> dict[str, Any]:
    """Ask every origin of the sources once for what it says, and add it to the records.

    Args:
        uris: addresses of works; by default those of the corpus in force.
        now: when it is said to be collected; by default now.
        pages: whether every page is asked, too, for its headers and the head of its HTML.
        private: whether addresses that are not public may be asked.

    Returns:
        How many `origins`, `pages`, `signals` (that say something) and `problems` there are, and `not_http`: sources that
        have no signals, since they are not on the web.
    """
    store = settings.store.open()
    wanted = sorted(set(corpus_uris(store) if uris is None else uris))
    by_origin: dict[str, list[str]] = defaultdict(list)
    for uri in wanted:
        origin, page = origin_of(uri), page_of(uri)
        if origin is not None and page is not None and page not in by_origin[origin]:
            by_origin[origin].append(page)
    collection = _Collection(settings, store, now or datetime.now(UTC), Limits(settings.signals.timeout, private), pages)
    rows = asyncio.run(collection.run(by_origin))
    told = {
        "sources": len(wanted),
        "not_http": sum(origin_of(uri) is None for uri in wanted),
        "origins": len(by_origin),
        "pages": sum(map(len, by_origin.values())) if pages else 0,
        "signals": sum(row["allowed"] is not None for row in rows),
        "problems": sorted({f"{row['url']}: {row['problem']}" for row in rows if row["problem"]}),
    }
    log.info("%(signals)d signals of %(origins)d origins; %(not_http)d sources are not on the web", told)
    return told


def collect_all() -> dict[str, Any]:
    """The stage `rights.signals`: ask the origins of the corpus in force, unless the settings say not to."""
    settings = load()
    if not settings.signals.collect:
        log.info("signals: not collected (signals.collect is false)")
        return {}
    found = collect(settings)
    for problem in found["problems"]:
        log.warning("%s", problem)
    return {name: count for name, count in found.items() if name != "problems"} | {"problems": len(found["problems"])}


def corpus_uris(store: Store) -> list[str]:
    """Where the works of the corpus in force were collected."""
    return sorted(read_examples(store, corpus_in_force(store), "source_uri")["source_uri"].drop_nulls().unique().to_list())


def show(settings: Settings, uri: str, *, use: str = "train", known: datetime | None = None) -> dict[str, Any]:
    """All signals on an address, those that count first, and what follows from them.

    Args:
        known: show what was known at that time; by default what is known now.

    Raises:
        InputError: it is no address, or no signal, of any kind, speaks of such a use.
    """
    store = settings.store.open()
    signals = read(store, SIGNALS, known=known)
    if not says_where(uri):
        hint = f"It is a work, collected at {', '.join(found)}." if (found := _collected_at(store, uri)) else ""
        raise InputError("URI", expected="an address, such as https://example.org/story", found=repr(uri), hint=hint)
    uses = sorted({*SHOWN, *USES, *signals["use"]})
    if use not in uses:
        raise InputError("--use", expected=f"one of {', '.join(uses)}", found=repr(use), hint=did_you_mean(use, uses))
    allowed, weighed = weigh(signals, uri, use, now=known or datetime.now(UTC), days=settings.signals.days)
    because = NOT_ON_THE_WEB if origin_of(uri) is None else "" if weighed else NOT_COLLECTED
    told = [w.signal | {"counts": w.counts, "why": w.why, "line": described(w)} for w in weighed]
    return {"source_uri": uri, "use": use, "allowed": allowed, "because": because, "signals": told}


def _collected_at(store: Store, work_id: str) -> list[str]:
    """Where a work of the corpus in force was collected; nowhere, if there is no such work."""
    if not store.exists(CURRENT):
        return []
    examples = read_examples(store, corpus_in_force(store), "work_id", "source_uri")
    found: list[str] = examples.filter(pl.col("work_id") == work_id)["source_uri"].drop_nulls().unique().sort().to_list()
    return found


@dataclass(frozen=True)
class _Collection:
    settings: Settings
    store: Store
    now: datetime
    limits: Limits
    pages: bool
    # Licences that many sites link are asked for once.
    licences: dict[str, asyncio.Future[Answer]] = field(default_factory=dict)

    async def run(self, by_origin: dict[str, list[str]]) -> list[Row]:
        """All rows, added to the records as they come."""
        origins = sorted(by_origin)
        gate = asyncio.Semaphore(AT_ONCE)
        rows: list[Row] = []
        log.info(PROGRESS, "origins", 0, len(origins))
        async with open_client(self.settings.signals.user_agent, self.limits) as client:

            async def one(origin: str) -> list[Row]:
                async with gate:
                    return await self.of_origin(client, origin, by_origin[origin])

            for start in range(0, len(origins), TOGETHER):
                batch = origins[start : start + TOGETHER]
                found = [row for part in await asyncio.gather(*map(one, batch)) for row in part]
                append(self.store, SIGNALS, pl.DataFrame(found, schema=SIGNALS.schema), now=self.now)
                rows += found
                log.info(PROGRESS, "origins", start + len(batch), len(origins))
        return rows

    async def of_origin(self, client: httpx.AsyncClient, origin: str, pages: list[str]) -> list[Row]:
        """What one origin says, and its pages where they are asked."""
        named = self.settings.signals
        file = await self.ask(client, origin + robots.PATH, origin, ROBOTS_BYTES)
        rows = robots.parse(file, agents=named.agents) + aipref.parse_robots(file, agent=named.user_agent)
        if file.status == 0:  # whoever does not answer is not asked again and again
            return rows
        rows += tdmrep.parse(await self.ask(client, origin + tdmrep.PATH, origin))
        rows += aitxt.parse(await self.ask(client, origin + aitxt.PATH, origin), agents=named.agents)
        rows += await self.licences_of(client, file, rsl.linked(file))
        if self.pages:
            rules = Protego.parse(file.text()[0])
            delay = min(max(PAUSE, rules.crawl_delay(named.user_agent) or 0.0), LONGEST_PAUSE)
            for page in pages:
                if file.status >= 500 or not rules.can_fetch(page, named.user_agent):
                    problem = "not asked for: robots.txt does not let us"
                    rows.append(silence(Answer(page, page, self.now, 0, problem=problem, asked=False), aipref.KIND))
                else:
                    await asyncio.sleep(delay)
                    rows += await self.of_page(client, page)
        return rows

    async def of_page(self, client: httpx.AsyncClient, page: str) -> list[Row]:
        """What one page says in its headers and its head."""
        answer = await self.ask(client, page, page, page=True)
        declared = html.declared(answer)
        rows = aipref.parse(answer) + tdmrep.parse_headers(answer) + tdmrep.parse_meta(answer, declared.meta)
        rows += await self.licences_of(client, answer, [*rsl.linked_by_header(answer), *declared.linked])
        for licence in declared.embedded[:MOST_LICENCES]:
            rows += rsl.parse(answer, licence.encode())
        if any(row["allowed"] is not None and row["url"] == page for row in rows):
            await self.keep(answer)
            return rows
        # Of a page that says nothing no copy is kept.
        return [row | {"body_sha256": None} if row["url"] == page else row for row in rows]

    async def licences_of(self, client: httpx.AsyncClient, answer: Answer, urls: Sequence[str]) -> list[Row]:
        """What the licences say that a robots.txt or a page links; each licence is asked for once."""
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
        """What a server answers."""
        if page:
            return await fetch(client, url, about=about, now=self.now, limits=self.limits, wanted=html.is_html)
        answer = await fetch(client, url, about=about, now=self.now, limits=self.limits, most=most)
        await self.keep(answer)
        return answer

    async def keep(self, answer: Answer) -> None:
        """Keep what was answered, as it came."""
        if answer.body:
            await asyncio.to_thread(keep_raw, self.store, answer.body)
