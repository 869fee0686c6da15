"""Payees who agreed to invoices in their name, and months that pay them."""

from datetime import date

from cryptography.fernet import Fernet
from samples import enter

from provenance.settlement import ledger
from provenance.settlement.accounts import Account
from provenance.settlement.bank.status_reports import Outcome
from provenance.settlement.months import settling, stage
from provenance.settlement.payees.register import import_payees
from tasks.dag_parameters import approval
from tasks.where import opened

PERIOD, DAY, NUMBER = "2026-09", date(2026, 9, 15), "DE136695976"
COLUMNS = "owner_id,name,town,country,currency,method,iban,paypal,tax_residence,tax_id,self_billed_since,vat_id,vat_rate"
LINES = {
    "ann": "ann,Ann,Paris,FR,EUR,paypal,,ann@example.org,FR,0701987765493,2026-01-01,FR40303265045,",
    "bob": "bob,Bob,Berlin,DE,EUR,iso20022,DE89370400440532013000,,DE,36574261809,2026-01-01,DE136695976,19",
    "cid": "cid,Cid,Berlin,DE,EUR,paypal,,cid@example.org,DE,36574261809,,,",
    "dee": "dee,Dee,Berlin,DE,EUR,paypal,,dee@example.org,DE,36574261809,2026-10-01,DE136695976,19",
}
PAYER = {"NAME": "Payer GmbH", "TOWN": "Hamburg", "COUNTRY": "DE", "IBAN": "DE02120300000000202051"}
YES = {"chosen_options": ["Approve"], "responded_at": "2026-11-03T08:00:00+00:00"}
TWO = tuple(approval({"responded_by_user": {"id": name, "name": name}, **YES}) for name in ("Ann", "Bob"))


def owed(store, environment, monkeypatch):
    """A ledger that owes every payee, and settings that write invoices."""
    environment(store, SETTLEMENT__MINIMUM='{"EUR": 50}', TAX__INVOICES="SB-", TAX__VAT_ID=NUMBER)
    payer = {f"PROVENANCE_PAYER__{name}": value for name, value in PAYER.items()}
    enter(monkeypatch, payer | {"PROVENANCE_PAYEES__KEY": Fernet.generate_key().decode()})
    book(*LINES)


def book(*owners, day=DAY, amount=1000):
    amounts = {Account("payable", owner, "EUR"): -amount for owner in owners}
    with opened() as where:
        ledger.book(
            where.ledger, day, amounts | {Account("receivable", "", "EUR"): amount * len(owners)}, night="n", cause=str(day)
        )


def register(where, tmp_path, *owners, **changed):
    path = tmp_path / "payees.csv"
    path.write_text("\n".join([COLUMNS, *((LINES | changed)[owner] for owner in owners), ""]))
    return import_payees(where, path, by="me")


def settle(where, period=PERIOD):
    stage.close(where, period)
    stage.pay(where, period, *TWO)


def answer(where, owner, status, source, period=PERIOD):
    of = next(p for p in settling.payments(where.ledger, period) if p.line.owner_id == owner)
    outcome = Outcome(of.payment_id, status, of.line.paid, of.line.pay_currency, "AC04")
    settling.answer(where.ledger, [outcome], day=DAY, message="m", source=source)
