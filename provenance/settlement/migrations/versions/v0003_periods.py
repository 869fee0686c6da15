"""Accounting periods, and payments: what a close has found payable, and what was then booked of it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Every booking counts in a period; until now, that of its day. Payments are only ever added to, like all else."""
    op.add_column("booking", sa.Column("period", sa.String(7)))
    op.execute("ALTER TABLE booking DISABLE TRIGGER booking_is_immutable")
    op.execute("UPDATE booking SET period = to_char(day, 'YYYY-MM')")
    op.execute("ALTER TABLE booking ENABLE TRIGGER booking_is_immutable")
    op.alter_column("booking", "period", nullable=False)
    op.create_index("ix_booking_period", "booking", ["period"])
    op.create_table(
        "payment",
        sa.Column("payment_id", sa.String(32), primary_key=True),
        sa.Column("close_id", sa.BigInteger, sa.ForeignKey("booking.booking_id"), nullable=False, index=True),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("net_minor", sa.BigInteger, nullable=False),
        sa.Column("withheld_minor", sa.BigInteger, nullable=False),
        sa.Column("pay_currency", sa.String(3), nullable=False),
        sa.Column("paid_minor", sa.BigInteger, nullable=False),
        sa.CheckConstraint("net_minor > 0 AND withheld_minor >= 0 AND paid_minor > 0", name="payment_is_of_something"),
        sa.UniqueConstraint("close_id", "owner_id", "currency"),
    )
    op.execute(
        "CREATE TRIGGER payment_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON payment "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
