"""Makes the ledger's tables, bound to the stack's store."""

from __future__ import annotations

from tasks.where import opened


def main() -> None:
    """Make the tables if they are missing, so that the metrics can read them before the first night."""
    with opened() as where:
        where.ledger.dispose()


if __name__ == "__main__":
    main()
