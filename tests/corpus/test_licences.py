"""Terms that follow from assertions: expressions, words, precedence, time, conflicts; no text crashes the parser."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from identify.vendor.licenses import LICENSES

from provenance.core.errors import ContractError
from provenance.core.settings import Settings
from provenance.core.tables import ASSERTIONS
from provenance.corpus.rights import notices
from provenance.corpus.rights.licences import check_assertions, classify, join_assertions, rights_of, weigh
from provenance.corpus.rights.policy import CLASSES, read_policy

POLICY = read_policy(Settings().rights.policy)
NOW = datetime(2026, 11, 20, tzinfo=UTC)
DAY = timedelta(days=1)
ASSERTERS = ("owner", "source", "aggregator")
ISC = dict(LICENSES)["ISC"]


def assertion(licence, by="aggregator", at=None, until=None, work="w", **columns):
    times = {"asserted_at": at, "expires_at": until}
    return {"work_id": work, "licence": licence, "asserted_by": by, "evidence": f"{by} file"} | times | columns


def table(*rows):
    return check_assertions(pl.DataFrame(list(rows), schema=ASSERTIONS.schema), "assertions.parquet")


def examples(*works, **columns):
    common = {"licence_spdx": None, "acquired_at": None} | columns
    schema = {"work_id": pl.String, "licence_spdx": pl.String, "acquired_at": pl.Datetime("us", "UTC")}
    return pl.DataFrame([{"work_id": work} | common for work in works], schema=schema)


def right(*rows, now=NOW, **columns):
    return rights_of(examples("w", **columns), table(*rows), POLICY, now=now).row(0, named=True)


@pytest.mark.parametrize(
    ("text", "canonical", "licence_class"),
    [
        ("mit or apache-2.0", "Apache-2.0 OR MIT", "commercial"),
        ("GPL-2.0+", "GPL-2.0-or-later", "commercial"),
        ("GPL-2.0", "GPL-2.0-only", "commercial"),
        ("CC-BY-NC-4.0", "CC-BY-NC-4.0", "non_commercial"),
        ("MIT OR CC-BY-NC-4.0", "CC-BY-NC-4.0 OR MIT", "commercial"),
        ("MIT AND CC-BY-NC-4.0", "CC-BY-NC-4.0 AND MIT", "non_commercial"),
        ("CC-BY-NC-4.0 OR LicenseRef-mine", "CC-BY-NC-4.0 OR LicenseRef-mine", "non_commercial"),
        ("CC-BY-NC-4.0 AND LicenseRef-mine", "CC-BY-NC-4.0 AND LicenseRef-mine", "unspecified"),
        ("LicenseRef-mine", "LicenseRef-mine", "unspecified"),
        ("LicenseRef-Apache", "LicenseRef-Apache", "unspecified"),
        ("LicenseRef-terms-of-service AND MIT", "LicenseRef-terms-of-service AND MIT", "forbidden"),
        ("(MIT OR CC-BY-NC-4.0) AND LicenseRef-research-only", None, "academic_only"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0", "commercial"),
        ("Apache-2.0 WITH AdditionRef-Commons-Clause", "Apache-2.0 WITH AdditionRef-Commons-Clause", "non_commercial"),
        ("MIT WITH AdditionRef-mine", "MIT WITH AdditionRef-mine", "unspecified"),
        ("MIT OR (MIT AND ISC)", "MIT", "commercial"),
        ("CC-BY-ND-4.0", "CC-BY-ND-4.0", "unspecified"),
    ],
)
def test_expressions(text, canonical, licence_class):
    terms = classify(text, POLICY)
    assert terms.licence_class == licence_class
    assert canonical is None or terms.licence_spdx == canonical


@pytest.mark.parametrize(
    ("text", "licence_class"),
    [
        ("All rights reserved", "unspecified"), ("research only", "academic_only"), ("For academic use only.", "academic_only"),
        ("CC BY-NC", "non_commercial"), ("Creative Commons Attribution-NC 4.0", "non_commercial"),
        ("non-commercial use only", "non_commercial"), ("Free for personal use", "non_commercial"),
        ("License :: OSI Approved :: BSD License", "commercial"), ("License :: Other/Proprietary License", "unspecified"),
        ("Apache License, Version 2.0", "commercial"), ("The MIT License", "commercial"),
        ("MIT License, non-commercial", "non_commercial"),
        ("see LICENSE", "unspecified"), ("MIT or similar", "unspecified"), ("not the MIT license", "unspecified"),
        ("Training is prohibited by our terms of service", "forbidden"), ("You may not scrape this site", "forbidden"),
        ("MIT AND foo", "unspecified"), ("MIT OR foo", "commercial"), ("foo OR bar", "unspecified"), ("MIT OR",
        "unspecified"), ("()", "unspecified"),
        ("NONE", "unspecified"),
        ("noassertion", "unspecified"), ("MIT WITH Apache-2.0", "unspecified"), ("Classpath-exception-2.0", "unspecified"),
        ("🙂", "unspecified"),
        (" OR ".join(["MIT"] * 3000), "unspecified"), ("(" * 400 + "MIT" + ")" * 400, "commercial"), ("a\x00b", "unspecified"),
    ],
)  # fmt: skip
def test_words_have_the_class_of_the_policy_s_patterns_and_are_unspecified_otherwise(text, licence_class):
    terms = classify(text, POLICY)
    assert terms.licence_class == licence_class
    assert terms.because


@pytest.mark.parametrize(("text", "licence_class"), [
    ("No AI training OR CC-BY-4.0", "forbidden"), ("CC-BY-4.0 OR No AI training", "forbidden"),
    ("NO-AI-1.0 OR CC-BY-4.0", "forbidden"), ("MIT OR noai", "forbidden"), ("MIT OR no-llm-2.0", "forbidden"),
    ("MIT or no AI training", "forbidden"), ("MIT and no AI training", "forbidden"), ("MIT OR do not train", "forbidden"),
    ("MIT OR (CC-BY-4.0 AND No AI training)", "forbidden"), ("ISC AND (MIT OR no data mining)", "forbidden"),
    ("MIT OR LicenseRef-no-ai", "forbidden"), ("MIT OR TDM-Reserved", "unspecified"), ("MIT OR AI training 2.0", "unspecified"),
    ("MIT OR LicenseRef-TDM-Reserved", "unspecified"), ("NO-AI-1.0", "forbidden"), ("NoAI", "forbidden"),
    ("MIT OR research only", "commercial"), ("MIT OR Proprietary", "commercial"), ("MIT OR No-aim-1.0", "commercial"),
    ("MIT OR LicenseRef-mine", "commercial"), ("CC-BY-4.0 OR All rights reserved", "commercial"),
    ("MIT OR LicenseRef-terms-of-service", "commercial"), ("no AI-generated content", "unspecified"),
])  # fmt: skip
def test_a_branch_that_reserves_training_holds_for_the_whole_choice(text, licence_class):
    terms = classify(text, POLICY)
    assert terms.licence_class == licence_class
    assert (terms.licence_spdx is None) == (licence_class != "commercial")


def test_an_unknown_id_is_explained_and_words_name_a_licence_only_where_nothing_speaks_against_it():
    assert "'Apach-2.0' is not a licence that SPDX knows. Did you mean 'Apache-2.0'?" in classify("Apach-2.0", POLICY).because
    assert classify("apache 2.0", POLICY).licence_spdx == "Apache-2.0"
    assert classify("mit license", POLICY).licence_spdx == "MIT"
    assert classify("CC BY-NC", POLICY).licence_spdx is None


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["MIT", "ISC", "AND", "OR", "WITH", "(", ")", "LicenseRef-x", "+"])).map(" ".join)
)
@example("(AND 0")
def test_no_text_crashes_it_and_the_same_text_has_the_same_class(text):
    terms = classify(text, POLICY)
    assert terms.licence_class in CLASSES
    if terms.licence_spdx:
        assert classify(terms.licence_spdx, POLICY).licence_spdx == terms.licence_spdx
        assert classify(terms.licence_spdx, POLICY).licence_class == terms.licence_class


OTHERS = ["LicenseRef-research-only", "LicenseRef-unknown", "LicenseRef-terms-of-service"]
LEAVES = st.sampled_from(["MIT", "CC-BY-NC-4.0", *OTHERS])


@given(LEAVES, LEAVES, LEAVES)
def test_a_choice_allows_what_any_of_its_terms_does_and_a_sum_what_all_do(first, second, third):
    def uses(text):
        licence_class = classify(text, POLICY).licence_class
        return {use for use in POLICY.uses if not POLICY.refusal(licence_class, use)}

    assert uses(f"{first} OR {second}") == uses(first) | uses(second)
    assert uses(f"{first} AND {second}") == uses(first) & uses(second)
    assert uses(f"{first} AND ({second} OR {third})") == uses(first) & (uses(second) | uses(third))


def test_the_owner_s_word_counts_before_the_source_s_and_that_before_the_aggregator_s():
    words = [assertion("MIT"), assertion("CC-BY-NC-4.0", "source"), assertion("LicenseRef-terms-of-service", "owner")]
    for count, expected in enumerate(["commercial", "non_commercial", "forbidden"], 1):
        rights = right(*words[:count])
        assert (rights["licence_class"], rights["asserted_by"]) == (expected, words[count - 1]["asserted_by"])
    assert rights["conflict"] == (
        "class: owner says LicenseRef-terms-of-service (forbidden), source says CC-BY-NC-4.0 (non_commercial), "
        "aggregator says MIT (commercial)"
    )
    assert rights["evidence"] == "owner file"


def test_of_one_rank_the_latest_counts_and_at_one_time_the_stricter():
    earlier, later = assertion("CC-BY-NC-4.0", at=NOW - 2 * DAY), assertion("MIT", at=NOW - DAY)
    assert right(earlier, later)["licence_spdx"] == "MIT"
    assert right(later, earlier)["conflict"] == ""
    assert right(assertion("CC-BY-NC-4.0"), later)["licence_class"] == "commercial", "what has no date is the earliest"
    joined = right(later, assertion("CC-BY-NC-4.0", at=NOW - DAY, evidence="another"))
    assert (joined["licence_spdx"], joined["licence_class"]) == ("CC-BY-NC-4.0 AND MIT", "non_commercial")
    assert joined["conflict"] == "class: aggregator says CC-BY-NC-4.0 (non_commercial) and MIT (commercial)"
    assert joined["asserted_at"] == NOW - DAY


def test_what_has_expired_or_is_not_made_yet_does_not_count_and_is_told_of():
    rights = right(assertion("MIT", "owner", until=NOW), assertion("CC-BY-NC-4.0"))
    assert (rights["licence_class"], rights["conflict"]) == ("non_commercial", "")
    assert rights["expired"] == "owner said 'MIT', expired on 2026-11-20"
    assert right(assertion("MIT", "owner", until=NOW + DAY))["licence_class"] == "commercial"
    alone = right(assertion("MIT", until=NOW - DAY), licence_spdx="MIT")
    assert (alone["asserted_by"], alone["licence_class"]) == ("nobody", "unspecified"), "what expired is not said again"
    assert right(assertion("MIT", "owner", at=NOW + DAY), assertion("ISC"))["licence_spdx"] == "ISC"


def test_words_differ_in_text_or_in_class_and_spellings_do_not():
    assert right(assertion("mit"), assertion("MIT License", "source"))["conflict"] == ""
    assert right(assertion("Apache-2.0 OR MIT"), assertion("mit or apache-2.0", "source"))["conflict"] == ""
    differ = "text: source says ISC (commercial), aggregator says MIT (commercial)"
    assert right(assertion("MIT"), assertion("ISC", "source"))["conflict"] == differ
    assert right(assertion("See file"), assertion("see  FILE", "source"))["conflict"] == ""
    broken = right(assertion("MIT OR"), assertion("MIT", "source"))["conflict"]
    assert broken.startswith("class: source says MIT (commercial), aggregator")


def test_the_examples_licence_is_the_aggregator_s_word_where_it_says_nothing_else():
    assert right(licence_spdx="MIT")["asserted_by"] == "aggregator"
    rights = right(assertion("ISC", "source"), licence_spdx="MIT")
    assert (rights["licence_spdx"], rights["conflict"][:5]) == ("ISC", "text:")
    assert right(assertion("ISC"), licence_spdx="MIT")["conflict"] == ""


def test_every_work_has_one_row_with_a_class_and_evidence_whatever_its_split():
    works = examples("b", "a", "b", "c", licence_spdx="MIT")
    rights = rights_of(works, table(assertion("CC-BY-NC-4.0", "owner", work="c")), POLICY, now=NOW)
    assert rights["work_id"].to_list() == ["a", "b", "c"]
    because = "CC-BY-NC-4.0 is non_commercial: non_commercial, and the policy lets train only commercial"
    assert rights["quarantine"].to_list() == ["", "", because]
    silent = rights_of(examples("w"), table(), POLICY, now=NOW).row(0, named=True)
    assert (silent["asserted_by"], silent["licence_class"]) == ("nobody", "unspecified")
    assert silent["evidence"] == "nobody has said anything"
    assert silent["quarantine"]
    named = rights_of(examples("w").with_columns(source_id=pl.lit("pkg:pypi/a")), table(), POLICY, now=NOW)
    assert named["source_id"].to_list() == ["pkg:pypi/a"], "the source of the registry is kept"


TIMES = st.sampled_from([None, NOW - DAY, NOW, NOW + DAY])
SAYINGS = st.tuples(
    st.sampled_from("abc"), st.sampled_from(["MIT", "ISC", "no AI training"]), st.sampled_from(ASSERTERS), TIMES, TIMES
)


@given(st.lists(SAYINGS, max_size=7))
def test_works_that_are_judged_together_get_what_their_assertions_weigh_one_by_one(sayings):
    ending = [saying for saying in sayings if None in saying[3:] or saying[3] < saying[4]]
    rows = table(*(assertion(licence, by, at, until, work) for work, licence, by, at, until in ending))
    rights = rights_of(examples("a", "b"), rows, POLICY, now=NOW)
    for row in rights.iter_rows(named=True):
        own = rows.filter(pl.col("work_id") == row["work_id"]).sort(
            "work_id", "asserted_by", "asserted_at", "licence", "evidence", "evidence_sha256", maintain_order=True
        )
        outcome = weigh(own.to_dicts(), POLICY, NOW, {licence: classify(licence, POLICY) for licence in own["licence"]})
        times = [weighed.row["asserted_at"] for weighed in outcome.counting if weighed.row["asserted_at"]]
        assert (row["licence_class"], row["asserted_by"]) == (outcome.terms.licence_class, outcome.asserted_by)
        assert (row["conflict"], row["expired"]) == (outcome.conflict, outcome.expired)
        assert row["asserted_at"] == max(times, default=None)
        evidence = dict.fromkeys(weighed.row["evidence"] for weighed in outcome.counting)
        assert row["evidence"] == ("; ".join(evidence) or outcome.terms.because)


def test_rights_do_not_depend_on_the_order_of_what_is_delivered_nor_on_assertions_of_unknown_works():
    rows = [
        assertion("MIT", work=w, by=b, at=NOW - n * DAY) for n, w in enumerate("ab") for b in ("owner", "source", "aggregator")
    ]
    rows += [assertion("ISC", work="a", by="source", at=NOW)]
    works = examples("a", "b")
    assert rights_of(works, table(*rows), POLICY, now=NOW).equals(rights_of(works, table(*reversed(rows)), POLICY, now=NOW))
    assert join_assertions(works, table(*rows)).equals(join_assertions(works, table(*reversed(rows))))
    unknown = table(assertion("MIT"), assertion("ISC", "owner", work="x"))
    assert join_assertions(examples("w"), unknown).height == 2
    assert rights_of(examples("w"), unknown, POLICY, now=NOW)["licence_spdx"].to_list() == ["MIT"]


@pytest.mark.parametrize(("row", "message"), [
    (assertion("MIT", "agregator"),
     "row 0 .*column 'asserted_by': expected one of owner, source, aggregator, found 'agregator'"),
    (assertion(" "), "column 'licence': expected terms, found none"),
    (assertion("MIT", at=NOW, until=NOW - DAY), "column 'expires_at': expected a time after asserted_at"),
    (assertion("MIT", evidence_sha256="abc"), "column 'evidence_sha256': expected a SHA-256 in hex, found 'abc'"),
    (assertion("MIT", work=""), "column 'work_id': expected a value"),
])  # fmt: skip
def test_a_bad_assertion_is_refused_and_named(row, message):
    with pytest.raises(ContractError, match=rf"assertions\.parquet: .*{message}"):
        table(row)


def test_licence_files_are_known_exactly_and_nearly_and_never_guessed():
    exact = notices.read_licence(ISC.encode(), "LICENSE")
    near = notices.read_licence(f"© Ann\n{ISC} Ok.".encode(), "LICENSE")
    assert exact.licence == near.licence == "ISC"
    assert exact.evidence == "text of LICENSE"
    assert len(exact.sha256) == 64
    assert notices.read_licence(b"You may do with this what I tell you.", "LICENSE") is None
    assert notices.read_licence(b"", "LICENSE") is None


@pytest.mark.parametrize(
    ("data", "reading"),
    [
        (f"Copyright (c) Jürgen\n{ISC}".encode("latin-1"), ", no utf-8, read as Latin-1"),
        (ISC.encode("utf-16"), ", read as utf-16"),
        (ISC.encode("utf-8-sig"), ", read as utf-8-sig"),
        (b"\xff\xfe\x00" + ISC.encode(), ", no utf-16, read as Latin-1"),
    ],
)
def test_licence_files_in_other_encodings_are_read_and_the_evidence_says_so(data, reading):
    notice = notices.read_licence(data, "COPYING")
    assert notice is not None
    assert notice.licence == "ISC"
    assert notice.evidence == f"text of COPYING{reading}"


@pytest.mark.parametrize(
    ("content", "licence"),
    [
        (b"# SPDX-License-Identifier: MIT\n", "MIT"),
        (b"#!/usr/bin/python\r\n// SPDX-License-Identifier: Apache-2.0 OR MIT\r\n", "Apache-2.0 OR MIT"),
        (b"/* SPDX-License-Identifier: GPL-2.0-only */\n", "GPL-2.0-only"),
        (b'x = "SPDX-License-Identifier: MIT"\n', None),
        (b"x" * 5000 + b"\n# SPDX-License-Identifier: MIT\n", None),
    ],
)
def test_headers(content, licence):
    notice = notices.header(content, "a.py")
    assert (notice.licence if notice else None) == licence


def test_the_nearest_word_on_a_file_counts_and_unknown_files_silence_those_beside_them(tmp_path):
    files = {}
    for name, text in {
        "a-1.dist-info/licenses/LICENSE": ISC, "a-1.dist-info/licenses/src/a/vendor/LICENSE": "MIT of my own",
        "a-1.dist-info/licenses/a/b/LICENSE.one": ISC, "a-1.dist-info/licenses/a/b/LICENSE.two": "unknown",
        "a-1.dist-info/licenses/a/c/COPYING.txt": "SPDX-License-Identifier: Zlib\n",
        "a/LICENSE": "SPDX-License-Identifier: MIT\n", "a-1.dist-info/licenses/licenses.py": "SPDX-License-Identifier: MIT\n",
    }.items():  # fmt: skip
        files[name] = tmp_path / name
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_text(text)
    licence_files = notices.licence_files(files)

    def licences(path, content=b""):
        return [notice.licence for notice in notices.notices(path, content, licence_files)]

    assert licences("a/x.py") == ["ISC"]
    assert licences("a/vendor/x.py") == []
    assert licences("a/b/x.py") == []
    assert licences("a/c/d/x.py") == ["Zlib"]
    assert licences("a/vendor/x.py", b"# SPDX-License-Identifier: MIT\n") == ["MIT"]
