"""A month settled through Airflow: closed, approved by people through its API, paid, answered."""

import csv
import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from samples import corpus_frames, deliver, enter
from servers import eventually

from infra.stack.api import Airflow, RefusedError
from provenance.core.money import format_minor
from provenance.core.store import Store
from provenance.settlement import account_actions as accounts
from provenance.settlement import ledger
from provenance.settlement.accounts import imbalances
from provenance.settlement.bank import iso20022
from provenance.settlement.bank.incoming import book_answer
from provenance.settlement.months import settling
from provenance.settlement.payees.register import import_payees

pytestmark = pytest.mark.night
# A month that is over; its settlement runs on the third of the next.
DAY, SETTLES, PERIOD = "2026-10-15", "2026-11-03", "2026-10"
IBANS = ("DE89370400440532013000", "FR1420041010050500013M02606", "GB82WEST12345698765432")
TAX_ID = "36574261809"
PAYER = {
    "NAME": "Provenance Payer GmbH", "STREET": "Am Ufer", "BUILDING": "5", "POST_CODE": "20095", "TOWN": "Hamburg",
    "COUNTRY": "DE", "IBAN": "DE02120300000000202051", "BIC": "BYLADEM1001",
}  # fmt: skip


def payees_csv(path, ibans=IBANS):
    rows = [
        {
            "owner_id": f"owner-{number}", "name": f"Owner {number}, Ltd.", "street": "Main St", "building": "1",
            "post_code": "10115", "town": "Berlin", "country": "DE", "currency": "EUR", "method": "iso20022", "iban": iban,
            "tax_residence": "DE" if number else "", "tax_id": TAX_ID if number else "",
        }
        for number, iban in enumerate(ibans)
    ]  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())
    return path


def answer(url, task_id, user, choice="Approve", viewer=""):
    """Wait until a task asks, have somebody who may only look try in vain, and answer it; returns what it asked."""
    waiting = {"response_received": "false", "state": "awaiting_input"}

    def asked():
        found = Airflow(url, "admin", "admin").call("GET", "/dags/settle_period/dagRuns/~/hitlDetails", **waiting)
        return next((one for one in found["hitl_details"] if one["task_instance"]["task_id"] == task_id), None)

    found = eventually(asked, f"{task_id} does not ask", within=90)
    run = found["task_instance"]["dag_run_id"]
    path = f"/dags/settle_period/dagRuns/{run}/taskInstances/{task_id}/-1/hitlDetails"
    chosen = {"chosen_options": [choice], "params_input": {}}
    if viewer:
        with pytest.raises(RefusedError) as refused:
            Airflow(url, viewer, viewer).call("PATCH", path, chosen)
        assert refused.value.status == 403
    Airflow(url, user, user).call("PATCH", path, chosen)
    return found


@pytest.fixture(scope="module")
def people(airflow_environment, postgres, api_server):
    """Where Ann, Bob and an administrator find an API server on the nights' Airflow."""
    environment = airflow_environment | {"PROVENANCE_DATABASE__URL": postgres.format("postgres")}
    return api_server(environment, {"ann": "user", "bob": "user", "vic": "viewer", "admin": "admin"})


@pytest.fixture
def accounting(new_operator, tmp_path, monkeypatch):
    """A store with a night of October paid, the settings of its settlement, and a function that makes operators on it."""
    store = Store(f"file://{tmp_path}/store", {})
    operator = new_operator(store, tmp_path.name)
    key = Fernet.generate_key().decode()
    operator.environment |= {f"PROVENANCE_PAYER__{name}": value for name, value in PAYER.items()}
    operator.environment |= {"PROVENANCE_PAYEES__KEY": key, "PROVENANCE_SETTLEMENT__MINIMUM": '{"EUR": 1}'}
    deliver(store, corpus_frames(), days=(DAY,))
    operator.ingest()
    operator.night(DAY)
    enter(monkeypatch, operator.environment)
    return operator


def settle(operator, people, *answers):
    """Run the settlement while people answer; returns how the run ended, and what they were asked."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: [answer(people, f"settlement.{task}", *said) for task, *said in answers])
        return operator.run("settle_period", SETTLES), asked.result()


YES = (("prepare", "ann"), ("approve", "bob"))


def texts_of_airflow(environment):
    """Whatever Airflow keeps of tasks: XComs, rendered templates, what people were asked."""
    engine = sa.create_engine(environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"], poolclass=sa.NullPool)
    tables = ("xcom", "rendered_task_instance_fields", "hitl_detail", "task_instance_note", "log")
    with engine.connect() as connection:
        return "".join(str(row) for name in tables for row in connection.execute(sa.text(f"SELECT * FROM {name}")))


def rejected(store, payment_id):
    """A bank's report that rejects a payment."""
    manifest = store.read_json(f"bank/period={PERIOD}/manifest.json")
    message = next(name for name, payments in manifest["messages"].items() if payment_id in dict(payments))
    reason = "<StsRsnInf><Rsn><Cd>AC04</Cd></Rsn></StsRsnInf>"
    transaction = f"<TxInfAndSts><OrgnlEndToEndId>{payment_id}</OrgnlEndToEndId><TxSts>RJCT</TxSts>{reason}</TxInfAndSts>"
    return f"""<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pain.002.001.03"><CstmrPmtStsRpt>
        <GrpHdr><MsgId>r1</MsgId><CreDtTm>2026-11-04T18:00:00</CreDtTm></GrpHdr>
        <OrgnlGrpInfAndSts><OrgnlMsgId>{message}</OrgnlMsgId><OrgnlMsgNmId>pain.001</OrgnlMsgNmId></OrgnlGrpInfAndSts>
        <OrgnlPmtInfAndSts><OrgnlPmtInfId>{message}-EUR</OrgnlPmtInfId>{transaction}</OrgnlPmtInfAndSts>
        </CstmrPmtStsRpt></Document>""".encode()


