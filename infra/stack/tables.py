"""The ledger's tables, bound to the stack's store: made where there are none."""

from __future__ import annotations

from tasks.database import open_ledger
from tasks.settings import load


def main() -> None:
    """Make what the metrics would otherwise miss until the first night."""
    settings = load()
    open_ledger(settings.database, settings.store.open()).dispose()


if __name__ == "__main__":
    main()
