"""Reservations as people spell them: each is read, or its row says what is wrong; none is silence."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protego import Protego
from test_signals import AGENTS, SITE, allowed, answer, frame, robots_rows, rsl_rows, tdm_rows

from provenance.core.settings import Settings
from provenance.corpus.rights.signals import aipref, aitxt, html, noai, robots, rsl, tdmrep
from provenance.corpus.rights.signals.verdicts import verdicts

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
MISSPELT = {  # Google's parser, robots.cc: kAllowFrequentTypos
    "user-agent": ("user-agent", "User-Agent", "USER-AGENT", "useragent", "UserAgent", "user agent", "User  Agent"),
    "disallow": ("disallow", "DISALLOW", "dissallow", "dissalow", "disalow", "diasllow", "disallaw"),
}


def problems(rows):
    return [row["problem"] for row in rows if row["problem"]]


@pytest.mark.parametrize("agents", [
    "GPTBot, CCBot", "CCBot,GPTBot", "GPTBot CCBot", "GPTBot;CCBot", "CCBot | GPTBot", "GPTBot/1.1, CCBot/2.0", '"GPTBot"',
    "'GPTBot'",
    "GPTBot*", "gptbot", "GPTBot (OpenAI)", "Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)",
    "Bingbot, GPTBot",
    "GPTBot\u3001CCBot", "\u201cGPTBot\u201d", "GPT\u200bBot", "Foo, Bar, Baz, Qux, GPTBot",
])  # fmt: skip
def test_several_agents_on_one_line_are_read(agents):
    rows = robots_rows(f"User-agent: {agents}\nDisallow: /\n")
    assert allowed(rows, "/x") is False
    assert not problems(rows)


def test_everybody_among_other_agents_is_everybody():
    assert allowed(robots_rows("User-agent: *, GPTBot\nDisallow: /\n"), "/x", use="crawl") is False
    assert allowed(robots_rows("User-agent: * # all\nDisallow: /\n"), "/x") is None


@pytest.mark.parametrize("agent", MISSPELT["user-agent"])
@pytest.mark.parametrize("disallow", MISSPELT["disallow"])
@pytest.mark.parametrize("colon", [": ", ":", " : ", "\t:\t"])
def test_spellings_that_large_crawlers_read_are_read(agent, disallow, colon):
    text = f"{agent}{colon}GPTBot\n{disallow}{colon}/private/\n"
    rows = robots_rows(text)
    assert (allowed(rows, "/private/x"), allowed(rows, "/x")) == (False, None)
    assert not problems(rows)


@pytest.mark.parametrize("text", ["User-agent GPTBot\nDisallow /", "user-agent\tGPTBot\ndisallow\t/a"])
def test_a_blank_stands_for_a_colon_before_one_word(text):
    rows = robots_rows(text)
    assert allowed(rows, "/a") is False
    assert not problems(rows)


@pytest.mark.parametrize("text", [
    "User_agent: GPTBot\nDisallow: /", "User-agnet: GPTBot\nDisallow: /", "User\u2011agent: GPTBot\nDisallow: /",
    "User-agents: GPTBot\nDisallow: /", "Useragents: GPTBot\nDisallow: /", "Usr-agent: GPTBot\nDisallow: /",
    "User-agent: GPTBot\nDisallows: /", "User-agent: GPTBot\nDis-allow: /", "User-agent: GPTBot\nDisallowed: /",
    "User-agent: GPTBot\nDisalllow: /", "User-agent: GPTBot\nDissalllow: /", "User-agent\uff1aGPTBot\nDisallow\uff1a/",
    "User-agent: GPTBot Disallow: /", "User-agent: GPTBot  User-agent: CCBot Disallow: /", "User-agent=GPTBot\nDisallow=/",
    "User-agent GPTBot CCBot\nDisallow: /",
])  # fmt: skip
def test_other_misspellings_reserve_and_are_told(text):
    rows = robots_rows(text + "\n")
    assert allowed(rows, "/x") is False or "\u2011" in text
    assert problems(rows) or "\u2011" in text


@pytest.mark.parametrize("text", [
    "User-agent: GPTBot\nAlow: /", "User_agent: GPTBot\nAllow: /", "User-agent: GPTBot\nAllowed: /",
    "User-agent: GPTBot\nDisalllow:", "User-agent: GPTBot Allow: /", "User_agent: GPTBot\nDisallow:",
])  # fmt: skip
def test_a_misspelt_permission_permits_nothing_and_is_told(text):
    rows = robots_rows(text + "\n")
    assert allowed(rows, "/x") is None
    assert problems(rows)


@pytest.mark.parametrize("text", [
    "Block: GPTBot", "Agent: GPTBot", "NoAI: 1", "noai", "X-Robots-Tag: noai, noimageai", "tdm-reservation: 1", "no-ai: true",
    "ai-train: no", "train-ai=n", "AI-Training: disallow", "Disallow: /", "User-agent: GPT-Bot\nDisallow: /",
    "User-agent: GPTBots\nDisallow: /", "User-agent: CC-Bot\nDisallow: /", "User-agent: *GPT*\nDisallow: /",
    "User-agent: *\nContent-Signal: ai-train=never", "User-agent: *\nContent-Usage: train-ai=no", "Content-Usage: train-ai",
    "User-agent: *\nContent-Usage: TRAIN-AI=N", "All rights reserved, machine learning prohibited", "llm: no",
    "User-agent: AI\nDisallow: /", "User-agent: all AI crawlers\nDisallow: /", "User-agent: LLM-bots\nDisallow: /",
])  # fmt: skip
def test_what_is_not_understood_is_told(text):
    rows = robots_rows(text + "\n")
    told = problems(rows)
    assert told
    assert allowed(rows, "/x") is not True
    because = verdicts(frame(rows), [f"{SITE}/x"])["because"][0].to_list()
    assert any(told[0] in reason for reason in because)


@pytest.mark.parametrize("text", [
    "User-agent: *\nDisallow: /admin/\nCrawl-delay: 10\nSitemap: https://h.org/train/ai-sitemap.xml\n",
    "User-agent: Googlebot\nDisallow: /a\n\nUser-agent: *\nAllow: /\nHost: h.org\nClean-param: ref /a/\n",
    "# no AI training, please\nUser-agent: *\nDisallow:\n", "User-agent: Applebot\nDisallow: /\n",
    "User-agent: *\nNoindex: /x\n",
    "<!DOCTYPE html><html><body>About: AI and machine learning\nTraining: courses</body></html>", "", "\n\n",
])  # fmt: skip
def test_plain_files_have_no_problem(text):
    assert not problems(robots_rows(text))


NEXT_GROUP = "\nUser-agent: *\nAllow: /\n"


@pytest.mark.parametrize("line", [
    "Deny: /", "Block: /", "Forbid: /", "Not allowed: /", "Not_allowed: /", "Exclude: /", "Disallow; /", "Disallow;/",
    "DISALOW /", "Disallow./", "Disallow, /", "dissallow = /", "\uff24isallow: /", 'Deny: "/"', "Do not allow: *",
])  # fmt: skip
@pytest.mark.parametrize("rest", ["", NEXT_GROUP])
def test_a_rule_of_a_named_agent_in_other_words_reserves_and_never_becomes_the_next_group_s(line, rest):
    rows = robots_rows(f"User-agent: GPTBot\n{line}\n{rest}")
    assert allowed(rows, "/x") is False
    assert problems(rows) or line == "DISALOW /"  # as Google's parser reads it


@pytest.mark.parametrize("text", [
    "User-agent: GPTBot\nNever: /", "User-agent: GPTBot\nKeep out", "User-agent: CCBot\nGo away!\nDisallow: /admin",
    "User-agent: GPTBot\nAction: block", "User-agent: GPTBot", "User-agent: Bingbot\nDisallow: /a\n\nUser-agent: CCBot",
    "User-agent: GPTBot\nDisallow: /a\nNot welcome: /b", "User-agent: GPTBot\nCrawl-delay: 10", "User-agent: GPTBot\n/",
])  # fmt: skip
@pytest.mark.parametrize("rest", ["", NEXT_GROUP])
def test_a_group_of_a_named_agent_that_is_not_understood_is_told_and_permits_nothing(text, rest):
    rest = "" if text.split("\n")[-1].startswith("User-agent") else rest
    rows = robots_rows(f"{text}\n{rest}")
    assert problems(rows)
    assert allowed(rows, "/x") is None


WORDS = st.text("abcdefghijklmnopqrstuvwxyzN!?/.,:;= -", min_size=1, max_size=30).filter(
    lambda line: line.strip(" ") and not any(rule in line.lower().replace(" ", "") for rule in ("agent", "low", "content"))
)


@given(WORDS, st.sampled_from(["", "Disallow: /admin\n"]), st.sampled_from(["", NEXT_GROUP]))
def test_a_line_that_is_no_rule_in_the_group_of_a_named_agent_is_never_silence(line, before, after):
    if robots._is_rule(robots._fields(line)):
        return
    rows = robots_rows(f"User-agent: GPTBot\n{before}{line}\n{after}")
    assert any(row["problem"] for row in rows if row["use"] == "train")
    assert allowed(rows, "/x") is not True


@pytest.mark.parametrize("agents", [
    "[GPTBot, CCBot]", "{GPTBot}", "<GPTBot>", "CCBot/GPTBot", "GPTBot/CCBot", "\uff27\uff30\uff34\uff22\uff4f\uff54",
    "GPT\uff22ot/1.1", "`GPTBot`", "GPTBot & CCBot", "GPTBot/1.1/CCBot", "GPTBot/v2", "\u00abGPTBot\u00bb",
])  # fmt: skip
def test_agents_between_other_signs_and_in_other_letters_are_read(agents):
    rows = robots_rows(f"User-agent: {agents}\nDisallow: /\n")
    assert allowed([row for row in rows if "GPTBot" in (row["agents"] or "")], "/x") is False
    if "CCBot" in agents:
        assert allowed([row for row in rows if "CCBot" in (row["agents"] or "")], "/x") is False
    assert bool(problems(rows)) is ("\uff22" in agents)
    assert allowed(robots_rows(f"User-agent: {agents}\nAllow: /\n"), "/x") is (None if "\uff22" in agents else True)


@pytest.mark.parametrize("maker", ["anthropic", "OpenAI", "Claude", "ChatGPT", "Google, OpenAI", "DeepSeek/1.0"])
def test_a_maker_or_a_model_in_the_place_of_an_agent_is_told(maker):
    assert problems(robots_rows(f"User-agent: {maker}\nDisallow: /\n"))


@pytest.mark.parametrize("value", [
    '"/"', "'/'", "\u201c/\u201d", "all", "yes", "ALL", "everything", "\\", ".", "/a, /b", "/a /b", "/a; /b", "/a,/b",
    '"/a", "/b"', "private", "https://elsewhere.org/",
])  # fmt: skip
@pytest.mark.parametrize("name", ["Disallow", "Allow"])
def test_values_that_are_no_path_reserve_what_they_may_mean_and_are_told(value, name):
    rows = robots_rows(f"User-agent: GPTBot\n{name}: {value}\n")
    assert problems(rows)
    covered = "/b/x" if "/b" in value else "/private" if value == "private" else "/x"
    assert allowed(rows, covered) is (None if name == "Allow" or "elsewhere" in value else False)
    because = verdicts(frame(rows), [f"{SITE}/x"])["because"][0].to_list()
    assert any(problems(rows)[0] in reason for reason in because)


@pytest.mark.parametrize("value", [
    "/ ; all pages", "/;", "/,", "/ (all pages)", "/ -- everything", "/ <!-- all -->", "(/)", "[/]", "^/", "^/.*", ".*", "./*",
    "*.*", "/ everything", "* (all)", "/!", "</>",
])  # fmt: skip
def test_what_stands_around_a_path_does_not_hide_the_whole_site(value):
    rows = robots_rows(f"User-agent: GPTBot\nDisallow: {value}\n")
    assert allowed(rows, "/x") is False
    assert problems(rows)
    assert allowed(robots_rows(f"User-agent: GPTBot\nAllow: {value}\n"), "/x") is None


@pytest.mark.parametrize(("value", "path", "expected"), [
    ("/private (all)", "/private/x", False), ("/private ; x", "/private", False), ("/my files", "/my", None),
    ("/.*", "/x", None),
])  # fmt: skip
def test_a_path_with_a_blank_or_a_pattern_of_another_kind_is_told(value, path, expected):
    rows = robots_rows(f"User-agent: GPTBot\nDisallow: {value}\n")
    assert allowed(rows, path) is expected
    assert problems(rows)


@pytest.mark.parametrize("value", ["/$", "//", "/.", "/*?", "/-/", "/*.pdf$", "/a.b", "/~x", "*/x"])
def test_patterns_of_the_standard_have_no_problem(value):
    assert not problems(robots_rows(f"User-agent: GPTBot\nDisallow: {value}\n"))


@pytest.mark.parametrize("text", [
    r"User-agent: GPTBot\nDisallow: /\n", r"User-agent: GPTBot # us\r\nDisallow: /",
    "User-agent: GPTBot<br>\nDisallow: /<br>",
    "<pre>User-agent: GPTBot\nDisallow: /</pre>", "User-agent: *Disallow: /adminUser-agent: GPTBotDisallow: /",
    "User-agent:GPTBotDisallow:/", "User-agent: GPTBot" + " " * 50_000 + "Disallow: /",
])  # fmt: skip
def test_rules_whose_lines_lost_their_ends_are_read_and_told(text):
    rows = robots_rows(text)
    assert allowed(rows, "/x") is False
    assert problems(rows)
    assert allowed(robots_rows(text.replace("Disallow: /", "Allow: /").replace("Disallow:/", "Allow:/")), "/x") is not True


@pytest.mark.parametrize("code", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_file_in_wide_letters_without_a_mark_is_read_and_told(code):
    rows = robots.parse(answer("/robots.txt", "User-agent: GPTBot\nDisallow: /\n".encode(code)), agents=AGENTS)
    assert allowed(rows, "/x") is False
    assert problems(rows)


@pytest.mark.parametrize("agent", ["GPTB\u043et", "\u0421\u0421Bot", "GPT\u0392ot", "\u042f\u043d\u0434\u0435\u043a\u0441"])
def test_an_agent_in_letters_that_no_agent_has_is_told(agent):
    assert problems(robots_rows(f"User-agent: {agent}\nDisallow: /\n"))


def test_agents_with_a_plus_between_them_are_read():
    assert allowed(robots_rows("User-agent: Bingbot+GPTBot\nDisallow: /\n"), "/x") is False


@pytest.mark.parametrize("agent", [
    "img2dataset", "Ai2Bot-Dolma", "omgilibot", "Kangaroo Bot", "FacebookBot", "laion-huggingface-processor", "Timpibot/0.8",
    "meta-externalagent/1.1", "SBIntuitionsBot", "webzio-extended", "DeepSeekBot", "Claude-Web",
])  # fmt: skip
def test_agents_that_are_known_to_collect_for_models_are_in_the_settings(agent):
    rows = robots.parse(answer("/robots.txt", f"User-agent: {agent}\nDisallow: /\n"), agents=Settings().signals.agents)
    assert allowed(rows, "/x") is False


@pytest.mark.parametrize(("rule", "expected"), [
    ("Content-Signal: ai_train=no", False), ("Content-Signal: search=yes, aitrain=no", False),
    ("Content-Signal: ai-training=no", False), ("Content-Signal: ai-training=yes", None), ("Content-Usage: train_ai=n", False),
    ("Content-Usage: ai-training=n", False), ("Content-Usage: search=y; train-ai=n", False),
    ("Content-Usage: search=y; train-ai=y", None), ("Content-Usage: llm=n", False),
    ("Content-Signal: machine-learning=no", False),
])  # fmt: skip
def test_labels_that_no_draft_has_reserve_permit_nothing_and_are_told(rule, expected):
    rows = robots_rows(f"User-agent: *\n{rule}\n")
    assert allowed(rows, "/x") is expected
    assert problems(rows)
    page = answer("/p", about=f"{SITE}/p", **{rule.split(":")[0].lower().replace("-", "_"): rule.split(": ")[1]})
    assert allowed(aipref.parse(page), "/p") is expected


@pytest.mark.parametrize("rule", ["Content-Usage: train-ai=n", "Content-Signal: search=yes, ai-train=no"])
@pytest.mark.parametrize("agent", ["GPTBot", "Googlebot", "GPTBot\nUser-agent: CCBot"])
def test_a_reservation_of_training_in_a_named_group_counts_and_a_permission_does_not(rule, agent):
    """`User-agent: GPTBot`, `Content-Signal: ai-train=no` was silence."""
    rows = robots_rows(f"User-agent: {agent}\n{rule}\n")
    assert allowed(rows, "/x") is False
    permits = rule.replace("=no", "=yes").replace("=n", "=y") if "Usage" in rule else rule.replace("=no", "=yes")
    assert allowed(robots_rows(f"User-agent: {agent}\n{permits}\n"), "/x") is None
    both = f"User-agent: *\n{permits}\n\nUser-agent: {agent}\n{rule}\n"
    assert allowed(robots_rows(both), "/x") is False
    assert allowed(robots_rows(f"User-agent: ProvenanceSignals\n{permits}\n\n{both}"), "/x") is True


def test_a_content_signal_of_a_page_reserves_and_permits_nothing():
    """Servers add it by themselves; a permission would go before the reservation in the site's robots.txt."""
    for value, expected in (("ai-train=no", False), ("ai-train=yes, search=yes", None)):
        assert allowed(aipref.parse(answer("/p", about=f"{SITE}/p", content_signal=value)), "/p") is expected


