import io
import re
import zlib
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from lxml import etree
from PIL import Image

from provenance.core.errors import InputError
from provenance.corpus.packages.music import FIRST_DURATION
from provenance.settlement.months.excerpts import Excerpt, excerpt
from provenance.settlement.months.statement_documents import documents, figure
from provenance.settlement.months.statements import Earning, Movement, Output, PaymentLine, Section, Statement, Work, check

AT = datetime(2026, 11, 21, 3, 30, tzinfo=UTC)
DIGEST = "0f" * 32
EVIL = '</td><script>alert("x")</script> #import "a" $x$ *b* {{ 7*7 }} @ref <here> \\ `c` & \'q\'\n\x00\x1b[31m\u202egpj.exe'
SHOWN = '</td><script>alert("x")</script> #import "a" $x$ *b* {{ 7*7 }} @ref <here> \\ `c` & \'q\' [31mgpj.exe'


MOVEMENTS = (
    Movement(41, date(2026, 11, 20), AT, "Night of 2026-11-20", 1234_56),
    Movement(42, date(2026, 11, 21), AT, "Night of 2026-11-21", 7_00),
    Movement(43, date(2026, 12, 1), AT, "Correction of 2026-10-31", -2_00),
    Movement(44, date(2026, 12, 1), AT, "Set off against an advance", -100_00),
    Movement(45, date(2026, 12, 2), AT, "Payment, and tax", -489_10),
)
MONEY = {"opening": 500_00, "earned": 1241_56, "adjusted": -2_00, "recouped": 100_00, "withheld": 89_10, "paid": 400_00}
EARNINGS = (
    Earning("2026-11-20", 2, 19, 1234_56, 1000_01, 1500_02, DIGEST),
    Earning("2026-11-21", 1, 1, 7_00, None, None, "1" * 64),
)
ANSWER = Excerpt(text="It was a dark night,\n    and nobody came.")
OUTPUTS = (
    Output(
        "2026-11-20",
        "2026-11-20-003",
        311_234_567,
        25 * 10**7,
        4 * 10**8,
        1_234_567_890,
        ("A Novel", "ann/essay"),
        "How does it begin?",
        ANSWER,
    ),
    Output("2026-11-20", "2026-11-20-004", 4_999, 0, 5_000, 12_345, ()),
)
NOVEL = "https://example.org/novel?a=1&b=2"
WORKS = (
    Work("ann/novel", NOVEL, 19, 2_000_000_000, "A Novel", NOVEL, "CC-BY-4.0", Excerpt(text="It was a dark night.")),
    Work("ann/essay", "javascript:alert(1)", 1, 1_230_000_000),
    Work("ann/poem", "s3://shelf/poem", 1, 1_000_000_000),
)
PAYMENTS = (
    PaymentLine("c4ca4238a0b923820dcc509a6f75849b", "2026-10", "EUR", 400_00, "paid", date(2026, 12, 2)),
    PaymentLine("eccbc87e4b5ce2fe28308fd9f2a7baf3", "2026-11", "EUR", 1147_25, "waiting"),
)


def section(currency="EUR"):
    lists = {"movements": MOVEMENTS, "earnings": EARNINGS, "outputs": OUTPUTS, "works": WORKS}
    history, counts = (("2026-10", 900_00), ("2026-11", 1241_56)), {"outputs_in_all": 20, "works_in_all": 3}
    return Section(currency, closing=1150_46, held=3_21, history=history, **MONEY, **lists, **counts)


def statement(*sections, **changes):
    owner = {"owner_id": "ann", "owner_name": "Ann Author", "identifiers": {"ISNI": "0000 0001 2103 2683"}}
    texts = {"contact": "royalties@example.org", "notice": "The revenue is invented.", "payments": PAYMENTS}
    facts = {"period": "2026-11", "through": 45, "made_on": date(2026, 12, 2), "sections": sections or (section(),)}
    facts |= {"models": ("tales-1",), "outputs": 31, "works": 4, "next_on": date(2027, 1, 3)}
    return Statement(**(owner | texts | facts | changes))


