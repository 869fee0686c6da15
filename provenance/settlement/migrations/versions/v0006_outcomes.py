"""Lets an outcome of a payment be booked again: a statement's debit after a report that said so, or after a rejection."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the booking a part of the key."""
    op.execute("ALTER TABLE outcome DROP CONSTRAINT outcome_pkey, ADD PRIMARY KEY (payment_id, status, booking_id)")
