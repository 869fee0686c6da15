"""Names come from outside: no reader takes one for a formula, markup, a path, another line or a command."""

import csv
import io
import json
import logging
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import openpyxl
import polars as pl
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from samples import HOSTILE, HOSTILE_IDS, checked_journal, credited_frame

from provenance.core import tables
from provenance.core.checks import conform
from provenance.core.errors import CheckFailed, ContractError, InputError, StoreError
from provenance.core.store import Store, from_csv, to_csv
from provenance.core.tables import (
    CREDITS,
    EVIDENCE,
    EXAMPLES,
    INTERVALS,
    NIGHT_SHARES,
    OUTPUTS,
    OWNERS,
    PAYOUTS,
    RULE_SHARES,
)
from provenance.core.text import plain, uncelled, visible
from provenance.settlement.accounts import Account, Standing, totals, trial_balance
from provenance.settlement.books import Booking
from provenance.settlement.exports.export import build, payout_lines, write
from provenance.settlement.exports.payouts import Movements, credits, credits_file, intervals, payouts
from provenance.settlement.exports.verification import check_proof, prove_line, verify
from provenance.settlement.months.closings import closing_table, request
from provenance.settlement.months.excerpts import Excerpt, shortened
from provenance.settlement.months.periods import ON_HOLD, PAY, Line
from provenance.settlement.months.statement_documents import documents
from provenance.settlement.months.statements import Output, Section, Statement, Work
from provenance.settlement.months.write_statements import file_name

DAY = date(2026, 11, 19)
NOON = datetime(2026, 11, 20, tzinfo=UTC)
KEY = Ed25519PrivateKey.generate()
# A spreadsheet reads a cell that begins so as a formula (OWASP, CSV injection), and some skip blanks before it.
SIGNS = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
NAMES = {owner: HOSTILE[(place * 7 + 3) % len(HOSTILE)] for place, owner in enumerate(HOSTILE_IDS)}
HELD = {owner: (HOSTILE[(place * 5 + 1) % len(HOSTILE)] or "dispute",) for place, owner in enumerate(HOSTILE_IDS)}
ESCROWS = HOSTILE_IDS[::3]
TEXT = [name for name, column in PAYOUTS.columns.items() if column.dtype == pl.String]


def cells(data):
    """The cells of a CSV file, as a spreadsheet cuts them."""
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


