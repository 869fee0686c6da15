"""Runs the demo: real owners, a real model, a day of its outputs, and the night that pays for them. Only revenue is invented.

    python -m infra.demo --day 2026-11-20

The corpus is the Python source of the distributions in the lock file. A small byte-level transformer is trained on it once,
and completes prompts from files that were held out of training. The DAGs `ingest_corpus` and `nightly_payouts` run in this
process: `dag.test` on the same database as the UI, because a scheduler, an API server and a DAG processor would take longer to
start than the night takes to run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from infra import local_airflow
from provenance.core.errors import InputError, parse_day
from provenance.core.money import format_minor
from tasks.terminal import Terminal, exit_codes

if TYPE_CHECKING:
    from rich.console import Console

    from provenance.core.settings import Settings
    from provenance.core.store import Store
    from provenance.corpus.delivery import Corpus

NOTICE = "The revenue of this demo is invented, and no money moves."
# The invented price list: revenue of an output by plan, in minor units.
PRICES = (("EUR", 149), ("USD", 199), ("EUR", 499), ("USD", 89))
# Worth of the counterfactual models in trainings on everything; more would be more exact, and take longer.
TRAININGS = 4
ATTRIBUTION = ("features.featurise", "influence.fit_curvature", "influence.score", "royalty.likelihoods", "royalty.estimate")


def main() -> None:
    """Run the demo for one day."""
    parser = argparse.ArgumentParser(description="Pay a day of a small model's outputs to the authors of its training data.")
    parser.add_argument("--day", default="", help="the day to pay, YYYY-MM-DD; by default yesterday (UTC)")
    console = Terminal()
    started = time.monotonic()
    with exit_codes():
        _run(parse_day_or_yesterday(parser.parse_args().day), console)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(f"[dim]The demo took {time.monotonic() - started:.0f} s; peak memory {peak:.1f} GB.[/]")


def _run(day: date, console: Console) -> None:
    from provenance.core.settings import CHECKOUT
    from tasks.cli.nights import owners_screen
    from tasks.settings import load

    settings = load()
    store = settings.store.open()
    store.check_writable()
    with console.status("Starting PostgreSQL"):
        local_airflow.configure()
    deliver(settings, store, day, console)

    console.rule("Airflow")
    log_file = CHECKOUT / f"var/logs/demo-{day}.log"
    with local_airflow.log_to(log_file, console) as log:
        local_airflow.migrate()
        run = local_airflow.run_dag("ingest_corpus", day)
    local_airflow.stop_unless_good("ingest_corpus", run, log, console)
    train_counterfactuals(console)
    with local_airflow.log_to(log_file, console) as log:
        run = local_airflow.run_dag("nightly_payouts", day)
    local_airflow.stop_unless_good("nightly_payouts", run, log, console)
    attribution = sum(run.seconds[task] for task in ATTRIBUTION)
    console.print(f"[dim]Attribution (features, curvature, scores, likelihoods, estimate) took {attribution:.0f} s.[/]\n")

    console.print(*owners_screen(store, str(day)), sep="\n")
    first = f"{day}-000"
    console.print(
        f"\n[bold]Files[/]        {store.locate(f'exports/payouts/day={day}')}\n"
        f"[bold]Airflow's log[/] {log}\n"
        f"[bold]Airflow's UI[/]  make ui, then http://localhost:{local_airflow.PORT} "
        f"(user {local_airflow.USER}, password {local_airflow.PASSWORD})\n"
        f"[bold]Try next[/]      .venv/bin/provenance explain {first}\n"
        f"              .venv/bin/provenance verify {day}",
        soft_wrap=True,
        highlight=False,
    )


def train_counterfactuals(console: Console) -> None:
    """Train the missing counterfactual models of the demo's model, in worker processes."""
    started = time.monotonic()
    command = [sys.executable, "-m", "tasks.cli", "counterfactuals", "train", "--trainings", str(TRAININGS), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    console.print(f"Counterfactual models: {len(json.loads(done.stdout))} are there, after {time.monotonic() - started:.0f} s")


def deliver(settings: Settings, store: Store, day: date, console: Console) -> None:
    """Write the inputs of a night: a corpus, a model trained on it, and a day of its outputs."""
    corpus = _corpus(store, settings, console)
    _model(corpus, settings, console)
    _outputs(store, corpus, settings, day, console)


def _corpus(store: Store, settings: Settings, console: Console) -> Corpus:
    """Deliver the corpus as data teams do: five Parquet files in the corpus folder."""
    from provenance.core.settings import CHECKOUT
    from provenance.core.store import canonical_json, sha256, to_parquet
    from provenance.corpus.packages.distributions import collect, sources_of

    with console.status("Collecting the sources of the installed distributions"):
        corpus = collect(CHECKOUT / "infra/requirements/run.txt", distributions=48, examples_each=32)
    frames = {"examples": corpus.examples, "claims": corpus.claims, "owners": corpus.owners, "assertions": corpus.assertions}
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
    console.print(
        f"Corpus: {counts['train']} examples by {corpus.owners.height} owners, {counts['held_out']} more held out of training"
    )
    return corpus


def _model(corpus: Corpus, settings: Settings, console: Console) -> None:
    """Train the demo's model, unless it was trained on the same examples before."""
    from transformers import LlamaConfig

    from provenance.models.adapters.causal_lm import CausalLM
    from provenance.models.training_manifest import state_training

    folder = settings.model.folder
    train = corpus.examples.filter(corpus.examples["split"] == "train")
    contents = train["content"].to_list()
    fingerprint = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()
    note = folder / "trained-on.json"
    if note.exists() and json.loads(note.read_text())["contents"] == fingerprint:
        console.print(f"Model: reused from {folder}")
        return
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=256,
        eos_token_id=None,
    )
    config.save_pretrained(draft)
    columns = (TextColumn("Model: training"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("training", loss="")

        def step(done: int, steps: int, loss: float) -> None:
            progress.update(bar, completed=done, total=steps, loss=f"{loss:.2f} nats/byte")

        started = time.monotonic()
        CausalLM(draft, epochs=4.5, keep=(0.02, 0.07, 0.2, 0.4, 1.0)).train(
            contents, seed=1, folder=draft, model_id=folder.name, progress=step
        )
    state_training(draft, train)
    (draft / note.name).write_text(json.dumps({"contents": fingerprint}))
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    console.print(f"Model: trained in {time.monotonic() - started:.0f} s, in {folder}")


def _outputs(store: Store, corpus: Corpus, settings: Settings, day: date, console: Console) -> None:
    """Serve a day of completions, unless the day already has them."""
    import polars as pl

    from provenance.corpus.packages.distributions import prompts
    from provenance.models.adapters.causal_lm import CausalLM
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
    adapter = model.adapter()
    assert isinstance(adapter, CausalLM)
    questions = [content[:64] for _, content in prompts(corpus)]
    with console.status("Asking the model for completions"):
        answers = adapter.complete(
            model.load(model.card.checkpoints[-1]), questions, length=192, temperature=0.7, seed=day.toordinal()
        )
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
        for number, (prompt, answer) in enumerate(zip(questions, answers, strict=True))
    ]
    store.write_table(key, pl.DataFrame(rows))
    prices = ", ".join(format_minor(minor, currency) for currency, minor in PRICES)
    console.print(f"Outputs: {len(rows)} completions; invented prices: {prices}")


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