def rows(store, key):
    return list(csv.DictReader(io.StringIO(store.read(key).decode())))


def state_of(store, engine):
    """All that a settlement leaves, but for times."""
    bookings = ledger.bookings(engine)
    kinds = [(booking.kind, ledger.entries(engine, booking.booking_id)) for booking in bookings]
    return kinds, {key: store.read(key) for key in store.list("exports/periods") if key.endswith(".csv")}


def check_statements(store, engine):
    """Everybody's statement says what the ledger has."""
    folder = f"exports/statements/period={PERIOD}"
    pages = {f"{folder}/owner=owner-{number}/statement.{form}" for number in range(4) for form in ("html", "pdf")}
    assert {*store.list(folder)} == pages | {f"{folder}/manifest.json", f"{folder}/manifest.sig"}
    for number in range(4):
        owner = f"owner-{number}"
        page = store.read(f"{folder}/owner={owner}/statement.html").decode()
        nights = [ledger.entries(engine, booking.booking_id) for booking in ledger.bookings(engine, kind="night")]
        mine = [amount for night in nights for a, amount in night if (a.party_id, a.currency) == (owner, "EUR")]
        earned = -sum(mine)
        assert "Earned in October" in page
        assert format_minor(earned, "EUR") in page
    assert "no tax data" in store.read(f"{folder}/owner=owner-0/statement.html").decode()


def test_a_month_is_closed_approved_by_two_people_paid_and_answered(accounting, people, doors, tmp_path):  # noqa: PLR0915
    where, store = doors(), accounting.store
    settings = where.settings
    import_payees(where, payees_csv(tmp_path / "payees.csv"), by="ann")
    engine = sa.create_engine(settings.database.url, poolclass=sa.NullPool)

    refused = accounting.run("settle_period", SETTLES)
    assert "rate USD to EUR: expected one recorded for the period, found none" in refused["error"]
    assert refused["exit"] == 2
    assert {booking.kind for booking in ledger.bookings(engine)} == {"night"}, "a close that fails leaves nothing"
    accounts.record_rate(where, PERIOD, ("USD", "EUR"), "0.8642", evidence="letter of 2026-10-30", by="ann")

    result, asked = settle(accounting, people, ("prepare", "ann", "Approve", "vic"), ("approve", "ann"))
    assert "expected one person who prepared and another who approves, found ann and ann" in result["error"]
    assert "Two people have to approve" in asked[0]["body"]
    assert "no night has paid 2026-10-01" in asked[0]["body"]
    result, _ = settle(accounting, people, ("prepare", "ann", "Reject"))
    assert result["state"] == "success"
    assert store.list("bank") == [], "without two approvals there is no bank file"

    result, _ = settle(accounting, people, *YES)
    assert result["state"] == "success", (result, accounting.log[-3000:])
    check_statements(store, engine)
    facts = next(booking.facts for booking in ledger.bookings(engine, kind="payments"))
    assert (facts["prepared_by"], facts["approved_by"]) == ("ann", "bob")
    assert facts["prepared_at"] <= facts["approved_at"]
    outcomes = {(r["owner_id"], r["outcome"]) for r in rows(store, f"exports/periods/period={PERIOD}/closing/closing.csv")}
    assert outcomes == {("owner-0", "held"), ("owner-1", "pay"), ("owner-2", "pay"), ("owner-3", "held")}
    held = {booking.facts["reason"]: booking.facts["owners"] for booking in ledger.bookings(engine, kind="hold")}
    assert held == {"no tax data": ["owner-0"], "no payee data": ["owner-3"]}
    (bank_file,) = [key for key in store.list("bank") if key.endswith(".xml")]
    ordered = {name: amount for name, amount, _, _ in iso20022.read_back(store.read(bank_file))}
    table = rows(store, f"exports/periods/period={PERIOD}/payments/payments.csv")
    assert ordered == {row["payment_id"]: int(row["paid_minor"]) for row in table if row["status"] == "sent"}
    assert len(ordered) == 4

    done = state_of(store, engine)
    assert settle(accounting, people, *YES)[0]["state"] == "success"
    assert state_of(store, engine) == done, "nobody is paid twice"

    exported = b"".join(store.read(key) for key in store.list("exports"))
    kept = texts_of_airflow(accounting.environment) + accounting.log_file.read_text() + exported.decode("latin-1")
    secrets = [*IBANS, TAX_ID, "Berlin", PAYER["IBAN"], accounting.environment["PROVENANCE_PAYEES__KEY"]]
    assert [secret for secret in secrets if secret in kept] == []
    assert IBANS[1] in store.read(bank_file).decode()

    name = min(ordered)
    answer = rejected(store, name)
    store.write("bank/answers/2026-11-04.xml", answer)
    store.write("bank/answers/2026-11-05.xml", answer.replace(b"-iso20022<", b"-other<"))
    read = accounting.run("bank_answers", SETTLES)
    assert "2026-11-05.xml: expected an answer to a message that was sent" in read["error"]
    found = {payment.payment_id: payment.status for payment in settling.payments(engine, PERIOD)}
    assert found == {other: "rejected" if other == name else "sent" for other in ordered}
    after = ledger.newest(engine)
    assert book_answer(where, answer, "again.xml")["rejected"] == 1
    assert ledger.newest(engine) == after, "an answer is booked once"
    balances = ledger.balances(engine, through=after)
    assert list(imbalances(balances, ledger.standing(engine, through=after))) == []
    assert any(account.account == "payable" for account in balances), "what was rejected is owed again"
