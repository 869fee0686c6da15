"""Disclosures agree with the tables, mark missing answers, and are valid by their schemas and standards."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime

import jsonschema
import mlcroissant as mlc
import polars as pl
import pytest
from samples import HOSTILE, optout_row

from provenance.core.errors import CheckFailed, InputError
from provenance.core.settings import CHECKOUT
from provenance.core.store import from_csv, to_csv
from provenance.core.tables import CLEARANCE, OPTOUTS, RIGHTS, SIGNALS, SOURCES
from provenance.corpus.disclosures import california, croissant, eu, forms, inventory, page, spdx, us
from provenance.corpus.disclosures.facts import Facts, read_facts
from provenance.corpus.rights.sources.registry import registry, source_ids
from provenance.corpus.shards import FrozenCorpus, Part

DAY = date(2026, 11, 20)
EXAMPLE = CHECKOUT / "infra/settings/disclosure.toml"
CORPUS = "ab" * 32
PUBLIC = {"name": "PyPI", "kind": "public", "match": ["pkg:pypi/"], "link": "https://pypi.org", "description": "Packages."}
CRAWLED = {"name": "the web", "kind": "crawled", "match": ["https://", "http://"]}
LISTED = {"https://a.org/": "A title", "https://c.org/": "By address"}
REST = {"name": "the rest", "kind": "other", "match": [""], "description": "What was found on disks."}


def piece(work, uri=None, *, words=10, licence=None, modality="text", acquired=datetime(2026, 3, 5, tzinfo=UTC)):
    return {
        "work_id": work, "modality": modality, "source_uri": uri, "acquired_at": acquired, "licence_spdx": licence,
        "owner_id": None, "tokens": words,
    }  # fmt: skip


def shard(*rows):
    schema = {
        "work_id": pl.String, "modality": pl.String, "source_uri": pl.String, "acquired_at": pl.Datetime("us", "UTC"),
        "licence_spdx": pl.String, "owner_id": pl.String, "tokens": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


def claim(work, owner, stake=1_000_000_000):
    return {"work_id": work, "owner_id": owner, "stake_ppb": stake, "valid_from": None, "valid_to": None}


def take(*shards, sources=(), claims=(), owners=(), day=DAY, **tables):
    facts = Facts.model_validate({"sources": list(sources)})
    dates = {"valid_from": pl.Date, "valid_to": pl.Date}
    claimed = {"work_id": pl.String, "owner_id": pl.String, "stake_ppb": pl.Int64, **dates}
    names = {"owner_id": pl.String, "name": pl.String}
    holders = pl.DataFrame(list(claims), schema=claimed), pl.DataFrame(list(owners), schema=names)
    return inventory.take_inventory(shards, *holders, facts, corpus=CORPUS, day=day, **tables), facts


def summary_of(*rows, **options):
    """The answers of the summary of one shard."""
    counted, facts = take(shard(*rows), **options)
    return answered(eu.summary(counted, facts, DAY))


def notice_of(counted, facts):
    return us.notice(counted, facts, DAY, works_sha256="0" * 64)


def answered(document):
    return {q["key"]: q for section in document["sections"] for q in section["questions"]}


def frozen(parts=2):
    part = Part("0" * 64, 3, "1" * 64)
    shards = tuple(replace(part, sha256=f"{number:064x}") for number in range(parts))
    return FrozenCorpus(shards, part, part, part, examples=6, held_out=0)


def test_a_work_is_one_row_wherever_its_pieces_lie():
    uri = "https://ann:secret@www.Example.org:8080/a?b#c"
    first = shard(piece("a", uri, licence="MIT"), piece("b", "pkg:pypi/b@1.0#x.py", licence="MIT", modality="code"))
    second = shard(piece("a", uri, licence="Apache-2.0", words=5, acquired=None), piece("c", acquired=None))
    owners = ({"owner_id": "o", "name": "Olga"}, {"owner_id": "p", "name": "Paul"})
    counted, _ = take(first, second, claims=(claim("a", "p", 1), claim("a", "o", 999_999_999), claim("b", "o")), owners=owners)
    a, b, c = counted.works.to_dicts()
    assert (a["examples"], a["words"], a["owners"], a["escrow"]) == (2, 15, "Olga; Paul", False)
    assert (a["source_uri"], a["place"], a["domain"]) == ("https://www.Example.org:8080/a?b#c", "example.org", "example.org")
    assert a["licence"] == a["licence_declared"] == "(Apache-2.0) AND (MIT)"
    assert (b["place"], b["domain"], b["licence"], b["owners"]) == ("pkg:pypi/b", None, "MIT", "Olga")
    assert (c["place"], c["licence"], c["owners"], c["escrow"]) == ("(no address)", None, None, True)
    assert {row["licence_class"] for row in (a, b, c)} == {"unspecified"}
    assert counted.sizes.rows() == [("code", 1, 1, 10), ("text", 2, 3, 25)]


def test_rights_and_registry_count_where_there_are_any():
    free = ("a", None, "CC0-1.0", "commercial", "owner", None, "a letter", "", "", "")
    shut = ("b", None, None, "forbidden", "nobody", None, "", "x", "", "q")
    rights = pl.DataFrame([free, shut], schema=RIGHTS.schema, orient="row")
    source_rows = [(uri, datetime(2026, 1, 1, tzinfo=UTC), "bot", "a line", [], None, title) for uri, title in LISTED.items()]
    sources = registry(pl.DataFrame(source_rows, schema=SOURCES.schema, orient="row"))
    rights = rights.with_columns(source_id=source_ids(sources, pl.Series(["https://a.org/", None], dtype=pl.String)))
    rows = [piece("a", licence="MIT"), piece("b", licence="MIT"), piece("c", "https://c.org")]
    counted, _ = take(shard(*rows), rights=rights, registry=sources)
    assert counted.works["licence"].to_list() == ["CC0-1.0", None, None]
    assert counted.works["licence_declared"].to_list() == ["MIT", "MIT", None]
    assert counted.works["licence_class"].to_list() == ["commercial", "forbidden", "unspecified"]
    assert counted.works["title"].to_list() == ["A title", None, "By address"]
    assert counted.copyrighted["work_id"].to_list() == ["b", "c"]
    assert [row[:2] for row in inventory.by_class(counted.works).rows] == [
        ("any use, commercial too", 1), ("non-commercial use alone", 0), ("academic use alone", 0), ("use forbidden", 1),
        ("no terms that can be read", 1),
    ]  # fmt: skip


def test_a_modality_of_its_own_is_disclosed_in_every_form():
    """A corpus of speech ended in a KeyError, and the European summary left it out."""
    rows = [
        piece("a", "https://a.org/x", modality="speech", words=0),
        piece("b", "https://b.org/x", modality="speech", words=0),
    ]
    counted, facts = take(shard(*rows, piece("c", "https://c.org/x")), sources=(CRAWLED,))
    facts = facts.model_copy(update={"model": facts.model.model_copy(update={"content": {"speech": "Talks", "text": "Notes"}})})
    documents = {
        eu.FORM: eu.summary(counted, facts, DAY), us.FORM: notice_of(counted, facts),
        california.FORM: california.documentation(counted, facts, DAY),
    }  # fmt: skip
    for form, document in documents.items():
        forms.check(form, document)
        assert "speech" in page.form_page(document, "x.json", counted).decode()
    assert answered(documents[eu.FORM])["sizes"]["answer"]["rows"][-1] == ["Other: speech", "2 examples", 2, "examples", 2]
    assert answered(documents[eu.FORM])["content"]["answer"] == ["speech: Talks", "text: Notes"]
    assert answered(documents[california.FORM])["data_points"]["answer"]["rows"][0] == ["speech", "examples", 2, 2, 0]
    described = croissant.description(frozen(), counted, facts, DAY)
    croissant.check(described)
    assert "2 examples of speech" in described["description"]
    spdx.check(spdx.bill(counted, facts, DAY))
    assert Facts.model_validate({"model": {"content": {"speech": "Talks"}}}).model.content == {"speech": "Talks"}


def test_the_first_source_that_matches_counts():
    counted, _ = take(shard(piece("a", "pkg:pypi/a"), piece("b", "https://b.org"), piece("c")), sources=(PUBLIC, CRAWLED))
    assert counted.works["source"].to_list() == ["PyPI", "the web", None]
    assert (counted.unassigned, counted.used("public"), counted.used("licensed")) == (1, True, None)
    counted, _ = take(shard(piece("a", "pkg:pypi/a"), piece("c")), sources=(PUBLIC, REST, {**CRAWLED, "match": ["pkg:"]}))
    assert counted.works["source"].to_list() == ["PyPI", "the rest"]
    assert counted.used("licensed") is False


@pytest.mark.parametrize(
    ("domains", "sme", "shown"), [(1, False, 1), (10, False, 1), (11, False, 2), (40, True, 2), (41, True, 3)]
)
def test_as_many_domains_are_named_as_must_be(domains, sme, shown):
    rows = [piece(f"{n:03d}", f"https://{n}.org/x", words=n + 1) for n in range(domains)]
    counted, _ = take(shard(*rows, piece("no address")))
    table = inventory.top_domains(counted.works, sme=sme)
    assert [row[0] for row in table.rows] == [f"{n}.org" for n in range(domains - 1, domains - 1 - shown, -1)]


def test_no_more_than_a_thousand_domains_of_a_small_enterprise():
    counted, _ = take(shard(*(piece(f"{n}", f"https://{n}.org/x") for n in range(21_000))))
    assert len(inventory.top_domains(counted.works, sme=True).rows) == 1_000
    assert len(inventory.top_domains(counted.works, sme=False).rows) == 2_100


def test_the_summary_answers_what_is_known_and_lists_what_is_not():
    counted, facts = take(shard(piece("a", "pkg:pypi/a"), piece("b", "https://b.org/1")), sources=(PUBLIC, CRAWLED))
    document = eu.summary(counted, facts, DAY)
    forms.check(eu.FORM, document)
    answers = answered(document)
    assert [s["number"] for s in document["sections"]] == [
        "1", "1.1", "1.2", "1.3", "2", "2.1", "2.2", "2.2.1", "2.2.2", "2.3", "2.4", "2.5", "2.6", "3", "3.1", "3.2", "3.3",
    ]  # fmt: skip
    assert (answers["public"]["answer"], answers["crawled"]["answer"], answers["licensed"]["answer"]) == (True, True, False)
    assert answers["latest"]["answer"] == "03/2026"
    assert answers["sizes"]["answer"]["rows"] == [["Text", "Less than 1 billion tokens", 20, "words", 2]]
    large = ["PyPI", "https://pypi.org", "Packages.", "text", 1, 10, "03/2026", "03/2026"]
    assert answers["public_large"]["answer"]["rows"] == [large]
    assert answers["crawled_domains"]["answer"]["rows"] == [["b.org", 1, 1, 10]]
    assert answers["licensed_modalities"]["status"] == forms.NO_MATTER
    assert answers["provider"]["status"] == forms.TO_COMPLETE
    assert answers["interactions"]["answer"] is False, "all works belong to sources of other kinds"
    assert "1.1 Provider name and contact details" in document["missing"]
    places = forms.missing_facts(eu.FORM, document)
    assert places["1.1 Provider name and contact details"] == "provider.name, provider.contact"
    assert "crawling.names" in places.values()
    assert not any("user_data" in place for place in places.values())
    assert not any("2.6" in text for text in document["missing"])


def test_nothing_is_denied_while_works_belong_to_no_source_and_users_data_cannot_be_where_there_is_some():
    answers = summary_of(piece("a", "pkg:pypi/a"), piece("b"), sources=(PUBLIC,))
    assert answers["crawled"]["status"] == answers["interactions"]["status"] == forms.TO_COMPLETE
    assert answers["crawlers"]["status"] == answers["crawled_domains"]["status"] == forms.WAITS
    counted, facts = take(shard(piece("a")), sources=({"name": "chats", "kind": "user", "match": [""]},))
    nothing = facts.user_data.model_copy(update={"interactions": False, "services": False})
    with pytest.raises(InputError, match=r"user_data: expected no works of users.*1 works"):
        eu.summary(counted, facts.model_copy(update={"user_data": nothing}), DAY)


def test_a_complete_summary_lacks_nothing():
    facts = read_facts(EXAMPLE)
    sources = [source.model_dump() for source in facts.sources]
    counted, _ = take(shard(piece("a", "pkg:pypi/a@1", modality="code")), sources=sources)
    summary, notice = eu.summary(counted, facts, DAY), notice_of(counted, facts)
    assert summary["missing"] == notice["missing"] == []
    forms.check(us.FORM, notice)
    assert answered(notice)["file_by"]["answer"] == "2026-11-15"
    assert answered(summary)["content"] == {
        "key": "content", "question": "Types of content", "status": "answered", "answer": ["code: Python source files"],
        "said_by": "provider",
    }  # fmt: skip


def test_sizes_are_in_the_template_s_bands_and_images_and_music_are_counted_as_such():
    small, middle, large = ("Less than 1 billion", "1 billion tokens to 10 trillion", "More than 10 trillion")
    for size, band in ((10**9 - 1, small), (10**9, middle), (10**13, middle), (10**13 + 1, large)):
        assert summary_of(piece("a", words=size))["sizes"]["answer"]["rows"][0][1] == f"{band} tokens"
    answers = summary_of(piece("a", modality="image", words=16), piece("b", modality="music", words=700))
    assert answers["sizes"]["answer"]["rows"] == [
        ["Image", "Less than 1 million images", 1, "images", 1],
        ["Other: music as notes", "700 events", 700, "events", 1],
    ]


def test_what_was_honoured_is_counted_for_works_of_this_corpus():
    when = datetime(2026, 11, 1, tzinfo=UTC)
    signal = {"use": "train", "terms": None, "says": "x", "url": "u", "fetched_at": when, "status": 200, "body_sha256": None}
    rows = [
        {"scope": "https://a.org/", "kind": "robots", "allowed": False, "problem": None},
        {"scope": "https://b.org/", "kind": "robots", "allowed": True, "problem": "not whole"},
    ]
    events = [optout_row(when, work, "o", DAY) for work in ("a", "b", "elsewhere")]
    events += [optout_row(when, "c", "o", date(2026, 11, 21))]
    events += [optout_row(when.replace(day=2), "b", "o", DAY) | {"action": "withdraw"}]
    judged = (("b", False, ["x"]), ("a", False, ["x"]), ("b", True, []), ("z", True, []))
    cleared = [(work, "train", good, why, 1, "d") for work, good, why in judged]
    tables = {
        "signals": pl.DataFrame([signal | row for row in rows], schema=SIGNALS.schema),
        "optouts": pl.DataFrame(events, schema=OPTOUTS.schema),
        "clearance": pl.DataFrame(cleared, schema=CLEARANCE.schema, orient="row"),
    }
    answers = summary_of(piece("a"), piece("b"), piece("c"), **tables)
    assert answers["signals"]["answer"]["rows"] == [["robots", 2, 1, 1]]
    assert answers["optouts"]["answer"]["rows"] == [["held", 1, 1]]
    assert answers["clearance"]["answer"]["rows"] == [["cleared", 1, 1], ["not cleared", 1, 1]]


@pytest.mark.parametrize("form", [eu.FORM, california.FORM, us.FORM])
def test_schemas_are_schemas_and_refuse_what_is_not_the_form(form):
    jsonschema.Draft202012Validator.check_schema(forms.schema(form))
    counted, facts = take(shard(piece("a", "pkg:pypi/a")), sources=(PUBLIC,))
    makers = {"eu": eu.summary, "california": california.documentation}
    whole = makers[form.name](counted, facts, DAY) if form.name in makers else notice_of(counted, facts)
    forms.check(form, whole)

    def spoiled(change):
        document = json.loads(json.dumps(whole))
        change(document)
        with pytest.raises(CheckFailed, match=f"{form.name}.json is not valid by its schema"):
            forms.check(form, document)

    number = next(n for n, section in enumerate(whole["sections"]) if section["questions"])
    spoiled(lambda d: d.pop("missing"))
    spoiled(lambda d: d["sections"].pop())
    spoiled(lambda d: d["sections"][number]["questions"].pop())
    spoiled(lambda d: d["sections"][number]["questions"][0].update(question="Who cares?"))
    spoiled(lambda d: d["sections"][number]["questions"][0].update(status="answered", answer=7, said_by="provider"))
    spoiled(lambda d: d["sections"][number]["questions"][0].update(status="answered", answer=None))
    spoiled(lambda d: d.update(corpus="in force"))


def california_of(*rows, example=False, **options):
    counted, facts = take(shard(*rows), **options)
    document = california.documentation(counted, read_facts(EXAMPLE) if example else facts, DAY)
    forms.check(california.FORM, document)
    return document, answered(document)


def test_california_is_told_all_twelve_points_of_its_law():
    sources = [source.model_dump() for source in read_facts(EXAMPLE).sources]
    rows = (
        piece("a", "pkg:pypi/a@1", modality="code", licence="MIT"),
        piece("b", "pkg:pypi/b@1", modality="code", licence="CC0-1.0"),
    )
    document, answers = california_of(*rows, example=True, sources=sources)
    assert [section["number"] for section in document["sections"]] == [str(number) for number in range(13)]
    assert document["missing"] == []
    assert (answers["protected"]["answer"], answers["public_domain"]["answer"]) == (True, False)
    assert [row[1] for row in answers["copyright"]["answer"]["rows"]] == [1, 1]
    assert answers["data_points"]["answer"]["rows"] == [["code", "words", 2, 2, 20]]
    assert answers["types"]["answer"] == ["code, counted in words: Python source files"]
    assert answers["collected"]["answer"] == "2026-03-05 to 2026-03-05"
    assert answers["personal"]["answer"] is True
    assert (answers["purchased"]["answer"], answers["synthetic"]["answer"]) == (False, False)
    assert answers["synthetic_purpose"]["status"] == forms.NO_MATTER


def test_california_s_answers_follow_the_sources_and_what_only_the_developer_knows_is_asked_for():
    _, answers = california_of(
        piece("a", "x:1", licence="CC0-1.0"), sources=({"name": "s", "kind": "licensed", "match": [""]},)
    )
    assert (answers["public_domain"]["answer"], answers["protected"]["answer"]) == (True, False)
    assert (answers["purchased"]["answer"], answers["synthetic"]["answer"]) == (True, False)
    document, answers = california_of(piece("a", "x:1"), piece("b", "y:1", acquired=None))
    assert (
        answers["purchased"]["status"] == answers["synthetic"]["status"] == answers["first_used"]["status"] == forms.TO_COMPLETE
    )
    assert answers["synthetic_purpose"]["status"] == forms.NOT_GIVEN
    assert forms.missing_facts(california.FORM, document)["11 Dates on which the datasets were first used during development"]


@pytest.mark.parametrize("make", [eu.summary, california.documentation])
def test_a_page_has_sentences_and_no_keys(make):
    counted, facts = take(shard(piece("a", "pkg:pypi/a"), piece("b", "https://b.org/1")), sources=(PUBLIC, CRAWLED))
    document = make(counted, facts, DAY)
    shown = page.form_page(document, "x.json", counted).decode()
    form = eu.FORM if make is eu.summary else california.FORM
    assert not any(f"({question.fact})" in shown for question in form.questions if question.fact)
    assert "not given" not in shown
    assert "does not apply" not in shown
    assert "To be completed by the provider." in shown
    assert make is not eu.summary or ("Not applicable." in shown and "No additional information." in shown)
    assert "counted from the corpus" in shown


def test_the_works_listed_for_the_register_are_all_that_may_be_copyrighted():
    rows = [piece("a", licence="CC0-1.0"), piece("b", licence="MIT"), piece("c"), piece("d", licence="CC0-1.0 OR MIT")]
    counted, facts = take(shard(*rows))
    works = inventory.works_table(counted.copyrighted)
    assert works["work_id"].to_list() == ["b", "c", "d"]
    assert from_csv(to_csv(works), works.schema).equals(works)
    assert "3 works" in answered(notice_of(counted, facts))["works"]["answer"]


def test_the_description_as_a_data_set_is_valid_and_names_every_file(monkeypatch):
    rows = piece("a", "pkg:pypi/a", licence="MIT"), piece("b", licence="MIT OR Apache-2.0")
    counted, facts = take(shard(*rows), sources=(PUBLIC,))
    document = croissant.description(frozen(), counted, facts, DAY)
    croissant.check(document)
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    assert document["license"] == ["https://spdx.org/licenses/MIT", "MIT OR Apache-2.0"]
    assert document["rai:dataCollectionTimeFrame"][0].startswith("2026-03-05")
    files = {file["@id"]: file.get("sha256") for file in document["distribution"]}
    assert files["examples-00001"] == f"{1:064x}"
    assert {field["name"] for field in document["recordSet"][0]["field"]} == set(croissant.FIELDS)
    json.loads(json.dumps(document))
    assert mlc.Context(conforms_to=croissant.CONFORMS_TO).is_latest_version()
    monkeypatch.setattr(croissant, "MOST_FILES", 3)
    document = croissant.description(frozen(5), counted, facts, DAY)
    assert "Of 5 files with examples the first 3 are listed." in document["description"]
    croissant.check(document)


def test_a_description_that_is_not_valid_is_refused():
    counted, facts = take(shard(piece("a")))
    document = croissant.description(frozen(), counted, facts, DAY)
    del document["distribution"][0]["sha256"]
    with pytest.raises(CheckFailed, match=r"croissant.json is not valid"):
        croissant.check(document)
    document = croissant.description(frozen(), counted, facts, DAY)
    document["recordSet"][0]["field"][0]["source"]["fileSet"]["@id"] = "nothing"
    with pytest.raises(CheckFailed, match=r"croissant.json"):
        croissant.check(document)


def test_the_bill_of_materials_has_terms_as_they_are():
    rows = [
        piece("a", "pkg:pypi/a@1.0#m.py", licence="MIT OR Apache-2.0"),
        piece("b", "https://b.org/x", licence="LicenseRef-Own AND MIT"),
        piece("c", "https://c", licence="all rights reserved, ask me"),
        piece("d"),
    ]
    counted, facts = take(shard(*rows), claims=(claim("a", "o"),), owners=({"owner_id": "o", "name": "Olga"},))
    document = spdx.bill(counted, facts, DAY)
    spdx.check(document)
    packages = {package["name"]: package for package in document["packages"]}
    assert packages["a"]["licenseDeclared"] == "MIT OR Apache-2.0"
    assert packages["a"]["externalRefs"][0]["referenceLocator"] == "pkg:pypi/a@1.0#m.py"
    assert packages["a"]["attributionTexts"] == ["Owners: Olga"]
    assert packages["b"]["downloadLocation"] == "https://b.org/x"
    assert [info["licenseId"] for info in document["hasExtractedLicensingInfos"]] == ["LicenseRef-Own"]
    assert packages["c"]["licenseConcluded"] == packages["d"]["licenseConcluded"] == "NOASSERTION"
    assert "all rights reserved, ask me" in packages["c"]["licenseComments"]
    assert "downloadLocation" in packages["d"]
    document["packages"][1]["licenseDeclared"] = "Nobody-Knows-1.0"
    with pytest.raises(CheckFailed, match=r"spdx.json is not valid.*Nobody-Knows"):
        spdx.check(document)


def test_many_works_are_grouped_and_the_file_says_how(monkeypatch):
    monkeypatch.setattr(spdx, "MOST_PACKAGES", 4)
    same = [piece(f"{n}", f"https://{n % 2}.org/{n}", licence="MIT") for n in range(6)]
    counted, facts = take(shard(*same))
    document = spdx.bill(counted, facts, DAY)
    spdx.check(document)
    assert [package["name"] for package in document["packages"][1:]] == ["0.org", "1.org"]
    assert "grouped by where they were collected" in document["comment"]
    counted, facts = take(shard(*(piece(f"{n}", f"https://{n}.org/", words=n + 1) for n in range(9))))
    document = spdx.bill(counted, facts, DAY)
    spdx.check(document)
    names = [package["name"] for package in document["packages"][1:]]
    assert sorted(names) == ["5.org", "6.org", "7.org", "8.org", "all others, unspecified"]
    assert "the other 5 are put together" in document["comment"]
    rest = document["packages"][1 + names.index("all others, unspecified")]
    assert rest["comment"].startswith("5 works, 5 examples, 15 words")


def test_strangers_texts_are_text_everywhere():
    names = [name for name in HOSTILE if name.strip()]
    rows = [piece(name, f"https://x.org/{name}", licence=name) for name in names]
    rows += [piece(f"plain {n}", name, licence="MIT") for n, name in enumerate(names)]
    owners = [{"owner_id": f"o{n}", "name": name} for n, name in enumerate(names)]
    claims = [claim(name, f"o{n}") for n, name in enumerate(names)]
    sources = [{"name": name, "kind": "public", "match": [f"https://x.org/{name}"], "description": name} for name in names]
    counted, facts = take(shard(*rows), sources=sources, claims=claims, owners=owners)
    facts = facts.model_copy(update={"data": facts.data.model_copy(update={"name": "<script>alert(1)</script>"})})
    summary, notice = eu.summary(counted, facts, DAY), notice_of(counted, facts)
    forms.check(eu.FORM, summary)
    forms.check(us.FORM, notice)
    bill, described = spdx.bill(counted, facts, DAY), croissant.description(frozen(), counted, facts, DAY)
    spdx.check(bill)
    croissant.check(described)
    pages = [
        page.form_page(summary, "eu.json", counted), page.form_page(notice, "us.json", counted),
        page.spdx_page(bill, counted, "2026-11-20"), page.croissant_page(described, counted, "2026-11-20"),
        page.index_page([("eu.html", "x")], counted, "2026-11-20"),
    ]  # fmt: skip
    for page_bytes in pages:
        text = page_bytes.decode()
        assert "<script" not in text
        assert "\u202e" not in text
        assert "javascript:" not in text
    works = inventory.works_table(counted.works)
    cells = to_csv(works).decode().split("\n")
    assert not [line for line in cells if line.startswith(("=", "+", "-", "@"))]


def test_the_same_corpus_facts_and_day_give_the_same_bytes():
    rows = [piece(f"{n % 7}", f"https://{n % 3}.org/{n % 7}", licence=("MIT", "Apache-2.0")[n % 2], words=n) for n in range(40)]

    def disclosed(shards):
        counted, facts = take(*shards, sources=(CRAWLED,), claims=[claim(f"{n}", f"o{n % 2}") for n in range(7)])
        summary = eu.summary(counted, facts, DAY)
        bill, described = spdx.bill(counted, facts, DAY), croissant.description(frozen(), counted, facts, DAY)
        pages = page.form_page(summary, "eu.json", counted), page.index_page([], counted, "2026-11-20")
        return json.dumps([summary, bill, described]), pages, to_csv(inventory.works_table(counted.works))

    once = disclosed([shard(*rows[:20]), shard(*rows[20:])])
    assert once == disclosed([shard(*reversed(rows))])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[provider]\nnme = 'x'", r"provider.nme: expected one of name, .*found 'nme'. Did you mean 'name'\?"),
        ("[[sources]]\nname = 'x'\nkind = 'stolen'\nmatch = ['']", r"sources.0.kind: expected 'public', .*found 'stolen'"),
        ("[[sources]]\nname = 'x'\nkind = 'public'", r"sources.0.match: expected .*found none"),
        ("[[sources]]\nname = 'x'\nkind = 'user'\nmatch = ['']\nlnk = 'y'", r"sources.0.lnk: .*Did you mean 'link'"),
        ("[[sources]]\nname = 'x'\nkind = 'user'\nmatch = ['']\n" * 2, r"sources.name: expected a name that no other.*'x'"),
        ("[data]\npublic = true", r"data.url: expected where the data set can be had"),
        ("[user_data]\ninteractions = 'no'", r"user_data.interactions: expected a valid boolean"),
        ("[model]\nplaced_on = 'soon'", r"model.placed_on: expected .*date"),
        ("x = ", r"expected TOML"),
    ],
)  # fmt: skip
def test_facts_that_cannot_be_read_say_where(tmp_path, text, said):
    file = tmp_path / "facts.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        read_facts(file)
    with pytest.raises(InputError, match="no such file"):
        read_facts(tmp_path / "none.toml")