def test_rules_on_training_of_the_draft_are_read():
    rows = robots_rows("User-agent: *\nDisallowAITraining: /\nAllowAITraining: /free/\n")
    assert (allowed(rows, "/x"), allowed(rows, "/free/x"), allowed(rows, "/x", use="crawl")) == (False, True, None)


@pytest.mark.parametrize("label", ["train-ai", "ai", "genai", "bots", "tdm", "train-genai"])
def test_labels_of_all_drafts_of_preferences_that_cover_training_reserve_it(label):
    assert allowed(robots_rows(f"User-agent: *\nContent-Usage: {label}=n\n"), "/x") is False


NAMES = st.sampled_from(MISSPELT["user-agent"][:-1]), st.sampled_from(["GPTBot", "CCBot", "*", "Bingbot"])
RULES = st.sampled_from([*MISSPELT["disallow"], "allow"]), st.sampled_from(["/", "/a", "/b", ""])
LINES = st.builds("{}: {}".format, *NAMES) | st.builds("{}: {}".format, *RULES)


@given(st.lists(LINES, max_size=10), st.sampled_from(AGENTS))
def test_misspelt_files_are_read_as_protego_reads_them(lines, agent):
    text = "\n".join(lines)
    rows = [row for row in robots.parse(answer("/robots.txt", text), agents=[agent]) if row["use"] == "train"]
    if any(row["allowed"] is not None for row in rows):
        assert (allowed(rows, "/a") is not False) == Protego.parse(text).can_fetch(f"{SITE}/a", agent)


