"""The stack's bucket, and the ledger's tables: made where there are none."""

from __future__ import annotations

import s3fs

from tasks.database import open_ledger
from tasks.settings import load


def main() -> None:
    """Make what the first night would otherwise miss."""
    settings = load()
    store = settings.store.open()
    bucket = settings.store.url.removeprefix("s3://").split("/", 1)[0]
    files = s3fs.S3FileSystem(endpoint_url=settings.store.endpoint_url, use_listings_cache=False)
    if not files.exists(bucket):
        files.mkdir(bucket)
    open_ledger(settings.database, store).dispose()


if __name__ == "__main__":
    main()
