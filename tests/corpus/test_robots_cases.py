"""robots.txt: cases of RFC 9309 and of the public test suites for it, in our words: groups, longest match, encodings, typos."""

import pytest
from test_signals import allowed, answer

from provenance.corpus.rights.signals import robots

GROUPS = (
    "allow: /foo/bar/\n\nuser-agent: FooBot\ndisallow: /\nallow: /x/\nuser-agent: BarBot\ndisallow: /\nallow: /y/\n\n\n"
    "allow: /w/\nuser-agent: BazBot\n\nuser-agent: FooBot\nallow: /z/\ndisallow: /\n"
)
BETWEEN = "User-agent: BarBot\nSitemap: https://foo.bar/sitemap\nUser-agent: *\nDisallow: /\n"
UNKNOWN = "User-agent: FooBot\nInvalid-Unknown-Line: unknown\nUser-agent: *\nDisallow: /\n"
LONGEST = [
    ("disallow: /x/page.html\nallow: /x/", "/x/page.html", False), ("allow: /x/page.html\ndisallow: /x/", "/x/page.html", True),
    ("allow: /x/page.html\ndisallow: /x/", "/x/", False), ("disallow: \nallow: ", "/x", True),
    ("disallow: /\nallow: /", "/x", True), ("disallow: /x\nallow: /x/", "/x", False), ("disallow: /x\nallow: /x/", "/x/", True),
    ("disallow: /x/page.html\nallow: /x/page.html", "/x/page.html", True), ("allow: /page\ndisallow: /*.html",
    "/page.html", False),
    ("allow: /page\ndisallow: /*.html", "/page", True), ("allow: /x/page.\ndisallow: /*.html", "/x/page.html", True),
    ("allow: /x/page.\ndisallow: /*.html", "/x/y.html", False), ("disallow: /x/", "/x", True),
]  # fmt: skip
VALUES = [
    ("disallow: /fish", "/fish.html", False), ("disallow: /fish", "/fish/salmon.html", False), ("disallow: /fish",
    "/Fish.asp", True),
    ("disallow: /fish", "/catfish", True), ("disallow: /fish", "/?id=fish", True), ("disallow: /fish*", "/fishheads", False),
    ("disallow: /fish/", "/fish", True), ("disallow: /fish/", "/fish/?id=any", False), ("disallow: /*.php",
    "/folder/any.php.f/", False),
    ("disallow: /*.php", "/windows.PHP", True), ("disallow: /*.php$", "/filename.php", False), ("disallow: /*.php$",
    "/f.php?p", True),
    ("disallow: /*.php$", "/filename.php/", True), ("disallow: /*.php$", "/filename.php5", True),
    ("disallow: /fish*.php", "/fishheads/catfish.php?p", False), ("disallow: /fish*.php", "/Fish.PHP", True),
    ("disallow: /foo/bar/quz\nallow: /foo/*/qux", "/foo/bar/quz", False), ("disallow: /foo/bar$", "/foo/bar/quz", True),
    ("disallow: /foo/bar$", "/foo/bar", False), ("disallow: /foo/quz # rest\ndisallow: /foo/#bar", "/foo/quz", False),
    ("disallow: /foo/bar/\u30c4", "/foo/bar/%E3%83%84", False), ("disallow: /foo/bar/%E3%83%84", "/foo/bar/%E3%83%84", False),
    ("disallow: /foo/bar/%62%61%7A", "/foo/bar/baz", False), ("disallow: /foo/bar?qux=taz&baz=http://foo.bar?tar&par",
                                                              "/foo/bar?qux=taz&baz=http://foo.bar?tar&par", False),
    ("disallow: /index.htm", "/index.html", False), ("disallow: /X/", "/x/y", True), ("Disallow:/a", "/a", False),
    ("disallow: a", "/a", False), ("disallow: /a\tb", "/a", True), ("noindex: /a", "/a", True), ("crawl-delay: 5", "/a", True),
    ("disallow: " + "/" + "a" * 3000, "/" + "a" * 3000, False), ("disallow: *", "/x", False), ("disallow: $", "/x", True),
]  # fmt: skip


