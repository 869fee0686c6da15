"""Tries a month's payments on the demo: sample payees, the close, two approvals, files for banks, and an answer of the bank.

    python -m infra.month [--by-hand]

The month is the last one of the demo that is over. If all of its days are in the running month, the demo first pays the last
day of the month before. All is as in production: the DAGs `settle_period` and `bank_answers` run in this process, and ann and
bob, the development logins, log in to an API server and approve. With `--by-hand` it stops before that, and you approve in the
UI. Payees, rates and the bank's answer are invented; files for banks go nowhere. A store with a day of your own is refused.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from rich.markdown import Markdown

from infra import demo, local_airflow
from infra.stack.api import Airflow
from provenance.core.errors import InputError
from provenance.core.settings import CHECKOUT, KEY_VARIABLE, NO_CONTACT
from tasks.terminal import Terminal, exit_codes

if TYPE_CHECKING:
    from rich.console import Console

    from provenance.core.store import Store
    from provenance.core.where import Where

FOLDER = CHECKOUT / "var/month"
BY = "make month"
INVENTED = "invented for the demo"
# The account that pays; IBAN and tax number are examples whose check digits hold.
PAYER = {
    "NAME": "Sample Payer GmbH",
    "STREET": "Am Ufer",
    "BUILDING": "5",
    "POST_CODE": "20095",
    "TOWN": "Hamburg",
    "COUNTRY": "DE",
    "IBAN": "DE02120300000000202051",
    "BIC": "BYLADEM1001",
}
BANK, TAX_ID, CURRENCY = "37040044", "36574261809", "EUR"
# Rates to the payees' currency; of other currencies one to one.
RATES = {"USD": "0.8642"}
PATIENCE = 180  # seconds for an API server to start


def main() -> None:
    """Settle the demo's month."""
    parser = argparse.ArgumentParser(description="Try a month's payments on the demo, with sample payees.")
    parser.add_argument("--by-hand", action="store_true", help="stop before the approvals, and approve in the UI")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    # Its own way to the screen, since the output of Airflow goes to a file.
    console, started = Terminal(file=os.fdopen(os.dup(1), "w")), time.monotonic()
    with exit_codes():
        _run(asked.folder, console, by_hand=asked.by_hand)
    console.print(f"[dim]This took {time.monotonic() - started:.0f} s.[/]")


def _run(folder: Path, console: Console, *, by_hand: bool) -> None:
    from tasks.settings import load
    from tasks.where import opened

    store = load().store.open()
    days = demo_days(store)
    period, missing = month_to_settle(days, datetime.now(UTC).date())
    with console.status("Starting PostgreSQL"):
        local_airflow.configure()
    if missing:
        console.print(f"{days[-1][:7]} is not over, so the demo pays {missing}, and {period} is settled")
        with console.status(f"The demo pays {missing} (a minute or two)"):
            command = [sys.executable, "-m", "infra.demo", "--day", str(missing)]
            paid = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if paid.returncode:
            raise SystemExit(paid.returncode)  # the demo has said why
    os.environ.update(sample_settings(folder))
    with opened() as where:
        prepare(where, period, folder, console)
    _keep(folder)
    after = f"  . {_shown(folder)}/environment"
    if by_hand:
        console.print(
            f"\n[bold]Now approve[/] [dim](the file has the sample settings)[/]\n{after}\n  make ui\n"
            f"  Trigger settle_period with the period {period}; ann, then bob, answer under Required Actions (passwords: their "
            "names)\n"
            f"  .venv/bin/provenance payments {period}",
            highlight=False,
            soft_wrap=True,
        )
        return
    log_file = CHECKOUT / f"var/logs/month-{period}.log"
    with local_airflow.log_to(log_file, console):
        local_airflow.migrate()
    settle(period, log_file, console)
    with opened() as where:
        key = answer_of_the_bank(where, period)
    console.print(f"\nThe bank answers: {store.locate(key)}")
    _run_dag("bank_answers", period, log_file, console)
    with opened() as where:
        show(where, period, after, console)


