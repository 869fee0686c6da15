"""Questions and answers from the documentation of installed distributions."""

import polars as pl
import pytest
from samples import assert_checked

from provenance.core.errors import ContractError
from provenance.corpus.packages import answers

SOME = ("networkx", "tornado", "python-stdnum")


@pytest.fixture(scope="module")
def corpus():
    return answers.collect(SOME, examples_each=6, held_out_each=2)


def test_answers_are_prose_with_questions_owners_and_licences(corpus, store):
    assert_checked(corpus, store)
    assert corpus.examples["split"].value_counts(sort=True)["count"].to_list() == [18, 6]
    assert corpus.owners["name"].to_list() == ["Aric Hagberg", "Arthur de Jong", "Facebook"]
    for prompt, content in corpus.examples.select("prompt", "content").iter_rows():
        assert prompt.decode().startswith(("What is ", "What does "))
        assert prompt.endswith(b"?")
        assert 120 <= len(content) <= 320
        assert content.endswith(b".")
        assert not {b"`", b"\n", b">>>"} & {content[at : at + 3].strip() for at in range(len(content))}
    assert corpus.examples["licence_spdx"].null_count() == 0


def test_a_file_is_in_training_or_held_out_and_more_examples_do_not_change_the_first(corpus):
    works = corpus.examples.group_by("split").agg(pl.col("work_id").unique())["work_id"].to_list()
    assert not set(works[0]) & set(works[1])
    more = answers.collect(SOME, examples_each=9, held_out_each=2)
    assert corpus.examples.join(more.examples, on=["prompt", "content", "split"], how="anti").is_empty()


def test_short_answers_share_their_questions_and_the_unknown_owner_is_kept_apart(store):
    corpus = answers.collect_names(("networkx", "tornado", "libcst"), examples_each=12, held_out_each=2)
    assert_checked(corpus, store)
    train, held_out = (corpus.examples.filter(pl.col("split") == split) for split in ("train", "held_out"))
    assert train.height == 36
    assert 40 <= train["content"].bin.size().min() <= train["content"].bin.size().max() <= 150
    shared = train.group_by("prompt").len().filter(pl.col("len") > 1)
    assert shared.height >= 3, "several distributions answer the same question"
    assert set(held_out["prompt"]) <= set(train["prompt"])
    assert not set(held_out["work_id"]) & set(train["work_id"])
    assert corpus.owners["name"].to_list() == ["Aric Hagberg", "Facebook"]
    unmatched = corpus.examples.filter(pl.col("work_id").str.starts_with("libcst"))
    assert set(unmatched["owner_id"]) == {"unmatched-libcst"}
    assert set(unmatched["unmatched_reason"]) == {"no author or maintainer is named"}
    assert corpus.assertions.height > 0


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        (
            "Draw a :class:`~a.B` of ``x``.\n\nIt is **bold**.\n\nParameters\n----------\nx : int",
            "Draw a a.B of x. It is bold.",
        ),
        ("Find it.\n\n>>> find()\n1", "Find it."),
        ("Return.\n:param x: a number", "Return."),
        ("no sentence", ""),
        ("First.\n\n* a list", "First."),
    ],
)
def test_prose_ends_where_fields_and_sessions_begin(docstring, expected):
    assert answers.prose(docstring) == expected


def test_what_is_not_there_is_named():
    with pytest.raises(ContractError, match="distribution no-such: expected installed, with an owner and a licence, found not"):
        answers.collect(("no-such",), examples_each=1, held_out_each=1)
    with pytest.raises(ContractError, match="distribution no-such: expected installed, found not installed"):
        answers.collect_names(("tornado", "no-such"), examples_each=1, held_out_each=1)
    with pytest.raises(ContractError, match="distribution tornado: expected 9999 short answers"):
        answers.collect_names(("tornado",), examples_each=9999, held_out_each=1)
    with pytest.raises(ContractError, match="distribution tornado: expected 9999 answers"):
        answers.collect(("tornado",), examples_each=9999, held_out_each=1)
