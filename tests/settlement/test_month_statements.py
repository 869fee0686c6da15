"""Statements agree with the ledger and with the manifests of a month's nights."""

from datetime import date

import paid

from provenance.core.store import Store
from provenance.settlement.months.periods import statements_folder
from provenance.settlement.months.stage import close
from provenance.settlement.months.write_statements import statement, statement_folder, write_statements
from provenance.settlement.stage import book, publish

PERIOD, OWNER = "2026-10", "owner-000001"


def test_a_statement_says_how_far_the_month_s_shares_can_be_trusted(where):
    old = paid.DAYS[0]
    book(where, paid.as_of_old(where.store, paid.lay_out(where.store, old, 200)))
    publish(where, old)
    assert statement(where, OWNER, PERIOD).trust == "How far shares can be trusted was not measured."
    paid.pay(where, paid.DAYS[1:])
    assert statement(where, OWNER, PERIOD).trust == (
        "On 2 of 3 nights shares rest on 24 counterfactual models: each was left out and predicted from the others, and "
        "prediction and result agree at 0.86 (1 is perfect, 0 is chance). On 1 night "
        "how far shares can be trusted was not measured."
    )


def test_the_revision_that_counts_is_what_a_statement_goes_by(where):
    paid.pay(where, paid.DAYS[:1])
    book(where, paid.lay_out(where.store, paid.DAYS[0], 400, seed=9, report=paid.UNSUPPORTED))
    publish(where, paid.DAYS[0])
    assert statement(where, OWNER, PERIOD).trust == "The check failed and amounts were divided by size."


def test_the_same_is_said_of_a_night_and_of_an_output(where, shown):
    day = paid.DAYS[0]
    paid.pay(where, [day])
    words = (
        "Shares rest on 24 counterfactual models: each was left out and predicted from the others, and prediction and result "
        "agree at 0.86 (1 is perfect, 0 is chance)."
    )
    for command in (("payouts", day), ("explain", "o-0000001")):
        assert words in " ".join(shown(*command).split())
    explained = shown("explain", "o-0000001", "--json")
    assert (explained["trust"], explained["fidelity"]["models"]) == (words, 24)
    book(where, paid.lay_out(where.store, day, 400, seed=9, report=paid.UNSUPPORTED))
    publish(where, day)
    for command in (("payouts", day), ("explain", "o-0000001")):
        text = " ".join(shown(*command).split())
        assert "The check failed and amounts were divided by size." in text
        assert f"Contract 'everything' pays 0% by faithful, 100% by flat ({paid.NO_BETTER})" in text


def test_an_owner_s_page_is_sent_as_a_file_or_a_signed_link(where, shown, refused, tmp_path, monkeypatch):
    paid.pay(where, owners=3)
    assert "expected one that settle_period has written, found none" in refused(
        "statement", OWNER, "--period", PERIOD, "--link", "3"
    )
    close(where, PERIOD)
    write_statements(where, PERIOD)
    assert "expected a store on S3, which can sign a link, found one on a disk" in refused("statement", OWNER, "--link", "3")
    monkeypatch.setattr(Store, "signed_link", lambda self, key, *, days, content_type: f"https://s3/{key}?days={days}")
    link = shown("statement", OWNER, "--link", "3", "--json")["link"]
    assert link == f"https://s3/exports/statements/period={PERIOD}/owner={OWNER}/statement.html?days=3"
    shown("statement", OWNER, "--out", str(tmp_path / "to-send"))
    assert (tmp_path / f"to-send/statement-{PERIOD}-{OWNER}.html").read_text().startswith("<!DOCTYPE html>")


def test_statements_of_before_stay_as_they_are(where):
    paid.pay(where, owners=3)
    close(where, PERIOD)
    key = f"{statement_folder(PERIOD, OWNER)}/statement"
    for form in ("html", "pdf"):
        where.store.write(f"{key}.{form}", b"as it was")
    write_statements(where, PERIOD)
    assert [where.store.read(f"{key}.{form}") for form in ("html", "pdf")] == [b"as it was"] * 2
    assert where.store.read_json(f"{statements_folder(PERIOD)}/manifest.json")["format"] == 2


def test_a_statement_names_the_model_the_works_and_the_day_of_the_next(where):
    paid.pay(where)
    open_yet = statement(where, OWNER, PERIOD)
    assert (open_yet.closed, open_yet.next_on) == (False, date(2026, 11, 3))
    close(where, PERIOD)
    closed = statement(where, OWNER, PERIOD)
    assert (closed.closed, closed.next_on, closed.models) == (True, date(2026, 12, 3), ("m",))
    (section,) = closed.sections
    assert section.outcome == "held", "there is no payee"
    assert [(work.title, work.link) for work in section.works] == [(OWNER, "https://example.org")]
    assert section.outputs[0].excerpt is None, "what people ask may be private"


def test_outputs_are_quoted_where_a_setting_says_so(books, doors, monkeypatch):
    monkeypatch.setenv("PROVENANCE_SETTLEMENT__QUOTE_OUTPUTS", "true")
    where = doors()
    paid.pay(where)
    (section,) = statement(where, OWNER, PERIOD).sections
    assert section.outputs[0].excerpt.text == "x"
