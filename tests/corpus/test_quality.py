"""Reports on deliveries: counts, warnings and blocks."""

from datetime import UTC, datetime

import polars as pl
import pytest

from provenance.core.errors import SettingsError
from provenance.core.settings import CHECKOUT
from provenance.core.tables import ASSERTIONS, CLAIMS, DUPLICATES
from provenance.corpus.quality import BLOCK, COUNTED, GOOD, MEASURES, WARN, Delivery, Rule, assess, read_rules

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def work(name, **columns):
    return {
        "work_id": name, "source_id": None, "licence_spdx": "MIT", "licence_class": "commercial", "asserted_by": "source",
        "evidence": "LICENSE", "conflict": "", "quarantine": "", "examples": 2, "source_uri": f"https://a/{name}",
        "acquired_at": NOW, "unmatched": False, "claimed": True,
    } | columns  # fmt: skip


def delivery(*works, assertions=(), claims=(), duplicates=(), disputed=(), contradictions=()):
    return Delivery(
        works=pl.DataFrame(list(works), infer_schema_length=None),
        claims=pl.DataFrame(list(claims), schema=CLAIMS.schema),
        assertions=pl.DataFrame(list(assertions), schema=ASSERTIONS.schema),
        duplicates=pl.DataFrame(list(duplicates), schema=DUPLICATES.schema),
        disputed=disputed, sources=10, contradictions=contradictions, examples=2 * len(works), owners=1,
    )  # fmt: skip


def counts(report):
    return {finding.measure: finding.count for finding in report.findings if finding.count}


def test_a_good_delivery_has_nothing_to_tell_of():
    report = assess(delivery(work("a"), work("b")), read_rules(CHECKOUT / "infra/settings/quality.toml"), NOW)
    assert counts(report) == {}
    assert {finding.level for finding in report.findings if finding.measure != "undated"} == {GOOD}
    assert {finding.level for finding in report.findings if finding.measure == "undated"} == {COUNTED}
    assert [finding.measure for finding in report.findings] == list(MEASURES)
    assert report.classes.rows() == [("commercial", "source", 2, 4)]


@pytest.mark.parametrize(
    ("changed", "measure"),
    [
        ({"unmatched": True, "claimed": False}, "unmatched"),
        ({"claimed": False}, "unclaimed"),
        ({"licence_class": "unspecified"}, "unspecified"),
        ({"licence_class": "forbidden"}, "forbidden"),
        ({"quarantine": "forbidden by terms"}, "quarantined"),
        ({"conflict": "aggregator says MIT, source GPL-3.0-only"}, "conflicts"),
        ({"source_uri": None}, "sourceless"),
        ({"acquired_at": None}, "undated"),
    ],
)
def test_each_lack_is_counted_by_its_measure_and_named(changed, measure):
    report = assess(delivery(work("good"), work("bad", **changed)), {}, NOW)
    assert counts(report) == {measure: 1}
    (found,) = (finding for finding in report.findings if finding.measure == measure)
    assert found.names == ("bad",)
    assert found.part == 0.5


def test_tables_beside_the_works_are_counted():
    expired = {
        "work_id": "a", "licence": "MIT", "asserted_by": "source", "evidence": "page",
        "expires_at": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    tables = {
        "assertions": [expired, expired | {"expires_at": None, "work_id": "b"}],
        "claims": [{"work_id": "a", "owner_id": "o", "stake_ppb": 10**9}],
        "duplicates": [{"cluster_id": "1", "example_id": "1", "similarity": 1.0, "decision": ""}],
    }
    report = assess(delivery(work("a"), **tables, disputed=("a",), contradictions=("https://a/b",)), {}, NOW)
    assert counts(report) == {"expired": 1, "strays": 1, "unevidenced": 1, "copies": 1, "disputed": 1, "sources": 1}


def test_a_rule_warns_above_its_part_and_blocks_above_its_other():
    rules = {"forbidden": Rule(warn=0.2, block=0.5)}
    levels = []
    for bad in (1, 2, 3):
        works = [work(str(n), licence_class="forbidden" if n < bad else "commercial") for n in range(5)]
        report = assess(delivery(*works), rules, NOW)
        levels.append(next(f.level for f in report.findings if f.measure == "forbidden"))
    assert levels == [GOOD, WARN, BLOCK]
    assert [finding.measure for finding in report.blocking] == ["forbidden"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[unmached]\nwarn = 0", r"\[unmached\]: expected one of .* found unmached. Did you mean 'unmatched'\?"),
        ("[unmatched]\nwarn = 2", r"unmatched.warn: expected .*less than or equal to 1, found 2"),
        ("[unmatched]\nwarns = 0", r"unmatched.warns: expected"),
        ("[unmatched]\nwarn = .5", "expected TOML"),
        ("[unmatched]\nwarn = 0.5\nblock = 0.1", "unmatched: expected no block below warn"),
    ],
)
def test_bad_rules_are_named(tmp_path, text, message):
    (tmp_path / "quality.toml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_rules(tmp_path / "quality.toml")
    with pytest.raises(SettingsError, match="no such file"):
        read_rules(tmp_path / "none.toml")
