"""Measures time and peak memory of booking and publishing a night, by number of credits, and draws a figure.

    python bench/settlement.py [--largest 1000000] [--figure infra/figures/settlement.png]

Shares are invented. Booking, publishing and reconciling are the night's own stages, on the embedded PostgreSQL and a store on
disk. Each size runs in its own process, so that peaks of memory are separate.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provenance.core.store import Store
    from provenance.core.where import Where

DAY = "2026-10-15"
OWNERS_EACH = 10  # owners that share an output


# Terms of the contract, and the fidelity of a night without counterfactual models.
BY_SIZE = {"rule": "flat"}
UNMEASURED = {"models": 0, "failed": ["0 counterfactual models"]}


def lay_out(
    store: Store,
    credits: int,
    owners: int,
    seed: int = 1,
    name_format: str = "Owner {}",
    *,
    terms: Mapping[str, str] = BY_SIZE,
    report: Mapping[str, Any] = UNMEASURED,
) -> str:
    """Write a night with invented shares; returns its folder.

    Args:
        credits, owners: how many.
        terms: of the only contract.
        report: the night's fidelity (`provenance.royalty.fidelity.report`).
    """
    from provenance.core.money import PPB
    from provenance.core.store import canonical_json, sha256
    from provenance.core.tables import EVIDENCE, NIGHT_SHARES, RULE_SHARES, SHARES
    from provenance.corpus.delivery import check_examples, make_corpus
    from provenance.corpus.shards import freeze_corpus
    from provenance.inputs.contracts import Contract
    from provenance.inputs.frozen import freeze_outputs
    from provenance.inputs.night import VERSIONS, Night
    from provenance.royalty.support import unsupported

    draw = np.random.default_rng(seed)
    names = {f"owner-{number:06d}": name_format.format(number) for number in range(owners)}
    rows = [{"work_id": f"w-{owner}", "content": owner.encode()} for owner in list(names)[:1000]]
    claims = [{"work_id": row["work_id"], "owner_id": row["work_id"][2:], "stake_ppb": PPB} for row in rows]
    corpus = make_corpus(rows, claims, names)
    corpus = type(corpus)(check_examples(corpus.examples, "bench"), corpus.claims, corpus.owners)
    frozen = freeze_corpus(store, corpus, shard_examples=384)
    count = credits // OWNERS_EACH
    outputs = pl.DataFrame(
        {
            "output_id": [f"o-{number:07d}" for number in range(count)],
            "content": [b"x"] * count,
            "content_sha256": sha256(b"x"),
            "model_id": "m",
            "revenue_minor": draw.integers(100, 1000, count),
            "currency": "EUR",
            "product": "",
            "modality": "text",
            "served_at": datetime(2026, 10, 15, 12, tzinfo=UTC),
            "notice": None,
        },
        schema_overrides={"notice": pl.String},
    )
    contract = Contract.model_validate({"name": "everything", "developer_ppb": 300_000_000, **terms})
    night = Night(
        day=DAY,
        corpus=frozen.digest,
        outputs=freeze_outputs(store, outputs),
        model="m",
        model_id="m",
        model_files={},
        checkpoints=(),
        method={"versions": VERSIONS, "name": "factored"},
        contract={"contracts": [contract.model_dump(mode="json")]},
    )
    store.write(f"{night.folder}/inputs.json", canonical_json(night.inputs))

    start = draw.integers(0, owners, count)
    owner_numbers = (start[:, None] + np.arange(OWNERS_EACH) * 7919) % owners
    cuts = np.sort(draw.integers(0, PPB, (count, OWNERS_EACH - 1)), axis=1)
    share = np.diff(cuts, axis=1, prepend=0, append=PPB)
    party = pl.Series([f"owner-{number:06d}" for number in range(owners)])
    shares = pl.DataFrame(
        {
            "output_id": outputs["output_id"].gather(np.repeat(np.arange(count), OWNERS_EACH)),
            "account": "payable",
            "party_id": party.gather(owner_numbers.ravel()),
            "share_ppb": share.ravel(),
        }
    ).with_columns(low_ppb=pl.col("share_ppb") * 9 // 10, high_ppb=pl.col("share_ppb") * 11 // 10)
    keys = ["output_id", "account", "party_id"]
    evidence = shares.select(
        *keys, example_id=pl.lit("e"), work_id="party_id", source_uri=pl.lit("https://example.org"), influence=pl.lit(1.0)
    )
    parts = [pl.col("share_ppb").cast(pl.Float64).alias(name) / PPB for name in ("share", "low", "high")]
    by_rule = pl.concat(shares.select(pl.lit(rule).alias("rule"), *keys, *parts) for rule in ("faithful", "flat"))
    over = shares.group_by("account", "party_id").agg(pl.col("share_ppb").sum() // count).sort("party_id")
    over = over.with_columns(currency=pl.lit("EUR"), low_ppb=pl.col("share_ppb"), high_ppb=pl.col("share_ppb"))
    written_tables = (
        ("shares", "shares.parquet", SHARES, shares),
        ("shares", "night_shares.parquet", NIGHT_SHARES, over),
        ("estimate", "evidence.parquet", EVIDENCE, evidence),
        ("estimate", "rule_shares.parquet", RULE_SHARES, by_rule),
    )
    tables: dict[str, dict[str, pl.DataFrame]] = {"shares": {}, "estimate": {}, "scores": {}}
    for stage, name, kind, table in written_tables:
        tables[stage][name] = table.select(kind.schema.names())
    copies: dict[str, Any] = {contract.duplicates: report}
    failed = unsupported(copies, contract)
    for stage, written in tables.items():
        writes = {name: store.write_table(f"{night.folder}/{name}", table) for name, table in written.items()}
        facts = {
            "writes": writes,
            "copies": copies,
            "weights": {"everything": 0.0 if failed else 1.0},
            "unsupported": {"everything": failed},
            "contracts": dict.fromkeys(outputs["output_id"], "everything"),
        }
        store.write(f"{night.folder}/{stage}.json", canonical_json(facts))
    return night.folder


def timed(where: Where, folder: str) -> dict[str, float]:
    """Book, publish and reconcile a night; returns seconds of each."""
    from provenance.settlement.stage import book, publish, reconcile

    taken = {}
    for name, stage, argument in (("book", book, folder), ("publish", publish, DAY), ("reconcile", reconcile, DAY)):
        started = time.monotonic()
        stage(where, argument)
        taken[name] = time.monotonic() - started
    return taken


def settle(where: Where, folder: str) -> dict[str, float]:
    """Book, publish and reconcile a night; returns seconds of each, and the process's peak memory."""
    figures = {f"{name}_s": round(taken, 1) for name, taken in timed(where, folder).items()}
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return figures | {"peak_gb": round(int(peak[1]) / 2**20, 2) if peak else 0.0}


