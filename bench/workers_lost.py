"""Whether a night of many works publishes the same bytes with one worker as with two, and when each stage loses a worker.

    python bench/workers_lost.py [--examples 100000] [--folder FOLDER]

The night of `provenance bench --parts scale` three times: with two workers; with one; with two, of which one gets a SIGKILL in
every stage that maps, as soon as it computes. Prints JSON: the cost of each stage, how many workers were lost, and files of the
exports that differ from those of two workers. The exit code is 0 if none differs, and as many workers were lost as stages map.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from distributed import Client

from provenance.core.settings import Settings
from provenance.core.stages import BY_NAME
from provenance.core.store import sha256
from provenance.core.where import Where
from provenance.validation.scale_night import scale
from tasks.cluster import DaskWorkers
from tasks.where import local_settings, opened

KEY, LOST = "signing.pem", "lost.txt"


@contextmanager
def losing_one(settings: Settings, folder: Path) -> Iterator[Where]:
    """The doors of a stage, one of whose workers is killed once it computes; notes it in a file of the folder."""
    with opened(settings) as where:
        over = threading.Event()
        killer = threading.Thread(target=_kill_one, args=(where, over, folder / LOST))
        killer.start()
        try:
            yield where
        finally:
            over.set()
            killer.join()


def _kill_one(where: Where, over: threading.Event, note: Path) -> None:
    while not over.wait(0.2):
        client = _client(where)
        if client is None:
            continue
        with suppress(OSError, RuntimeError, ValueError):  # the cluster is not up yet, or closes
            busy = [address for address, tasks in client.processing().items() if tasks]
            if busy:
                pid = client.run(os.getpid, workers=busy[:1])[busy[0]]
                os.kill(pid, signal.SIGKILL)
                with note.open("a") as lines:
                    lines.write(f"{pid}\n")
                return


def _client(where: Where) -> Client | None:
    return where.workers._client if isinstance(where.workers, DaskWorkers) else None  # noqa: SLF001 (opened by the first work)


def night(folder: Path, examples: int, key: Path | None, *, workers: int, lose: bool) -> dict[str, Any]:
    """Run a night; returns its cost, the number of lost workers, and the digests of its exports."""
    folder.mkdir(parents=True)
    if key:
        shutil.copy(key, folder / KEY)  # or signatures would differ
    open_workers = partial(losing_one, folder=folder) if lose else opened
    found = scale(folder, local_settings(device="cpu", workers=workers), open_workers, examples, workers=workers)
    lost = (folder / LOST).read_text().split() if (folder / LOST).exists() else []
    files = [file for file in (folder / "exports").rglob("*") if file.is_file()]
    exports = {str(file.relative_to(folder)): sha256(file.read_bytes()) for file in files}
    return {"scale": found, "workers lost": len(lost), "exports": exports}


def main() -> None:
    """Run the three nights and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100_000, help="works of the night (default: 100,000)")
    parser.add_argument("--folder", type=Path, help="a new folder, which is kept; by default a temporary one")
    asked = parser.parse_args()
    if asked.folder and asked.folder.exists():
        parser.error(f"--folder: expected a folder that does not exist yet, found {asked.folder}")
    with tempfile.TemporaryDirectory(prefix="workers-lost-") as scratch:
        folder, nights = asked.folder or Path(scratch), dict[str, Any]()
        for name, workers, lose in (("two", 2, False), ("one", 1, False), ("lost", 2, True)):
            key = folder / "two" / KEY if nights else None
            nights[name] = night(folder / name, asked.examples, key, workers=workers, lose=lose)
    wanted = nights["two"]["exports"]
    for found in nights.values():
        exports = found.pop("exports")
        found["files"] = len(exports)
        found["other bytes"] = sorted(key for key in {*exports, *wanted} if exports.get(key) != wanted.get(key))
    sys.stdout.write(json.dumps({"examples": asked.examples, "nights": nights}, indent=2) + "\n")
    lost = nights["lost"]
    missed = lost["workers lost"] < sum(BY_NAME[stage].maps for stage in lost["scale"]["stages"])
    if not wanted or missed or any(found["other bytes"] for found in nights.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
