"""Signals of sites are read in any form and weighed by their precedence."""

from datetime import UTC, datetime, timedelta
from time import process_time

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from protego import Protego

from provenance.core.checks import conform
from provenance.core.tables import SIGNALS
from provenance.corpus.rights.signals import aipref, aitxt, html, robots, rsl, tdmrep
from provenance.corpus.rights.signals.fetch import is_public
from provenance.corpus.rights.signals.patterns import matches
from provenance.corpus.rights.signals.responses import Answer, origin_of, page_of
from provenance.corpus.rights.signals.verdicts import NOT_COLLECTED, NOT_ON_THE_WEB, STALE, verdicts, weigh

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SITE = "https://h.org"
AGENTS = ("GPTBot", "CCBot")
RSL = '<rsl xmlns="https://rslstandard.org/rsl"><content url="{}"{}>{}</content></rsl>'


def answer(path, body="", *, about=SITE, at=NOON, status=200, **headers):
    header_pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    data = body if isinstance(body, bytes) else body.encode()
    return Answer(f"{SITE}{path}", about, at, status, header_pairs, data)


def robots_rows(body, **options):
    file = answer("/robots.txt", body, **options)
    return robots.parse(file, agents=AGENTS) + aipref.parse_robots(file, agent="ProvenanceSignals/0.1")


def tdm_rows(body, **options):
    return tdmrep.parse(answer("/.well-known/tdmrep.json", body, **options))


def rsl_rows(licences, place="/", server="", **options):
    return rsl.parse(answer("/license.xml", RSL.format(place, server, licences), **options))


def frame(*rows):
    signals = pl.DataFrame([row for part in rows for row in part], schema=SIGNALS.schema)
    return conform(SIGNALS, signals, "signals")


def allowed(rows, path="/", **options):
    return verdicts(frame(rows), [SITE + path], **options)["allowed"][0]


# robots.txt


@pytest.mark.parametrize(
    ("text", "path", "train"),
    [
        ("User-agent: *\nDisallow: /\n", "/x", None),
        ("User-agent: GPTBot\nDisallow: /\n", "/x", False),
        ("User-agent: gptbot/1.1\nUser-agent: *\nDisallow: /\n", "/x", False),
        ("User-agent: GPTBot\nDisallow: /a\n", "/x", None),
        ("User-agent: GPTBot\nDisallow: /\nAllow: /x\n", "/x", True),
        ("User-agent: GPTBot\nDisallow: /x\nAllow: /x\n", "/x", True),
        ("User-agent: GPTBot\nDisallow:\n", "/x", True),
        ("User-agent: GPTBot\nDisallow: /*.jpg$\n", "/a/b.jpg", False),
        ("User-agent: GPTBot\nDisallow: /*.jpg$\n", "/a/b.jpg?x", None),
        ("User-agent: GPTBot\nDisallow: /%7ejoe # his\n", "/~joe/", False),
        ("User-agent: GPTBot\nDisallow: /\n\nUser-agent: CCBot\nAllow: /x\n", "/x", False),
        ("User-agent: OtherBot\nDisallow: /\n", "/x", None),
        ("\ufeffUser-agent: GPTBot\r\nDisallow: /\r\n", "/x", False),
        ("<html>not found</html>", "/x", None),
    ],
)
def test_robots_speaks_of_training_where_it_names_an_agent_for_it(text, path, train):
    assert allowed(robots_rows(text), path) is train


@pytest.mark.parametrize(
    ("status", "crawl", "train"), [(404, True, None), (403, True, None), (500, False, False), (0, False, False)]
)
def test_a_missing_robots_allows_and_a_failing_server_does_not(status, crawl, train):
    rows = robots_rows("", status=status)
    assert (allowed(rows, use="crawl"), allowed(rows)) == (crawl, train)


lines = st.lists(
    st.one_of(
        st.sampled_from(["User-agent: GPTBot", "User-agent: CCBot", "User-agent: *", "Sitemap: /s", ""]),
        st.builds("{}: /{}".format, st.sampled_from(["Allow", "Disallow"]), st.text("ab/*$%2", max_size=5)),
    ),
    max_size=12,
)


