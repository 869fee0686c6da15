"""A corpus that starts from the one in force keeps the shards whose examples are there unchanged, and cuts only the others."""

import hashlib
import logging
import shutil
from itertools import count

import killing
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import deliver, table

from provenance.core.settings import CorpusSettings, Settings
from provenance.core.store import Store
from provenance.core.where import Where
from provenance.corpus import pieces, shards, stage
from provenance.corpus.layout import ORDER, arrange, labels, marks, sizes
from provenance.corpus.shards import corpus_in_force, count_new
from provenance.corpus.works import read_passages

SHARD = 8


def facts(contents):
    """What is known of examples, by their contents under their numbers."""
    rows = [(f"{number:04d}", content, hashlib.sha256(content.encode()).hexdigest()) for number, content in contents.items()]
    frame = pl.DataFrame(rows, schema=["work_id", "licence_spdx", "content_sha256"], orient="row")
    frame = frame.with_columns(position=pl.lit(0), example_id=pl.col("work_id"), prompt=pl.lit(None, pl.Binary))
    return frame.sort(*ORDER).with_columns(marks(frame.sort(*ORDER)), labels(frame.sort(*ORDER)))


def known(laid):
    """The examples of shards, with the numbers of these."""
    none = pl.DataFrame(schema={"mark": pl.Binary, "labels": pl.UInt64, "shard": pl.Int64})
    numbered = (shard.select("mark", "labels", pl.lit(at, pl.Int64).alias("shard")) for at, shard in enumerate(laid))
    return pl.concat([none, *numbered])


def contents(shard):
    return tuple(shard["mark"])


deliveries = st.lists(
    st.dictionaries(st.integers(0, 400), st.sampled_from("ab"), min_size=1, max_size=200), min_size=2, max_size=6
)


@given(deliveries, st.integers(1, 20))
def test_shards_stay_exactly_if_they_are_whole_and_no_history_makes_them_small_or_large(history, size):
    smallest, largest = sizes(size)
    laid = []
    for delivery in history:
        examples = facts({number: f"{number}{says}" for number, says in delivery.items()})
        before, shards_now = laid, arrange(examples, known(laid), size)
        laid = [examples[rows] for _, rows in shards_now]
        assert sorted(row for _, rows in shards_now for row in rows.tolist()) == list(range(examples.height))
        assert [int(rows[0]) for _, rows in shards_now] == sorted(int(rows[0]) for _, rows in shards_now)
        assert all((rows[1:] > rows[:-1]).all() for _, rows in shards_now), "examples stand in the order of works"
        heights = sorted(shard.height for shard in laid)
        assert heights[-1] <= largest
        assert heights[1:2] == [] or heights[1] >= smallest, "one shard at most is smaller"
        there = set(examples["mark"])
        stays = {contents(shard) for shard in before if shard.height >= smallest and there.issuperset(shard["mark"])}
        assert stays <= {contents(shard) for shard in laid}
        assert {contents(before[at]) for at, _ in shards_now if at is not None} >= stays
        again = arrange(examples, known(laid), size)
        assert [(at, rows.tolist()) for at, rows in again if at is not None] == [
            (at, rows.tolist()) for at, (_, rows) in enumerate(shards_now) if len(rows) >= smallest
        ]
        assert [rows.tolist() for _, rows in again] == [rows.tolist() for _, rows in shards_now], "the same again moves nothing"


def test_nights_of_news_cost_the_news_and_less_than_half_a_shard_each():
    laid, size = [], 40
    for night in range(30):
        examples = facts({(number * 7919) % 10_007: str(number) for number in range(1000 + 10 * night)})
        shards_now = arrange(examples, known(laid), size)
        old = {contents(shard) for shard in laid}
        laid = [examples[rows] for _, rows in shards_now]
        computed = sum(shard.height for shard in laid if contents(shard) not in old)
        assert night == 0 or 10 <= computed < 10 + size // 2


# Ingests of whole deliveries.


