"""Bookings of other kinds beside nights: holds, releases, claims on what lies in escrow."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Say of what kind a booking is, and what there is to say of it; only nights have a revision and a manifest."""
    op.add_column("booking", sa.Column("kind", sa.Text, nullable=False, server_default="night"))
    op.add_column("booking", sa.Column("facts", postgresql.JSONB, nullable=False, server_default="{}"))
    op.alter_column("booking", "revision", nullable=True)
    op.alter_column("booking", "night", nullable=True)
    op.create_check_constraint(
        "booking_nights_alone_have_revisions", "booking", "(kind = 'night') = (revision IS NOT NULL AND night IS NOT NULL)"
    )
    op.alter_column("booking", "kind", server_default=None)
    op.create_index("ix_entry_party_id", "entry", ["party_id"])
    op.create_index("ix_booking_kind", "booking", ["kind"])
