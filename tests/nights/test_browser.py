"""The page in a real browser, on a phone's width and a desk's: logged in, from Airflow's navigation down to one output."""

import polars as pl
import pytest
from samples import corpus_frames, deliver, outputs_frame

from provenance.core.store import Store

pytestmark = pytest.mark.night
DAYS = ("2026-11-16", "2026-11-17", "2026-11-18", "2026-11-19")


@pytest.fixture(scope="module")
def operator(new_operator, tmp_path_factory):
    """Four nights of different revenue and an audit, run by Airflow."""
    store = Store(f"file://{tmp_path_factory.mktemp('store')}", {})
    operator = new_operator(store, "browser")
    operator.environment["PROVENANCE_MONITORING__HOURLY_COST"] = "120"
    deliver(store, corpus_frames(), days=DAYS)
    for number, day in enumerate(DAYS):
        frame = outputs_frame(day).with_columns(pl.col("revenue_minor") * (1, 3, 2, 5)[number])
        store.write_table(f"outputs/day={day}/part.parquet", frame)
    operator.ingest()
    for day in DAYS[:2]:
        operator.night(day)
    operator.audit(DAYS[1])
    for day in DAYS[2:]:
        operator.night(day)
    operator.stop()
    return operator


@pytest.fixture(scope="module")
def url(operator, api_server):
    """Where an API server with the page answers."""
    return api_server(operator.environment, {"admin": "admin"})


def fits(frame):
    """Nothing on the page is wider than what shows it; wide tables scroll in boxes of their own."""
    frame.wait_for_load_state()  # text is there before the style sheet is
    wide, shown = frame.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= shown, f"{frame.url}: {wide} px on {shown} px"


def table_fits(frame, width):
    """At a desk the table of nights fits; on a phone it scrolls, shaded where there is more of it."""
    box = "document.querySelector('#nights').parentElement"
    measured = f"[{box}.scrollWidth, {box}.clientWidth, getComputedStyle({box}).backgroundAttachment]"
    wide, shown, shades = frame.evaluate(measured)
    assert (wide <= shown) == (width >= 1440), f"{wide} px on {shown} px"
    assert shades == "local, local, scroll, scroll"


@pytest.mark.parametrize(("width", "height", "scheme"), [(1440, 900, "light"), (390, 844, "dark"), (360, 740, "light")])
def test_from_the_navigation_to_one_output(browser, url, width, height, scheme, tmp_path):
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page, ours = context.new_page(), []
    page.on(
        "console", lambda said: ours.append(said.text) if said.type == "error" and "/payouts" in str(said.location) else None
    )
    page.set_default_timeout(60_000)
    page.goto(f"{url}/payouts/")
    page.wait_for_selector("input[name=username]")
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", "admin")
    page.keyboard.press("Enter")
    page.wait_for_selector("#nights")
    assert page.url == f"{url}/payouts/", "logging in leads back"

    page.goto(f"{url}/")
    page.wait_for_load_state("networkidle")
    page.locator("a[href*='plugin/payouts']").first.click()
    frame = page.frame_locator("iframe")
    frame.locator("#nights").wait_for()
    framed = next(found for found in page.frames if found.parent_frame and "/payouts" in found.url)
    fits(framed)
    table_fits(framed, width)
    page.screenshot(path=tmp_path / f"airflow-{width}.png")
    frame.locator(f"a[href$='{DAYS[3]}']").click()
    frame.locator("text=From shards to files").wait_for()
    fits(framed)
    run = frame.locator("a[href*='/dags/nightly_payouts/runs/']").first.get_attribute("href")
    frame.locator(f"a[href='{run}']").click()
    framed.wait_for_url(f"{url}{run}**")

    page.goto(f"{url}/payouts/")
    page.wait_for_selector("#nights")
    fits(page)
    table_fits(page, width)
    assert page.locator(".notice", has_text="Revenue is invented.").count() == 1
    assert page.locator("figure").count() == 6, "two currencies, time, drift, audits of examples and of owners"
    assert page.locator("#nights tbody tr").count() >= len(DAYS)
    page.screenshot(path=tmp_path / f"nights-{width}.png", full_page=True)
    page.click(f"#nights a[href$='{DAYS[3]}']")
    page.wait_for_selector("text=From shards to files")
    fits(page)
    page.screenshot(path=tmp_path / f"night-{width}.png", full_page=True)
    page.click("a[href*='/outputs/']")
    page.wait_for_selector("text=Who made it possible")
    fits(page)
    assert "Owner 0, Ltd." in page.inner_text("table")
    page.screenshot(path=tmp_path / f"output-{width}.png", full_page=True)
    page.goto(f"{url}/payouts/nights/2020-01-01")
    page.wait_for_selector("text=expected a night that was run or booked")
    fits(page)
    # The browser itself tells that the page just asked for is not there.
    assert [said for said in ours if "404" not in said] == []
    context.close()
