"""Compares random histories of a ledger with a plain model of the books."""

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from samples import create_database

from provenance.core.errors import CheckFailed, InputError
from provenance.settlement import books, ledger
from provenance.settlement.accounts import OWED, Account, imbalances
from provenance.settlement.approvals import Approval
from provenance.settlement.bank.status_reports import PAID, REJECTED, RETURNED, Outcome
from provenance.settlement.exports.payouts import payouts
from provenance.settlement.months import settling
from provenance.settlement.months.periods import NO_PAYEE, NO_RATE, NO_TAX, PAY, ClosingTerms, Payee

# Of up to 25 steps each; 400 of them, some 10,000 steps, take eight minutes.
EXAMPLES = int(os.environ.get("BOOKS_EXAMPLES", "15"))
MONTHS = [date(2026, month, 15) for month in (1, 2, 3, 4, 5)]
LATER = date(2027, 1, 1)
TAXES = (0, 150_000_000, 333_333_333, None)
TERMS = ClosingTerms({"EUR": 1000})
NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)
OWNERS, NAMES, CURRENCIES = ("ann", "bob", "cid"), ("unmatched-x", "unmatched-y"), ("EUR", "JPY")
PARTS = [("developer", ""), *(("payable", owner) for owner in OWNERS), *(("escrow", name) for name in NAMES)]

nights = st.dictionaries(
    st.tuples(st.sampled_from(PARTS), st.sampled_from(CURRENCIES)), st.integers(1, 10**6), min_size=0, max_size=6
)


class CrashError(Exception):
    """What a process that is killed does not even raise."""


@pytest.fixture
def template(postgres):
    """A migrated, empty ledger to copy: many histories need one each."""
    url = create_database(postgres)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    ledger.migrate(engine)
    engine.dispose()
    return sa.engine.make_url(url).database