def test_ai_txt_is_read_in_the_same_spellings():
    rows = aitxt.parse(answer("/ai.txt", "useragent: GPTBot, CCBot\ndissallow: *.png\n"), agents=AGENTS)
    assert (allowed(rows, "/a.png"), allowed(rows, "/a.txt")) == (False, None)


@pytest.mark.parametrize(("text", "expected"), [
    ("Disallow: *.png", False), ("User-Agent *\nDisallow *.png", False), ("User_agent: *\nDisallow: *.png", False),
    ("User-Agent: *\nAlow: *.png", None), ("Allow: *.png", None), ("no training on pictures", None),
    ("User-Agent: * Disallow: *.png", False),
])  # fmt: skip
def test_ai_txt_reserves_or_tells(text, expected):
    rows = aitxt.parse(answer("/ai.txt", text + "\n"), agents=AGENTS)
    assert allowed(rows, "/a.png") is expected
    assert problems(rows) or text.startswith("User-Agent *")
    assert not problems(aitxt.parse(answer("/ai.txt", "# Spawning\nUser-Agent: *\nDisallow: *.png\n\nAllow: *.txt\n")))


@pytest.mark.parametrize(("value", "expected"), [
    ("*.png, *.jpg", False), ("*.png *.jpg", False), ("*.{jpg,png}", False), ("*.PNG", False), ("png", False),
    ('"*.png"', False),
    ("all", False), ("*/*", False), ("images", None), ("image/*", False), (".png", False), ("*.txt, *.pdf", None),
])  # fmt: skip
def test_values_of_ai_txt_are_read_as_people_write_them(value, expected):
    rows = aitxt.parse(answer("/ai.txt", f"User-Agent: *\nDisallow: {value}\n"), agents=AGENTS)
    assert allowed(rows, "/a.png") is expected
    assert expected is False or problems(rows)