@given(lines, st.text("ab/", max_size=5))
def test_groups_are_read_as_protego_reads_them(file_lines, path):
    text = "\n".join(file_lines)
    agent = next((a for a in AGENTS if f"User-agent: {a}" in file_lines), None)
    rows = [row for row in robots.parse(answer("/robots.txt", text), agents=[agent] if agent else []) if row["use"] == "train"]
    expected = Protego.parse(text).can_fetch(f"{SITE}/{path}", agent or "*")
    if agent:
        assert (allowed(rows, f"/{path}") is not False) == expected
    else:
        everybody = robots.parse(answer("/robots.txt", text), agents=[])
        assert (allowed(everybody, f"/{path}", use="crawl") is not False) == expected


# AI preferences


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("train-ai=n", {"train-ai": False}),
        ("train-ai=y, search=n", {"train-ai": True, "search": False}),
        ("train-ai=n, train-ai=y", {"train-ai": True}),
        ("train-ai;allow=n, train-ai=y", {"train-ai": True}),
        ('train-ai, search="n"', {"train-ai": None, "search": None}),
        ("train-ai=(n)", {"train-ai": None}),
    ],
)
def test_preferences_are_tokens_of_a_dictionary(value, expected):
    assert aipref.preferences(value) == (expected, "")


@pytest.mark.parametrize("value", ["Train-AI=n", "train-ai=", "ünicode=n", "=n", "train-ai=n;"])
def test_a_dictionary_that_cannot_be_parsed_has_no_preference_and_says_why(value):
    preferences, problem = aipref.preferences(value)
    assert not preferences
    assert "structured fields" in problem


def test_rules_of_content_usage_are_of_the_longest_path_and_of_our_own_group():
    text = "User-agent: *\nAllow: /\nContent-Usage: / train-ai=n\nContent-Usage: /ai-ok/ train-ai=y\n"
    rows = robots_rows(text)
    assert [allowed(rows, path) for path in ("/test", "/ai-ok/test")] == [False, True]
    own = robots_rows(text + "\nUser-agent: ProvenanceSignals\nContent-Usage: / train-ai=y\n")
    assert allowed(own, "/test") is True
    assert allowed(robots_rows(text + "\nUser-agent: ExampleBot\nContent-Usage: / train-ai=y\n"), "/test") is False


def test_rules_without_a_path_or_a_group_and_content_signal_are_read_and_of_contradictions_the_restriction():
    assert allowed(robots_rows("Content-Usage: train-ai=n\n")) is False
    assert allowed(robots_rows("User-agent: *\nContent-Signal: search=yes, ai-train=no\n")) is False
    assert allowed(robots_rows("User-agent: *\nContent-Signal: search=yes, ai-train=no\n"), use="search") is True
    rows = robots_rows("User-agent: *\nContent-Usage: / train-ai=y\nContent-Usage: / train-ai=n\n")
    assert len([row for row in rows if row["kind"] == "content-usage"]) == 2
    assert allowed(rows) is False


# TDMRep


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ('[{"location": "/", "tdm-reservation": 1}]', "/x", False),
        ('[{"location": "/*.jpg$", "tdm-reservation": 1}, {"location": "/", "tdm-reservation": 0}]', "/a.jpg", False),
        ('[{"location": "/*.jpg$", "tdm-reservation": 1}, {"location": "/", "tdm-reservation": 0}]', "/a.html", True),
        ('[{"location": "/", "tdm-reservation": 0}, {"location": "/x", "tdm-reservation": 1}]', "/x", True),
        ('[{"location": "/", "tdm-reservation": 2}]', "/x", None),
        ('[{"location": "/", "tdm-reservation": true}]', "/x", None),
        ('[{"location": "https://h.org/x", "tdm-reservation": 1}]', "/x", False),
        ('[{"location": "https://other.org/", "tdm-reservation": 0}]', "/x", None),
        ('{"tdm-reservation": 1}', "/x", False),
        ("<html>", "/x", None),
        ("[" * 100_000, "/x", None),
        ("7", "/x", None),
        ('["x", null]', "/x", None),
    ],
)
def test_the_first_rule_of_tdmrep_that_matches_counts(text, path, expected):
    assert allowed(tdm_rows(text), path) is expected


