"""Writes rights in the store's bucket for SeaweedFS and for AWS, from one table of roles.

    python -m infra.s3.identities s3.json       for SeaweedFS, with keys from S3_<ROLE>_ACCESS_KEY and S3_<ROLE>_SECRET_KEY
    python -m infra.s3.identities --policies    for AWS, into infra/s3/policies

SeaweedFS does not separate writing from deleting: a role that writes a folder may also delete in it, unless the bucket's policy
or an object lock forbids it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provenance.core.errors import InputError, SettingsError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

POLICIES = Path(__file__).parent / "policies"
# Placeholder of the bucket's name in AWS's files.
PLACE = "${bucket}"

EXPORTS, BANK, ANSWERS, TAX = "exports/", "bank/", "bank/answers/", "tax/"
DELIVERIES = ("corpus/", "outputs/")
# Computed by nights; housekeeping may remove them.
MADE = (
    "frozen/",
    "features/",
    "statistics/",
    "curvature/",
    "likelihoods/",
    "counterfactuals/",
    "nights/",
    # Of version 0.1.
    "snapshots/",
    "sketches/",
)
# Results of audits, and answers to owners who contested a share.
AUDITS, APPEALS = "audits/", "appeals/"
# Records of sources, terms and owners' wishes: append-only.
RIGHTS = "rights/"
PROBES = ".write-check-"
ADMINISTRATOR = "administrator"


@dataclass(frozen=True)
class Role:
    """Prefixes of keys that a role reads (and lists), writes and deletes; an empty prefix is the whole bucket.

    Attributes:
        retains: prefixes of keys whose versions it may lock for longer.
    """

    why: str
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    retains: tuple[str, ...] = ()


ROLES: Mapping[str, Role] = {
    "pipeline": Role(
        "Airflow's tasks and Dask's workers: they use the whole store, but cannot delete published files.",
        reads=("",),
        writes=("",),
        deletes=(*MADE, PROBES),
        retains=(EXPORTS,),
    ),
    "accountants": Role("They collect exports, closings and statements, and need nothing else.", reads=(EXPORTS,)),
    "operators": Role(
        "They inspect nights. bank/ has account numbers of payees and explains no failed night, so they do not read it.",
        reads=(*DELIVERIES, *MADE, AUDITS, APPEALS, RIGHTS, EXPORTS, "logs/", "store.json"),
    ),
    "bank": Role(
        "They carry files to the bank and its answers back, and invoices to payees; they cannot change what was approved.",
        reads=(BANK, TAX),
        writes=(ANSWERS,),
        deletes=(ANSWERS,),
    ),
    "data": Role(
        "Data teams deliver corpora and outputs, and see how audits went and what works may be used for.",
        reads=(*DELIVERIES, AUDITS, RIGHTS),
        writes=DELIVERIES,
        deletes=DELIVERIES,
    ),
}


def identities(bucket: str, keys: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """SeaweedFS's `s3.json` for a bucket.

    Args:
        bucket: its name.
        keys: access key and secret key of each role with an identity. `administrator` may do everything, and makes the bucket.

    Raises:
        SettingsError: a role is unknown, or a key is empty or another role's.
    """
    names = [*ROLES, ADMINISTRATOR]
    seen: set[str] = set()
    for name, (access, secret) in keys.items():
        where = f"S3 identity {name!r}"
        if name not in names:
            raise SettingsError(where, expected=f"one of {', '.join(names)}", found=repr(name), hint=did_you_mean(name, names))
        if not access or not secret or access in seen:
            raise SettingsError(where, expected="an access key and a secret key of its own", found="none, or another role's")
        seen.add(access)
    return {
        "identities": [
            {
                "name": name,
                "credentials": [{"accessKey": access, "secretKey": secret}],
                "actions": _actions(bucket, name),
            }
            for name, (access, secret) in keys.items()
        ]
    }


def _actions(bucket: str, name: str) -> list[str]:
    if name == ADMINISTRATOR:
        return ["Admin", "Read", "List", "Tagging", "Write"]
    role = ROLES[name]
    wanted = {
        "Read": role.reads,
        "List": role.reads,
        "Write": role.writes,
        "GetObjectRetention": role.retains,
        "PutObjectRetention": role.retains,
    }
    # Without the slash, it would include the bucket's own settings.
    return [
        f"{action}:{bucket}" if not prefix and action in {"Read", "List"} else f"{action}:{bucket}/{prefix}*"
        for action, prefixes in wanted.items()
        for prefix in prefixes
    ]


def policy(name: str) -> dict[str, Any]:
    """AWS's policy of a role, to attach to an IAM role."""
    role = ROLES[name]
    arn = f"arn:aws:s3:::{PLACE}"
    listing: dict[str, Any] = {"Sid": "List", "Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [arn]}
    if role.retains:
        listing["Action"].append("s3:ListBucketVersions")
    if "" not in role.reads:
        listing["Condition"] = {"StringLike": {"s3:prefix": [f"{prefix}*" for prefix in role.reads]}}
    allowed = {
        "Read": (["s3:GetObject", "s3:GetObjectVersion"], role.reads),
        "Write": (["s3:PutObject", "s3:AbortMultipartUpload"], role.writes),
        "Delete": (["s3:DeleteObject"], role.deletes),
        "Retain": (["s3:GetObjectRetention", "s3:PutObjectRetention"], role.retains),
    }
    statements = [
        {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": [f"{arn}/{prefix}*" for prefix in prefixes]}
        for sid, (actions, prefixes) in allowed.items()
        if prefixes
    ]
    return {"Version": "2012-10-17", "Statement": [listing, *statements]}


def policies() -> dict[str, str]:
    """AWS's policies by file name in `infra/s3/policies`."""
    return {f"{name}.json": json.dumps(policy(name), indent=2) + "\n" for name in ROLES}


def keys_of(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Keys from an environment, by role; a role without keys has no identity."""
    names = {name: [f"S3_{name.upper()}_{part}_KEY" for part in ("ACCESS", "SECRET")] for name in (*ROLES, ADMINISTRATOR)}
    keys = {name: tuple(environment.get(variable, "") for variable in pair) for name, pair in names.items()}
    return {name: (access, secret) for name, (access, secret) in keys.items() if access or secret}


def main() -> None:
    """Write the file for SeaweedFS and the bucket in S3_BUCKET, or the files for AWS; exit code 2 for bad input."""
    if sys.argv[1:] == ["--policies"]:
        POLICIES.mkdir(exist_ok=True)
        for name, text in policies().items():
            (POLICIES / name).write_text(text)
        return
    try:
        if len(sys.argv) != 2 or not os.environ.get("S3_BUCKET"):
            raise SettingsError("S3_BUCKET", expected="the bucket's name, and a file to write to", found=repr(sys.argv[1:]))
        document = identities(os.environ["S3_BUCKET"], keys_of(os.environ))
    except InputError as error:
        sys.stderr.write(f"Bad input: {error}\n")
        raise SystemExit(2) from error
    target = Path(sys.argv[1])
    target.touch(mode=0o600)
    target.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
