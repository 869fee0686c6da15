"""What a close found for every owner, what banks answered, payees in a schema of their own, and a role for each side."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# The login that works on the ledger becomes the one role, a settlement's the other for as long as it reads payees.
ROLES = ("provenance_ledger", "provenance_payees")


def upgrade() -> None:
    """Keep all lines of a close instead of its payments alone; holds name any number of owners."""
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
    op.execute(
        "INSERT INTO closed SELECT close_id, owner_id, currency, 'pay', payment_id, 0, 0, pay_currency, "
        "net_minor + withheld_minor, 0, 0, 0, withheld_minor, net_minor, paid_minor FROM payment"
    )
    op.drop_table("payment")
    op.create_table(
        "outcome",
        sa.Column("payment_id", sa.String(32), sa.ForeignKey("closed.payment_id"), primary_key=True),
        sa.Column("status", sa.Text, primary_key=True),
        sa.Column("booking_id", sa.BigInteger, sa.ForeignKey("booking.booking_id"), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    for table in ("closed", "outcome"):
        op.execute(
            f"CREATE TRIGGER {table}_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute("ALTER TABLE booking DISABLE TRIGGER booking_is_immutable")
    op.execute(
        "UPDATE booking SET facts = facts - 'owner_id' - 'hold' || jsonb_build_object('owners', "
        "jsonb_build_array(facts->'owner_id')) WHERE kind IN ('hold', 'release')"
    )
    op.execute("ALTER TABLE booking ENABLE TRIGGER booking_is_immutable")

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
    # They are the server's, not the database's: infra/postgres/roles.sql or another ledger on it may have made them, and then
    # who may take them is settled, and the login need not be one that makes roles.
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