EMPTY = statement(sections=(), payments=(), notice="", identifiers={}, outputs=0, works=0)


def page(of):
    """The page as a tree: no parser that mends what is broken."""
    root = etree.fromstring(documents(of)["html"], etree.XMLParser(no_network=True))
    for element in root.iter(etree.Element):
        if element.tag.startswith("{"):
            continue
        assert element.tag not in {"script", "iframe", "object", "img", "form", "base"}
        assert not [name for name in element.attrib if name.startswith("on")]
    return root


def text_of(element):
    return " ".join("".join(element.itertext()).split())


def table(root, table_id):
    (element,) = root.xpath(f"//table[@id='{table_id}']")
    return [[text_of(cell) for cell in row] for row in element.iter("tr")]


def pdf_text(pdf):
    """What a PDF says, line after line: glyphs are looked up in the tables by which readers copy text."""
    objects = {int(m[1]): m[2] for m in re.finditer(rb"(?s)(\d+) 0 obj\n(.*?)\nendobj", pdf)}

    def stream(body):
        return zlib.decompress(re.search(rb"(?s)stream\r?\n(.*)\r?\nendstream", body)[1])

    def letters(number):
        known = stream(objects[int(re.search(rb"/ToUnicode (\d+)", objects[number])[1])]).partition(b"endcodespacerange")[2]
        pairs = re.findall(rb"<([0-9A-F]{4})> <([0-9A-F]+)>", known)
        return {int(code, 16): bytes.fromhex(text.decode()).decode("utf-16-be") for code, text in pairs}

    lines = []
    for body in objects.values():
        if b"/Type/Page/" not in body:
            continue
        resources = objects[int(re.search(rb"/Resources (\d+)", body)[1])]
        fonts = {name: letters(int(number)) for name, number in re.findall(rb"/(f\d+) (\d+) 0 R", resources)}
        content = stream(objects[int(re.search(rb"/Contents (\d+)", body)[1])])
        for name, shown in re.findall(rb"(?s)/(f\d+) [\d.]+ Tf.*?Tm(\[.*?\]TJ|\(.*?\)Tj)", content):
            codes = b"".join(_unescape(part) for part in re.findall(rb"(?s)\(((?:[^()\\]|\\.|\((?:[^()\\]|\\.)*\))*)\)", shown))
            lines.append("".join(fonts[name].get(int.from_bytes(codes[i : i + 2]), "") for i in range(0, len(codes), 2)))
    return "\n".join(lines)


def _unescape(part):
    named = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
    one = lambda m: bytes([int(m[1], 8)]) if m[1].isdigit() else named.get(m[1], m[1])  # noqa: E731
    return re.sub(rb"(?s)\\([0-7]{1,3}|.)", one, part)


def test_the_first_numbers_are_what_is_owed_earned_and_paid():
    root = page(statement())
    found = {item.get("class"): text_of(item) for item in root.iter("li") if item.get("class")}
    assert found == {
        "owed": "Owed at the end of NovemberEUR 1,150.46EUR 3.21 of this is held.",
        "earned": "Earned in NovemberEUR 1,241.56",
        "paid": "To be sentEUR 1,147.25Two people have yet to approve it.",
    }
    assert text_of(root.find("body//h1")) == "Statement for November 2026"
    summary = "In November 2026 you earned EUR 1,241.56: 20 outputs of the model tales-1 rest on 3 works of yours: A Novel, "
    assert f"{summary}ann/essay and ann/poem." in text_of(root.find("body"))