def is_a_formula(cell):
    """Whether a spreadsheet would compute it; a plain number is none."""
    return cell.lstrip(" ").startswith(SIGNS) and not cell.lstrip("-").isdigit()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A night in which every hostile id earns, is held for a hostile reason and has a hostile name, in a store."""
    store = Store(f"file://{tmp_path_factory.mktemp('store')}", {})
    each, count = 10, len(HOSTILE_IDS)
    after = {Account("payable", owner, "EUR"): -each for owner in HOSTILE_IDS}
    after |= {Account("escrow", name, "EUR"): -1 for name in ESCROWS}
    after |= {Account("receivable", "", "EUR"): -sum(after.values())}
    standing = Standing(HELD)
    closing = {a: v for a, v in after.items() if a.account != "payable"}
    closing |= {Account("held", owner, "EUR"): -each for owner in HOSTILE_IDS}
    share = 10**9 // count
    first = 10**9 - share * (count - 1)
    parts = zip(HOSTILE_IDS, [first, *[share] * (count - 1)], strict=True)
    rows = [(HOSTILE[5], "payable", owner, part, 0, 10**9, "EUR", each * 10**9) for owner, part in parts]
    rows += [(HOSTILE[6], "escrow", name, 10**9 // len(ESCROWS), 0, 10**9, "EUR", 10**9) for name in ESCROWS]
    rows[-1] = (*rows[-1][:3], 10**9 - 10**9 // len(ESCROWS) * (len(ESCROWS) - 1), *rows[-1][4:])
    credit = credits(DAY, credited_frame(rows), EVIDENCE.frame(), RULE_SHARES.frame())
    movements = Movements({}, closing, {}, after, {}, standing)
    pay = payouts(DAY, 1, movements=movements, outputs=credits_file([credit]).outputs, names=NAMES)
    ends = [("EUR", "payable", owner, share, share // 2, share * 2) for owner in HOSTILE_IDS]
    shares = NIGHT_SHARES.frame(ends)
    said = {name or "empty": name for name in HOSTILE}
    moved = {Account("escrow", ESCROWS[0], "EUR"): 1, Account("payable", "ann", "EUR"): -1}
    bookings = [(Booking(1, "night", DAY, NOON, 1, "n"), sorted(after.items()))]
    bookings.append((Booking(2, "claim", DAY, NOON, facts=said), list(moved.items())))
    exported = build(
        DAY, 1, payouts=pay, intervals=intervals(pay, shares), credits=credits_file([credit]), entries=bookings,
        totals=totals(after),
        facts={"notice": "\n".join(HOSTILE), "previous": None, "trial_balance": trial_balance(closing), "booking_id": 1},
    )  # fmt: skip
    write(store, exported, KEY)
    return store, exported, closing


@pytest.mark.parametrize("name", ["payouts.csv", "intervals.csv"])
def test_no_cell_of_an_export_is_a_formula(published, name):
    header, *rows = cells(published[1].files[name])
    assert len(rows) == len(HOSTILE_IDS)
    assert {len(row) for row in rows} == {len(header)}
    assert not [cell for row in rows for cell in row if is_a_formula(cell)]
    if name == "payouts.csv":
        assert header == list(PAYOUTS.columns), "the columns are a promise"
        escaped = {uncelled(row[2]): row[2] for row in rows}
        assert set(escaped) == set(HOSTILE_IDS), "and what is read back is what was written"
        assert escaped["=1+2"] == "'=1+2"
        assert escaped["'=1"] == "''=1"
        assert escaped["ann"] == "ann"
        assert all(int(row[header.index("earned_minor")]) == 10 for row in rows)
        named = pl.read_parquet(published[1].files["payouts.parquet"]).select("owner_id", "owner_name").iter_rows()
        assert dict(named) == {owner: plain(name) or owner for owner, name in NAMES.items()}, "what is seen is the name"


def test_the_export_holds_and_every_owner_finds_its_line(published):
    store, exported, ledger = published
    checks = verify(store, exported.folder, ledger=ledger, standing=Standing(HELD))
    assert [(check.name, check.problems) for check in checks if not check.passed] == []
    assert store.read_json(f"{exported.folder}/manifest.json")["notice"] == "\n".join(HOSTILE)
    assert len(payout_lines(exported.files["payouts.csv"])) == len(HOSTILE_IDS)
    for owner in HOSTILE_IDS:
        (proof,) = prove_line(store, exported.folder, owner)
        assert check_proof(json.loads(json.dumps(proof))).passed
        assert uncelled(cells(proof["line"].encode())[0][2]) == owner
    with pytest.raises(StoreError):
        prove_line(store, exported.folder, "'=1+2")


def test_all_cells_of_text_in_the_workbook_are_text(published):
    book = openpyxl.load_workbook(io.BytesIO(published[1].files["payouts.xlsx"]))
    rows = list(book["Payouts"].iter_rows(min_row=2))
    assert {row[2].value for row in rows} == set(HOSTILE_IDS)
    for sheet in (book["Payouts"], book["Held"]):
        header = [cell.value for cell in next(sheet.iter_rows(max_row=1))]
        for row in sheet.iter_rows(min_row=2):
            for name, cell in zip(header, row, strict=True):
                assert cell.data_type == ("n" if cell.value is None or name not in TEXT else "s"), cell.value
                assert cell.hyperlink is None
    assert book["Totals"]["A2"].data_type == "s"


def test_a_name_that_is_too_long_for_a_cell_is_cut_and_not_left_out(published):
    pay = published[1].files["payouts.parquet"]
    frame = pl.read_parquet(pay).with_columns(owner_name=pl.lit("x" * 40_000))
    exported = build(DAY, 1, payouts=frame, intervals=INTERVALS.frame(), credits=credits_file([CREDITS.frame()]), entries=[],
                 totals={}, facts={"notice": "y" * 40_000})  # fmt: skip
    book = openpyxl.load_workbook(io.BytesIO(exported.files["payouts.xlsx"]))
    assert book["Payouts"]["D2"].value == "x" * 32_767
    assert book["Totals"]["A2"].value == "y" * 32_767


def test_bean_check_accepts_the_journal_and_no_two_names_share_an_account(published, tmp_path):
    text = checked_journal(published[1].files["journal.beancount"], tmp_path)
    accounts = [line.split()[0] for line in text.splitlines() if line.startswith("  Liabilities:Payable:")]
    assert len(set(accounts)) == len(HOSTILE_IDS)
    directives = [line for line in text.splitlines() if line and not line.startswith((" ", ";"))]
    assert directives[0] == 'plugin "beancount.plugins.auto_accounts"'
    assert all(line.startswith('2026-11-19 * "Provenance" "') for line in directives[1:])
    # Nobody can name itself into the account of somebody whose name has a digest.
    taken = next(account.rsplit(":", 1)[1] for account in accounts if ":Ann-" in account)
    mine = [(Booking(1, "night", DAY, NOON, 1, "n"), [(Account("payable", taken[:1].lower() + taken[1:], "EUR"), -1)])]
    other = build(DAY, 1, payouts=PAYOUTS.frame(), intervals=INTERVALS.frame(),
                  credits=credits_file([CREDITS.frame()]), entries=mine, totals={}, facts={})  # fmt: skip
    assert f"Payable:{taken} " not in other.files["journal.beancount"].decode()


@pytest.mark.parametrize("contract", [tables.CLOSING, tables.PAYMENTS, tables.ESCROW_AGES, PAYOUTS, INTERVALS])
def test_tables_that_a_spreadsheet_opens_have_no_formula_and_come_back(contract):
    texts = [name for name, column in contract.columns.items() if column.dtype == pl.String]
    rows = [dict.fromkeys(texts, name) | {n: -5 for n in contract.columns if n not in texts} for name in HOSTILE]
    frame = pl.DataFrame(rows, schema=contract.schema)
    data = to_csv(frame)
    _, *lines = cells(data)
    assert len(lines) == len(HOSTILE) == len(data.splitlines()) - 1, "a row is a line"
    assert not [cell for line in lines for cell in line if is_a_formula(cell)]
    place = list(contract.columns).index(next(n for n in contract.columns if n not in texts))
    assert {line[place] for line in lines} == {"-5"}, "numbers stay numbers"
    back, one = from_csv(data, contract.schema), texts[-1]
    assert {name for name in back[one] if name in HOSTILE} >= set(HOSTILE_IDS)
    assert [uncelled(line[list(contract.columns).index(one)]) for line in lines] == back[one].to_list()


@given(st.lists(st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=8), min_size=1, max_size=5))
def test_any_text_comes_back_from_a_cell_as_it_was(texts):
    frame = pl.DataFrame({"text": texts, "number": [-1] * len(texts)})
    back = from_csv(to_csv(frame), frame.schema)
    assert back["text"].to_list() == texts
    assert not [cell for row in cells(to_csv(frame))[1:] for cell in row if is_a_formula(cell)]


def hostile_statement(name):
    piece = Excerpt(text=shortened(name))
    works = (Work(name, name, 1, 5, name, name, name, piece),)
    outputs = (Output("2026-11-20", name, 1, 0, 2, 5, (name, name), shortened(name), piece),)
    section = Section("EUR", outputs=outputs, outputs_in_all=1, works=works, works_in_all=1)
    return Statement(owner_id=name, owner_name=name, period="2026-11", through=1, made_on=DAY, contact=name, holds=(name,),
                     identifiers={"ISNI": name}, sections=(section,), notice=name)  # fmt: skip


def test_a_web_page_shows_names_and_runs_none():
    for name in HOSTILE:
        root = etree.fromstring(documents(hostile_statement(name))["html"], etree.XMLParser(no_network=True))
        tags = {etree.QName(element).localname for element in root.iter(etree.Element)}
        assert not tags & {"script", "iframe", "object", "img", "form", "base"}
        assert not [a for e in root.iter(etree.Element) if not e.tag.startswith("{") for a in e.attrib if a.startswith("on")]
        assert [a for a in root.iter("a") if not a.get("href").startswith(("http://", "https://", "#"))] == []
        shown = " ".join("".join(root.find("head/title").itertext()).split())
        assert shown == f"Statement for November 2026: {plain(name)}".rstrip().removesuffix(" ")


def test_a_pdf_shows_names_and_reads_none():
    """Text of all names at once, so that one compilation shows that none of it is markup, a reference or code."""
    together = [name for name in HOSTILE if len(name) < 200]
    pdf = documents(replace(hostile_statement("x"), holds=tuple(together), notice=" ".join(together)))["pdf"]
    assert pdf.startswith(b"%PDF-")
    assert b"root:" not in pdf
    for name in ('#read("/etc/passwd")', "$x$ *b* _i_", "@ref <label>", '#import "a.typ": *', "\\ `raw` // comment"):
        assert documents(hostile_statement(name))["pdf"].startswith(b"%PDF-")


def test_every_owner_has_a_folder_of_its_own_also_where_capitals_do_not_count():
    names_of_files = {owner: file_name(owner) for owner in (*HOSTILE_IDS, "x" * 900, "x" * 901, "\u00e9" * 400)}
    assert len({name.lower() for name in names_of_files.values()}) == len(names_of_files)
    for name in names_of_files.values():
        assert name.isascii()
        assert not {*'/\\:*?"<>|\x00\n'} & set(name)
        assert len(f"owner={name}") < 255
        assert Path("a", f"owner={name}", "statement.pdf").parts[1] == f"owner={name}"
        assert not name.endswith((".", " "))
    assert (names_of_files["ann"], names_of_files["-"]) == ("ann", "-"), "plain ids are plain folders"


@pytest.mark.parametrize(
    ("contract", "column"), [(OWNERS, "owner_id"), (EXAMPLES, "work_id"), (EXAMPLES, "example_id"), (OUTPUTS, "output_id")]
)
def test_ids_that_are_no_line_of_text_are_refused_where_they_are_delivered(contract, column):
    for name in {*HOSTILE} - {*HOSTILE_IDS}:
        needed = {c: (b"x" if c == "content" else name if c == column else NOON if c == "served_at" else "y")
                  for c, said in contract.columns.items() if said.required or c == column}  # fmt: skip
        needed |= {"revenue_minor": 1} if contract is OUTPUTS else {}
        with pytest.raises(ContractError, match=rf"f.parquet: row 0.*column '{column}': expected an? (id|value)") as raised:
            conform(contract, pl.DataFrame([needed]), "f.parquet")
        assert str(raised.value).isprintable()
    conform(OWNERS, pl.DataFrame({"owner_id": HOSTILE_IDS, "name": HOSTILE_IDS}), "f")


FILE = {"digest": "0", "place": "s3://b/closing.csv"}


def test_a_request_for_approval_shows_no_name_as_markdown():
    lines = [Line(owner, "EUR", 10, net=10, pay_currency="EUR", paid=10, outcome=PAY) for owner in HOSTILE_IDS]
    for start in range(0, len(lines), 10):
        names = {line.owner_id: line.owner_id[::-1] for line in lines}
        text = request("2026-11", lines[start : start + 10], {}, names=names, holds={}, missing=[], **FILE)
        rows = [line for line in text.splitlines() if line.startswith("| ") and "largest" not in line]
        assert len(rows) == len(lines[start : start + 10])
        assert not [row for row in rows if "<script" in row.replace("\\<", "") or "](" in row.replace("\\]\\(", "")]
    assert len(cells(to_csv(closing_table("2026-11", lines, {})))) == len(lines) + 1
    held_lines = [Line(f"o{number}", "EUR", 10, outcome=ON_HOLD) for number, _ in enumerate(HOSTILE_IDS)]
    reasons = {line.owner_id: (reason,) for line, reason in zip(held_lines, HOSTILE_IDS, strict=True)}
    text = request("2026-11", held_lines, {}, names={}, holds=reasons, missing=[], **FILE)
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 1 + min(10, len(HOSTILE_IDS))
    assert "<script" not in text.replace("\\<", "")


def test_errors_and_logs_are_one_line_without_escapes(caplog):
    for name in HOSTILE:
        for error in (InputError(f"owner {name}", expected="x", found=name), CheckFailed(f"{name} differs")):
            assert "\n" not in str(error)
            assert "\x1b" not in str(error)
            assert "\u202e" not in str(error)
        assert visible(name).isprintable() or set(name) & set("\u200b\u200d\ufeff")
    with caplog.at_level(logging.INFO):
        logging.getLogger("provenance").info("%s", InputError("\x1b[2J\nINFO all is well", expected="a", found="b"))
    assert caplog.messages == ["\\x1b[2J\\nINFO all is well: expected a, found b"]


def test_keys_of_a_model_lead_nowhere_else(store, tmp_path):
    for name in ("../../escaped", "/etc/escaped"):
        with pytest.raises(StoreError, match="expected names of files below it"):
            store.fetch("frozen/models/x", {name: "0" * 64}, tmp_path / "cache" / "x")
    assert not (tmp_path / "escaped").exists()