def history(postgres, template):
    class Books(RuleBasedStateMachine):
        """The model: what each day is now, who is on hold for what, who has claimed what; and what exports said."""

        @initialize()
        def empty(self):
            url = create_database(postgres, template=template)
            self.engine = sa.create_engine(url, pool_size=1, max_overflow=-1)
            self.days, self.holds, self.claims, self.causes = {}, set(), {}, 0
            self.exported, self.balances, self.closed, self.gone, self.answers = 0, {}, {}, {}, 0
            self.payees, self.dies_at, self.twice = {"ann": Payee("ann", "EUR", 0)}, 0, False

        def teardown(self):
            self.engine.dispose()

        def do(self, operation):
            """Do something; perhaps die at one of its statements first, perhaps do it in two processes at once."""
            dies_at, self.dies_at = self.dies_at, 0
            if dies_at:
                before = ledger.newest(self.engine)
                left = [dies_at]

                def die(*_):
                    left[0] -= 1
                    if not left[0]:
                        raise CrashError

                sa.event.listen(self.engine, "before_cursor_execute", die)
                sa.event.listen(self.engine, "commit", die)
                try:
                    return operation()
                except CrashError:
                    pass
                finally:
                    sa.event.remove(self.engine, "before_cursor_execute", die)
                    sa.event.remove(self.engine, "commit", die)
                assert ledger.newest(self.engine) == before, "half an operation is none"
            if self.twice:
                self.twice = False
                with ThreadPoolExecutor(2) as pool:
                    first, second = (future.result() for future in [pool.submit(operation) for _ in range(2)])
                assert first == second, "two at once end as one"
                return first
            return operation()

        @rule(statement=st.integers(1, 12))
        def the_next_one_dies(self, statement):
            self.dies_at = statement

        @rule()
        def the_next_one_runs_twice_at_once(self):
            self.twice = True

        @rule(day=st.integers(0, 4), parts=nights)
        def night(self, day, parts):
            amounts = {Account(name, party, currency): -amount for ((name, party), currency), amount in parts.items()}
            for currency in {currency for _, currency in parts}:
                revenue = -sum(amount for account, amount in amounts.items() if account.currency == currency)
                amounts[Account("receivable", "", currency)] = revenue
            self.causes += 1
            self.days[day] = amounts
            self.last = (MONTHS[day], amounts, f"c{self.causes}")
            day, amounts, cause = self.last
            self.do(lambda: ledger.book(self.engine, day, amounts, night="n", cause=cause))

        @precondition(lambda self: self.days)
        @rule()
        def the_same_night_again(self):
            before = ledger.newest(self.engine)
            day, amounts, cause = self.last
            self.do(lambda: ledger.book(self.engine, day, amounts, night="n", cause=cause))
            assert ledger.newest(self.engine) == before

        @rule(owner=st.sampled_from(OWNERS), reason=st.sampled_from(["dispute", "opt-out under review"]))
        def hold(self, owner, reason):
            self.do(lambda: ledger.hold(self.engine, owner, day=LATER, reason=reason, by="me"))
            self.holds.add((owner, reason))

        @precondition(lambda self: self.holds)
        @rule(data=st.data())
        def release(self, data):
            owner, reason = data.draw(st.sampled_from(sorted(self.holds)))
            self.twice = False  # the second of two would find it gone, and say so
            self.do(lambda: ledger.release(self.engine, owner, day=LATER, reason=reason, by="me"))
            self.holds.remove((owner, reason))

        @precondition(lambda self: any(a.account == "escrow" for day in self.days.values() for a in day))
        @rule(data=st.data(), owner=st.sampled_from(OWNERS))
        def claim(self, data, owner):
            escrows = sorted({a.party_id for day in self.days.values() for a in day if a.account == "escrow"} - {*self.claims})
            if escrows:
                name = data.draw(st.sampled_from(escrows))
                self.do(lambda: ledger.claim(self.engine, name, owner, day=LATER, evidence="letter", by="me"))
                self.claims[name] = owner

        @rule(owner=st.sampled_from(OWNERS), tax=st.sampled_from(TAXES), known=st.booleans())
        def payee(self, owner, tax, known):
            self.payees = {**self.payees, owner: Payee(owner, "EUR", tax)}
            if not known:
                del self.payees[owner]

        @rule(month=st.integers(0, 4), rate=st.sampled_from(["0.00612", "0.0059"]))
        def rate(self, month, rate):
            period = f"{MONTHS[month]:%Y-%m}"
            note = {"day": LATER, "evidence": "letter", "by": "me"}
            if self.closed and period <= max(self.closed):
                with pytest.raises(InputError, match="is closed"):
                    settling.record_rate(self.engine, period, ("JPY", "EUR"), Decimal(rate), **note)
            else:
                self.do(lambda: settling.record_rate(self.engine, period, ("JPY", "EUR"), Decimal(rate), **note))

        @rule(month=st.integers(0, 4))
        def close(self, month):
            period = f"{MONTHS[month]:%Y-%m}"
            if period not in self.closed and self.closed and period < max(self.closed):
                with pytest.raises(InputError, match="is closed"):
                    settling.close(self.engine, period, self.payees, TERMS, day=LATER, by="me")
                return
            before = ledger.newest(self.engine)
            seen = None
            if period not in self.closed:
                seen, holds = settling.preview(self.engine, period, self.payees, TERMS, day=LATER)
                assert ledger.newest(self.engine) == before, "a preview books nothing"
            try:
                made = self.do(lambda: settling.close(self.engine, period, self.payees, TERMS, day=LATER, by="me"))
            except InputError as error:
                if "rate JPY to EUR: expected one recorded" not in str(error):
                    raise
                assert NO_RATE in {line.outcome for line in seen}
                assert ledger.newest(self.engine) == before, "nothing is put on hold by a close that fails"
                return
            assert made == settling.close(self.engine, period, {}, ClosingTerms(), day=LATER, by="somebody"), "closed once"
            if seen is not None:
                assert (seen, holds) == (made[1], ledger.standing(self.engine, through=made[0].booking_id).holds)
            complete = {owner for owner, payee in self.payees.items() if payee.withholding_ppb is not None}
            if period not in self.closed:
                assert {line.owner_id for line in made[1] if line.outcome == PAY} <= complete
                held = ledger.standing(self.engine, through=made[0].booking_id).holds
                missing = {(owner, why) for owner, reasons in held.items() for why in reasons if why in (NO_PAYEE, NO_TAX)}
                assert not {owner for owner, _ in missing} & complete
                self.holds = {pair for pair in self.holds if pair[1] not in (NO_PAYEE, NO_TAX)} | missing
            self.closed.setdefault(period, False)

        @precondition(lambda self: self.closed)
        @rule(data=st.data())
        def pay(self, data):
            period = data.draw(st.sampled_from(sorted(self.closed)))
            one, other = Approval("Ann", NOON, granted=True), Approval("ann ", NOON, granted=True)
            with pytest.raises(InputError, match="one person who prepared and another who approves"):
                settling.pay(self.engine, period, prepared=one, approved=other, day=LATER)
            rejected = Approval("Bob", NOON, granted=False)
            with pytest.raises(CheckFailed, match="Bob did not approve the payments"):
                settling.pay(self.engine, period, prepared=one, approved=rejected, day=LATER)
            other = Approval("Bob", NOON, granted=True)
            _, paid, left_out = self.do(lambda: settling.pay(self.engine, period, prepared=one, approved=other, day=LATER))
            names = {payment.payment_id for payment in settling.payments(self.engine, period)}
            assert names == {payment.payment_id for payment in paid} | {*left_out}
            if not self.closed[period]:
                assert not {payment.line.owner_id for payment in paid} & {owner for owner, _ in self.holds}
                self.gone |= {payment.payment_id: payment.line for payment in paid}
                self.closed[period] = True

        @precondition(lambda self: self.gone)
        @rule(data=st.data(), status=st.sampled_from([PAID, REJECTED, RETURNED]))
        def a_bank_answers(self, data, status):
            names = data.draw(st.lists(st.sampled_from(sorted(self.gone)), unique=True, min_size=1))
            outcomes = [Outcome(n, status, self.gone[n].paid, self.gone[n].pay_currency, "AC04") for n in names]
            self.answers += 1
            arguments = {"day": LATER, "message": "m", "source": f"digest {self.answers}"}
            wrong = Outcome(names[0], status, self.gone[names[0]].paid + 1, self.gone[names[0]].pay_currency)
            before = ledger.newest(self.engine)
            for bad in (wrong, Outcome("nobody", status)):
                with pytest.raises(InputError, match=f"payment {bad.payment_id}: expected"):
                    settling.answer(self.engine, [*outcomes[1:], bad], **arguments)
            assert ledger.newest(self.engine) == before, "nothing of an answer that is wrong is booked"
            made = self.do(lambda: settling.answer(self.engine, outcomes, **arguments))
            assert settling.answer(self.engine, outcomes, **arguments) == made, "an answer is booked once"
            if status != PAID:
                for name in names:
                    del self.gone[name]

        @precondition(lambda self: self.days)
        @rule()
        def export(self):
            for booking in ledger.bookings(self.engine, kind=books.NIGHT):
                if booking.booking_id > self.exported:
                    self.publish(booking)

        def publish(self, booking):
            movements = ledger.movements(self.engine, booking, after=self.exported)
            table = payouts(booking.day, booking.revision, movements=movements, outputs={}, names={})
            opening = {(o, c): m for o, c, m in table.select("owner_id", "currency", "opening_balance_minor").iter_rows() if m}
            assert opening == {key: m for key, m in self.balances.items() if m}, "an export opens where the last one closed"
            closing = table.select("owner_id", "currency", "closing_balance_minor")
            self.balances = {(o, c): m for o, c, m in closing.iter_rows()}
            self.exported = booking.booking_id

        @invariant()
        def the_books_are_the_models(self):
            if not hasattr(self, "engine"):
                return
            through = ledger.newest(self.engine)
            balances, standing = ledger.balances(self.engine, through=through), ledger.standing(self.engine, through=through)
            assert list(imbalances(balances, standing)) == []
            owed, rest = defaultdict(int), defaultdict(int)
            for amounts in self.days.values():
                for account, amount in amounts.items():
                    party = self.claims.get(account.party_id, account.party_id)
                    kind = "owed" if party in OWNERS else account.account
                    (owed if kind == "owed" else rest)[party, account.currency, kind] -= amount
            for line in self.gone.values():
                owed[line.owner_id, line.currency, "owed"] -= line.net + line.withheld
                rest[line.owner_id, line.currency, "withheld"] += line.withheld
                rest[line.owner_id, line.currency, "net"] += line.net
            sums = defaultdict(int)
            for account, amount in balances.items():
                kind = "owed" if account.account in OWED else account.account
                kind = "net" if kind in ("paid", "exchange") else kind
                sums[account.party_id, account.currency, kind] -= amount
            assert {k: m for k, m in sums.items() if m} == {k: m for k, m in (owed | rest).items() if m}
            for account, amount in balances.items():
                assert account.account != "carried" or amount > 0

    return Books


def test_random_histories_keep_the_books_of_a_plain_model(postgres, template):
    run_state_machine_as_test(history(postgres, template), settings=settings(max_examples=EXAMPLES, stateful_step_count=25))