def test_what_is_wrong_with_a_rule_is_told_and_a_policy_is_where_a_licence_can_be_had():
    rows = tdm_rows('[{"tdm-reservation": 1}, {"location": "/", "tdm-reservation": 3}, 5]')
    assert [row["problem"] for row in rows] == [
        "no location: read as the whole site", "tdm-reservation has to be 0 or 1", "not a rule",
    ]  # fmt: skip
    rows = tdm_rows('[{"location": "/", "tdm-reservation": 1, "tdm-policy": "https://h.org/p.json"}]')
    assert "terms: https://h.org/p.json" in verdicts(frame(rows), [SITE])["because"][0][0]


def test_headers_and_meta_elements_are_of_one_page_and_the_more_restrictive_counts():
    page = f"{SITE}/p"
    body = '<html><head><meta name="TDM-Reservation" content="1"></head></html>'
    page_answer = answer("/p", body, about=page, content_type="text/html", tdm_reservation="0")
    rows = tdmrep.parse_headers(page_answer) + tdmrep.parse_meta(page_answer, html.read_declarations(page_answer).elements)
    assert [row["allowed"] for row in rows] == [True, False]
    assert allowed(rows, "/p") is False
    assert allowed(rows, "/p2") is None


# RSL


@pytest.mark.parametrize(
    ("licences", "train", "search"),
    [
        ('<license><prohibits type="usage">ai-train</prohibits></license>', False, True),
        ('<license><prohibits type="usage">ai-all</prohibits></license>', False, True),
        ('<license><permits type="usage">train-ai</permits></license>', True, False),
        ('<license><permits type="usage">search ai-input</permits></license>', False, True),
        ('<license><permits type="usage">all</permits><prohibits type="usage">ai-train</prohibits></license>', False, True),
        ('<license><permits type="usage">ai-train</permits><payment type="free"/></license>', True, False),
        ('<license><permits type="usage">ai-train</permits><payment type="purchase"/></license>', False, False),
        ('<license><permits type="usage">ai-train</permits><permits type="user">education</permits></license>', False, False),
        ('<license><permits type="usage">search</permits></license><license><permits>ai-train</permits></license>', True, True),
        ("", None, None),
    ],
)
def test_a_licence_permits_what_it_lists_and_without_conditions(licences, train, search):
    rows = rsl_rows(licences)
    assert (allowed(rows), allowed(rows, use="search")) == (train, search)


def test_conditions_stand_in_the_terms_and_nobody_licenses_what_is_somebody_else_s():
    licence = (
        '<license><permits>ai-train</permits><payment type="training"><custom>https://h.org/buy</custom></payment></license>'
    )
    row = next(row for row in rsl_rows(licence, server=' server="https://l.org"') if row["use"] == "train")
    assert row["terms"] == "licence from https://l.org; payment: training https://h.org/buy"
    rows = rsl_rows("<license/>", place="https://victim.org/")
    assert rows[0]["problem"] == "speaks of another site, which does not count"
    assert verdicts(frame(rows), ["https://victim.org/x"])["allowed"][0] is None
    of_page = rsl_rows("<license/>", about=f"{SITE}/p")
    assert (allowed(of_page, "/p"), allowed(of_page, "/other")) == (True, None)


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE rsl [<!ENTITY x SYSTEM "file:///etc/passwd">]><rsl><content url="/"><license>&x;</license></content></rsl>',
        '<!DOCTYPE rsl SYSTEM "http://127.0.0.1:1/x.dtd"><rsl/>',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_and_document_types_are_not_read(text, encoding):
    (row,) = rsl.parse(answer("/license.xml", text.encode(encoding)))
    assert "document type" in row["problem"]
    assert row["allowed"] is None


def test_licences_are_found_where_they_are_linked():
    file = answer("/robots.txt", "License: /license.xml\nUser-agent: *\nLicense: https://l.org/r.xml\n")
    assert rsl.linked(file) == [f"{SITE}/license.xml", "https://l.org/r.xml"]
    link = '<https://l.org/a.xml>; rel="license"; type="application/rsl+xml", </style.css>; rel=stylesheet'
    assert rsl.linked_by_header(answer("/p", link=link)) == ["https://l.org/a.xml"]
    body = '<link rel="license" type="application/rsl+xml" href="b.xml"><script type="application/rsl+xml"><rsl/></script>'
    declarations = html.read_declarations(answer("/d/p", body, content_type="text/html"))
    assert (declarations.linked, declarations.embedded) == ((f"{SITE}/d/b.xml",), ("<rsl/>",))


# ai.txt


@pytest.mark.parametrize(
    ("path", "expected"), [("/a.txt", False), ("/a.c", False), ("/a.css", True), ("/b.png?w=1", False), ("/", None)]
)
def test_ai_txt_speaks_of_suffixes_and_media_types(path, expected):
    text = "# Spawning AI\nUser-Agent: *\nDisallow: *.txt\nDisallow: *.c\nAllow: *.css\nDisallow: image/*\n"
    assert allowed(aitxt.parse(answer("/ai.txt", text)), path) is expected


# what came, whatever it is


@pytest.mark.parametrize(
    ("body", "charset", "text", "problem"),
    [
        (b"\xef\xbb\xbfx", "", "x", ""),
        ("ä".encode("utf-16"), "", "ä", ""),
        ("ä".encode("latin-1"), "; charset=iso-8859-1", "ä", ""),
        ("ä".encode("latin-1"), "", "\ufffd", "not utf-8"),
        ("ä!".encode(), "; charset=utf-16", "ä!", "not utf-16"),
        (b"x", "; charset=klingon", "x", ""),
    ],
)
def test_wrong_encodings_are_read_as_far_as_they_go_and_told_of(body, charset, text, problem):
    read_text, read_problem = answer("/robots.txt", body, content_type=f"text/plain{charset}").text()
    assert read_text == text
    assert problem in read_problem
    assert bool(read_problem) == bool(problem)


@settings(max_examples=200)
@given(
    st.one_of(st.binary(max_size=300), st.text(max_size=200).map(lambda s: s.encode("utf-8", "surrogatepass"))),
    st.text(max_size=60),
)
@example(b'[{"location": "\\ud800", "tdm-reservation": 1}]', "")
@example(b'<rsl><content url="http://[x"><license/></content></rsl>', "<http://[x>; rel=license; type=application/rsl+xml")
@example(b"License: http://[x\nContent-Usage: / \x00\nUser-agent: *\nDisallow: //[\n", "")
@example(b"User-agent: *\nDisallow: http://[::1\nAllow: http://h:x/\n", "a=:9999999999999999:")
def test_no_bytes_raise_and_every_answer_is_a_row(body, header):
    page = f"{SITE}/p"
    page_answer = answer(
        "/p", body, about=page, content_type="text/html", content_usage=header, tdm_reservation=header, link=header
    )
    file = answer("/robots.txt", body)
    read_declarations = html.read_declarations(page_answer)
    for url in (*rsl.linked(file), *rsl.linked_by_header(page_answer), *read_declarations.linked):
        origin_of(url)
    parts = [
        robots.parse(file, agents=AGENTS), aitxt.parse(answer("/ai.txt", body), agents=AGENTS), rsl.parse(file), tdm_rows(body),
        aipref.parse(page_answer), rsl.parse(page_answer),
    ]  # fmt: skip
    assert all(parts)
    rows = frame(
        *parts,
        aipref.parse_robots(file),
        tdmrep.parse_headers(page_answer),
        tdmrep.parse_meta(page_answer, read_declarations.elements),
    )
    assert verdicts(rows, [page])["source_uri"].to_list() == [page]


# weighing


def test_what_is_more_specific_goes_first_whatever_its_kind():
    page = answer("/p", about=f"{SITE}/p", content_usage="train-ai=y")
    rows = robots_rows("User-agent: GPTBot\nDisallow: /\n") + aipref.parse(page)
    verdict, weighed = weigh(frame(rows), f"{SITE}/p#part")
    assert verdict is True
    assert [(w.signal["kind"], w.counts) for w in weighed] == [("content-usage", True), ("robots", False)]
    assert weighed[1].why == "a more specific signal goes before it"
    assert allowed(rows, "/q") is False


