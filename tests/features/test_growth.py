"""A corpus that grows or shrinks by a part has features computed for about that part, and the log and the note say so."""

import logging
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import polars as pl
import pytest
from samples import deliver, lay_corpus_out, outputs_frame, request_on, table

from provenance.core.store import canonical_json
from provenance.corpus.outputs import read_outputs
from provenance.corpus.shards import corpus_in_force
from provenance.corpus.stage import ingest
from provenance.features.run_notes import read_notes
from provenance.features.stage import featurise, plan
from provenance.inputs.frozen import freeze_night, influence_method
from provenance.local.attribute import Request, folder_night
from provenance.models.model import read_model
from tasks.where import local_settings

OWNERS, EACH, SHARD = 100, 100, 40


def works_of(owner, count=EACH):
    """Works of one owner, of one example each, of words of their own."""

    def says(number):
        letters = sha256(f"{owner} {number}".encode()).hexdigest()
        return " ".join(letters[at : at + 8] for at in range(0, 64, 8)).encode()

    return [(f"{owner}/{number:03d}", says(number), owner) for number in range(count)]


def frames(rows):
    owners = sorted({owner for _, _, owner in rows})
    return {
        "examples": table("work_id content owner_id", *rows),
        "claims": table("work_id owner_id stake_ppb", *((work, owner, 1_000_000_000) for work, _, owner in rows)),
        "owners": table("owner_id name", *((owner, owner.title()) for owner in owners)),
    }


BEFORE = [work for number in range(OWNERS) for work in works_of(f"owner-{number:03d}")]
ONE_OWNER_MORE = [*BEFORE, *works_of("owner-050b")]
ONE_OWNER_LESS = [row for row in BEFORE if row[2] != "owner-031"]
ONE_MORE_OF_EACH = [*BEFORE, *(works_of(f"owner-{number:03d}", EACH + 1)[-1] for number in range(OWNERS))]
ONE_OWNER_REWRITES = [(work, content + b" now" if owner == "owner-077" else content, owner) for work, content, owner in BEFORE]


@pytest.fixture(scope="module")
def night_on(tiny_model, tmp_path_factory):
    """Plans and featurises a night on a corpus, in one store for all; returns its note, and what it logged."""
    folder = tmp_path_factory.mktemp("growth")
    outputs_frame().select("output_id", "content").write_parquet(folder / "outputs.parquet")
    first = Request(folder, tiny_model, folder / "outputs.parquet", folder / "out", outputs_frame()["served_at"][0].date())
    settings = local_settings(method="tfidf", device="cpu", workers=1)
    settings = settings.model_copy(update={"corpus": settings.corpus.model_copy(update={"shard_examples": SHARD})})
    days = iter(range(1, 100))

    def make(doors, caplog, rows):
        place = folder / f"delivery-{next(days)}"
        place.mkdir()
        lay_corpus_out(place, frames(rows))
        request = replace(first, corpus=place / "corpus", day=first.day + timedelta(days=next(days)))
        where, night = folder_night(doors(settings, ledger=False), request)
        plan(where, night.folder)
        with caplog.at_level(logging.INFO, "provenance.featurise"):
            featurise(where, night.folder)
        return read_notes(where.store, night.folder)[-1], caplog.text

    return make


@pytest.mark.parametrize("rows", [ONE_OWNER_MORE, ONE_OWNER_LESS, ONE_OWNER_REWRITES], ids=["more", "less", "other"])
def test_one_per_cent_of_news_is_about_one_per_cent_of_work(night_on, doors, caplog, rows):
    whole, _ = night_on(doors, caplog, BEFORE)
    assert whole.examples == len(BEFORE)
    note, log = night_on(doors, caplog, rows)
    assert note.examples == len(rows)
    # The news themselves, and at most what is left of the shards in which they begin and end.
    assert 0 < note.examples_computed <= EACH + 4 * SHARD
    assert note.part_computed == note.examples_computed / len(rows) < 0.026
    assert note.corpus_computed < 0.03 * (note.corpus_computed + note.corpus_reused)
    said = f"features of {100 * note.part_computed:.1f} % of the corpus are computed"
    assert f"{said}: {note.examples_computed} of {len(rows)} examples" in log