@pytest.mark.parametrize("agent", ["SpawningBot", "Googlebot", "My-Collector"])
def test_ai_txt_is_about_training_whomever_it_names(agent):
    """`User-Agent: SpawningBot` was silence."""
    assert allowed(aitxt.parse(answer("/ai.txt", f"User-Agent: {agent}\nDisallow: /\n"), agents=AGENTS), "/a.png") is False
    assert allowed(aitxt.parse(answer("/ai.txt", f"User-Agent: {agent}\nAllow: /\n"), agents=AGENTS), "/a.png") is None


@pytest.mark.parametrize(("rules", "expected", "told"), [
    ('[{"location": "http://h.org/", "tdm-reservation": 1}]', False, False),
    ('[{"location": "HTTPS://H.ORG/x", "tdm-reservation": 1}]', False, False),
    ('[{"location": "/", "tdm-reservation": 1, "tdm-reservation": 0}]', False, True),
    ('[{"location": "/", "tdm-reservation": 0, "tdm-reservation": 1}]', False, True),
    ('[{"location": ["/a", "/x"], "tdm-reservation": 1}]', False, True),
    ('[{"location": "^/", "tdm-reservation": 1}]', False, True),
    ('[{"location": "/*, /b", "tdm-reservation": 1}]', False, True),
    ('[{"location": "h.org", "tdm-reservation": 1}]', None, True),
    ('[{"location": "all", "tdm-reservation": 0}]', None, True), ('[{"location": "/", "tdm-reservation": 0}]', True, False),
    ('[{"location": "https://other.org/", "tdm-reservation": 1}]', None, True),
])  # fmt: skip
def test_places_of_tdmrep_are_read_as_people_write_them(rules, expected, told):
    rows = tdm_rows(rules)
    assert allowed(rows, "/x") is expected
    assert bool(problems(rows)) is told


