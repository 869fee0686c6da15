"""Fetch files from untrusted servers, within limits: strangers choose the addresses and the answers.

An answer has a limit of decoded bytes, and of time from the first look-up to the last byte. At most five redirects are
followed, and none to an earlier place. Only public addresses are connected to, unless private ones are allowed: a name is
looked up once, and the connection goes to the checked address. No cookie, login or proxy of this machine is used.
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
    """A request is not sent; the message says why."""


@dataclass(frozen=True)
class Limits:
    """Limits of a request.

    Attributes:
        seconds: time for one answer with its redirects.
        private: whether addresses that are not public are allowed.
    """

    seconds: float
    private: bool = False


@asynccontextmanager
async def open_client(user_agent: str, limits: Limits) -> AsyncIterator[httpx.AsyncClient]:
    """Open a client with our user agent that keeps no cookies and uses no proxy or login of this machine."""
    # One connection for each request: two sites at one address must not share one.
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
    """Request a URL; errors become an answer with a problem.

    Args:
        about: the origin or page for which it is requested.
        most: decoded bytes of the body; the rest is not read.
        wanted: decides from the answer without body whether to read the body.
    """
    seen: list[str] = []
    try:
        async with asyncio.timeout(limits.seconds):
            while True:
                target = page_of(url if not seen else seen[-1])
                answer = await _ask(client, target or url, limits, Answer(url, about, now, 0), most=most, wanted=wanted)
                place = answer.header("location") if answer.status in MOVED else ""
                if not place:
                    return answer
                seen = seen or [target or url]
                following = _following(seen, place, answer.status)
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
    """Redirects do not end."""

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
    """Send one request; read the headers and, if wanted, the body."""
    target = httpx.URL(url)
    if target.scheme not in {"http", "https"} or not target.host:
        raise Refused("not an address of HTTP")
    response = await _connected(client, target, await _addresses(target, limits))
    try:
        headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers.raw)
        answer = Answer(blank.url, blank.about, blank.fetched_at, response.status_code, headers)
        if not answer.good or not wanted(answer):
            return answer
        body, problem = await _body(response, answer.header("content-encoding"), most)
        return Answer(answer.url, answer.about, answer.fetched_at, answer.status, headers, body, problem)
    finally:
        await response.aclose()


async def _connected(client: httpx.AsyncClient, target: httpx.URL, addresses: list[str]) -> httpx.Response:
    """The answer of the first address that accepts a connection: many names have IPv6, and many machines do not."""
    for address in addresses:
        # Connect to the checked address: another look-up of the name could differ.
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
    """Read at most `most` decoded bytes; returns them and the problem if they are not all."""
    coding = encoding.strip().lower()
    if coding not in {"", "identity", "gzip", "x-gzip", "deflate"}:
        raise Refused(f"compressed as {coding!r}, for which nobody has asked")
    # Decoded here, because httpx decodes whole chunks without a limit.
    unpack = zlib.decompressobj(wbits=47) if "gzip" in coding or coding == "deflate" else None
    body = bytearray()
    async for chunk in response.aiter_raw():
        room = most + 1 - len(body)
        body += unpack.decompress(chunk, room) if unpack else chunk[:room]
        if len(body) > most:
            # Half a line could have another meaning.
            whole = body[:most].rpartition(b"\n")[0] or body[:most]
            return bytes(whole), f"longer than {most:,} bytes: the rest was not read"
    if unpack and not unpack.eof:
        return bytes(body), "compressed, and cut short"
    return bytes(body), ""


async def _addresses(url: httpx.URL, limits: Limits) -> list[str]:
    """Look up the addresses of a name; all must be public."""
    host = url.raw_host.decode("ascii")
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OSError(f"{host} is not known: {error}") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    private = [address for address in addresses if not is_public(address)]
    if private and not limits.private:
        raise Refused(f"{host} is at {private[0]}, which is not a public address; --allow-private asks it")
    return addresses


def is_public(address: str) -> bool:
    """Whether an IP address is public; checks addresses embedded in IPv6, too."""
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast
