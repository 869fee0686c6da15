"""Whatever is wrong with the input, the night stops before anything is computed, booked or published."""

import shutil
from dataclasses import replace
from datetime import date
from functools import partial

import polars as pl
import pytest
from rich.console import Console
from samples import DAY, corpus_frames, deliver, outputs_frame, reword
from stages import SMALL, STAGES, run

from infra import demo
from provenance.core.errors import ContractError, InputError, ModelError, SettingsError, StoreError
from provenance.core.store import Store
from provenance.corpus.packages import answers
from provenance.validation.workload import WORKLOADS
from tasks.settings import load

ingest, freeze = partial(run, "corpus.ingest"), partial(run, "inputs.freeze")
plan, featurise = partial(run, "features.plan"), partial(run, "features.featurise")
book, publish, reconcile = (partial(run, f"settlement.{name}") for name in ("book", "publish", "reconcile"))
ADAPTER = """
from provenance.models.adapters.causal_lm import CausalLM


class Raises(CausalLM):
    def collate(self, contents):
        if any(len(content) > 40 for content in contents):
            raise KeyError("boom")
        return super().collate(contents)
"""


@pytest.fixture
def ready(ingested, tiny_model, tmp_path):
    """A delivered and ingested corpus, and a copy of the model to break."""
    folder = shutil.copytree(tiny_model, tmp_path / "broken" / "tiny")
    ingested(MODEL__FOLDER=str(folder), **SMALL)
    return folder


def nothing_published(store):
    return store.list("exports") == store.list("nights") == store.list("features") == []


def unknown_currency(store, folder):
    store.write_table(f"outputs/day={DAY}/part.parquet", outputs_frame().with_columns(currency=pl.lit("XQZ")))


def no_checkpoint(store, folder):
    (folder / "step-0012.safetensors").unlink()


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (unknown_currency, r"part.parquet: row 0 .*'currency': expected an ISO 4217 code, found 'XQZ'"),
        (no_checkpoint, r"model.toml: checkpoints: expected a file step-0012.safetensors, found no such file"),
    ],
)
def test_bad_outputs_a_bad_model_and_a_day_that_is_not_over_stop_a_night_at_once(ready, store, breakage, message):
    with pytest.raises(ContractError, match=r"night of 2999-01-01: expected a day that is over"):
        freeze("2999-01-01")
    breakage(store, ready)
    with pytest.raises(InputError, match=message):
        freeze(DAY)
    assert nothing_published(store)


def test_a_bad_adapter_computes_no_feature_and_names_the_example(ready, store, tmp_path, monkeypatch):
    (tmp_path / "odd_adapters.py").write_text(ADAPTER)
    monkeypatch.syspath_prepend(str(tmp_path))
    reword(ready / "model.toml", '"CausalLM"', '"odd_adapters:Raises"')
    message = r"^example_id '.+': adapter odd_adapters:Raises: collate: expected a batch .*, found KeyError: 'boom'"
    with pytest.raises(ModelError, match=message):
        featurise(plan(freeze(DAY)))
    assert store.list("features") == store.list("exports") == []


def test_a_store_that_is_not_writable(environment, tmp_path):
    (tmp_path / "file").write_text("in the way")
    environment(Store(f"file://{tmp_path}/file/store", {}))
    for stage in (ingest, lambda: freeze(DAY)):
        with pytest.raises(StoreError, match=r"file/store.*expected a writable store"):
            stage()


def test_a_night_before_any_corpus_says_what_to_run_and_a_settings_key_that_does_not_exist_is_named(
    environment, store, monkeypatch
):
    environment(store)
    with pytest.raises(ContractError, match=r"expected a corpus in force, found none. Run the DAG ingest_corpus first"):
        freeze(DAY)
    monkeypatch.setenv("PROVENANCE_STORE__URRL", "x")
    with pytest.raises(SettingsError, match=r"PROVENANCE_STORE__URRL: store.urrl: .*Did you mean 'url'"):
        freeze(DAY)


def test_a_bad_corpus_is_not_put_in_force(ready, store):
    in_force = store.read("frozen/corpus/current.json")
    frames = corpus_frames()
    frames["examples"] = frames["examples"].with_columns(example_id=pl.lit("same"))
    deliver(store, frames)
    with pytest.raises(InputError, match=r"examples.parquet: row 1: example_id"):
        ingest()
    assert store.read("frozen/corpus/current.json") == in_force


def test_a_ledger_of_another_store_is_refused_before_anything_is_computed(ready, environment, store, tmp_path):
    freeze(DAY)
    other = Store(f"file://{tmp_path}/other", {})
    deliver(other, corpus_frames())
    environment(other, MODEL__FOLDER=str(ready))
    ingest()
    with pytest.raises(StoreError, match=r"other/store.json: expected the store of this ledger, .*do not belong together"):
        freeze(DAY)
    assert nothing_published(other)


def compute(day):
    """The stages before booking; returns the night's folder."""
    night = freeze(day)
    for stage in STAGES[1 : STAGES.index("settlement.book")]:
        run(stage, night)
    return night


def test_a_day_without_outputs_is_exported_as_nothing(ready, store):
    store.write_table(f"outputs/day={DAY}/part.parquet", outputs_frame().head(0))
    folder = publish(book(compute(DAY)))
    assert reconcile(DAY) == folder
    assert store.read_json(f"{folder}/manifest.json")["rows"] == {"payouts": 0, "credits": 0}


def test_a_table_changed_after_its_stage_is_not_booked_and_a_lost_pointer_is_mended_by_the_next_day(ready, store):
    following = "2026-11-20"
    store.write_table(f"outputs/day={following}/part.parquet", outputs_frame(following))
    nights = [compute(day) for day in (DAY, following)]
    table = f"{nights[0]}/shares/000000.parquet"
    shares = store.read_table(table)
    store.write_table(table, shares.reverse())
    with pytest.raises(StoreError, match=r"shares/000000.parquet: expected SHA-256 .*as shares.json says"):
        book(nights[0])
    store.write_table(table, shares)
    publish(book(nights[0]))
    store.remove(f"exports/payouts/day={DAY}/current.json")  # as a kill after the manifest leaves it
    publish(book(nights[1]))
    assert store.read_json(f"exports/payouts/day={DAY}/current.json")["revision"] == 1


def test_the_demo_touches_nobody_else_s_corpus_and_outputs(ready, store, monkeypatch):
    few = partial(answers.collect_names, ("networkx", "tornado"), examples_each=4, held_out_each=1)
    monkeypatch.setitem(WORKLOADS, "names", replace(WORKLOADS["names"], collect=few))
    kind = demo.KINDS["answers"]
    before = store.read("corpus/examples.parquet")
    with pytest.raises(InputError, match=r"examples.parquet: expected the demo's corpus, or none, found a table that"):
        demo._corpus(store, load(), Console(quiet=True), kind)
    assert store.read("corpus/examples.parquet") == before
    with pytest.raises(InputError, match=r"part.parquet: expected no outputs of 2026-11-19, or the demo's"):
        demo._outputs(store, None, load(), date.fromisoformat(DAY), Console(quiet=True), kind=kind)