@pytest.mark.parametrize(
    ("payment", "said"),
    [
        ({"status": "sent", "on": date(2026, 12, 28)}, "Sent on 28 DecemberEUR 4.00"),
        ({"status": "paid", "on": date(2026, 12, 29)}, "Paid on 29 DecemberEUR 4.00"),
        ({"status": "returned: AC04", "on": date(2027, 1, 2)}, "Came back on 2 JanuaryEUR 4.00It is owed to you again."),
        (
            {"status": "rejected", "on": date(2026, 12, 30)},
            "Rejected by the bank on 30 DecemberEUR 4.00It is owed to you again.",
        ),
        ({"status": "left out: on hold: dispute", "on": date(2026, 12, 28)}, "Not sentEUR 4.00on hold: dispute"),
        ({"status": "sent", "owed": 350, "owed_currency": "EUR", "withheld": 50}, "SentEUR 4.00After tax of EUR 0.50."),
    ],
)
def test_what_became_of_the_amount_that_was_owed(payment, said):
    line = replace(PaymentLine("p", "2026-11", "EUR", 4_00, ""), **payment)
    (paid,) = page(statement(payments=(line,))).xpath("//li[@class='paid']")
    assert text_of(paid) == said


def test_a_payment_in_another_currency_says_for_what():
    line = PaymentLine("p", "2026-11", "EUR", 3_83, "sent", date(2026, 12, 28), 4_44, "USD", rate="0.8642")
    found = page(statement(section("USD"), payments=(line,))).xpath("//li[@class='paid']")
    assert [text_of(item) for item in found] == ["Sent on 28 DecemberEUR 3.83For USD 4.44 at 0.8642, rounded down."]


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (
            "carried: below the minimum",
            "SentEUR 0.00Below the smallest payment: it stays owed, and is paid with a later month.",
        ),
        ("held", "SentEUR 0.00Held: the reason is below."),
        ("nothing owed", "SentEUR 0.00Nothing was due."),
    ],
)
def test_a_closed_month_without_a_payment_says_why(outcome, said):
    (paid,) = page(statement(replace(section(), outcome=outcome), payments=())).xpath("//li[@class='paid']")
    assert text_of(paid) == said


def test_an_open_month_says_when_it_is_closed():
    of = statement(closed=False, payments=(), next_on=date(2026, 12, 3))
    root = page(of)
    assert "Owed to you so far" in text_of(root)
    assert "Sentnot yetNovember is closed on 3 December." in text_of(root)
    assert "What comes next November 2026 is closed on 3 December 2026." in text_of(root)


def test_the_first_screen_says_how_to_contest_opt_out_and_quote_and_what_comes_next():
    root = page(statement(trust="Shares rest on 24 models."))
    steps = {step.find("h2").get("id"): text_of(step) for step in root.xpath("//ul[@class='steps']/li")}
    assert list(steps) == ["sure", "wrong", "opt-out", "quote", "next"]
    assert steps["sure"].endswith("Shares rest on 24 models.")
    for way in ("wrong", "opt-out"):
        assert "Write to royalties@example.org" in steps[way]
    assert "credited to you by name without money" in steps["opt-out"]
    assert steps["quote"].endswith("31 outputs of the model tales-1 in November 2026 rest in part on 4 works by Ann Author.")
    assert "December 2026 is closed on 3 January 2027." in steps["next"]
    assert [link.get("href") for link in root.xpath("//nav/a")] == [f"#{name}" for name in steps]
    assert not page(EMPTY).xpath("//h2[@id='quote']"), "nothing to quote"
    assert not page(EMPTY).xpath("//h2[@id='sure']")
    text = "".join(pdf_text(documents(statement())["pdf"]).split())
    assert "Youmayquotethis" in text
    assert "Optout" in text


