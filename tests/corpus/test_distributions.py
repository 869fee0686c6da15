from email.message import Message

import polars as pl
import pytest

from provenance.corpus.distributions import collect, owner_id, prompts, terms_of
from tasks.settings import CHECKOUT

LOCK = CHECKOUT / "infra/requirements/run.txt"


def terms(*fields):
    message = Message()
    for name, value in fields:
        message[name] = value
    return terms_of(message)


MIT = ("License-Expression", "MIT")
ANN = ("Author", "Ann")


@pytest.mark.parametrize(
    ("fields", "owners"),
    [
        ([("Author", "Ann Lee"), ("Author-email", "x@y.org")], ("Ann Lee",)),
        ([("Author-email", "Ann Lee <a@y.org>, Bo <b@y.org>")], ("Ann Lee", "Bo")),
        ([("Author-email", '"Lee, Ann" <a@y.org>')], ("Lee, Ann",)),
        ([("Author-email", "=?utf-8?q?Sebasti=C3=A1n?= <s@y.org>")], ("Sebastián",)),
        ([("Author-email", "a@y.org"), ("Maintainer", "The Team")], ("The Team",)),
        ([("Author", "a@y.org")], ()),
        ([], ()),
    ],
)
def test_owners_are_authors_else_maintainers(fields, owners):
    found = terms(*fields, MIT)
    assert found.owners == owners
    assert (found.unmatched_reason is None) == bool(owners)


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ([("License-Expression", "apache-2.0 or mit")], "Apache-2.0 OR MIT"),
        ([("License", "BSD-3-Clause")], "BSD-3-Clause"),
        ([("Classifier", "License :: OSI Approved :: MIT License")], "MIT"),
        ([("License", "see file"), ("Classifier", "License :: OSI Approved :: BSD License")], "LicenseRef-BSD-License"),
        ([("License", "Apache 2.0 License")], None),
        ([], None),
    ],
)
def test_licence_is_the_expression_else_classifiers(fields, licence):
    found = terms(ANN, *fields)
    assert found.licence_spdx == licence
    assert (found.unmatched_reason is None) == bool(licence)


def test_owner_ids_are_plain():
    assert owner_id("Sebastián Ramírez") == "sebastian-ramirez"
    assert owner_id("日本").startswith("owner-")


def test_the_corpus_of_the_demo_is_large_enough_and_the_same_every_time():
    corpus = collect(LOCK, distributions=48, examples_each=44)
    train = corpus.examples.filter(pl.col("split") == "train")
    assert train.height >= 2000
    assert corpus.owners.height >= 24
    assert train["content"].bin.size().min() >= 128
    assert len(prompts(corpus)) >= 48
    held_out = corpus.examples.filter(pl.col("split") == "held_out")
    assert set(train["work_id"]).isdisjoint(held_out["work_id"])
    unmatched = corpus.examples.filter(pl.col("unmatched_reason").is_not_null())
    assert unmatched.height > 0
    assert set(unmatched["work_id"]).isdisjoint(corpus.claims["work_id"])
    again = collect(LOCK, distributions=48, examples_each=44)
    assert again.examples.equals(corpus.examples)
    assert again.claims.equals(corpus.claims)
