"""Random histories of a ledger against a plain model of the books."""

import os
from collections import defaultdict
from datetime import date
from decimal import Decimal

import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from samples import create_database

from provenance.core.contracts import CREDITS
from provenance.core.errors import InputError
from provenance.settlement import ledger
from provenance.settlement.accounts import OWED, Account, imbalances
from provenance.settlement.payouts import Movements, payouts
from provenance.settlement.periods import Payee, Terms

# Of up to 25 steps each; 400 of them, some 10,000 steps, take eight minutes.
EXAMPLES = int(os.environ.get("BOOKS_EXAMPLES", "15"))
MONTHS = [date(2026, month, 15) for month in (1, 2, 3, 4, 5)]
LATER = date(2027, 1, 1)
PAYEES = {owner: Payee(owner, "EUR", tax) for owner, tax in (("ann", 0), ("bob", 150_000_000), ("cid", 333_333_333))}
TERMS = Terms({"EUR": 1000}, {("JPY", "EUR"): Decimal("0.00612")})
OWNERS, NAMES, CURRENCIES = ("ann", "bob", "cid"), ("unmatched-x", "unmatched-y"), ("EUR", "JPY")
PARTS = [("developer", ""), *(("payable", owner) for owner in OWNERS), *(("escrow", name) for name in NAMES)]

nights = st.dictionaries(
    st.tuples(st.sampled_from(PARTS), st.sampled_from(CURRENCIES)), st.integers(1, 10**6), min_size=0, max_size=6
)


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
            self.engine = sa.create_engine(url, poolclass=sa.NullPool)
            self.days, self.holds, self.claims, self.causes = {}, set(), {}, 0
            self.exported, self.balances, self.closed, self.gone = 0, {}, {}, {}

        def teardown(self):
            self.engine.dispose()

        @rule(day=st.integers(0, 4), parts=nights)
        def night(self, day, parts):
            amounts = {Account(name, party, currency): -amount for ((name, party), currency), amount in parts.items()}
            for currency in {currency for _, currency in parts}:
                revenue = -sum(amount for account, amount in amounts.items() if account.currency == currency)
                amounts[Account("receivable", "", currency)] = revenue
            self.causes += 1
            self.days[day] = amounts
            self.last = (MONTHS[day], amounts, f"c{self.causes}")
            ledger.book(self.engine, self.last[0], amounts, night="n", cause=self.last[2])

        @precondition(lambda self: self.days)
        @rule()
        def the_same_night_again(self):
            before = ledger.newest(self.engine)
            day, amounts, cause = self.last
            ledger.book(self.engine, day, amounts, night="n", cause=cause)
            assert ledger.newest(self.engine) == before

        @rule(owner=st.sampled_from(OWNERS), reason=st.sampled_from(["dispute", "no tax data"]))
        def hold(self, owner, reason):
            ledger.hold(self.engine, owner, day=LATER, reason=reason, by="me")
            self.holds.add((owner, reason))

        @precondition(lambda self: self.holds)
        @rule(data=st.data())
        def release(self, data):
            owner, reason = data.draw(st.sampled_from(sorted(self.holds)))
            ledger.release(self.engine, owner, day=LATER, reason=reason, by="me")
            self.holds.remove((owner, reason))

        @precondition(lambda self: any(a.account == "escrow" for day in self.days.values() for a in day))
        @rule(data=st.data(), owner=st.sampled_from(OWNERS))
        def claim(self, data, owner):
            there = sorted({a.party_id for day in self.days.values() for a in day if a.account == "escrow"} - {*self.claims})
            if there:
                name = data.draw(st.sampled_from(there))
                ledger.claim(self.engine, name, owner, day=LATER, evidence="letter", by="me")
                self.claims[name] = owner

        @rule(month=st.integers(0, 4))
        def close(self, month):
            period = f"{MONTHS[month]:%Y-%m}"
            if period not in self.closed and self.closed and period < max(self.closed):
                with pytest.raises(InputError, match="is closed"):
                    ledger.close(self.engine, period, PAYEES, TERMS, day=LATER, by="me")
                return
            made = ledger.close(self.engine, period, PAYEES, TERMS, day=LATER, by="me")
            assert made == ledger.close(self.engine, period, {}, Terms(), day=LATER, by="somebody"), "closed once"
            self.closed.setdefault(period, False)

        @precondition(lambda self: self.closed)
        @rule(data=st.data())
        def pay(self, data):
            period = data.draw(st.sampled_from(sorted(self.closed)))
            with pytest.raises(InputError, match="approval by somebody else"):
                ledger.pay(self.engine, period, day=LATER, by="Me ")
            _, paid, left_out = ledger.pay(self.engine, period, day=LATER, by="you")
            assert {p.payment_id for p in ledger.payments(self.engine, period)} == {p.payment_id for p in paid} | {*left_out}
            if not self.closed[period]:
                assert not {payment.line.owner_id for payment in paid} & {owner for owner, _ in self.holds}
                self.gone |= {payment.payment_id: payment.line for payment in paid}
                self.closed[period] = True

        @precondition(lambda self: self.gone)
        @rule(data=st.data())
        def bounce(self, data):
            payment_id = data.draw(st.sampled_from(sorted(self.gone)))
            made = ledger.give_back(self.engine, payment_id, day=LATER, reason="account closed", source="digest")
            assert ledger.give_back(self.engine, payment_id, day=LATER, reason="again", source="digest") == made
            del self.gone[payment_id]

        @precondition(lambda self: self.days)
        @rule()
        def export(self):
            for booking in ledger.bookings(self.engine, kind=ledger.NIGHT):
                if booking.booking_id > self.exported:
                    self.publish(booking)

        def publish(self, booking):
            at = {"through": booking.booking_id}
            standing = ledger.standing(self.engine, **at)
            day = {"engine": self.engine, "day": booking.day}
            movements = Movements(
                opening=ledger.balances(self.engine, through=self.exported),
                closing=ledger.balances(self.engine, **at),
                day_before=standing.earned(ledger.of_day(**day, through=self.exported)),
                day_after=standing.earned(ledger.of_day(**day, **at)),
                moved=ledger.moved(self.engine, after=self.exported, **at),
                standing=standing,
            )
            none = pl.DataFrame(schema=CREDITS.schema).with_columns(account=pl.lit(""))
            table = payouts(booking.day, booking.revision, movements=movements, credits=none, names={})
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
            found = defaultdict(int)
            for account, amount in balances.items():
                kind = "owed" if account.account in OWED else account.account
                kind = "net" if kind in ("paid", "exchange") else kind
                found[account.party_id, account.currency, kind] -= amount
            assert {k: m for k, m in found.items() if m} == {k: m for k, m in (owed | rest).items() if m}
            for account, amount in balances.items():
                assert account.account != "carried" or amount > 0

    return Books


def test_random_histories_keep_the_books_of_a_plain_model(postgres, template):
    run_state_machine_as_test(
        history(postgres, template), settings=settings(max_examples=EXAMPLES, stateful_step_count=25, deadline=None)
    )