def test_works_and_outputs_are_shown_by_title_and_passage():
    root = page(statement())
    (works,) = root.xpath("//section[@aria-labelledby='works-eur']//ul[@class='pieces']")
    assert text_of(works) == "A Novel 19 outputs, EUR 0.0200, CC-BY-4.0 It was a dark night."
    (outputs,) = root.xpath("//section[@aria-labelledby='outputs-eur']//ul[@class='pieces']")
    assert text_of(outputs).startswith(
        "31.1 % of an output of 2026-11-20 2026-11-20-003: EUR 0.012346 of EUR 0.04 for its owners; "
        "fairly sure: in nine of ten cases your share is from 25.0"
    )
    assert "How does it begin?" in text_of(outputs)
    assert root.xpath("//section[@aria-labelledby='outputs-eur']//pre")[1].xpath("string()") == ANSWER.text, "with its lines"
    assert table(root, "by-output-eur")[1][0] == "It was a dark night, and nobody came.2026-11-20-003"
    assert table(root, "by-output-eur")[2][0] == "2026-11-20-004", "whose text is not kept"
    twice = page(statement(section(), section("USD")))
    assert len(twice.xpath("//ul[@class='pieces']/li/h3[.='A Novel']")) == 1, "a work is shown once"
    text = "".join(pdf_text(documents(statement())["pdf"]).split())
    for part in ("Itwasadarknight.", "Howdoesitbegin?", "andnobodycame."):
        assert part in text


def test_pictures_and_music_are_drawn_in_both_forms():
    picture = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(picture, format="PNG")
    tune = bytes(event for pitch in (60, 64, 67) for event in (pitch, FIRST_DURATION + 1))
    drawn = [excerpt(picture.getvalue(), "image"), excerpt(tune, "music")]
    assert [bool(one and one.svg) for one in drawn] == [True, True]
    works = tuple(replace(WORKS[0], work_id=str(n), passage=one) for n, one in enumerate(drawn))
    of = statement(replace(section(), works=works, works_in_all=2))
    found = page(of).xpath("//ul[@class='pieces']//*[local-name()='svg']")
    assert [text_of(svg) for svg in found] == ["", ""]
    assert b"img-src data:" in documents(of)["html"]
    assert documents(of)["pdf"].count(b"/Subtype/Image") >= 1
    assert excerpt(b"\xff\xfe\x00", "weather") is None, "what cannot be shown is left out"


def test_tables_say_what_the_statement_does():
    root = page(statement())
    assert table(root, "sum-eur")[1:] == [
        ["Owed to you before", "EUR 500.00"],
        ["Earned in November 2026", "EUR 1,241.56"],
        ["Adjustments: corrections of earlier nights, and works found to be yours", "EUR -2.00"],
        ["Set off against your advances", "EUR -100.00"],
        ["Tax withheld", "EUR -89.10"],
        ["Paid to you in November 2026, for the months before", "EUR -400.00"],
        ["Owed at the end of November 2026", "EUR 1,150.46"],
    ]
    assert table(root, "earned-eur")[1:] == [
        ["2026-11-20", "19", "EUR 1,234.56", "EUR 1,000.01", "EUR 1,500.02"],
        ["2026-11-21", "1", "EUR 7.00", "not known", "not known"],
        ["All", "20", "EUR 1,241.56", "", ""],
    ]
    assert [row[-1] for row in table(root, "entries-of-eur")[1:]] == [
        "EUR 1,734.56", "EUR 1,741.56", "EUR 1,739.56", "EUR 1,639.56", "EUR 1,150.46"
    ]  # fmt: skip
    first = ["41", "2026-11-21 03:30", "2026-11-20", "Night of 2026-11-20", "EUR 1,234.56"]
    assert table(root, "entries-of-eur")[1][:5] == first
    assert [row[2:] for row in table(root, "paid")[1:]] == [
        ["2026-12-02", "paid", "", "EUR 400.00"],
        ["not yet", "waiting", "", "EUR 1,147.25"],
    ]
    assert [row[1:] for row in table(root, "manifests")[1:]] == [["2", DIGEST], ["1", "1" * 64]]
    assert "The table shows the outputs that earned most: 2 of 20." in text_of(root)


