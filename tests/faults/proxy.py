"""An HTTP proxy that stands before an S3 server and injects faults, the same ones for the same seed.

    python tests/faults/proxy.py --listen 9000 --to http://127.0.0.1:8333 --faults errors,slowdown,timeouts --rate 0.1 --seed 1

Whether a request meets a fault depends on the seed, its method, its key and how often the two were asked for before, and not on
what else is asked meanwhile. Headers are passed on as they came, since the client has signed them. Ctrl-C, or SIGTERM, ends it
and prints what was injected.

    errors      500 InternalError, and nothing is done
    slowdown    503 SlowDown, and nothing is done
    timeouts    no answer for `--hold` seconds, and nothing is done
    truncated   a read whose body is shorter than its Content-Length
    shortened   a read whose body and Content-Length are shorter than the object, and no checksum to tell
    corrupted   a read with one byte changed
    lost        a write is done, and the connection dies before the answer
    expired     400 ExpiredToken, as AWS answers once a session is over, and nothing is done
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import threading
from collections import Counter
from dataclasses import dataclass, field

from aiohttp import ClientSession, TCPConnector, web
from yarl import URL

READS, WRITES = frozenset({"GET"}), frozenset({"PUT", "POST", "DELETE"})
ALL = READS | WRITES | {"HEAD"}
OF_READS = dict.fromkeys(("truncated", "shortened", "corrupted"), READS)
FAULTS = {**dict.fromkeys(("errors", "slowdown", "timeouts"), ALL), **OF_READS, "lost": WRITES, "expired": ALL}
ANSWERS = {"errors": (500, "InternalError"), "slowdown": (503, "SlowDown"), "expired": (400, "ExpiredToken")}
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


@dataclass
class Proxy:
    """Where requests go, and what happens to them on the way.

    Attributes:
        faults: of which some meet one, each as likely as the others.
        rate: the part of requests that do.
        hold: seconds without an answer.
        injected: how often each fault was injected.
        requests: how many requests came.
        when: replaces the dice: a function of method, path with query, and headers that returns a fault or None.
    """

    to: str
    faults: tuple[str, ...] = ()
    rate: float = 0.0
    seed: int = 0
    hold: float = 60.0
    injected: Counter = field(default_factory=Counter)
    requests: int = 0
    when: object = None
    _asked: Counter = field(default_factory=Counter)

    def roll(self, method, path, _):
        """The fault that a request meets, or None."""
        key = method, path.split("/", 2)[-1]  # without the bucket, whose name may be chance
        self._asked[key] += 1
        dice = random.Random(f"{self.seed} {key} {self._asked[key]}")
        possible = [fault for fault in self.faults if method in FAULTS[fault]]
        return dice.choice(possible) if possible and dice.random() < self.rate else None

    async def answer(self, request):
        self.requests += 1
        body = await request.read()
        fault = (self.when or self.roll)(request.method, request.raw_path, request.headers)
        if fault:
            self.injected[fault] += 1
        if fault in ANSWERS:
            status, code = ANSWERS[fault]
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}, injected</Message></Error>"
            return web.Response(status=status, text=text, content_type="application/xml")
        if fault == "timeouts":
            await asyncio.sleep(self.hold)
            return hang_up(request)
        async with self._session.request(
            request.method,
            URL(self.to + request.raw_path, encoded=True),
            headers=[(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP],
            data=body or None,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            allow_redirects=False,
        ) as found:
            content = await found.read()
            if fault == "lost":
                return hang_up(request)
            headers = [(name, value) for name, value in found.headers.items() if name.lower() not in HOP_BY_HOP]
            answer = web.StreamResponse(status=found.status, reason=found.reason, headers=headers)
            if fault == "shortened":
                content = content[: len(content) // 2]
                answer.content_length = len(content)
                for name in [name for name in answer.headers if name.lower().startswith("x-amz-checksum")]:
                    del answer.headers[name]
            if fault == "corrupted":
                content = content[:-1] + bytes(255 - byte for byte in content[-1:])
            await answer.prepare(request)
            if fault == "truncated":
                await answer.write(content[: len(content) // 2])
                return hang_up(request)
            if request.method != "HEAD":
                await answer.write(content)
            await answer.write_eof()
            return answer

    @contextlib.contextmanager
    def running(self, port=0):
        """Listen on this machine, from a thread of its own; gives the URL."""
        loop, ready, url = asyncio.new_event_loop(), threading.Event(), []
        over = asyncio.Event()

        async def serve():
            connector = TCPConnector(limit=0)
            async with ClientSession(connector=connector, auto_decompress=False) as self._session:
                application = web.Application(client_max_size=1 << 40)
                application.router.add_route("*", "/{path:.*}", self.answer)
                runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
                await runner.setup()
                try:
                    await web.TCPSite(runner, "127.0.0.1", port).start()
                    url.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
                    ready.set()
                    await over.wait()
                finally:
                    await runner.cleanup()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
        thread.start()
        assert ready.wait(10), "the proxy did not start"
        try:
            yield url[0]
        finally:
            loop.call_soon_threadsafe(over.set)
            thread.join(10)
            loop.close()


def hang_up(request):
    """Close the connection without another word."""
    if request.transport:
        request.transport.abort()
    return web.Response(status=500)  # which nobody gets


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--to", required=True, help="URL of the S3 server")
    parser.add_argument("--faults", default="errors,slowdown,timeouts", help=f"some of {', '.join(FAULTS)}, with commas")
    parser.add_argument("--rate", type=float, default=0.1, help="the part of requests that meet one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hold", type=float, default=60.0, help="seconds that a request without an answer is held")
    arguments = parser.parse_args()
    proxy = Proxy(arguments.to, tuple(arguments.faults.split(",")), arguments.rate, arguments.seed, arguments.hold)
    if unknown := set(proxy.faults) - FAULTS.keys():
        parser.error(f"--faults: expected some of {', '.join(FAULTS)}, found {', '.join(sorted(unknown))}")
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with proxy.running(arguments.listen) as url:
        print(f"{url} -> {proxy.to}", flush=True)  # noqa: T201
        signal.sigwait(ends)
    print(json.dumps({"requests": proxy.requests, "injected": proxy.injected}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