def test_at_one_scope_the_more_restrictive_counts_before_silence_and_the_other_is_told_of():
    rows = tdm_rows('[{"location": "/*", "tdm-reservation": 0}]') + robots_rows("Content-Usage: train-ai=n\n")
    verdict = verdicts(frame(rows), [f"{SITE}/x"]).row(0, named=True)
    assert verdict["allowed"] is False
    assert verdict["because"][0].startswith("content-usage: Content-Usage: train-ai=n")
    assert verdict["because"][1].startswith("tdmrep: ")
    assert verdict["because"][1].endswith("a more restrictive signal on the same scope goes before it")
    rows = robots_rows("", status=404) + tdm_rows('[{"location": "/", "tdm-reservation": 0}]')
    assert allowed(rows) is True


def test_a_newer_collection_replaces_an_older_one_unless_the_server_was_down():
    old = tdm_rows('[{"location": "/", "tdm-reservation": 1}]', at=NOON - timedelta(days=2))
    gone = tdm_rows("", status=404)
    down = tdm_rows("", status=503)
    assert allowed(old) is False
    assert allowed(old + gone) is None
    assert allowed(old + down) is False
    later = tdm_rows("", status=0, at=NOON + timedelta(days=1))
    assert allowed(old + down + later) is False
    assert allowed(old + gone + later) is None
    old = robots_rows("User-agent: GPTBot\nAllow: /\n", at=NOON - timedelta(days=2))
    assert allowed(old + robots_rows("", status=503)) is True
    assert allowed(robots_rows("", status=503)) is False


def test_a_permission_gets_stale_and_a_reservation_does_not():
    free, reserved = (tdm_rows(f'[{{"location": "/", "tdm-reservation": {n}}}]') for n in (0, 1))
    late = {"now": NOON + timedelta(days=91), "days": 90}
    assert allowed(free, **late) is None
    assert allowed(free, now=NOON + timedelta(days=90), days=90) is True
    assert STALE in verdicts(frame(free), [SITE], **late)["because"][0][1]
    assert allowed(reserved, **late) is False
    assert "stale: of more than 90 days" in verdicts(frame(reserved), [SITE], **late)["because"][0][0]


def test_sources_without_signals_say_so_and_a_site_that_says_nothing_is_not_one_that_was_not_asked():
    judged = verdicts(frame([]), ["pkg:pypi/x", SITE, "http://[", ""])
    assert judged["allowed"].null_count() == 4
    reasons = dict(judged.select("source_uri", pl.col("because").list.first()).iter_rows())
    assert reasons == {"pkg:pypi/x": NOT_ON_THE_WEB, SITE: NOT_COLLECTED, "http://[": NOT_ON_THE_WEB, "": NOT_ON_THE_WEB}
    assert verdicts(frame(robots_rows("")), [SITE])["because"][0].to_list() == ["nothing is said on train"]


def test_thousands_of_agents_and_stars_take_no_long_time():
    many_agents = b"".join(b"User-agent: a%d\n" % n for n in range(15_000)) + b"Content-Usage: / train-ai=n\nAllow: /\n" * 5_000
    stars = b"User-agent: GPTBot\nDisallow: /" + b"*a" * 200_000
    begun = process_time()
    blanks = b"User-agent: GPTBot" + b" " * 400_000 + b"x\n"
    values = b"User-agent: GPTBot\nDisallow: " + b"/ " * 200_000 + b"\nDisallow:" + b"\t" * 50_000 + b"/"
    for body in (many_agents, stars, b"User-agent: GPTBot\n" * 25_000, blanks, values):
        allowed(robots_rows(body), "/" + "a" * 2_000)
    assert process_time() - begun < 10


@settings(max_examples=200)
@given(st.text("ab/*$%2.?~", max_size=8), st.text("ab/$%2.?~", max_size=8))
def test_patterns_match_as_protego_has_it(pattern, path):
    url = f"{SITE}/{path}"
    assert matches(f"/{pattern}", url) == (not Protego.parse(f"User-agent: *\nDisallow: /{pattern}\n").can_fetch(url, "*"))


def test_addresses_have_one_spelling():
    assert origin_of("HTTPS://EXAMPLE.org:443/a#b") == "https://example.org"
    assert page_of("https://u:p@example.org/ä b?x#y") == "https://example.org/%C3%A4%20b?x"
    assert page_of("ftp://example.org/") is None


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1", True), ("127.0.0.1", False), ("10.1.2.3", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("::1", False), ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False), ("64:ff9b::808:808", True),
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_known(address, public):
    assert is_public(address) is public