def test_small_amounts_have_the_digits_that_they_need():
    root = page(statement())
    assert [row[2] for row in table(root, "by-work-eur")[1:]] == ["EUR 0.0200", "EUR 0.0123", "EUR 0.0100"]
    assert [row[2:6] for row in table(root, "by-output-eur")[1:]] == [
        ["31.123 %", "25.000 %", "40.000 %", "EUR 0.012346"],
        ["< 0.001 %", "0.000 %", "0.001 %", "EUR < 0.000001"],
    ]
    yen = replace(section("JPY"), works=(Work("w", "", 1, 1_999_999_999), Work("v", "", 1, 30_000_000), Work("u", "", 1, 0)))
    assert [row[2] for row in table(page(statement(yen)), "by-work-jpy")[1:]] == ["JPY 2.0000", "JPY 0.0300", "JPY 0.0000"]


def test_only_addresses_on_the_web_are_links():
    links = [(link.get("href"), link.get("rel")) for link in page(statement()).xpath("//a[not(starts-with(@href, '#'))]")]
    assert links == [(NOVEL, "noopener noreferrer")] * 2
    uris = ("http://[", "https:///x", "http://a b", "data:text/html,x", "javascript:alert(1)", "//a.org", "HTTP://A.org/")
    broken = tuple(Work("w", uri, 1, 0, link=uri) for uri in uris)
    links = page(statement(replace(section(), works=broken, works_in_all=7))).xpath("//table//a")
    assert [link.get("href") for link in links] == ["HTTP://A.org/"]


def test_the_page_stands_alone():
    root, text = page(statement()), documents(statement())["html"].decode()
    assert not re.search(r"(src|srcset|action)=|@import|url\((?!#)", text)
    names = {name for element in root.iter() for name, value in element.attrib.items() if "//" in value}
    assert names == {"href"}  # of the one link
    ids = root.xpath("//@id")
    assert len(ids) == len(set(ids))
    assert root.get("lang") == "en"
    for found in root.iter("table"):
        assert text_of(found.find("caption"))
        assert {cell.get("scope") for cell in found.iter("th")} == {"col", "row"}
    (drawn,) = root.iter("{http://www.w3.org/2000/svg}svg")
    assert drawn.get("role") == "img"
    assert "most in 2026-11: EUR 1,241.56" in drawn.get("aria-label")


def test_what_others_supplied_is_text_and_never_markup():
    evil = replace(
        section(),
        works=(Work(EVIL, "", 1, 5, EVIL, f'https://example.org/"><script>x{"y" * 300}', EVIL, Excerpt(text=EVIL)),),
        outputs=(Output("2026-11-20", EVIL, 1, 0, 2, 5, (EVIL, "z" * 300), EVIL, Excerpt(text=EVIL)),),
        movements=(Movement(1, date(2026, 11, 1), AT, EVIL, 650_46),),
    )
    of = statement(
        evil, owner_name=EVIL, owner_id=EVIL, identifiers={EVIL: EVIL}, holds=(EVIL,), notice=EVIL, contact=EVIL, trust=EVIL,
        payments=(PaymentLine(EVIL, "2026-10", "EUR", 1, EVIL),), models=(EVIL,),
    )  # fmt: skip
    root = page(of)
    assert text_of(root.find("head/title")) == f"Statement for November 2026: {SHOWN}"
    for name, column in (("by-work-eur", 0), ("by-output-eur", 6), ("entries-of-eur", 3)):
        more = {"by-work-eur": SHOWN, "by-output-eur": f", {'z' * 300}"}  # the licence below, and another work
        assert table(root, name)[1][column] == SHOWN + more.get(name, "")
    assert text_of(root.xpath("//ul[@class='pieces']//pre")[0]) == SHOWN
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x09\x0b-\x1f]", documents(of)["html"].decode())
    text = "".join(pdf_text(documents(of)["pdf"]).split())
    assert text.count("".join(SHOWN.split())) >= 8


