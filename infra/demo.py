"""Runs the demo: real owners, a real model, a day of its outputs, and the night that pays for them. Only revenue is invented.

    python -m infra.demo --day 2026-11-20 [--kind music]

The corpus is what ten Python packages, all in the lock file, document of their classes and functions. A small transformer is
trained on it once, and is asked what names mean that several of the packages use. Another kind is music: melodies of eight
composers, and a model that goes on from a few notes. The DAGs `ingest_corpus` and `nightly_payouts` run in this process:
`dag.test` on the same database as the UI, because a scheduler, an API server and a DAG processor would take longer to start
than the night takes to run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from infra import local_airflow
from provenance.core.errors import InputError, did_you_mean, parse_day
from provenance.core.money import format_minor
from tasks.terminal import Terminal, exit_codes, line

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

    from provenance.core.settings import Settings
    from provenance.core.store import Store
    from provenance.corpus.delivery import Corpus

NOTICE = "The revenue of this demo is invented, and no money moves."
# The invented price list: revenue of an output by plan, in minor units.
PRICES = (("EUR", 149), ("USD", 199), ("EUR", 499), ("USD", 89))
ATTRIBUTION = ("features.featurise", "influence.fit_curvature", "influence.score", "royalty.likelihoods", "royalty.estimate")
# Questions of a day about names that several owners use, and about names of one.
SHARED, OWN = 24, 16
# Notes of a melody that are given, and notes that follow; two bytes each.
GIVEN, FOLLOWING = 8, 24
# Owners in the table at the end, and owners whose works are shown behind one output.
LISTED, SHOWN = 12, 3


@dataclass(frozen=True)
class Kind:
    """What a demo is about.

    Attributes:
        workload: the workload (`provenance workload`) whose corpus and model it has.
        prompts: the prompts of a day, from the corpus and a seed.
        answer: returns an output for each prompt, from the adapter, the module, the prompts and a seed.
        trainings: worth of the counterfactual models in trainings on everything; more would be more exact, and take longer.
        settings: the settings file, by which kinds have stores and ledgers of their own.
        logs: the folder of logs, in the checkout.
        served: what the outputs are, in words.
    """

    workload: str
    prompts: Callable[[Corpus, int], list[bytes]]
    answer: Callable[[Any, Any, list[bytes], int], list[bytes]]
    trainings: int
    settings: str
    logs: str
    served: str


def _questions(corpus: Corpus, seed: int) -> list[bytes]:
    """Questions about names that several owners use, then about names of one."""
    import polars as pl

    of_work = pl.concat([corpus.claims, corpus.examples.drop_nulls("owner_id")], how="diagonal").select("work_id", "owner_id")
    train = corpus.examples.filter(pl.col("split") == "train").select("work_id", "prompt")
    users = train.join(of_work.unique(), on="work_id").group_by("prompt").agg(pl.col("owner_id").n_unique()).sort("prompt")
    draws = random.Random(seed)  # noqa: S311
    shared, own = (users.filter(chosen)["prompt"].to_list() for chosen in (pl.col("owner_id") > 1, pl.col("owner_id") == 1))
    return draws.sample(shared, min(SHARED, len(shared))) + draws.sample(own, min(OWN, len(own)))


def _replies(adapter: Any, module: Any, prompts: list[bytes], seed: int) -> list[bytes]:
    answers: list[bytes] = adapter.complete(module, prompts, length=64, temperature=0.6, seed=seed)
    return answers


def _openings(corpus: Corpus, seed: int) -> list[bytes]:
    """The first notes of melodies that were held out of training."""
    import polars as pl

    held_out = corpus.examples.filter(pl.col("split") == "held_out")["content"].to_list()
    draws = random.Random(seed)  # noqa: S311
    return [content[: 2 * GIVEN] for content in draws.sample(sorted(held_out), min(SHARED, len(held_out)))]


def _continuations(adapter: Any, module: Any, prompts: list[bytes], seed: int) -> list[bytes]:
    answers: list[bytes] = adapter.complete(module, prompts, length=2 * FOLLOWING, temperature=0.7, seed=seed)
    return answers


KINDS = {
    "answers": Kind("names", _questions, _replies, 4, "infra/settings/local.toml", "var/logs", "answers"),
    "music": Kind("melodies", _openings, _continuations, 6, "infra/settings/music.toml", "var/music/logs", "melodies"),
}


def main() -> None:
    """Run the demo for one day."""
    parser = argparse.ArgumentParser(description="Pay a day of a small model's outputs to the authors of its training data.")
    parser.add_argument("--day", default="", help="the day to pay, YYYY-MM-DD; by default yesterday (UTC)")
    parser.add_argument("--kind", default="answers", help=f"what the model does: {' or '.join(KINDS)}")
    asked = parser.parse_args()
    console = Terminal()
    started = time.monotonic()
    with exit_codes():
        if asked.kind not in KINDS:
            hint = did_you_mean(asked.kind, KINDS)
            raise InputError("KIND", expected=" or ".join(KINDS), found=repr(asked.kind), hint=hint)
        day = parse_day_or_yesterday(asked.day)
        os.environ.setdefault("PROVENANCE_SETTINGS", KINDS[asked.kind].settings)
        _run(KINDS[asked.kind], day, console)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(f"[dim]The demo took {time.monotonic() - started:.0f} s; peak memory {peak:.1f} GB.[/]")


def _run(kind: Kind, day: date, console: Console) -> None:
    from provenance.core.settings import CHECKOUT
    from tasks.settings import load

    settings = load()
    store = settings.store.open()
    store.check_writable()
    with console.status("Starting PostgreSQL"):
        local_airflow.configure()
    deliver(settings, store, day, console, kind)

    console.rule("Airflow")
    log_file = CHECKOUT / f"{kind.logs}/demo-{day}.log"
    with local_airflow.log_to(log_file, console) as log:
        local_airflow.migrate()
        run = local_airflow.run_dag("ingest_corpus", day)
    local_airflow.stop_unless_good("ingest_corpus", run, log, console)
    train_counterfactuals(kind.trainings, console)
    with local_airflow.log_to(log_file, console) as log:
        run = local_airflow.run_dag("nightly_payouts", day)
    local_airflow.stop_unless_good("nightly_payouts", run, log, console)
    attribution = sum(run.seconds[task] for task in ATTRIBUTION)
    console.print(f"[dim]Attribution (features, curvature, scores, likelihoods, estimate) took {attribution:.0f} s.[/]\n")
    show(store, str(day), kind, console)


def show(store: Store, day: str, kind: Kind, console: Console) -> None:
    """Show the day's owners, one output with the works behind it, and what to do next."""
    from provenance.settlement.accounts import TOTALS
    from provenance.settlement.exports.explain import explain
    from provenance.settlement.exports.export import read_credits, read_export
    from tasks.cli.attribution import output_screen
    from tasks.cli.nights import owners_screen

    manifest, _ = read_export(store, day)
    credits = read_credits(store, manifest["folder"])
    console.print(next(owners_screen(store, day, most=LISTED)))
    for currency, totals in manifest["totals"].items():
        revenue, *parts = (format_minor(totals[name], currency) for name in TOTALS.values())
        console.print(line(f"{revenue} = {' + '.join(parts)} (developer, owners, escrow, unattributed)"), highlight=False)
    report = explain(store, of_largest_share(credits), [day])
    assert report is not None
    console.print("\n[bold]One output, and the works behind it[/]", *output_screen(report, SHOWN), sep="\n")
    prefix = "" if kind.settings == KINDS["answers"].settings else f"PROVENANCE_SETTINGS={kind.settings} "
    console.print(
        f"\n[bold]Try next[/]  {prefix}.venv/bin/provenance explain {day}-003       another output, and the works behind it\n"
        f"          {prefix}.venv/bin/provenance verify {day}            check the published files and the ledger\n"
        f"          {prefix}make ui                                      "
        f"http://localhost:{local_airflow.PORT} (user {local_airflow.USER}, password {local_airflow.PASSWORD})",
        soft_wrap=True,
        highlight=False,
    )


def of_largest_share(credits: pl.DataFrame) -> str:
    """The output with the largest share of one owner."""
    import polars as pl

    from provenance.core.tables import PAYABLE

    rows = credits.filter(pl.col("account") == PAYABLE)
    return str(rows.sort("share_ppb", "output_id", descending=[True, False])["output_id"][0])


def train_counterfactuals(trainings: int, console: Console) -> None:
    """Train the missing counterfactual models of the demo's model, in worker processes."""
    started = time.monotonic()
    command = [sys.executable, "-m", "tasks.cli", "counterfactuals", "train", "--trainings", str(trainings), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    console.print(f"Counterfactual models: {len(json.loads(done.stdout))} are there, after {time.monotonic() - started:.0f} s")


def deliver(settings: Settings, store: Store, day: date, console: Console, kind: Kind = KINDS["answers"]) -> None:
    """Write the inputs of a night: a corpus, a model trained on it, and a day of its outputs."""
    import torch

    torch.set_num_threads(1)  # threads of so small a model wait for one another; and the model is the same on every machine
    corpus = _corpus(store, settings, console, kind)
    _model(corpus, settings, console, kind)
    _outputs(store, corpus, settings, day, console, kind=kind)


def _corpus(store: Store, settings: Settings, console: Console, kind: Kind) -> Corpus:
    """Deliver the corpus as data teams do: Parquet files in the corpus folder."""
    from provenance.core.store import canonical_json, sha256, to_parquet
    from provenance.corpus.packages.distributions import sources_of
    from provenance.validation.workload import WORKLOADS

    with console.status("Collecting works from the installed packages"):
        corpus = WORKLOADS[kind.workload].collect()
    frames = {"examples": corpus.examples, "claims": corpus.claims, "owners": corpus.owners, "assertions": corpus.assertions}
    if kind.workload == "names":
        frames["sources"] = sources_of(corpus.examples)
    tables = {f"{settings.corpus.folder}/{name}.parquet": to_parquet(frame) for name, frame in frames.items()}
    digests = {key: sha256(data) for key, data in tables.items()}
    note = f"{settings.corpus.folder}/demo.json"
    earlier = store.read_json(note) if store.exists(note) else {}
    for key, new in digests.items():
        if store.exists(key) and sha256(store.read(key)) not in {earlier.get(key), new}:
            raise InputError(
                store.locate(key),
                expected="the demo's corpus, or none",
                found="a table that the demo did not write",
                hint="It is left as it is. Give the demo a store of its own (PROVENANCE_STORE__URL), or run your own corpus "
                "with `.venv/bin/python -m infra.local_airflow run ingest_corpus DAY`.",
            )
    for key, data in tables.items():
        store.write(key, data)
    store.write(note, canonical_json(digests))
    counts = dict(corpus.examples["split"].value_counts().iter_rows())
    console.print(f"Corpus: {counts['train']} examples by {corpus.owners.height} owners")
    return corpus


def _model(corpus: Corpus, settings: Settings, console: Console, kind: Kind) -> None:
    """Train the demo's model, unless it was trained on the same examples before."""
    from provenance.models.model import examples_in, with_prompts
    from provenance.models.training_manifest import state_training
    from provenance.validation.workload import SEED, WORKLOADS

    folder = settings.model.folder
    train = corpus.examples.filter(corpus.examples["split"] == "train")
    examples = examples_in(train)
    parts = (part or b"" for example in examples for part in example)
    fingerprint = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    note = folder / "trained-on.json"
    if note.exists() and json.loads(note.read_text())["contents"] == fingerprint:
        console.print(f"Model: reused from {folder}")
        return
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    columns = (TextColumn("Model: training"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("training", loss="")

        def step(done: int, steps: int, loss: float) -> None:
            progress.update(bar, completed=done, total=steps, loss=f"{loss:.2f} nats/token")

        started = time.monotonic()
        adapter = WORKLOADS[kind.workload].fresh(examples, draft)
        with_prompts(adapter.train, examples, "the demo", seed=SEED, folder=draft, model_id=folder.name, progress=step)
    state_training(draft, train)
    (draft / note.name).write_text(json.dumps({"contents": fingerprint}))
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    console.print(f"Model: trained in {time.monotonic() - started:.0f} s, in {folder}")


def _outputs(store: Store, corpus: Corpus, settings: Settings, day: date, console: Console, *, kind: Kind) -> None:
    """Serve a day of outputs, unless the day already has them."""
    import polars as pl

    from provenance.models.model import read_model

    key = f"outputs/day={day}/demo.parquet"
    others = [other for other in store.list(f"outputs/day={day}") if other != key]
    if others:
        raise InputError(
            store.locate(others[0]),
            expected=f"no outputs of {day}, or the demo's",
            found="a file that the demo did not write",
            hint="The demo adds no invented revenue to a day of yours. Pay the day with "
            f"`.venv/bin/python -m infra.local_airflow run nightly_payouts {day}`.",
        )
    if store.exists(key):
        console.print(f"Outputs: those of {day} were served before")
        return
    model = read_model(settings.model.folder)
    prompts = kind.prompts(corpus, day.toordinal())
    with console.status("Asking the model"):
        answers = kind.answer(model.adapter(), model.load(model.card.checkpoints[-1]), prompts, day.toordinal())
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    rows = [
        {
            "output_id": f"{day}-{number:03d}",
            "content": answer,
            "model_id": model.card.model_id,
            "prompt": prompt,
            "currency": PRICES[number % len(PRICES)][0],
            "revenue_minor": PRICES[number % len(PRICES)][1],
            "served_at": midnight + timedelta(minutes=20 * number),
            "notice": NOTICE,
        }
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    store.write_table(key, pl.DataFrame(rows))
    prices = ", ".join(format_minor(minor, currency) for currency, minor in PRICES)
    console.print(f"Outputs: {len(rows)} {kind.served}; invented prices: {prices}")


def parse_day_or_yesterday(text: str) -> date:
    """A day that is over; by default yesterday (UTC)."""
    today = datetime.now(UTC).date()
    if not text:
        return today - timedelta(days=1)
    day = parse_day("DAY", text)
    if day >= today:
        raise InputError("DAY", expected=f"a day that is over, {today - timedelta(days=1)} at the latest", found=text)
    return day


if __name__ == "__main__":
    main()