@pytest.mark.parametrize(("licence", "expected", "told"), [
    ("<prohibits>ai-training</prohibits>", False, True), ("<prohibits>ai_train</prohibits>", False, True),
    ("<prohibits>training</prohibits>", False, True), ("<prohibits>machine-learning</prohibits>", False, True),
    ("<prohibits>ai-trian</prohibits>", False, True), ("<prohibits>everything</prohibits>", None, True),
    ("<permits>ai-training</permits>", False, True), ("<permits>search ai-training</permits>", False, True),
    ("<prohibits>search</prohibits>", True, False), ("<prohibits>AI-Train</prohibits>", False, False),
    ('<prohibits type="use">ai-train</prohibits>', None, True), ("<prohibit>ai-train</prohibit>", None, True),
    ('<Prohibits type="usage">ai-train</Prohibits>', None, True), ("<disallow>ai-train</disallow>", None, True),
    ('<permits>ai-train</permits><prohibits type="where">de</prohibits>', None, True),
    ("<permits>ai-train</permits>", True, False), ("<permits>ai-train</permits><prohibits>nonsense</prohibits>", True, True),
])  # fmt: skip
def test_words_that_rsl_does_not_define_permit_nothing_and_are_told(licence, expected, told):
    rows = rsl_rows(f"<license>{licence}</license>")
    assert allowed(rows) is expected
    assert bool(problems(rows)) is told


