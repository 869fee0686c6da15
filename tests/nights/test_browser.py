"""The page in a real browser, on a phone's width and a desk's: from Airflow's navigation to one output, and what axe says."""

from importlib.resources import files

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
    """At a desk the table of nights fits; on a phone each night is a card that names every figure."""
    row = frame.locator("#nights tbody tr").first
    assert row.evaluate("row => getComputedStyle(row).display") == ("table-row" if width >= 1440 else "grid")
    cell = "[...document.querySelectorAll('#nights tbody td')].map(td => [td.scrollWidth, td.clientWidth])"
    assert all(wide <= shown or not shown for wide, shown in frame.evaluate(cell))
    if width < 1440:
        label = "getComputedStyle(document.querySelector('#nights td[data-label=revenue]'), '::before').content"
        assert frame.evaluate(label) == '"revenue"'


@pytest.fixture(scope="module")
def axe():
    """The script of axe-core, which looks for what makes a page hard to use."""
    return files("axe_playwright_python").joinpath("axe.min.js").read_text()


def is_accessible(page, axe):
    """Nothing on the page, folded parts included, breaks a rule of axe's: contrast, headings, labels, landmarks and more."""
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    page.evaluate(axe)  # a page's policy forbids scripts, but not those of whoever drives the browser
    found = page.evaluate("axe.run({resultTypes: ['violations', 'incomplete', 'passes']})")
    broken = [(rule["id"], node["html"], node["failureSummary"]) for rule in found["violations"] for node in rule["nodes"]]
    assert broken == [], page.url
    tried = {rule["id"] for rule in found["passes"]}
    assert {"color-contrast", "document-title", "page-has-heading-one", "heading-order", "landmark-one-main"} <= tried


def log_in(page, url):
    page.set_default_timeout(60_000)
    page.goto(f"{url}/payouts/")
    page.wait_for_selector("input[name=username]")
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", "admin")
    page.keyboard.press("Enter")
    page.wait_for_selector("#nights")


@pytest.mark.parametrize(("width", "height", "scheme"), [(1440, 900, "light"), (390, 844, "dark"), (360, 740, "light")])
def test_from_the_navigation_to_one_output(browser, url, width, height, scheme, tmp_path):
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page, ours = context.new_page(), []
    page.on(
        "console", lambda said: ours.append(said.text) if said.type == "error" and "/payouts" in str(said.location) else None
    )
    log_in(page, url)
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
    frame.locator(f"#nights a[href$='{DAYS[3]}']").click()
    frame.locator("text=From shards to files").wait_for()
    fits(framed)
    run = frame.locator("a[href*='/dags/nightly_payouts/runs/']").first.get_attribute("href")
    frame.locator("summary", has_text="Time of the latest run").click()
    frame.locator(f"a[href='{run}']").click()
    framed.wait_for_url(f"{url}{run}**")

    page.goto(f"{url}/payouts/")
    page.wait_for_selector("#nights")
    fits(page)
    table_fits(page, width)
    assert page.locator(".notice", has_text="Revenue is invented.").count() == 1
    assert page.locator(".plots figure").count() == 6, "two currencies, time, drift, audits of examples and of owners"
    assert page.locator("figure.flow svg:visible").count() == 2, "where the revenue went, by currency"
    assert page.locator(".headline").inner_text().startswith("19 Nov published ")
    assert page.locator("#nights tbody tr").count() >= len(DAYS)
    page.screenshot(path=tmp_path / f"nights-{width}.png", full_page=True)
    page.click(f"#nights a[href$='{DAYS[3]}']")
    page.wait_for_selector("text=From shards to files")
    fits(page)
    page.screenshot(path=tmp_path / f"night-{width}.png", full_page=True)
    page.click("a[href*='/outputs/']")
    page.wait_for_selector("text=Who made it possible")
    fits(page)
    assert "Owner 0, Ltd." in page.inner_text("main")
    page.screenshot(path=tmp_path / f"output-{width}.png", full_page=True)
    with page.expect_download() as saved:
        page.goto(f"{url}/payouts/nights/{DAYS[3]}")
        page.locator("a[href$='/rev=0001/payouts.csv']").click()
    assert saved.value.suggested_filename == f"payouts-{DAYS[3]}-rev1.csv"
    page.goto(f"{url}/payouts/nights/2020-01-01")
    page.wait_for_selector("text=expected a night that was run or booked")
    fits(page)
    # The browser itself tells that the page just asked for is not there.
    assert [said for said in ours if "404" not in said] == []
    context.close()


PAGES = (
    "", f"nights/{DAYS[3]}", f"outputs/{DAYS[3]}-000?day={DAYS[3]}", "months", "months/2026-11", "owners", "owners/owner-0",
    "model", "docs/index.md", "docs/operators.md", "docs/tables.md", "nights/2020-01-01",
)  # fmt: skip


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")])
def test_every_page_is_accessible_and_fits(browser, url, axe, width, scheme, tmp_path):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    log_in(page, url)
    for path in PAGES:
        page.goto(f"{url}/payouts/{path}")
        fits(page)
        is_accessible(page, axe)
        fits(page)
        page.screenshot(path=tmp_path / f"{path.split('?')[0].replace('/', '-') or 'nights'}.png", full_page=True)
    context.close()


def test_the_trigger_form_asks_for_a_day_as_a_date_and_the_graph_has_groups(browser, url, tmp_path):
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    log_in(page, url)
    page.goto(f"{url}/dags/nightly_payouts")
    page.wait_for_load_state("networkidle")
    for group in ("features", "influence", "royalty", "settlement"):
        page.get_by_text(group, exact=True).first.wait_for()
    page.locator("button", has_text="Trigger").first.click()
    day = page.locator("input[type=date]")
    day.first.wait_for()
    page.screenshot(path=tmp_path / "trigger.png")
    assert day.count() == 1