def test_scripts_of_other_languages_and_invisible_characters():
    persian, shown = "\u0646\u0627\u0645\u200c\u0647\u0627", "A\u200b\ufeffnn\u2028\ud800 \uffff\u202d B"
    assert table(page(statement(replace(section(), works=(Work(persian, "", 1, 1),)))), "by-work-eur")[1][0] == persian
    root = page(statement(owner_name=shown))
    assert text_of(root.find("head/title")) == "Statement for November 2026: Ann B"
    assert documents(statement(owner_name="\u6751\u4e0a \u6625\u6a39 \u0645\u062d\u0645\u062f"))["pdf"].startswith(b"%PDF-")
    assert text_of(page(statement(owner_name="\u202e\n")).find("head/title")) == "Statement for November 2026: ann"


def test_the_same_statement_is_the_same_bytes():
    assert documents(statement()) == documents(statement())
    assert figure(section()) == figure(section())
    assert documents(statement())["pdf"] != documents(statement(made_on=date(2026, 12, 3)))["pdf"]


def test_the_pdf_says_the_same():
    pdf = documents(statement())["pdf"]
    lines = pdf_text(pdf).splitlines()
    for row in ("Statement for November 2026", "Ann Author", "EUR 1,150.46", "EUR 1,241.56", "1 of 4", "4 of 4", DIGEST):
        assert row in lines
    whole = "".join("".join(lines).split())
    root = page(statement())
    for known in ("sum-eur", "earned-eur", "by-work-eur", "by-output-eur", "entries-of-eur", "paid", "manifests"):
        for row in table(root, known):
            assert [text for text in row if "".join(text.split()) not in whole] == []
            assert [text for text in row if text.startswith(("EUR", "2026")) and text not in lines] == []
    assert b"/CreationDate(D:20261202" in pdf
    assert b"<pdfaid:part>2" in pdf


def test_a_statement_without_earnings_says_so():
    root = page(EMPTY)
    assert "You earned nothing in November 2026, and nothing is owed to you." in text_of(root)
    assert not list(root.iter("table"))
    assert "You earned nothing in November 2026" in pdf_text(documents(EMPTY)["pdf"])
    idle = statement(Section("EUR", opening=5_00, closing=5_00, history=(("2026-10", 5_00), ("2026-11", 0))), payments=())
    root = page(idle)
    assert "no output paid in EUR was found to rest on your works" in text_of(root)
    assert "There are no earnings in November 2026." in text_of(root)
    assert documents(idle)["pdf"].startswith(b"%PDF-")
    below = statement(Section("EUR", closing=-1_00, adjusted=-1_00, movements=(Movement(1, AT.date(), AT, "x", -1_00),)))
    assert "EUR -1.00Below zero: a correction is set off against your next earnings." in text_of(page(below))


def test_one_sentence_says_how_far_shares_can_be_trusted():
    trust = (
        "On 28 of 30 nights shares rest on 24 counterfactual models: each was left out and predicted from the others, and "
        "prediction and result agree at 0.86 (1 is perfect, 0 is chance). On 2 nights "
        "the check failed and amounts were divided by size."
    )
    trusted = statement(trust=trust)
    (chapter,) = page(trusted).xpath("//section[@aria-labelledby='how']")
    assert [text_of(paragraph) for paragraph in chapter.iter("p")][1:] == [trust]
    assert "".join(trust.split()) in "".join(pdf_text(documents(trusted)["pdf"]).split())
    (chapter,) = page(statement()).xpath("//section[@aria-labelledby='how']")
    assert len(list(chapter.iter("p"))) == 1, "nothing was divided, so there is nothing to trust"