@pytest.mark.parametrize(("content", "expected"), [
    ('<content url="all">{}</content>', False), ('<content url="/a, /x">{}</content>', False),
    ('<Content Url="/">{}</Content>', False),
    ('<contents url="/">{}</contents>', False), ('<content url="h.org">{}</content>', None), ("{}", None),
    ('<content url="/ (all)">{}</content>', False),
])  # fmt: skip
@pytest.mark.parametrize("name", ["license", "licence", "License"])
def test_elements_and_places_of_rsl_are_read_as_people_write_them(content, expected, name):
    """`<licence>`, and an address that is no path, were silence."""
    body = '<rsl xmlns="https://rslstandard.org/rsl">' + content.format(f"<{name}><{{}}>ai-train</{{}}></{name}>") + "</rsl>"
    rows = rsl.parse(answer("/l.xml", body.format("prohibits", "prohibits")))
    assert allowed(rows, "/x") is expected
    assert problems(rows)
    assert allowed(rsl.parse(answer("/l.xml", body.format("permits", "permits"))), "/x") is None


@pytest.mark.parametrize("line", [
    "License: /l.xml", "Licence: /l.xml", "Licenses: /l.xml", 'License: "/l.xml"', "License: </l.xml>",
    "License: /l.xml, /m.xml",
])  # fmt: skip
def test_a_licence_is_linked_in_any_spelling(line):
    assert rsl.linked(answer("/robots.txt", line))[0] == f"{SITE}/l.xml"


# pages


def page_rows(body="", **headers):
    page = answer("/p", body, about=f"{SITE}/p", content_type="text/html", **headers)
    declarations = html.read_declarations(page)
    return (
        noai.parse_headers(page, agents=AGENTS)
        + noai.parse_meta(page, declarations.elements, agents=AGENTS)
        + tdmrep.parse_headers(page)
        + tdmrep.parse_meta(page, declarations.elements)
    )


@pytest.mark.parametrize("value", [
    "noai", "noimageai", "noai, noimageai", "NOAI", "NoAI,NoImageAI", "noindex, noai", "noindex,nofollow,noimageai", "no-ai",
    "no_ai", "no ai", "GPTBot: noai", "gptbot: noindex, noai", "bingbot: noindex, GPTBot: noai", "robots: noai", "*: noai",
    "max-snippet: 20, noai", "unavailable_after: 25 Jun 2030 15:00:00 GMT, noai", "noml", "'noai'",
])  # fmt: skip
def test_noai_in_a_header_reserves_the_page(value):
    rows = page_rows(x_robots_tag=value)
    assert (allowed(rows, "/p"), allowed(rows, "/q")) == (False, None)
    assert not problems(rows)


