"""Makes the store's bucket if it is missing, and configures it by the JSON files beside this one.

    python -m infra.s3.setup bucket             versioning, encryption, lifecycle, policy, no public access
    python -m infra.s3.setup lock --days 3650   lock objects below exports/ that have no lock yet: nobody can delete them

The bucket is that of `store.url`; credentials are the usual AWS_* variables. A default lock of the bucket would also lock
features, which can be computed again. So a daily run of `lock` locks published files only.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.exceptions import ClientError

from infra.s3.identities import EXPORTS, PLACE
from provenance.core.errors import InputError, SettingsError
from provenance.core.settings import StoreSettings
from tasks.settings import load

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
# The statement of the bucket's policy that a server without TLS cannot meet.
NEEDS_TLS = "TlsOnly"
# Error codes of AWS and SeaweedFS for a version without a lock.
UNLOCKED = {"NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError"}


def bucket_of(settings: StoreSettings) -> tuple[str, str]:
    """The bucket of a store, and the prefix of its keys.

    Raises:
        SettingsError: the store is not in S3.
    """
    scheme, _, path = settings.url.partition("://")
    if scheme != "s3":
        raise SettingsError("settings: store.url", expected="s3://bucket or s3://bucket/prefix", found=repr(settings.url))
    bucket, _, prefix = path.strip("/").partition("/")
    return bucket, f"{prefix}/" if prefix else ""


def open_client(settings: StoreSettings) -> Any:
    """A client of the store's server, with the environment's credentials."""
    session: Any = botocore.session.Session()
    return session.create_client("s3", endpoint_url=settings.endpoint_url or None)


def set_up(client: Any, bucket: str) -> list[str]:
    """Make the bucket, with object lock, and configure it.

    Returns:
        Steps that the server does not support; AWS supports all.
    """
    region = client.meta.region_name
    where = {} if region in {None, "us-east-1"} else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True, **where)
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            raise
    document = _read("bucket-policy.json", bucket)
    if client.meta.endpoint_url.startswith("http://"):
        document["Statement"] = [statement for statement in document["Statement"] if statement["Sid"] != NEEDS_TLS]
    steps: dict[str, Callable[[], object]] = {
        "versioning": lambda: client.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration=_read("versioning.json", bucket)
        ),
        "encryption": lambda: client.put_bucket_encryption(
            Bucket=bucket, ServerSideEncryptionConfiguration=_read("encryption.json", bucket)
        ),
        "object lock": lambda: client.put_object_lock_configuration(
            Bucket=bucket, ObjectLockConfiguration=_read("object-lock.json", bucket)
        ),
        "lifecycle": lambda: client.put_bucket_lifecycle_configuration(
            Bucket=bucket, LifecycleConfiguration=_read("lifecycle.json", bucket)
        ),
        "no public access": lambda: client.put_public_access_block(
            Bucket=bucket, PublicAccessBlockConfiguration=_read("public-access-block.json", bucket)
        ),
        "policy": lambda: client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(document)),
    }
    unsupported = []
    for name, step in steps.items():
        try:
            step()
        except ClientError as error:
            if error.response["Error"]["Code"] != "NotImplemented":
                raise
            unsupported.append(name)
    return unsupported


def lock(client: Any, bucket: str, prefix: str, *, days: int) -> int:
    """Lock versions below `prefix` without a lock, for `days` from their writing; returns their number."""
    locked = 0
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        for version in page.get("Versions", []):
            target = {"Bucket": bucket, "Key": version["Key"], "VersionId": version["VersionId"]}
            if _is_locked(client, target):
                continue
            until = version["LastModified"] + timedelta(days=days)
            client.put_object_retention(**target, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until})
            locked += 1
    return locked


def _is_locked(client: Any, target: dict[str, str]) -> bool:
    try:
        return "Retention" in client.get_object_retention(**target)
    except ClientError as error:
        if error.response["Error"]["Code"] not in UNLOCKED:
            raise
        return False


def _read(name: str, bucket: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((HERE / name).read_text().replace(PLACE, bucket))
    return document


def main() -> None:
    """Configure the bucket of the settings, or lock its published files; exit code 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("bucket", help="make and configure the bucket")
    locking = commands.add_parser("lock", help="lock published files")
    locking.add_argument("--days", type=int, default=3650, help="days of the lock, from the writing of a file")
    arguments = parser.parse_args()
    try:
        settings = load().store
        bucket, prefix = bucket_of(settings)
        client = open_client(settings)
        if arguments.command == "bucket":
            unsupported = set_up(client, bucket)
            settings.open().check_writable()  # also whether the server honours conditional writes
            note = f"; this server does not support: {', '.join(unsupported)}" if unsupported else ""
            sys.stdout.write(f"{bucket} is set up{note}\n")
        else:
            sys.stdout.write(f"{lock(client, bucket, prefix + EXPORTS, days=arguments.days)} versions locked\n")
    except (InputError, ClientError) as error:
        sys.stderr.write(f"Bad input: {error}\n")
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