def measure(credits: int) -> dict[str, Any]:
    """Measure one size: written in one process, settled in another."""
    owners = credits // 10
    with tempfile.TemporaryDirectory(prefix="provenance-bench-") as folder:
        environment = {
            **os.environ,
            "PROVENANCE_STORE__URL": f"file://{folder}/store",
            "PROVENANCE_DATABASE__FOLDER": f"{folder}/postgres",
            "PROVENANCE_SETTLEMENT__KEY": f"{folder}/signing.pem",
        }
        result: Any = ""
        for call in (f"lay_out(where.store, {credits}, {owners})", "settle(where, result)"):
            imports = "import sys, json; sys.path.insert(0, 'bench'); from settlement import *; from tasks.where import opened"
            script = f"{imports}\nresult = {result!r}\nwith opened() as where:\n    print(json.dumps({call}))"
            command = [sys.executable, "-c", script]
            process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if process.returncode:
                raise SystemExit(process.stderr[-3000:])
            result = json.loads(process.stdout.splitlines()[-1])
    return {"credits": credits, "owners": owners, **result}


def draw_figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw time and memory by credits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    millions = [row["credits"] / 1e6 for row in rows]
    bottom = np.zeros(len(rows))
    for name in ("book", "publish", "reconcile"):
        seconds = np.array([row[f"{name}_s"] for row in rows])
        left.fill_between(millions, bottom, bottom + seconds, alpha=0.6, label=name)
        bottom += seconds
    left.set(xlabel="million credits", ylabel="seconds", xlim=(0, None), ylim=(0, None), title="Time")
    left.legend(frameon=False)
    right.plot(millions, [row["peak_gb"] for row in rows], marker="o")
    right.set(xlabel="million credits", ylabel="GB", xlim=(0, None), ylim=(0, None), title="Peak memory")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure an eighth, a quarter, a half and all of the largest size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=1_000_000, help="credits of the largest night; ten for each owner")
    parser.add_argument("--figure", type=Path, default=Path("infra/figures/settlement.png"))
    arguments = parser.parse_args()
    rows = []
    for part in (8, 4, 2, 1):
        rows.append(measure(arguments.largest // part))
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.flush()
    draw_figure(rows, arguments.figure)


if __name__ == "__main__":
    main()
