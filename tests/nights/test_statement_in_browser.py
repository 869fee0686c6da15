"""A statement in a real browser, at a desk's and a phone's width, light and dark."""

import itertools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "settlement"))
from test_statements import section, statement

from provenance.settlement.months.statement_documents import documents

pytestmark = pytest.mark.night
# WCAG 2.2, level AA, for text of any size; measured where a text stands directly on the colour of an element.
CONTRAST = """
() => {
  const linear = v => v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
  const light = c => .2126 * linear(c[0]) + .7152 * linear(c[1]) + .0722 * linear(c[2]);
  const colour = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const c = colour(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll('body :not(svg, svg *)')) {
    if (![...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const [a, b] = [light(colour(getComputedStyle(element).color).slice(0, 3)), light(behind(element))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.push(`${element.tagName} ${element.className}: ${ratio.toFixed(2)}`);
  }
  return found;
}
"""


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_statement_fits_and_is_legible(browser, tmp_path, width, scheme):
    path = tmp_path / "statement.html"
    shown_of = statement(section(), section("JPY"), trust="Shares rest on 24 models.", holds=("a dispute",))
    path.write_bytes(documents(shown_of)["html"])
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    shown, said = context.new_page(), []
    shown.on("console", lambda message: said.append(message.text))
    shown.goto(path.as_uri())
    wide, has = shown.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= has
    assert shown.evaluate(CONTRAST) == []
    assert said == [], "nothing that its own policy forbids"
    cut = """[...document.querySelectorAll('table.wide')]
        .filter(t => t.scrollWidth > t.parentElement.clientWidth + 1).map(t => t.id)"""
    assert shown.evaluate(cut) == [] or width > 390, "cards, not cut tables"
    levels = shown.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels)), "no level is left out"
    shown.click("nav >> text=Opt out")
    assert shown.locator("#opt-out").is_visible()
    context.close()