@pytest.mark.parametrize("value", [
    "bingbot: noai", "noindex, nofollow", "notranslate", "max-image-preview: large", "all", "none", "googlebot: noindex",
    "indexifembedded",
])  # fmt: skip
def test_other_directives_and_other_robots_say_nothing(value):
    assert page_rows(x_robots_tag=value) == []


@pytest.mark.parametrize("value", ["ai: no", "no-ai-training-please", "noai=1", "disallow-training", "GPTBot: noaitrain"])
def test_a_directive_that_is_not_understood_is_told(value):
    rows = page_rows(x_robots_tag=value)
    assert problems(rows)
    assert allowed(rows, "/p") is not True


@pytest.mark.parametrize("element", [
    '<meta name="robots" content="noai, noimageai">', "<META NAME=ROBOTS CONTENT=NOAI>",
    '<meta content="index,noai" name="Robots">',
    '<meta name="robots" content="index"><meta name="robots" content="noimageai">', '<meta name="GPTBot" content="noai">',
    '<meta property="robots" content="noai">', '<meta http-equiv="X-Robots-Tag" content="noai">',
    '<meta name="noai" content="1">',
    '<meta name="noai">', '<meta name="tdm-reservation" content="1">', '<meta property="tdm-reservation" content="1">',
    '<meta name="tdm_reservation" content="1">', '<meta name="TDMReservation" content="1">',
])  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_reservations_in_meta_elements_are_read(element, encoding):
    rows = page_rows(f"<html><head>{element}</head><body>x</body></html>".encode(encoding))
    assert allowed(rows, "/p") is False


@pytest.mark.parametrize(("value", "agents"), [
    ("GPTBot,CCBot: noai", {"GPTBot", "CCBot"}), ("GPTBot, bingbot: noai", {"GPTBot"}),
    ("bingbot,CCBot: noindex, noai", {"CCBot"}),
    ("GPTBot CCBot: noai", {"GPTBot", "CCBot"}), ("CCBot,GPTBot,bingbot: noindex, noimageai", {"GPTBot", "CCBot"}),
    ("GPTBot: noindex, CCBot: noai", {"CCBot"}), ("gptbot/1.0, ccbot/2.0: noai", {"GPTBot", "CCBot"}),
    ("GPTBot, *: noai", {"GPTBot", ""}),
])  # fmt: skip
def test_several_robots_before_one_directive_are_read(value, agents):
    for rows in (page_rows(x_robots_tag=value), page_rows(f'<meta http-equiv="X-Robots-Tag" content="{value}">')):
        assert {row["agents"] or "" for row in rows if row["allowed"] is False} == agents
        assert not problems(rows)


@pytest.mark.parametrize("element", [
    '<meta name="robots, googlebot" content="noai">', '<meta name="googlebot,GPTBot" content="noindex, noai">',
    '<meta name="googlebot robots" content="noai">', '<meta name="robots" value="noai">', '<meta name="noai" value="1">',
    '<meta name="robots" content=\u201cnoai\u201d>', "<meta name=\u201crobots\u201d content=\u201cnoai, noimageai\u201d>",
    '<meta name="robots" content="\uff4eoai">', '<meta name="GPTBot/1.0" content="noai">', '<meta name="*" content="noai">',
])  # fmt: skip
def test_meta_elements_in_other_spellings_are_read(element):
    rows = page_rows(f"<html><head>{element}</head><body>x</body></html>".encode())
    assert allowed(rows, "/p") is False
    assert not problems(rows)


@pytest.mark.parametrize(("element", "expected"), [
    ('<meta name="robot" content="noai">', False), ('<meta name="bots" content="noai">', False),
    ('<meta name="ai-bots" content="noai">', False), ('<meta name="crawlers" content="noindex, noimageai">', False),
    ('<meta name="ai-training" content="disallow">', False), ('<meta name="AI" content="no">', False),
    ('<meta name="tdm" content="reserved">', False), ('<meta name="train" content="false">', False),
    ('<meta name="rights" content="noai">', None), ('<meta property="ai:training" content="Not allowed.">', False),
    ('<meta content="noai">', None), ('<meta name="content-usage" content="train-ai=n">', None),
    ('<meta http-equiv="Content-Signal" content="search=yes, ai-train=no">', None),
    ('<meta name="keywords" content="art, noai">', None), ('<meta name="description" content="noai">', None),
])  # fmt: skip
def test_meta_elements_that_no_standard_has_are_told(element, expected):
    rows = page_rows(f"<html><head>{element}</head><body>x</body></html>".encode())
    assert allowed(rows, "/p") is expected
    assert problems(rows)


