"""Adds the register of invoices: numbered without gaps, only ever added to."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

AMOUNTS = ("taxable", "vat", "rounding", "total", "withheld", "due")
# A sequence would leave a gap after a transaction that failed.
REFUSE_GAP = """
    CREATE FUNCTION refuse_gap() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM invoice) THEN
            RAISE EXCEPTION 'invoice % does not follow the last one', NEW.number;
        END IF;
        RETURN NEW;
    END $$
"""


def upgrade() -> None:
    """Create the table, and the triggers that guard it."""
    op.create_table(
        "invoice",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("invoice_id", sa.Text, nullable=False, unique=True),
        sa.Column("batch", sa.BigInteger, nullable=False, index=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("corrects", sa.Text, sa.ForeignKey("invoice.invoice_id"), unique=True),
        sa.Column("issued_on", sa.Date, nullable=False),
        sa.Column("period", sa.String(7), nullable=False),
        sa.Column("payment_id", sa.String(32), sa.ForeignKey("closed.payment_id"), nullable=False, index=True),
        sa.Column("owner_id", sa.Text, nullable=False, index=True),
        sa.Column("payee_version", sa.Integer, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("vat_category", sa.Text, nullable=False),
        sa.Column("vat_rate", sa.Text, nullable=False),
        *(sa.Column(f"{name}_minor", sa.BigInteger, nullable=False) for name in AMOUNTS),
        sa.Column("document_sha256", sa.String(64), nullable=False),
        sa.CheckConstraint("(kind = 'credit note') = (corrects IS NOT NULL)", name="invoice_credit_notes_correct"),
        sa.CheckConstraint(
            "total_minor = taxable_minor + vat_minor + rounding_minor AND due_minor = total_minor - withheld_minor",
            name="invoice_adds_up",
        ),
    )
    op.execute(REFUSE_GAP)
    op.execute(
        "CREATE TRIGGER invoice_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON invoice "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute("CREATE TRIGGER invoices_have_no_gap BEFORE INSERT ON invoice FOR EACH ROW EXECUTE FUNCTION refuse_gap()")
    op.execute("GRANT SELECT, INSERT ON invoice TO provenance_ledger")
