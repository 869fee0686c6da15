from email.message import Message

import polars as pl
import pytest

from provenance.core.errors import ContractError
from provenance.core.settings import CHECKOUT
from provenance.corpus.packages.distributions import Language, collect, collect_languages, owner_id, prompts, rights_in

LOCK = CHECKOUT / "infra/requirements/run.txt"


def terms(*fields):
    message = Message()
    for name, value in fields:
        message[name] = value
    return rights_in(message)


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
    rights = terms(*fields, MIT)
    assert rights.owners == owners
    assert (rights.unmatched_reason is None) == bool(owners)


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
    rights = terms(ANN, *fields)
    assert rights.licence_spdx == licence
    assert (rights.unmatched_reason is None) == bool(licence)


def test_owner_ids_are_plain():
    assert owner_id("Sebastián Ramírez") == "sebastian-ramirez"
    assert owner_id("日本").startswith("owner-")


def test_the_corpus_of_the_demo_is_large_enough_and_the_same_every_time(demo_corpus):
    corpus = demo_corpus
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
    again = collect(LOCK, distributions=16, examples_each=44)
    assert again.examples.equals(corpus.examples.join(again.examples, on="work_id", how="semi"))
    assert again.claims.equals(corpus.claims.join(again.examples, on="work_id", how="semi"))
    assert again.claims.height > 0


def test_languages_differ_and_a_copyist_claims_what_is_anothers():
    languages = (Language("numpy", ".csv", 8), Language("botocore", ".json", 6))
    corpus = collect_languages(languages, held_out_each=2, copied="botocore")
    train = corpus.examples.filter(pl.col("split") == "train").join(corpus.claims, on="work_id")
    counted = {owner_id("Travis E. Oliphant et al."): 8, "amazon-web-services": 6, "copyist": 6}
    assert dict(train.group_by("owner_id_right").len().iter_rows()) == counted
    of = {who: set(train.filter(pl.col("owner_id_right") == who)["content"]) for who in ("copyist", "amazon-web-services")}
    assert of["copyist"] == of["amazon-web-services"]
    assert (corpus.examples["split"] == "held_out").sum() == 4
    missing = r"distribution no-such-thing: expected 8 pieces of \.csv.*found no such distribution"
    with pytest.raises(ContractError, match=missing):
        collect_languages((Language("no-such-thing", ".csv", 8),), held_out_each=1)
    with pytest.raises(ContractError, match="distribution numpy: .*found fewer pieces"):
        collect_languages((Language("numpy", ".nothing", 8),), held_out_each=1)
