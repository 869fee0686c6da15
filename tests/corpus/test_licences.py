"""What assertions come to: expressions, words, precedence, time, conflicts; nothing is lost and nothing crashes."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from identify.vendor.licenses import LICENSES

from provenance.core.contracts import ASSERTIONS
from provenance.core.errors import ContractError
from provenance.corpus.rights import notices
from provenance.corpus.rights.licences import check_assertions, classify, rights_of, stated
from provenance.corpus.rights.policy import CLASSES, read_policy
from tasks.settings import Settings

POLICY = read_policy(Settings().rights.policy)
NOW = datetime(2026, 11, 20, tzinfo=UTC)
DAY = timedelta(days=1)
ISC = dict(LICENSES)["ISC"]


def said(licence, by="aggregator", at=None, until=None, work="w", **other):
    times = {"asserted_at": at, "expires_at": until}
    return {"work_id": work, "licence": licence, "asserted_by": by, "evidence": f"{by} file"} | times | other


def table(*rows):
    return check_assertions(pl.DataFrame(list(rows), schema=ASSERTIONS.schema), "assertions.parquet")


def examples(*works, **other):
    columns = {"licence_spdx": None, "acquired_at": None} | other
    schema = {"work_id": pl.String, "licence_spdx": pl.String, "acquired_at": pl.Datetime("us", "UTC")}
    return pl.DataFrame([{"work_id": work} | columns for work in works], schema=schema)


def right(*rows, now=NOW, **columns):
    return rights_of(examples("w", **columns), table(*rows), POLICY, now=now).row(0, named=True)


@pytest.mark.parametrize(
    ("text", "spelt", "licence_class"),
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
def test_expressions(text, spelt, licence_class):
    found = classify(text, POLICY)
    assert found.licence_class == licence_class
    assert spelt is None or found.licence_spdx == spelt


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
        ("MIT AND foo", "unspecified"), ("MIT OR foo", "unspecified"), ("MIT OR", "unspecified"), ("()", "unspecified"),
        ("NONE", "unspecified"),
        ("noassertion", "unspecified"), ("MIT WITH Apache-2.0", "unspecified"), ("Classpath-exception-2.0", "unspecified"),
        ("🙂", "unspecified"),
        (" OR ".join(["MIT"] * 3000), "unspecified"), ("(" * 400 + "MIT" + ")" * 400, "commercial"), ("a\x00b", "unspecified"),
    ],
)  # fmt: skip
def test_words_have_the_class_of_the_policy_s_patterns_and_are_unspecified_otherwise(text, licence_class):
    found = classify(text, POLICY)
    assert found.licence_class == licence_class
    assert found.because


def test_an_unknown_id_is_explained_with_the_nearest():
    assert "'Apach-2.0' is not a licence that SPDX knows. Did you mean 'Apache-2.0'?" in classify("Apach-2.0", POLICY).because


def test_words_name_a_licence_only_where_nothing_speaks_against_it():
    assert classify("apache 2.0", POLICY).licence_spdx == "Apache-2.0"
    assert classify("mit license", POLICY).licence_spdx == "MIT"
    assert classify("CC BY-NC", POLICY).licence_spdx is None


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["MIT", "ISC", "AND", "OR", "WITH", "(", ")", "LicenseRef-x", "+"])).map(" ".join)
)
@example("(AND 0")
def test_no_text_crashes_it_and_the_same_text_has_the_same_class(text):
    found = classify(text, POLICY)
    assert found.licence_class in CLASSES
    if found.licence_spdx:
        assert classify(found.licence_spdx, POLICY).licence_spdx == found.licence_spdx
        assert classify(found.licence_spdx, POLICY).licence_class == found.licence_class


OTHERS = ["LicenseRef-research-only", "LicenseRef-unknown", "LicenseRef-terms-of-service"]
LEAVES = st.sampled_from(["MIT", "CC-BY-NC-4.0", *OTHERS])


@given(LEAVES, LEAVES, LEAVES)
def test_a_choice_allows_what_any_of_its_terms_does_and_a_sum_what_all_do(one, two, three):
    def uses(text):
        licence_class = classify(text, POLICY).licence_class
        return {use for use in POLICY.uses if not POLICY.refusal(licence_class, use)}

    assert uses(f"{one} OR {two}") == uses(one) | uses(two)
    assert uses(f"{one} AND {two}") == uses(one) & uses(two)
    assert uses(f"{one} AND ({two} OR {three})") == uses(one) & (uses(two) | uses(three))


def test_the_owner_s_word_counts_before_the_source_s_and_that_before_the_aggregator_s():
    words = [said("MIT"), said("CC-BY-NC-4.0", "source"), said("LicenseRef-terms-of-service", "owner")]
    for count, expected in enumerate(["commercial", "non_commercial", "forbidden"], 1):
        found = right(*words[:count])
        assert (found["licence_class"], found["asserted_by"]) == (expected, words[count - 1]["asserted_by"])
    assert found["conflict"] == (
        "class: owner says LicenseRef-terms-of-service (forbidden), source says CC-BY-NC-4.0 (non_commercial), "
        "aggregator says MIT (commercial)"
    )
    assert found["evidence"] == "owner file"


def test_of_one_rank_the_latest_counts_and_at_one_time_the_stricter():
    earlier, later = said("CC-BY-NC-4.0", at=NOW - 2 * DAY), said("MIT", at=NOW - DAY)
    assert right(earlier, later)["licence_spdx"] == "MIT"
    assert right(later, earlier)["conflict"] == ""
    assert right(said("CC-BY-NC-4.0"), later)["licence_class"] == "commercial", "what has no date is the earliest"
    both = right(later, said("CC-BY-NC-4.0", at=NOW - DAY, evidence="another"))
    assert (both["licence_spdx"], both["licence_class"]) == ("CC-BY-NC-4.0 AND MIT", "non_commercial")
    assert both["conflict"] == "class: aggregator says CC-BY-NC-4.0 (non_commercial) and MIT (commercial)"
    assert both["asserted_at"] == NOW - DAY


def test_what_has_expired_or_is_not_made_yet_does_not_count_and_is_told_of():
    found = right(said("MIT", "owner", until=NOW), said("CC-BY-NC-4.0"))
    assert (found["licence_class"], found["conflict"]) == ("non_commercial", "")
    assert found["expired"] == "owner said 'MIT', expired on 2026-11-20"
    assert right(said("MIT", "owner", until=NOW + DAY))["licence_class"] == "commercial"
    alone = right(said("MIT", until=NOW - DAY), licence_spdx="MIT")
    assert (alone["asserted_by"], alone["licence_class"]) == ("nobody", "unspecified"), "what expired is not said again"
    assert right(said("MIT", "owner", at=NOW + DAY), said("ISC"))["licence_spdx"] == "ISC"


def test_words_differ_in_text_or_in_class_and_spellings_do_not():
    assert right(said("mit"), said("MIT License", "source"))["conflict"] == ""
    assert right(said("Apache-2.0 OR MIT"), said("mit or apache-2.0", "source"))["conflict"] == ""
    differ = "text: source says ISC (commercial), aggregator says MIT (commercial)"
    assert right(said("MIT"), said("ISC", "source"))["conflict"] == differ
    assert right(said("See file"), said("see  FILE", "source"))["conflict"] == ""
    broken = right(said("MIT OR"), said("MIT", "source"))["conflict"]
    assert broken.startswith("class: source says MIT (commercial), aggregator")


def test_the_examples_licence_is_the_aggregator_s_word_where_it_says_nothing_else():
    assert right(licence_spdx="MIT")["asserted_by"] == "aggregator"
    found = right(said("ISC", "source"), licence_spdx="MIT")
    assert (found["licence_spdx"], found["conflict"][:5]) == ("ISC", "text:")
    assert right(said("ISC"), licence_spdx="MIT")["conflict"] == ""


def test_every_work_has_one_row_with_a_class_and_evidence_whatever_its_split():
    works = examples("b", "a", "b", "c", licence_spdx="MIT")
    found = rights_of(works, table(said("CC-BY-NC-4.0", "owner", work="c")), POLICY, now=NOW)
    assert found["work_id"].to_list() == ["a", "b", "c"]
    because = "CC-BY-NC-4.0 is non_commercial: non_commercial, and the policy lets train only commercial"
    assert found["quarantine"].to_list() == ["", "", because]
    silent = rights_of(examples("w"), table(), POLICY, now=NOW).row(0, named=True)
    assert (silent["asserted_by"], silent["licence_class"]) == ("nobody", "unspecified")
    assert silent["evidence"] == "nobody has said anything"
    assert silent["quarantine"]


def test_rights_do_not_depend_on_the_order_of_what_is_delivered():
    rows = [said("MIT", work=w, by=b, at=NOW - n * DAY) for n, w in enumerate("ab") for b in ("owner", "source", "aggregator")]
    rows += [said("ISC", work="a", by="source", at=NOW)]
    works = examples("a", "b")
    assert rights_of(works, table(*rows), POLICY, now=NOW).equals(rights_of(works, table(*reversed(rows)), POLICY, now=NOW))
    assert stated(works, table(*rows)).equals(stated(works, table(*reversed(rows))))


def test_the_source_of_the_registry_is_kept():
    works = examples("w").with_columns(source_id=pl.lit("pkg:pypi/a"))
    assert rights_of(works, table(), POLICY, now=NOW)["source_id"].to_list() == ["pkg:pypi/a"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            said("MIT", "agregator"),
            "row 0 .*column 'asserted_by': expected one of owner, source, aggregator, found 'agregator'",
        ),
        (said(" "), "column 'licence': expected terms, found none"),
        (said("MIT", at=NOW, until=NOW - DAY), "column 'expires_at': expected a time after asserted_at"),
        (said("MIT", evidence_sha256="abc"), "column 'evidence_sha256': expected a SHA-256 in hex, found 'abc'"),
        (said("MIT", work=""), "column 'work_id': expected a value"),
    ],
)
def test_a_bad_assertion_is_refused_and_named(row, message):
    with pytest.raises(ContractError, match=rf"assertions\.parquet: .*{message}"):
        table(row)


def test_assertions_on_unknown_works_change_nothing():
    rows = table(said("MIT"), said("ISC", "owner", work="x"))
    assert stated(examples("w"), rows).height == 2
    assert rights_of(examples("w"), rows, POLICY, now=NOW)["licence_spdx"].to_list() == ["MIT"]


def test_licence_files_are_known_exactly_and_nearly_and_never_guessed():
    exact = notices.read_licence(ISC.encode(), "LICENSE")
    near = notices.read_licence(f"© Ann\n{ISC} Ok.".encode(), "LICENSE")
    assert exact.licence == near.licence == "ISC"
    assert exact.evidence == "text of LICENSE"
    assert len(exact.sha256) == 64
    assert notices.read_licence(b"You may do with this what I tell you.", "LICENSE") is None
    assert notices.read_licence(b"", "LICENSE") is None


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (f"Copyright (c) Jürgen\n{ISC}".encode("latin-1"), ", no utf-8, read as Latin-1"),
        (ISC.encode("utf-16"), ", read as utf-16"),
        (ISC.encode("utf-8-sig"), ", read as utf-8-sig"),
        (b"\xff\xfe\x00" + ISC.encode(), ", no utf-16, read as Latin-1"),
    ],
)
def test_licence_files_in_other_encodings_are_read_and_the_evidence_says_so(data, how):
    found = notices.read_licence(data, "COPYING")
    assert found is not None
    assert found.licence == "ISC"
    assert found.evidence == f"text of COPYING{how}"


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
    found = notices.header(content, "a.py")
    assert (found.licence if found else None) == licence


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
    found = notices.licence_files(files)

    def licences(path, content=b""):
        return [notice.licence for notice in notices.notices(path, content, found)]

    assert licences("a/x.py") == ["ISC"]
    assert licences("a/vendor/x.py") == []
    assert licences("a/b/x.py") == []
    assert licences("a/c/d/x.py") == ["Zlib"]
    assert licences("a/vendor/x.py", b"# SPDX-License-Identifier: MIT\n") == ["MIT"]
