"""The curvature's sample is one of the corpus, however short its answers and however its shards are cut."""

import polars as pl
from samples import freeze, table

from provenance.core.store import Store
from provenance.corpus.shards import read_part
from provenance.features.plan import sample_of


def test_a_sample_has_each_prompt_of_a_common_answer_and_does_not_depend_on_shards(tmp_path):
    pairs = [(b"yes" if n % 10 else b"no", f"Is {n} even?".encode()) for n in range(100)] + [(b"yes", b"Twice?")] * 4
    rows = [(f"work-{n}", *pair, f"owner-{n % 3}") for n, pair in enumerate(pairs)]
    samples = []
    for size in (200, 5):
        store = Store(f"file://{tmp_path / str(size)}", {})
        corpus = freeze(store, {"examples": table("work_id content prompt owner_id", *rows)}, shard_examples=size)
        samples.append(sample_of(store, corpus, 60))
        for part, row, identity in samples[-1].select("part", "row", "example_id").iter_rows():
            assert read_part(store, part, "example_id")["example_id"][row] == identity
    assert samples[0].drop("part", "row").equals(samples[1].drop("part", "row"))
    assert samples[0]["prompt"].n_unique() > 50
    assert set(samples[0]["content"]) == {b"yes", b"no"}
    lengths = samples[0].select(pl.col("content").bin.size() + pl.col("prompt").bin.size()).to_series()
    assert lengths.is_sorted()
