"""Bookings and entries, immutable and balanced by the database itself."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables and the triggers that guard them."""
    op.create_table(
        "booking",
        sa.Column("booking_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("cause_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("night", sa.Text, nullable=False),
        sa.Column("corrects", sa.BigInteger, sa.ForeignKey("booking.booking_id")),
        sa.Column("booked_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("transaction_id", sa.BigInteger, nullable=False, server_default=sa.text("txid_current()")),
        sa.UniqueConstraint("day", "revision"),
    )
    op.create_table(
        "entry",
        sa.Column("booking_id", sa.BigInteger, sa.ForeignKey("booking.booking_id"), primary_key=True),
        sa.Column("line", sa.Integer, primary_key=True),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("party_id", sa.Text, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.CheckConstraint("amount_minor <> 0"),
    )
    op.create_table(
        "store",
        sa.Column("single", sa.Boolean, sa.CheckConstraint("single"), primary_key=True, server_default=sa.true()),
        sa.Column("store_id", sa.Text, nullable=False),
    )
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'the ledger is only ever added to: % of % refused', TG_OP, TG_TABLE_NAME;
        END $$
        """
    )
    for table in ("booking", "entry", "store"):
        op.execute(
            f"CREATE TRIGGER {table}_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(
        """
        CREATE FUNCTION refuse_late_entries() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF EXISTS (SELECT FROM inserted JOIN booking USING (booking_id) WHERE transaction_id <> txid_current()) THEN
                RAISE EXCEPTION 'entries belong to the transaction that made their booking';
            END IF;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER entries_come_with_their_booking AFTER INSERT ON entry REFERENCING NEW TABLE AS inserted "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_late_entries()"
    )
    op.execute(
        """
        CREATE FUNCTION refuse_imbalance() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE wrong record;
        BEGIN
            SELECT currency, sum(amount_minor) AS rest INTO wrong FROM entry WHERE booking_id = NEW.booking_id
                GROUP BY currency HAVING sum(amount_minor) <> 0 LIMIT 1;
            IF FOUND THEN
                RAISE EXCEPTION 'booking % does not balance: % is off by % minor units', NEW.booking_id, wrong.currency,
                    wrong.rest;
            END IF;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        "CREATE CONSTRAINT TRIGGER booking_balances AFTER INSERT ON booking DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION refuse_imbalance()"
    )