def work(number, says=""):
    return (
        f"work-{number * 7919 % 1009:04d}",
        f"{says}Here speaks the author of work number {number}.".encode(),
        f"owner-{number % 5}",
    )


def rows(*numbers):
    return [work(number) for number in numbers]


def examples(delivered):
    return table("work_id content owner_id", *delivered)


@pytest.fixture
def ingest(tmp_path, monkeypatch):
    """Puts works in force, by default in one store; several pieces and stretches, though they are few."""
    for module, name, value in ((pieces, "PIECE_ROWS", 17), (pieces, "LEAF_ROWS", 5), (shards, "STRETCH_ROWS", 20)):
        monkeypatch.setattr(module, name, value)
    settings = Settings(corpus=CorpusSettings(folder="corpus", shard_examples=SHARD))

    def put(delivered, store=None):
        where = Where(settings, store or Store(f"file://{tmp_path / 'store'}", {}))
        deliver(where.store, {"examples": examples(delivered) if isinstance(delivered, list) else delivered}, days=())
        stage.ingest(where)
        return where.store, corpus_in_force(where.store)

    return put


def read(store, corpus, *columns):
    return pl.concat([store.read_table(part.key, columns=list(columns)) for part in corpus.shards])


def digests(corpus):
    return {part.content_digest for part in corpus.shards}


