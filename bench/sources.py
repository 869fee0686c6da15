"""How long ten lists of 100,000 sources take to become one registry, and whether order and repetition change it.

    python bench/sources.py [--lists 10] [--size 100000]

The lists are made up: half of what each has is in others too, by other spellings of its address, with other names beside it and
with what trackers add; one record in a thousand contradicts another. Making them is not counted. Every merge runs in a process
of its own, so that its peak memory is its own: the lists in order, and all of them backwards, shuffled and twice.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

# Spellings of one place; `{n}` is the work's number, `{d}` the same in 11 digits. The last entry is another name of it.
KINDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (
            "https://news{s}.example.org/{n}/story",
            "http://NEWS{s}.example.org:80/{n}/story",
            "https://news{s}.example.org/{n}/story?utm_source=x#top",
        ),
        "",
    ),
    (
        ("https://e{s}.example.com/article?id={n}&lang=en", "http://e{s}.example.com/article?lang=en&id={n}&fbclid=x"),
        "doi:10.5555/{n}",
    ),
    (
        ("https://doi.org/10.1234/W.{n}", "doi:10.1234/w.{n}", "10.1234/W.{n}", "http://dx.doi.org/10.1234%2Fw.{n}"),
        "https://press.example.net/{n}",
    ),
    (("https://www.youtube.com/watch?v={d}", "https://youtu.be/{d}?si=a", "https://m.youtube.com/shorts/{d}"), ""),
    (("https://github.com/o/r{s}/blob/main/f{n}.py", "https://raw.githubusercontent.com/o/r{s}/main/f{n}.py"), ""),
    (("https://en.wikipedia.org/wiki/Work_{n}", "https://en.m.wikipedia.org/wiki/work_{n}#Life"), "https://www.wikidata.org/wiki/Q{n}"),
)  # fmt: skip


def lay_out(folder: Path, lists: int, size: int, seed: int = 1) -> int:
    """Write the lists; returns how many different works they have."""
    draw = np.random.default_rng(seed)
    seen: set[int] = set()
    for number in range(lists):
        works = np.unique(np.concatenate([draw.integers(0, size * 2, size), size * (number + 2) + np.arange(size)]))
        works = draw.permutation(works)[:size]
        seen |= set(works.tolist())
        rows: list[tuple[Any, ...]] = []
        for work in works.tolist():
            spellings, other = KINDS[work % len(KINDS)]
            at = {"n": work, "d": f"{work:011d}", "s": work % 5000}
            named = [other.format(**at)] if other and draw.random() < 0.5 else []
            if draw.random() < 0.3:
                named.append("https://e.example.com/")  # a home page, which joins nothing
            if other.startswith("doi:") and draw.random() < 0.001:
                named += [f"doi:10.5555/{work}", f"doi:10.5555/{work + len(KINDS)}"]  # a contradiction
            when = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=work % 400_000)
            uri = spellings[int(draw.integers(len(spellings)))].format(**at)
            rows.append((uri, when, f"crawler-{number}", f"line {len(rows)}", named, f"{work:064x}", f"Work {work}"))
        columns = ["source_uri", "acquired_at", "collector", "evidence", "identifiers", "content_sha256", "title"]
        pl.DataFrame(rows, schema=columns, orient="row").write_parquet(folder / f"{number:03d}.parquet")
    return len(seen)


def merge(folder: Path, *, again: bool) -> dict[str, Any]:
    """Make the registry of the lists, or of them backwards, shuffled and twice."""
    from provenance.core.store import sha256, to_parquet
    from provenance.corpus.rights.sources.registry import registry

    files = sorted(folder.glob("*.parquet"))
    records = pl.concat(pl.read_parquet(file) for file in (files + files[::-1] if again else files))
    if again:
        records = records.sample(fraction=1, shuffle=True, seed=2)
    started, began = time.monotonic(), time.process_time()
    made = registry(records)
    took, cpu = time.monotonic() - started, time.process_time() - began
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return {
        "records": records.height,
        "sources": made.height,
        "contradictory": made.filter(pl.col("conflicts").list.len() > 0).height,
        "seconds": round(took, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_gb": round(int(peak[1]) / 2**20, 2) if peak else 0.0,
        "sha256": sha256(to_parquet(made)),
    }


def main() -> None:
    """Lay out, merge twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=int, default=10)
    parser.add_argument("--size", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="provenance-bench-") as folder:
        works = lay_out(Path(folder), arguments.lists, arguments.size)
        sys.stdout.write(json.dumps({"works": works}) + "\n")
        found = []
        for again in (False, True):
            begin = "import sys, json; sys.path.insert(0, 'bench'); from sources import *"
            script = f"{begin}; print(json.dumps(merge(Path({folder!r}), again={again})))"
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            found.append(json.loads(done.stdout.splitlines()[-1]))
            sys.stdout.write(json.dumps(found[-1]) + "\n")
            sys.stdout.flush()
    if found[0]["sha256"] != found[1]["sha256"] or found[0]["sources"] != works:
        raise SystemExit("the registries differ from one another, or from what was laid out")


if __name__ == "__main__":
    main()