def demo_days(store: Store) -> list[str]:
    """The days that the demo has paid, oldest first; raises InputError if another has, or none is paid."""
    from provenance.core.published import in_force, published_days

    days = published_days(store)
    if not days:
        where = store.locate("exports/payouts")
        raise InputError(where, expected="a day that the demo has paid", found="none", hint="Run `make demo` first.")
    for day in days:
        folder = in_force(store, day)["folder"]
        if store.read_json(f"{folder}/manifest.json").get("notice") != demo.NOTICE:
            hint = "Sample payees are for the demo alone. Docs: money.md, Set up payments."
            raise InputError(store.locate(folder), expected="a day of the demo, with its notice", found="another's", hint=hint)
    return days


def month_to_settle(days: Sequence[str], today: date) -> tuple[str, date | None]:
    """The last month with a day that is over; or the month before, and its last day, which has to be paid first."""
    running = f"{today:%Y-%m}"
    over = [day[:7] for day in days if day[:7] < running]
    if over:
        return max(over), None
    last = today.replace(day=1) - timedelta(days=1)
    return f"{last:%Y-%m}", last


def sample_settings(folder: Path) -> dict[str, str]:
    """Environment variables for what the settings lack: payer, contact, key of payees, and a minimum that the demo reaches."""
    from cryptography.fernet import Fernet

    from tasks.settings import load

    settings, key = load(), folder / "payees.key"
    sample = {"PROVENANCE_SETTLEMENT__MINIMUM": os.environ.get("PROVENANCE_SETTLEMENT__MINIMUM", '{"EUR": 1}')}
    sample["PROVENANCE_SETTLEMENT__QUOTE_OUTPUTS"] = "true"  # nobody asked the demo's model anything private
    if settings.settlement.contact == NO_CONTACT:
        sample["PROVENANCE_SETTLEMENT__CONTACT"] = "royalties@example.org"
    if not settings.payer.name:
        sample |= {f"PROVENANCE_PAYER__{name}": value for name, value in PAYER.items()}
    if not settings.payees.keys:
        folder.mkdir(parents=True, exist_ok=True)
        if not key.exists():
            key.touch(mode=0o600)
            key.write_text(Fernet.generate_key().decode())
        sample[KEY_VARIABLE] = key.read_text()
    return sample