def test_new_works_lie_in_shards_of_their_own_and_the_others_are_the_same_files(ingest, caplog):
    store, before = ingest(rows(*range(60)))
    assert before.places is None, "shards of a first corpus follow one another"
    with caplog.at_level(logging.INFO, "provenance.ingest"):
        _, after = ingest(rows(*range(66)))
    large = {part for part in before.shards if part.rows >= SHARD // 2}
    assert large <= set(after.shards)
    new = [part for part in after.shards if part not in large]
    computed = sum(part.rows for part in new)
    assert 6 <= computed < 6 + SHARD // 2
    assert f"features of {100 * computed / 66:.1f} % of its examples must be computed" in caplog.text
    assert sorted(read(store, after, "work_id")["work_id"]) == sorted(name for name, _, _ in rows(*range(66)))
    assert count_new(store, after, before) == 6
    assert count_new(store, before, after) == 0
    assert count_new(store, after, after) == 0


def test_the_same_again_in_any_order_changes_nothing(ingest):
    ingest(rows(*range(60)))
    store, grown = ingest(rows(*range(70)))
    keys = store.list("frozen")
    assert ingest(rows(*reversed(range(70))))[1] == grown
    assert store.list("frozen") == keys


def test_a_fresh_store_has_the_same_corpus_whatever_was_in_force_elsewhere(ingest, tmp_path):
    ingest(rows(*range(60)))
    _, grown = ingest(rows(*range(70)))
    fresh = [
        ingest(rows(*order), Store(f"file://{tmp_path / name}", {}))[1]
        for name, order in (("a", range(70)), ("b", range(69, -1, -1)))
    ]
    assert fresh[0] == fresh[1] != grown


def test_other_labels_and_columns_compute_nothing(ingest, monkeypatch):
    _, before = ingest(rows(*range(60)))
    ingest(rows(*range(66)))
    store, grown = ingest(rows(*range(66)))
    relabelled = examples(rows(*range(66))).with_columns(owner_id=pl.lit("somebody-else"), licence_spdx=pl.lit("MIT"))
    _, after = ingest(relabelled)
    assert digests(after) == digests(grown)
    assert not set(after.shards) & set(grown.shards), "the labels are others, in every file"
    assert set(read(store, after, "owner_id")["owner_id"]) == {"somebody-else"}
    assert count_new(store, after, before) == 6
    _, wider = ingest(relabelled.with_columns(mood=pl.int_range(pl.len())))
    assert digests(wider) == digests(grown)
    assert set(read(store, wider, "mood")["mood"]) == set(range(66)), "no file without the column stays"
    longer = pl.col("tokens") + 1
    monkeypatch.setattr(pieces, "with_tokens", lambda frame: shards.with_tokens(frame).with_columns(longer))
    _, counted = ingest(relabelled.with_columns(mood=pl.int_range(pl.len())))
    assert digests(counted) == digests(wider)
    assert read(store, counted, "tokens").equals(read(store, wider, "tokens").with_columns(longer))


def test_of_one_work_relabelled_one_file_is_written(ingest):
    store, before = ingest(rows(*range(60)))
    name = pl.col("work_id") == work(31)[0]
    _, after = ingest(examples(rows(*range(60))).with_columns(licence_spdx=pl.when(name).then(pl.lit("MIT"))))
    assert digests(after) == digests(before)
    (written,) = set(after.shards) - set(before.shards)
    assert store.read_table(written.key).filter(name)["licence_spdx"].to_list() == ["MIT"]


def test_what_is_withdrawn_or_rewritten_is_in_no_part_and_its_shard_alone_is_cut_anew(ingest):
    store, before = ingest(rows(*range(60)))
    delivered = [work(number, "Rewritten. " if number == 17 else "") for number in range(60) if number != 31]
    _, after = ingest(delivered)
    gone = [part for part in before.shards if part not in set(after.shards)]
    assert sum(part.rows for part in gone) <= 2 * 2 * SHARD + SHARD // 2
    texts = read(store, after, "work_id", "content")
    assert dict(texts.iter_rows()) == {name: content for name, content, _ in delivered}
    assert count_new(store, after, before) == 1


def test_works_are_found_wherever_they_lie(ingest, monkeypatch):
    ingest(rows(*range(60)))
    store, grown = ingest(rows(*range(80)))
    assert grown.places is not None
    ids = dict(read(store, grown, "example_id", "work_id").iter_rows())
    assert {name: passage.work_id for name, passage in read_passages(store, grown, ids).items()} == ids
    one = next((name, own) for name, own in ids.items() if own == work(77)[0])
    keys, plain = [], Store.read
    monkeypatch.setattr(Store, "read", lambda self, key: keys.append(key) or plain(self, key))
    assert list(read_passages(store, grown, dict([one]))) == [one[0]]
    assert len(set(keys) & {part.key for part in grown.shards}) == 1


def test_another_size_of_shards_cuts_those_that_are_too_large_or_too_small(ingest, tmp_path):
    store, before = ingest(rows(*range(80)))
    where = Where(Settings(corpus=CorpusSettings(folder="corpus", shard_examples=3)), store)
    stage.ingest(where)
    after = corpus_in_force(store)
    assert max(part.rows for part in after.shards) <= 6
    assert {part for part in before.shards if part.rows <= 6} - set(before.shards[-1:]) <= set(after.shards)


def test_a_shard_whose_file_is_lost_is_cut_anew(ingest, caplog):
    store, before = ingest(rows(*range(60)))
    store.remove(before.shards[2].key)
    _, after = ingest(rows(*range(60)))
    assert "1 shards have no file, and are cut anew" in caplog.text
    assert all(store.exists(part.key) for part in after.parts)
    assert read(store, after, "work_id")["work_id"].n_unique() == 60


def test_an_ingest_killed_at_any_write_ends_as_one_that_was_not(ingest, tmp_path):
    ingest(rows(*range(30)))
    grown = rows(*(number for number in range(36) if number != 11))
    base = tmp_path / "store"
    for name in ("wanted", "again"):
        shutil.copytree(base, tmp_path / name)
    _, wanted = ingest(grown, Store(f"file://{tmp_path / 'wanted'}", {}))
    store = Store(f"file://{tmp_path / 'again'}", {})
    for writes in count():
        shutil.rmtree(tmp_path / "again")
        shutil.copytree(base, tmp_path / "again")
        deliver(store, {"examples": examples(grown)}, days=())
        try:
            with killing.dying(writes, "frozen/"):
                ingest(grown, store)
        except killing.Killed:
            assert ingest(grown, store)[1] == wanted
        else:
            break
    assert writes > 5