def test_two_currencies_are_two_accounts():
    root = page(statement(section(), section("JPY")))
    assert [text_of(title) for title in root.xpath("//h2[@class='account']")] == ["Euro", "Yen"]
    assert table(root, "sum-jpy")[-1] == ["Owed at the end of November 2026", "JPY 115,046"]
    assert table(root, "earned-jpy")[1] == ["2026-11-20", "19", "JPY 123,456", "JPY 100,001", "JPY 150,002"]
    assert len(set(root.xpath("//@id"))) == len(root.xpath("//@id"))
    assert len(table(root, "manifests")) == 3
    text = pdf_text(documents(statement(section(), section("JPY")))["pdf"])
    assert "JPY 115,046" in text
    assert "EUR 1,150.46" in text


def test_the_first_screen_says_why_an_account_is_held_and_whom_to_write_to():
    held = statement(replace(section(), outcome="held"), payments=(), holds=("no payee data",))
    (paid,) = page(held).xpath("//li[@class='paid']")
    assert text_of(paid) == "SentEUR 0.00Held: no payee data. Write to royalties@example.org."


def test_what_is_held_and_why():
    text = text_of(page(statement(holds=("disputed by A. Smith",))))
    assert "Held now: EUR 3.21." in text
    assert "disputed by A. Smith" in text
    idle = Section("EUR", history=(("2026-11", 0),))
    text = text_of(page(statement(idle, holds=("disputed by A. Smith",))))
    assert "Your account is on hold: nothing is owed to you now, and your next earnings will be held." in text
    assert "disputed by A. Smith" in text
    assert "Held now" not in text
    assert "Nothing is held." in text_of(page(statement(replace(section(), held=0))))


@pytest.mark.parametrize("months", [0, 1, 24, 40])
@pytest.mark.parametrize("nights", [0, 1, 31])
def test_figures_of_any_length(months, nights):
    history = tuple((f"{2020 + n // 12}-{n % 12 + 1:02d}", n * 100) for n in range(months))
    earnings = tuple(Earning(f"2026-11-{n + 1:02d}", 1, 1, n, *((n, n) if n % 2 else (None, None)), "") for n in range(nights))
    drawn = figure(Section("EUR", history=history, earnings=earnings)).decode()
    assert ("Earned by month" in drawn) == bool(months)
    assert ("Earned by night" in drawn) == bool(nights)
    assert not months or history[-1][0] in drawn


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            {"opening": 1},
            "ann 2026-11: EUR: opening 1 and entries 65046 make 65047, closing is 115046; EUR: opening 1 and kinds",
        ),
        ({"paid": 1}, "opening 50000 and kinds 105045 make 155045, closing is 115046"),
        ({"earnings": ()}, "nights earned 0, the period 124156"),
        ({"history": (("2026-11", 1),)}, "2026-11 earned 124156, its history says 1"),
        ({"outputs_in_all": 1}, "2 outputs of 1"),
        ({"works": WORKS[::-1]}, "works are not largest first"),
        ({"movements": (Movement(46, AT.date(), AT, "", 650_46),)}, "there are entries after booking 45"),
        (
            {"movements": (Movement(1, AT.date(), AT.replace(tzinfo=None), "", 650_46),)},
            "the time of an entry has no time zone",
        ),
        ({"earnings": (Earning("2026-11-20", 1, 1, 1241_56, 1, None, ""),)}, "a night has half an interval"),
    ],
)
def test_what_does_not_add_up_is_not_rendered(changes, found):
    wrong = statement(replace(section(), **changes))
    for form in (check, documents):
        with pytest.raises(AssertionError, match=re.escape(found)):
            form(wrong)


def test_a_currency_has_one_section():
    check(statement())
    with pytest.raises(AssertionError, match="a currency has two sections: EUR, EUR"):
        check(statement(section(), section()))


@pytest.mark.parametrize("period", ["2026-13", "2026", "2026-1", "November"])
def test_a_period_is_a_month(period):
    with pytest.raises(InputError, match="statement for ann"):
        documents(statement(period=period))