def test_the_same_corpus_again_is_no_work(night_on, doors, caplog):
    night_on(doors, caplog, BEFORE)
    note, log = night_on(doors, caplog, BEFORE[::-1])
    assert (note.examples_computed, note.part_computed) == (0, 0.0)
    assert f"features of 0.0 % of the corpus are computed: 0 of {len(BEFORE)} examples" in log


@pytest.fixture
def ingested_night(tiny_model, tmp_path, doors, caplog):
    """Puts works in force, featurises a night on them and publishes it; returns its note, and what it logged."""
    settings = local_settings(method="tfidf", device="cpu", workers=1)
    settings = settings.model_copy(update={"corpus": settings.corpus.model_copy(update={"shard_examples": SHARD})})
    where = doors(settings, ledger=False).at(tmp_path, tiny_model)

    def make(day, rows):
        deliver(where.store, frames(rows), days=(f"{day}",))
        ingest(where)
        corpus, model = corpus_in_force(where.store), read_model(tiny_model)
        outputs, method = read_outputs(where.store, day, model_id="tiny"), influence_method(settings)
        night = freeze_night(where, day, corpus, model, outputs, counterfactuals=lambda _: {}, method=method, contract={})
        plan(where, night.folder)
        with caplog.at_level(logging.INFO, "provenance.featurise"):
            featurise(where, night.folder)
        export = f"exports/payouts/day={day}/rev=0001"
        where.store.write(f"{export}/manifest.json", canonical_json({"night": night.folder}))
        pointer = {"revision": 1, "folder": export, "manifest_sha256": ""}
        where.store.write(f"exports/payouts/day={day}/current.json", canonical_json(pointer))
        return read_notes(where.store, night.folder)[-1], caplog.text

    return make


def test_one_more_work_of_each_owner_is_one_per_cent_of_work_and_said_so(ingested_night):
    first = outputs_frame()["served_at"][0].date()
    whole, log = ingested_night(first, BEFORE)
    assert (whole.examples_new, whole.part_new) == (None, None)
    assert "is new since" not in log
    note, log = ingested_night(first + timedelta(days=1), ONE_MORE_OF_EACH)
    assert note.examples_new == OWNERS
    assert OWNERS <= note.examples_computed < OWNERS + SHARD // 2
    assert note.part_computed < 0.013
    assert f"1.0 % of the corpus is new since the night before: {OWNERS} of {len(ONE_MORE_OF_EACH)} examples" in log
    assert f"features of {100 * note.part_computed:.1f} % of the corpus are computed" in log
    again, _ = ingested_night(first + timedelta(days=2), ONE_MORE_OF_EACH[::-1])
    assert (again.examples_new, again.examples_computed) == (None, 0)
    less, _ = ingested_night(first + timedelta(days=3), [row for row in ONE_MORE_OF_EACH if row[2] != "owner-031"])
    assert less.examples_new == 0
    assert less.examples_computed < 0.02 * less.examples
    assert less.without_cause == 0


def test_other_labels_compute_no_gradients(tmp_path, tiny_model, doors):
    settings = local_settings(method="fitted", device="cpu", workers=1)
    request = request_on(tmp_path, tiny_model)
    where, night = folder_night(doors(settings, ledger=False), request)
    plan(where, night.folder)
    featurise(where, night.folder)
    (first,) = read_notes(where.store, night.folder)
    assert first.examples_computed == first.examples > 0
    file = tmp_path / "corpus/examples.parquet"
    pl.read_parquet(file).with_columns(licence_spdx=pl.lit("MIT")).write_parquet(file)
    where, relabelled = folder_night(doors(settings, ledger=False), request)
    assert relabelled.corpus != night.corpus
    plan(where, relabelled.folder)
    featurise(where, relabelled.folder)
    (second,) = read_notes(where.store, relabelled.folder)
    assert (second.examples, second.examples_computed) == (first.examples, 0)
    assert second.corpus_reused > 0
