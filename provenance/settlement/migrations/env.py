"""Runs migrations for Alembic, on the connection of `ledger.migrate`; there is no offline mode."""

from alembic import context

from provenance.settlement.books import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
