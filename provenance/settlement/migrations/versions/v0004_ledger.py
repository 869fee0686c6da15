"""Creates the ledger, a schema for payees, a role for each, and the triggers that guard them.

0004 is the first released schema.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = None
branch_labels = None
depends_on = None

# Logins take the first role to work on the ledger, and the second while a settlement reads payees.
ROLES = ("provenance_ledger", "provenance_payees")
REFUSE_CHANGE = """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the ledger is only ever added to: % of % refused', TG_OP, TG_TABLE_NAME;
    END $$
"""
REFUSE_LATE_ENTRIES = """
    CREATE FUNCTION refuse_late_entries() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM inserted JOIN booking USING (booking_id) WHERE transaction_id <> txid_current()) THEN
            RAISE EXCEPTION 'entries belong to the transaction that made their booking';
        END IF;
        RETURN NULL;
    END $$
"""
REFUSE_IMBALANCE = """
    CREATE FUNCTION refuse_imbalance() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE wrong record;
    BEGIN
        SELECT currency, sum(amount_minor) AS rest INTO wrong FROM entry WHERE booking_id = NEW.booking_id
            GROUP BY currency HAVING sum(amount_minor) <> 0 LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'booking % does not balance: % is off by % minor units', NEW.booking_id, wrong.currency, wrong.rest;
        END IF;
        RETURN NULL;
    END $$
"""


def upgrade() -> None:
    """Create the tables, the triggers that guard them, and the roles."""
    op.create_table(
        "booking",
        sa.Column("booking_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("revision", sa.Integer),
        sa.Column("cause_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("night", sa.Text),
        sa.Column("corrects", sa.BigInteger, sa.ForeignKey("booking.booking_id")),
        sa.Column("booked_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("transaction_id", sa.BigInteger, nullable=False, server_default=sa.text("txid_current()")),
        sa.Column("kind", sa.Text, nullable=False, index=True),
        sa.Column("facts", postgresql.JSONB, nullable=False, server_default="{}"),
        sa.Column("period", sa.String(7), nullable=False, index=True),
        sa.UniqueConstraint("day", "revision"),
        sa.CheckConstraint(
            "(kind = 'night') = (revision IS NOT NULL AND night IS NOT NULL)", name="booking_nights_alone_have_revisions"
        ),
    )
    op.create_table(
        "entry",
        sa.Column("booking_id", sa.BigInteger, sa.ForeignKey("booking.booking_id"), primary_key=True),
        sa.Column("line", sa.Integer, primary_key=True),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("party_id", sa.Text, nullable=False, index=True),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.CheckConstraint("amount_minor <> 0"),
    )
    op.create_table(
        "store",
        sa.Column("single", sa.Boolean, sa.CheckConstraint("single"), primary_key=True, server_default=sa.true()),
        sa.Column("store_id", sa.Text, nullable=False),
    )
    amounts = ("owed", "carried_over", "repaid", "recouped", "withheld", "net", "paid")
    op.create_table(
        "closed",
        sa.Column("close_id", sa.BigInteger, sa.ForeignKey("booking.booking_id"), primary_key=True),
        sa.Column("owner_id", sa.Text, primary_key=True),
        sa.Column("currency", sa.String(3), primary_key=True),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("payment_id", sa.String(32), unique=True),
        sa.Column("payee_version", sa.Integer, nullable=False),
        sa.Column("withholding_ppb", sa.BigInteger, nullable=False),
        sa.Column("pay_currency", sa.String(3), nullable=False),
        *(sa.Column(f"{name}_minor", sa.BigInteger, nullable=False) for name in amounts),
        sa.CheckConstraint(
            "(payment_id IS NOT NULL) = (net_minor > 0) AND (net_minor > 0) = (paid_minor > 0) AND withheld_minor >= 0",
            name="closed_payments_are_of_something",
        ),
    )
    op.create_table(
        "outcome",
        sa.Column("payment_id", sa.String(32), sa.ForeignKey("closed.payment_id"), primary_key=True),
        sa.Column("status", sa.Text, primary_key=True),
        sa.Column("booking_id", sa.BigInteger, sa.ForeignKey("booking.booking_id"), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    for function in (REFUSE_CHANGE, REFUSE_LATE_ENTRIES, REFUSE_IMBALANCE):
        op.execute(function)
    for table in ("booking", "entry", "store", "closed", "outcome"):
        op.execute(
            f"CREATE TRIGGER {table}_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(
        "CREATE TRIGGER entries_come_with_their_booking AFTER INSERT ON entry REFERENCING NEW TABLE AS inserted "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_late_entries()"
    )
    op.execute(
        "CREATE CONSTRAINT TRIGGER booking_balances AFTER INSERT ON booking DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION refuse_imbalance()"
    )
    op.execute("CREATE SCHEMA payees")
    op.execute("REVOKE ALL ON SCHEMA payees FROM PUBLIC")
    op.create_table(
        "payee",
        sa.Column("owner_id", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("changed_by", sa.Text, nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        schema="payees",
    )
    # Roles belong to the server: infra/postgres/roles.sql or another ledger may have made and granted them already. Then this
    # login needs no right to make roles.
    for role in ROLES:
        op.execute(
            f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN "
            f"CREATE ROLE {role} NOLOGIN; "
            "IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN "
            f"GRANT {role} TO CURRENT_USER; END IF; END IF; "
            "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        )
    op.execute("GRANT SELECT, INSERT ON booking, entry, closed, outcome, store TO provenance_ledger")
    op.execute("GRANT SELECT ON alembic_version TO provenance_ledger")
    op.execute("GRANT USAGE ON SCHEMA payees TO provenance_payees")
    op.execute("GRANT SELECT, INSERT, UPDATE (sealed) ON payees.payee TO provenance_payees")