def _keep(folder: Path) -> None:
    """Write the sample settings as a file for shells, so that later commands have them, too."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "environment"
    file.touch(mode=0o600)
    ours = ("PROVENANCE_SETTLEMENT__", "PROVENANCE_PAYER__", KEY_VARIABLE)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(os.environ.items()) if name.startswith(ours)]
    file.write_text("\n".join([*lines, ""]))


def prepare(where: Where, period: str, folder: Path, console: Console) -> None:
    """Import sample payees, unless there are some, and note rates; of the owners who are owed least, two lack data."""
    from provenance.settlement import account_actions, ledger
    from provenance.settlement.accounts import OWED
    from provenance.settlement.books import CLOSE
    from provenance.settlement.months import settling
    from provenance.settlement.payees.register import import_payees, payees_in_force

    balances = ledger.balances(where.ledger, through=ledger.newest(where.ledger))
    owed: dict[str, int] = {}
    for account, amount in balances.items():
        if account.account in OWED:
            owed[account.party_id] = owed.get(account.party_id, 0) - amount
    if not payees_in_force(where):
        file = folder / "payees.csv"
        file.touch(mode=0o600)
        file.write_text(sample_payees(sorted(owed, key=lambda owner: (-owed[owner], owner))))
        count = len(import_payees(where, file, by=BY))
        console.print(f"Sample payees: {count} of {len(owed)} owners, in {_shown(file)} (`provenance payee import`)")
    if period in {booking.period for booking in ledger.bookings(where.ledger, kind=CLOSE)}:
        return
    known = settling.rates(where.ledger, period)
    for currency in sorted({account.currency for account in balances} - {CURRENCY}):
        if (currency, CURRENCY) not in known:
            rate = RATES.get(currency, "1")
            account_actions.record_rate(where, period, (currency, CURRENCY), rate, evidence=INVENTED, by=BY)
            console.print(f"Rate: 1 {currency} = {rate} {CURRENCY}, {INVENTED} (`provenance rate`)")


def sample_payees(owners: Sequence[str]) -> str:
    """A CSV file of payees: accounts at a bank, and one at PayPal.

    Of more than three owners the last but one lacks tax data, and the last is left out.
    """
    from schwifty import IBAN

    complete = owners if len(owners) <= 3 else owners[:-2]
    rows = []
    for number, owner in enumerate(owners[: len(complete) + 1]):
        row = {"owner_id": owner, "name": f"Sample Payee {number + 1}", "street": "Main St", "building": str(number + 1)}
        row |= {"post_code": "10115", "town": "Berlin", "country": "DE", "currency": CURRENCY}
        iban = str(IBAN.generate("DE", bank_code=BANK, account_code=f"{number + 1:010d}"))
        account = {"method": "paypal", "iban": "", "paypal": f"payee{number + 1}@example.org"}
        row |= account if number == 1 else {"method": "iso20022", "iban": iban, "paypal": ""}
        taxed = number < len(complete)
        rows.append(row | {"tax_residence": "DE" if taxed else "", "tax_id": TAX_ID if taxed else ""})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def settle(period: str, log_file: Path, console: Console) -> None:
    """Run `settle_period` while ann prepares and bob approves, through the API, as they would in the UI."""
    ended = threading.Event()
    with api_server(log_file.with_suffix(".api.log"), console) as url:
        people = threading.Thread(target=_approve, args=(url, period, ended, console))
        people.start()
        try:
            _run_dag("settle_period", period, log_file, console)
        finally:
            ended.set()
            people.join()


def _approve(url: str, period: str, ended: threading.Event, console: Console) -> None:
    """Answer the questions of this period's run, as two people."""
    waiting = {"response_received": "false", "state": "awaiting_input"}
    for task_id, person in zip(("settlement.prepare", "settlement.approve"), local_airflow.PEOPLE, strict=True):
        airflow = Airflow(url, person, person)
        while not ended.is_set():
            asked = airflow.call("GET", "/dags/settle_period/dagRuns/~/hitlDetails", **waiting)["hitl_details"]
            if mine := [one for one in asked if _is_about(one, task_id, period)]:
                break
            time.sleep(1)
        else:
            return
        if task_id == "settlement.prepare":
            console.print(Markdown(mine[0]["body"]))
        run = mine[0]["task_instance"]["dag_run_id"]
        path = f"/dags/settle_period/dagRuns/{run}/taskInstances/{task_id}/-1/hitlDetails"
        airflow.call("PATCH", path, {"chosen_options": ["Approve"], "params_input": {}})
        console.print(f"{task_id}: {person} has logged in and approved")


def _is_about(asked: Mapping[str, Any], task_id: str, period: str) -> bool:
    """Whether a question is this task's, of this period; another run may wait for real people."""
    return asked["task_instance"]["task_id"] == task_id and str(asked["subject"]).startswith(f"Payments of {period}:")