@pytest.mark.parametrize("element", [
    '<meta name="googlebot" content="noai">', '<meta name="ai-generated" content="false">',
    '<meta name="ai" content="courses">', '<meta name="ai-content-declaration" content="none">',
    '<meta name="description" content="About AI training, no less">', '<meta name="training-label" content="none">',
    '<meta name="theme" content="no">',
    '<meta name="robots, bingbot" content="noindex">', '<meta name="viewport" content="width=device-width, initial-scale=1">',
    '<meta name="tdm-reservation" content="0">', '<meta name="author" content="T. Rain, AI">', "<meta charset=utf-8>",
])  # fmt: skip
def test_other_meta_elements_have_no_problem(element):
    rows = page_rows(f"<html><head>{element}</head><body>x</body></html>".encode())
    assert not problems(rows)
    assert allowed(rows, "/p") is not False


@pytest.mark.parametrize("value", [
    "nogenai", "no-gpt", "nollms", "noaiart", "noaiimages", "noaibots", "NOAI.", "[noai]", "no\u200bai", "noai\u200b",
    "no machine learning",
])  # fmt: skip
def test_refusals_are_read_by_their_parts(value):
    for rows in (
        page_rows(x_robots_tag=value.encode("latin-1", "ignore").decode()),
        page_rows(f'<meta name="robots" content="{value}">'.encode()),
    ):
        assert allowed(rows, "/p") is False


@pytest.mark.parametrize("name", ["x_robots", "x_robot_tag", "x_robots_tags", "robots", "robots_tag"])
def test_headers_that_are_meant_for_robots_reserve_and_are_told(name):
    rows = page_rows(**{name: "noindex, noai"})
    assert allowed(rows, "/p") is False
    assert problems(rows)


@pytest.mark.parametrize("value", ["GPTBot: none", "CCBot: disallow", "tdm-reservation: 1", "GPTBot: noarchive"])
def test_what_closes_a_page_to_a_collector_for_models_is_told(value):
    assert problems(page_rows(x_robots_tag=value))
    assert allowed(page_rows(x_robots_tag=value), "/p") is None


@pytest.mark.parametrize("first", "01")
@pytest.mark.parametrize("name", ["tdm-reservation", "tdm_reservation"])
def test_of_two_reservations_of_a_page_the_stricter_counts(first, name):
    """Of two meta elements the first was read alone."""
    second = "1" if first == "0" else "0"
    elements = f'<meta name="tdm-reservation" content="{first}"><meta name="{name}" content="{second}">'
    assert allowed(page_rows(f"<html><head>{elements}</head></html>"), "/p") is (
        False if name[3] == "-" or second == "1" or first == "1" else None
    )


@pytest.mark.parametrize(("element", "expected"), [
    ('<meta name="robots" contents="noai">', False), ('<meta name="robots" data-content="noai">', False),
    ('<meta robots="noai">', None), ('<meta name="noai, noimageai">', False),
    ('<meta name="tdm-reservation" value="1">', False),
    ('<meta name="tdm" content="1">', False), ('<meta name="tdm-reserved" content="1">', False),
    ('<meta name="tdmrep" content="0">', None),
    ('<meta name="dcterms.rights" content="All rights, text and data mining too">', None),
    ('<meta name="copyright" content="Not for machine learning">', None),
])  # fmt: skip
def test_misspelt_attributes_and_names_reserve_or_are_told(element, expected):
    rows = page_rows(f"<html><head>{element}</head><body>x</body></html>")
    assert allowed(rows, "/p") is expected
    assert problems(rows) or expected is False


def test_headers_nearly_of_tdmrep_reserve_and_are_told():
    for name in ("x_tdm_reservation", "tdm_reservations", "tdm_reserved"):
        rows = page_rows(**{name: "1"})
        assert allowed(rows, "/p") is False
        assert problems(rows)
        assert allowed(page_rows(**{name: "0"}), "/p") is None


def test_misspelt_names_permit_nothing_and_are_told():
    for rows in (page_rows(tdmreservation="0"), page_rows('<meta name="tdm_reservation" content="0">')):
        assert allowed(rows, "/p") is None
        assert problems(rows)
    assert problems(page_rows('<meta name="noai" content="false">'))
    assert problems(page_rows(tdm_reservation="yes"))
    assert problems(tdm_rows('[{"location": "/", "tdm_reservation": 1}]'))


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_of_a_page_raises(header, content):
    page = answer("/p", about=f"{SITE}/p", x_robots_tag=header)
    rows = noai.parse_headers(page, agents=AGENTS) + noai.parse_meta(
        page, [("robots", content), (header, content)], agents=AGENTS
    )
    assert all(row["allowed"] is not True for row in rows)
