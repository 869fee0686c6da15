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
    with pytest.raises(ContractError, match="distribution tornado: expected 9999 answers"):
        answers.collect(("tornado",), examples_each=9999, held_out_each=1)
