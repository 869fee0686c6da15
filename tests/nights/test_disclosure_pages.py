"""Disclosures in a real browser: they open, fit a phone, print, load nothing and run nothing of strangers."""

from datetime import date

import polars as pl
import pytest
from samples import HOSTILE_IDS, corpus_frames, freeze

from provenance.core.settings import CHECKOUT
from provenance.corpus.disclosures.disclose import disclose

pytestmark = pytest.mark.night


def test_every_page_opens_and_shows_strangers_texts_as_text(store, doors, monkeypatch, browser, tmp_path):
    monkeypatch.setenv("PROVENANCE_STORE__URL", store.url)
    frames = corpus_frames(each=len(HOSTILE_IDS) * 3)
    names = pl.col("work_id").str.split("-").list.last().cast(pl.Int64)
    hostile = pl.Series(HOSTILE_IDS).gather(frames["examples"].select(names).to_series())
    examples = frames["examples"].with_columns(source_uri=pl.concat_str([pl.lit("https://example.org/"), hostile]))
    owners = frames["owners"].with_columns(name=pl.lit("<img src=x onerror=alert(1)>"))
    freeze(store, {**frames, "examples": examples.with_columns(licence_spdx=hostile), "owners": owners}, shard_examples=64)
    told = disclose(doors(), "all", tmp_path, on=date(2026, 11, 20), facts=CHECKOUT / "infra/settings/disclosure.toml")
    pages = sorted(name for name in told["files"] if name.endswith(".html"))
    assert pages == ["california.html", "croissant.html", "eu.html", "index.html", "spdx.html", "us.html"]
    context = browser.new_context(viewport={"width": 360, "height": 800}, color_scheme="dark")
    asked, said = [], []
    for name in pages:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"file://{tmp_path}/{name}")
        assert page.locator("h1").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate("document.querySelectorAll('script, img, iframe, form').length") == 0
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 27)"
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert len(page.pdf()) > 10_000
        page.close()
    assert {url.rsplit("/", 1)[-1] for url in asked} == set(pages)
    assert said == []
    page = context.new_page()
    page.goto(f"file://{tmp_path}/index.html")
    page.get_by_role("link", name="eu.html").click()
    assert "Training Content" in page.locator("h1").inner_text()
    assert page.get_by_text("to be completed by the provider").count() > 0
    context.close()