@contextlib.contextmanager
def api_server(log_file: Path, console: Console) -> Iterator[str]:
    """Airflow's API server on a free port of this machine, from when it answers until the end of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    binary = Path(sys.executable).with_name("airflow")
    command = [str(binary), "api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # Airflow starts its parts by name, and the environment may not be activated.
    path = f"{binary.parent}{os.pathsep}{os.environ['PATH']}"
    with log_file.open("a") as log, console.status("Starting Airflow's API server, to which ann and bob log in"):
        server = subprocess.Popen(
            command, env={**os.environ, "PATH": path}, stdout=log, stderr=log, cwd=CHECKOUT, start_new_session=True
        )
        try:
            _wait_for(url, server, log_file)
        except BaseException:
            os.killpg(server.pid, signal.SIGTERM)
            raise
    try:
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes], log_file: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/api/v2/version").is_success:
                return
        time.sleep(0.5)
    raise InputError("Airflow's API server", expected=f"an answer within {PATIENCE} s", found="none", hint=f"See {log_file}.")


def _run_dag(dag_id: str, period: str, log_file: Path, console: Console) -> None:
    from provenance.settlement.months.periods import closes_on

    with local_airflow.log_to(log_file, console) as log:
        run = local_airflow.run_dag(dag_id, closes_on(period))
    logging.getLogger("alembic").setLevel(logging.WARNING)  # to which Airflow has given the screen
    local_airflow.stop_unless_good(dag_id, run, log, console)


def answer_of_the_bank(where: Where, period: str) -> str:
    """Write a bank's report on the credit transfers sent (pain.002), which rejects the smallest; returns its key."""
    from provenance.settlement.bank.incoming import FOLDER as ANSWERS
    from provenance.settlement.months import settling
    from provenance.settlement.months.bank_files import sent_messages

    amounts = {payment.payment_id: payment.line.paid for payment in settling.payments(where.ledger, period)}
    message, payments = next((m, p) for m, p in sorted(sent_messages(where.store, period).items()) if m.endswith("-iso20022"))
    ids = sorted((payment_id for payment_id, _ in payments), key=lambda payment_id: (amounts[payment_id], payment_id))
    refused = ids[:1] if len(ids) > 1 else []
    rows = [
        f"<TxInfAndSts><OrgnlEndToEndId>{payment_id}</OrgnlEndToEndId>"
        + (
            "<TxSts>RJCT</TxSts><StsRsnInf><Rsn><Cd>AC04</Cd></Rsn></StsRsnInf>"
            if payment_id in refused
            else "<TxSts>ACSC</TxSts>"
        )
        + "</TxInfAndSts>"
        for payment_id in ids
    ]
    report = f"""<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pain.002.001.03"><CstmrPmtStsRpt>
<GrpHdr><MsgId>sample-{period}</MsgId><CreDtTm>{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}</CreDtTm></GrpHdr>
<OrgnlGrpInfAndSts><OrgnlMsgId>{message}</OrgnlMsgId><OrgnlMsgNmId>pain.001</OrgnlMsgNmId></OrgnlGrpInfAndSts>
<OrgnlPmtInfAndSts><OrgnlPmtInfId>{message}-{CURRENCY}</OrgnlPmtInfId>{"".join(rows)}</OrgnlPmtInfAndSts>
</CstmrPmtStsRpt></Document>"""
    key = f"{ANSWERS}/sample-{period}.xml"
    where.store.create(key, report.encode())  # an answer that was read stays as it is
    return key


def show(where: Where, period: str, after: str, console: Console) -> None:
    """Show the payments, the files, and what to do next."""
    from provenance.settlement.account_actions import payments_of
    from provenance.settlement.exports.export import BOOKS
    from provenance.settlement.months.periods import bank_folder, closing_folder, payments_folder, statements_folder
    from tasks.cli.accounts import payments_screen

    report, locate = payments_of(where, period), where.store.locate
    console.print("", *payments_screen(report), sep="\n")
    owner = report["payments"][0]["owner_id"] if report["payments"] else "OWNER"
    console.print(
        f"\n[bold]Files[/]\n  every balance    {locate(closing_folder(period))}\n"
        f"  every payment    {locate(payments_folder(period))}\n"
        f"  for the bank     {locate(bank_folder(period))}\n"
        f"  for each owner   {locate(statements_folder(period))}\n"
        f"  the books        {locate(BOOKS)} (payments appear with the next night)\n"
        f"[bold]Try next[/] [dim](the first line sets the sample payer, contact and key)[/]\n{after}\n"
        f"  .venv/bin/provenance verify {period}\n"
        f"  .venv/bin/provenance statement {shlex.quote(owner)} --period {period} --out {_shown(FOLDER)}\n"
        f"  make ui",
        highlight=False,
        soft_wrap=True,
    )


def _shown(path: Path) -> str:
    return str(path.relative_to(CHECKOUT)) if path.is_relative_to(CHECKOUT) else str(path)


if __name__ == "__main__":
    main()