def may(text, agent, path):
    """Whether an agent may fetch a path, as the agent's own group says; else as the group for everybody does."""
    data = text if isinstance(text, bytes) else text.encode()
    rows = robots.parse(answer("/robots.txt", data), agents=[agent])
    if any(row["use"] == "train" and row["agents"] for row in rows):
        return allowed(rows, path) is not False
    return allowed(rows, path, use="crawl") is not False


@pytest.mark.parametrize(("text", "agent", "path", "expected"), [
    ("", "FooBot", "/x", True), ("user-agent: FooBot\ndisallow: /\n", "FooBot", "/x", False),
    ("user-agent: FooBot\ndisallow: /\n", "BarBot", "/x", True), ("foo: FooBot\nbar: /\n", "FooBot", "/x", True),
    ("user-agent FooBot\ndisallow /\n", "FooBot", "/x", False), (GROUPS, "FooBot", "/x/b", True), (GROUPS, "FooBot",
    "/z/d", True),
    (GROUPS, "FooBot", "/y/c", False), (GROUPS, "BarBot", "/y/c", True), (GROUPS, "BarBot", "/w/a", True),
    (GROUPS, "BarBot", "/z/d", False), (GROUPS, "BazBot", "/z/d", True), (GROUPS, "FooBot", "/foo/bar/", False),
    (BETWEEN, "BarBot", "/x", False), (BETWEEN, "FooBot", "/x", False), (UNKNOWN, "FooBot", "/x", False),
    (UNKNOWN, "BarBot", "/x", False), ("USER-AGENT: FooBot\nALLOW: /x/\nDISALLOW: /\n", "FooBot", "/x/y", True),
    ("uSeR-aGeNt: FooBot\nAlLoW: /x/\ndIsAlLoW: /\n", "FooBot", "/a/b", False),
    ("User-Agent: FOO BAR\nAllow: /x/\nDisallow: /\n", "foo", "/x/y", True), ("User-Agent: foo bar\nDisallow: /\n", "FOO",
    "/a", False),
    ("User-Agent: FoO\nDisallow: /\n", "foo", "/a", False), ("User-Agent: *\nDisallow: /\nUser-Agent: Foo bar\nAllow: /x/\n",
    "Foo", "/x/", True),
    ("user-agent: *\nallow: /\nuser-agent: FooBot\ndisallow: /\n", "FooBot", "/x", False),
    ("user-agent: *\nallow: /\nuser-agent: FooBot\ndisallow: /\n", "BarBot", "/x", True),
    ("user-agent: FooBot\nallow: /\nuser-agent: BarBot\ndisallow: /\nuser-agent: BazBot\ndisallow: /\n", "QuxBot", "/x", True),
    (b"\xef\xbb\xbfUser-Agent: foo\nDisallow: /\n", "foo", "/x", False), (b"User-Agent: foo\r\nDisallow: /\r\n", "foo",
    "/x", False),
    (b"User-Agent: foo\rDisallow: /\r", "foo", "/x", False), (b"User-Agent: foo\n\n\nDisallow: /", "foo", "/x", False),
    (b"# a\n\n# b\nUser-Agent: foo # c\n# d\nDisallow: / # e", "foo", "/x", False), (b"Disallow: /\n", "foo", "/x", True),
])  # fmt: skip
def test_groups(text, agent, path, expected):
    assert may(text, agent, path) is expected


@pytest.mark.parametrize(("rules", "path", "expected"), [*LONGEST, *VALUES])
@pytest.mark.parametrize("agent", ["FooBot", "*"])
def test_rules_of_a_group(rules, path, expected, agent):
    assert may(f"user-agent: {agent}\n{rules}\n", "FooBot", path) is expected
