"""Signals are collected from bad servers, too: slow, endless, circular, compressed, wrongly encoded, private."""

import asyncio
import gzip
import ssl
import time
import zlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from servers import Local, Quiet, listening

from provenance.core.settings import Settings, SignalsSettings
from provenance.core.store import sha256
from provenance.core.tables import SIGNALS
from provenance.core.where import Where
from provenance.corpus.delivery import make_corpus
from provenance.corpus.records import raw_key, read
from provenance.corpus.rights.signals.collect import collect, show
from provenance.corpus.rights.signals.fetch import OTHER_BYTES, Limits, fetch, open_client
from provenance.corpus.rights.signals.verdicts import verdicts
from provenance.corpus.shards import freeze_corpus

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
MEGABYTE = 1 << 20
TERMS = b"<license><prohibits>ai-train</prohibits></license>"
RSL = b'<rsl xmlns="https://rslstandard.org/rsl"><content url="/">' + TERMS + b"</content></rsl>"


class Site(Local):
    """A site whose answers are a table; anything else is 404."""

    def __init__(self):
        super().__init__(Handler)
        self.answers, self.asked, self.headers_seen, self.sent = {}, Counter(), [], 0

    def handle_error(self, request, client_address):
        pass  # a client that has read enough hangs up


class Handler(Quiet, BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked[self.path] += 1
        self.server.headers_seen.append(dict(self.headers))
        response = self.server.answers.get(self.path, (404, {}, b"<html>not here</html>"))
        if callable(response):
            response(self)
            return
        status, headers, body = response
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def endless(handler, chunk=b"x" * 65_536, total=100 * MEGABYTE):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(total // len(chunk)):
        handler.wfile.write(chunk)
        handler.server.sent += len(chunk)


@pytest.fixture
def site():
    with listening(Site()) as server:
        yield server


@pytest.fixture
def where(tmp_path):
    settings = Settings(signals=SignalsSettings(timeout=5)).at(tmp_path)
    return Where(settings, settings.store.open())


def ask(url, *, seconds=5.0, private=True, **options):
    async def run():
        limits = Limits(seconds, private)
        async with open_client("Tests/1", limits) as client:
            return await fetch(client, url, about=url, now=NOON, limits=limits, **options)

    return asyncio.run(run())


# one answer


def test_a_hundred_megabytes_are_not_read_to_their_end_and_cut_at_a_line(site):
    site.answers["/long"] = endless
    answer = ask(f"{site.url}/long")
    assert len(answer.body) == OTHER_BYTES
    assert "longer than 5,242,880 bytes" in answer.problem
    assert site.sent < 50 * MEGABYTE
    site.answers["/robots.txt"] = lambda h: endless(h, b"Disallow: /abcdefg\n" * 1000)
    assert ask(f"{site.url}/robots.txt", most=10_000).body.endswith(b"Disallow: /abcdefg")


def test_a_compression_bomb_is_cut_and_a_compression_that_is_cut_short_or_not_asked_for_is_told_of(site):
    for coding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        site.answers["/bomb"] = (200, {"Content-Encoding": coding}, pack(b"\0" * (100 * MEGABYTE), 1))
        site.answers["/good"] = (200, {"Content-Encoding": coding}, pack(b"User-agent: *\n"))
        assert len(ask(f"{site.url}/bomb").body) == OTHER_BYTES
        assert ask(f"{site.url}/good").body == b"User-agent: *\n"
    site.answers["/cut"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(b"User-agent: *\n" * 99)[:-12])
    site.answers["/br"] = (200, {"Content-Encoding": "br"}, b"...")
    site.answers["/no"] = (200, {"Content-Encoding": "gzip"}, b"plain")
    assert ask(f"{site.url}/cut").problem == "compressed, and cut short"
    assert "compressed as 'br'" in ask(f"{site.url}/br").problem
    assert ask(f"{site.url}/no").status == 0


def test_redirects_are_followed_five_times_and_never_in_a_circle(site):
    for n in range(9):
        site.answers[f"/{n}"] = (301, {"Location": f"/{n + 1}"}, b"")
    site.answers["/a"], site.answers["/b"] = ((302, {"Location": to}, b"") for to in ("/b", "/a"))
    site.answers["/ftp"] = (302, {"Location": "ftp://h/"}, b"")
    site.answers["/5"] = (200, {}, b"here")
    assert ask(f"{site.url}/0").body == b"here"
    site.answers["/5"] = (301, {"Location": "/6"}, b"")
    assert ask(f"{site.url}/0").problem.startswith("more than 5 redirects")
    circle = ask(f"{site.url}/a")
    assert circle.status == 302
    assert circle.problem == f"redirects in a circle: {site.url}/a -> {site.url}/b -> {site.url}/a"
    assert "which is no address of HTTP" in ask(f"{site.url}/ftp").problem


def test_a_server_that_takes_its_time_is_left(site):
    def drip(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for n in range(40):  # each byte in time, the whole never
            handler.wfile.write(f"X-{n}: 1\r\n".encode())
            time.sleep(0.1)

    site.answers["/drip"] = drip
    begun = time.monotonic()
    assert ask(f"{site.url}/drip", seconds=0.5).problem == "no whole answer within 0.5 seconds"
    assert time.monotonic() - begun < 3


def test_private_addresses_are_not_asked_unless_they_may_be(site):
    for url in (site.url, site.url.replace("127.0.0.1", "localhost"), "http://[::ffff:127.0.0.1]/", "http://169.254.169.254/"):
        assert "which is not a public address" in ask(url, private=False).problem
    assert not site.asked
    site.answers["/"] = (200, {}, b"x")
    assert ask(site.url.replace("127.0.0.1", "localhost")).body == b"x"


def test_no_cookie_and_no_login_is_sent(site, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    site.answers["/a"] = (302, {"Location": "/b", "Set-Cookie": "who=me"}, b"")
    site.answers["/b"] = (200, {}, b"x")
    assert ask(site.url.replace("//", "//user:secret@") + "/a").status == 200
    for seen in site.headers_seen:
        assert seen["User-Agent"] == "Tests/1"
        assert not {"Cookie", "Authorization"} & set(seen)


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/", "file:///etc/passwd", "http://", "http://[", "http://127.0.0.1:1/", "http://nowhere.invalid/"]
)
def test_what_cannot_be_asked_is_a_problem_and_no_error(url):
    answer = ask(url)
    assert answer.status == 0
    assert answer.problem


@pytest.fixture
def certified(site, tmp_path):
    """The site with a certificate for localhost, and a context that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    now, day = datetime.now(UTC), timedelta(days=1)
    certificate = certificate.not_valid_before(now - day).not_valid_after(now + day)
    certificate = certificate.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    pem = certificate.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "site.pem").write_bytes(pem + key.private_bytes(*plain))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "site.pem")
    site.socket = serving.wrap_socket(site.socket, server_side=True)
    return ssl.create_default_context(cadata=pem.decode())


def test_certificates_are_checked_against_the_name_though_the_address_is_connected_to(site, certified):
    site.answers["/"] = (200, {}, b"x")

    async def run(host):
        limits = Limits(5, private=True)
        async with httpx.AsyncClient(verify=certified, trust_env=False) as client:
            return await fetch(client, f"https://{host}:{site.server_address[1]}/", about="", now=NOON, limits=limits)

    assert asyncio.run(run("localhost")).body == b"x"
    assert site.headers_seen[0]["Host"] == f"localhost:{site.server_address[1]}"
    assert "certificate" in asyncio.run(run("127.0.0.1")).problem


def test_an_address_that_takes_no_connection_is_followed_by_the_next(site, monkeypatch):
    site.answers["/"] = (200, {}, b"x")

    async def both_addresses(*_, **__):
        return [(0, 0, 0, "", ("127.0.0.2", 0)), (0, 0, 0, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", both_addresses)
    url = site.url.replace("127.0.0.1", "two.test")
    assert ask(url).body == b"x"


# a collection


def test_every_origin_is_asked_once_and_what_it_says_is_kept(site, where):
    robots = b"User-agent: GPTBot\nDisallow: /private/\n\nUser-agent: *\nContent-Usage: /open/ train-ai=y\n"
    robots += b"\nLicense: /license.xml\n"
    site.answers["/robots.txt"] = (200, {"Content-Type": "text/plain"}, robots)
    site.answers["/.well-known/tdmrep.json"] = (200, {}, b'[{"location": "/tdm/", "tdm-reservation": 1}]')
    site.answers["/ai.txt"] = (200, {}, b"User-Agent: *\nDisallow: *.png\n")
    site.answers["/license.xml"] = (200, {}, RSL)
    uris = [f"{site.url}{path}" for path in ("/private/a", "/open/a", "/tdm/a", "/a.png", "/other")] + ["pkg:pypi/x"]
    counts = collect(where, uris, now=NOON, private=True)
    assert (counts["origins"], counts["not_http"], counts["problems"]) == (1, 1, [])
    assert site.asked == dict.fromkeys(["/robots.txt", "/.well-known/tdmrep.json", "/ai.txt", "/license.xml"], 1)

    store = where.store
    signals = read(store, SIGNALS)
    assert set(signals["kind"]) == {"robots", "content-usage", "tdmrep", "ai.txt", "rsl"}
    assert store.read(raw_key(sha256(robots))) == robots
    for digest in signals["body_sha256"].drop_nulls():
        assert sha256(store.read(raw_key(digest))) == digest
    allowed = dict(verdicts(signals, uris).select("source_uri", "allowed").iter_rows())
    assert list(allowed.values()) == [allowed[uri] for uri in sorted(uris)]
    assert [allowed[uri] for uri in uris] == [False, True, False, False, False, None]


def test_what_was_known_before_can_be_shown(site, where):
    uri = f"{site.url}/x"
    site.answers["/.well-known/tdmrep.json"] = (200, {}, b'[{"location": "/", "tdm-reservation": 0}]')
    collect(where, [uri], now=NOON, private=True)
    site.answers["/.well-known/tdmrep.json"] = (200, {}, b'[{"location": "/", "tdm-reservation": 1}]')
    collect(where, [uri], now=NOON + timedelta(days=1), private=True)
    assert show(where, uri, known=NOON)["allowed"] is True
    now = show(where, uri, known=NOON + timedelta(days=1))
    assert now["allowed"] is False
    assert [s["why"] for s in now["signals"] if s["kind"] == "tdmrep"] == ["reserves", "replaced by a newer collection"]
    assert show(where, uri, known=NOON - timedelta(days=1))["because"] == "no signals have been collected on it"


def test_pages_are_asked_where_robots_lets_us(site, where, monkeypatch):
    monkeypatch.setattr("provenance.corpus.rights.signals.collect.PAUSE", 0.0)
    html = {"Content-Type": "text/html; charset=utf-8"}
    linked = b'<html><head><link rel="license" type="application/rsl+xml" href="/license.xml"></head>'
    site.answers |= {
        "/robots.txt": (200, {}, b"User-agent: *\nDisallow: /shut\n"),
        "/meta": (200, html, b'<meta name="tdm-reservation" content="1"><meta name="tdm-policy" content="/p">'),
        "/header": (200, {**html, "Content-Usage": "train-ai=n", "tdm-reservation": "0"}, b"<p>x"),
        "/linked": (200, html, linked),
        "/linked2": (200, html, linked),
        "/embedded": (200, html, b'<script type="application/rsl+xml">' + RSL + b"</script>"),
        "/link": (200, {"Link": '</license.xml>; rel="license"; type="application/rsl+xml"'}, b"x" * 9),
        "/silent": (200, html, b"<p>nothing"),
        "/license.xml": (200, {}, RSL),
    }
    paths = ("/meta", "/header", "/linked", "/linked2", "/embedded", "/link", "/silent", "/shut", "/gone")
    uris = [site.url + path for path in paths]
    counts = collect(where, uris, now=NOON, pages=True, private=True)
    assert counts["pages"] == len(paths)
    assert counts["problems"] == [f"{site.url}/shut: not asked for: robots.txt does not let us"]
    assert "/shut" not in site.asked
    assert site.asked["/license.xml"] == 1
    store = where.store
    signals = read(store, SIGNALS)
    allowed = dict(verdicts(signals, uris).select("source_uri", "allowed").iter_rows())
    assert [allowed[uri] for uri in uris] == [False] * 6 + [None] * 3
    digests = signals["body_sha256"].drop_nulls().unique()
    assert all(store.exists(raw_key(digest)) for digest in digests)
    assert not store.exists(raw_key(sha256(b"<p>nothing")))


def test_a_site_cannot_have_us_ask_everybody(site, where):
    many = "".join(f"License: {site.url}/l{n}.xml\n" for n in range(99))
    site.answers["/robots.txt"] = (200, {}, many.encode())
    counts = collect(where, [f"{site.url}/x"], now=NOON, private=True)
    assert sum(path.startswith("/l") for path in site.asked) == 5
    assert f"{site.url}/robots.txt: links 99 licences: 5 were asked for" in counts["problems"]


def test_a_failing_server_reserves_and_a_refused_one_is_told_of(site, where):
    uri = f"{site.url}/x"
    site.answers["/robots.txt"] = (503, {}, b"")
    collect(where, [uri], now=NOON, private=True)
    assert show(where, uri, known=NOON)["allowed"] is False
    refused = collect(where, [uri], now=NOON + timedelta(days=1))
    assert "which is not a public address" in refused["problems"][0]
    elsewhere = "http://10.0.0.1/x"
    collect(where, [elsewhere], now=NOON)
    assert show(where, elsewhere, known=NOON)["allowed"] is None  # it was not asked, so it has not failed
    assert site.asked["/robots.txt"] == 1


def test_the_corpus_in_force_is_asked_by_default(site, where):
    rows = [
        {"work_id": str(n), "content": b"x", "example_id": str(n), "content_sha256": sha256(b"x"), "position": 0,
         "source_uri": uri, "modality": "text", "split": "train", "unmatched_reason": "nobody is known"}
        for n, uri in enumerate((f"{site.url}/x", f"{site.url}/y", "pkg:pypi/x", None))
    ]  # fmt: skip
    claims = [{"work_id": "other", "owner_id": "a", "stake_ppb": 1_000_000_000}]
    freeze_corpus(where.store, make_corpus(rows, claims, {"a": "A"}), shard_examples=10)
    counts = collect(where, now=NOON, private=True)
    assert (counts["sources"], counts["origins"], counts["not_http"]) == (3, 1, 1)


def test_the_same_collection_again_changes_nothing(site, where):
    site.answers["/robots.txt"] = (200, {}, b"User-agent: CCBot\nUser-agent: GPTBot\nDisallow: /\n")
    for _ in range(2):
        collect(where, [f"{site.url}/x"], now=NOON, private=True)
    assert len(where.store.list("rights/signals")) == 1


def test_the_command_line_collects_and_shows(site, where, monkeypatch, shown, refused):
    monkeypatch.setenv("PROVENANCE_STORE__URL", where.store.url)
    site.answers["/robots.txt"] = (200, {}, b"User-agent: GPTBot\nDisallow: /\x1b[31m\n")
    collected = shown("rights", "signals", "collect", "--source", f"{site.url}/x", "--allow-private")
    assert "1 signals of 1 origins; 0 sources are not on the web" in collected
    output = shown("rights", "signals", "show", f"{site.url}/[31m")
    assert "train on" in output
    assert "reserved" in output
    assert "\x1b[31m" not in output
    assert shown("rights", "signals", "show", f"{site.url}/x", "--known", "2020-01-01", "--json")["allowed"] is None
    message = refused("rights", "signals", "show", "x", "--known", "now")
    assert "--known: expected a time as 2026-11-20T12:00, with or without a zone, found 'now'" in message
