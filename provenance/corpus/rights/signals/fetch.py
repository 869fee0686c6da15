"""Asking servers, politely and without trusting them: lists of sources are strangers' input, and so are answers.

An answer is never more than its limit of bytes, decoded, nor later than its limit of time from the first look-up to the last
byte; a redirect is followed five times and never twice to the same place. Only public addresses are asked unless private ones
are allowed: a name is looked up once, and what was checked is what is connected to. No cookie, login or proxy of ours
is used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from provenance.corpus.rights.signals.responses import Answer, page_of

# RFC 9309, 2.5.
ROBOTS_BYTES = 500 * 1024
OTHER_BYTES = 5 * 1024 * 1024
REDIRECTS = 5
MOVED = frozenset({301, 302, 303, 307, 308})
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Refused(Exception):
    """What is not asked for, and why."""


@dataclass(frozen=True)
class Limits:
    """How far a server is followed.

    Attributes:
        seconds: for one answer, with all its redirects.
        private: whether addresses that are not public may be asked.
    """

    seconds: float
    private: bool = False


@asynccontextmanager
async def open_client(user_agent: str, limits: Limits) -> AsyncIterator[httpx.AsyncClient]:
    """A client that says who asks, keeps no cookie, and uses nothing of this machine's: no proxy, no login."""
    # A connection belongs to one request: two sites at one address must not share any.
    pool = httpx.Limits(max_keepalive_connections=0)
    headers = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}
    jar = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    async with httpx.AsyncClient(
        headers=headers, cookies=jar, trust_env=False, follow_redirects=False, timeout=limits.seconds, limits=pool
    ) as client:
        yield client


async def fetch(
    client: httpx.AsyncClient,
    url: str,
    *,
    about: str,
    now: datetime,
    limits: Limits,
    most: int = OTHER_BYTES,
    wanted: Callable[[Answer], bool] = lambda _: True,
) -> Answer:
    """What a server answers; never an error, but an answer with a problem.

    Args:
        about: on whose behalf it is asked for.
        most: bytes of the body, decoded; the rest is not read.
        wanted: whether the body is read, given the answer without it.
    """
    seen: list[str] = []
    try:
        async with asyncio.timeout(limits.seconds):
            while True:
                target = page_of(url if not seen else seen[-1])
                found = await _ask(client, target or url, limits, Answer(url, about, now, 0), most=most, wanted=wanted)
                place = found.header("location") if found.status in MOVED else ""
                if not place:
                    return found
                seen = seen or [target or url]
                following = _following(seen, place, found.status)
                seen.append(following)
    except Refused as error:
        return Answer(url, about, now, 0, problem=str(error), asked=False)
    except _Circle as error:
        return Answer(url, about, now, error.status, problem=str(error))
    except TimeoutError:
        return Answer(url, about, now, 0, problem=f"no whole answer within {limits.seconds:g} seconds")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, zlib.error, ValueError) as error:
        return Answer(url, about, now, 0, problem=f"{type(error).__name__}: {error}".removesuffix(": "))


class _Circle(Exception):
    """Redirects that lead nowhere."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


def _following(seen: list[str], place: str, status: int) -> str:
    following = page_of(str(httpx.URL(seen[-1]).join(place)))
    if following is None:
        raise Refused(f"redirected to {place!r}, which is no address of HTTP")
    if following in seen:
        raise _Circle(status, "redirects in a circle: " + " -> ".join([*seen, following]))
    if len(seen) > REDIRECTS:
        raise _Circle(status, f"more than {REDIRECTS} redirects: " + " -> ".join([*seen, following]))
    return following


async def _ask(
    client: httpx.AsyncClient, url: str, limits: Limits, blank: Answer, *, most: int, wanted: Callable[[Answer], bool]
) -> Answer:
    """One request: the headers, and as much of the body as is wanted."""
    target = httpx.URL(url)
    if target.scheme not in {"http", "https"} or not target.host:
        raise Refused("not an address of HTTP")
    response = await _connected(client, target, await _addresses(target, limits))
    try:
        headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers.raw)
        found = Answer(blank.url, blank.about, blank.fetched_at, response.status_code, headers)
        if not found.good or not wanted(found):
            return found
        body, problem = await _body(response, found.header("content-encoding"), most)
        return Answer(found.url, found.about, found.fetched_at, found.status, headers, body, problem)
    finally:
        await response.aclose()


async def _connected(client: httpx.AsyncClient, target: httpx.URL, addresses: list[str]) -> httpx.Response:
    """The answer of the first address that takes a connection: many machines have no IPv6, and many names do."""
    for address in addresses:
        # To the address that was checked, whatever the name says when it is looked up again.
        request = client.build_request(
            "GET",
            target.copy_with(host=address, userinfo=b""),
            headers={"Host": target.netloc.decode("ascii")},
            extensions={"sni_hostname": target.raw_host.decode("ascii")},
        )
        try:
            return await client.send(request, stream=True)
        except httpx.ConnectError:
            if address == addresses[-1]:
                raise
    raise OSError(f"{target.host} has no address")


async def _body(response: httpx.Response, encoding: str, most: int) -> tuple[bytes, str]:
    """At most so many bytes, decoded, and why there are not all of them."""
    coding = encoding.strip().lower()
    if coding not in {"", "identity", "gzip", "x-gzip", "deflate"}:
        raise Refused(f"compressed as {coding!r}, for which nobody has asked")
    # Decoded here, because httpx would decode a chunk whole, however large it gets.
    unpack = zlib.decompressobj(wbits=47) if "gzip" in coding or coding == "deflate" else None
    body = bytearray()
    async for chunk in response.aiter_raw():
        room = most + 1 - len(body)
        body += unpack.decompress(chunk, room) if unpack else chunk[:room]
        if len(body) > most:
            # Half a line could say what the whole does not.
            whole = body[:most].rpartition(b"\n")[0] or body[:most]
            return bytes(whole), f"longer than {most:,} bytes: the rest was not read"
    if unpack and not unpack.eof:
        return bytes(body), "compressed, and cut short"
    return bytes(body), ""


async def _addresses(url: httpx.URL, limits: Limits) -> list[str]:
    """The addresses of a name; all that it has must be public."""
    host = url.raw_host.decode("ascii")
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        known = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OSError(f"{host} is not known: {error}") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in known))
    private = [address for address in addresses if not is_public(address)]
    if private and not limits.private:
        raise Refused(f"{host} is at {private[0]}, which is not a public address; --allow-private asks it")
    return addresses


def is_public(address: str) -> bool:
    """Whether an IP address is anybody's to reach, also where it stands inside of another."""
    found = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast
