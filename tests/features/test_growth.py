"""A corpus that grows or shrinks by a part has features computed for about that part, and the log and the note say so."""

import logging
from dataclasses import replace
from datetime import timedelta

import pytest
from samples import lay_corpus_out, outputs_frame, table

from provenance.features.run_notes import read_notes
from provenance.features.stage import featurise, plan
from provenance.local.attribute import Request, folder_night
from tasks.where import local_settings

OWNERS, EACH, SHARD = 100, 100, 40


def works_of(owner, count=EACH):
    """Works of one owner, of one example each."""
    return [
        (f"{owner}/{number:03d}", f"{owner} wrote sentence {number}, and no other".encode(), owner) for number in range(count)
    ]


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
