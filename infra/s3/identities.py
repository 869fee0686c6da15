"""Who may do what in the store's bucket: one table, from which both servers' spellings are made.

    python -m infra.s3.identities s3.json       SeaweedFS's, with the keys in S3_<ROLE>_ACCESS_KEY and S3_<ROLE>_SECRET_KEY
    python -m infra.s3.identities --policies    AWS's, as infra/s3/policies has them

SeaweedFS does not part writing from deleting: there, whoever writes a folder may delete in it, where the bucket's policy and
object lock do not forbid it.
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
# What AWS's files have for the bucket's name.
PLACE = "${bucket}"

EXPORTS, BANK, ANSWERS = "exports/", "bank/", "bank/answers/"
DELIVERIES = ("corpus/", "outputs/")
# What nights compute and housekeeping may remove again.
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
# What audits found, and what was answered to owners who contested a share.
AUDITS, APPEALS = "audits/", "appeals/"
# Records of where works come from, under which terms, and what owners wish: added to, never edited.
RIGHTS = "rights/"
PROBES = ".write-check-"
ADMINISTRATOR = "administrator"


@dataclass(frozen=True)
class Role:
    """Beginnings of the keys that a role reads (and lists), writes and deletes; an empty one is all of the bucket.

    Attributes:
        retains: those whose versions it may lock for longer.
    """

    why: str
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    retains: tuple[str, ...] = ()


ROLES: Mapping[str, Role] = {
    "pipeline": Role(
        "Airflow's tasks and Dask's workers: the store is theirs, what is published they cannot take back.",
        reads=("",),
        writes=("",),
        deletes=(*MADE, PROBES),
        retains=(EXPORTS,),
    ),
    "accountants": Role("They collect exports, closings and statements, and need nothing else.", reads=(EXPORTS,)),
    "operators": Role(
        "They look into nights and mend none by hand. Account numbers of payees lie below bank/ alone, which no failed night "
        "is explained by, so they do not read it.",
        reads=(*DELIVERIES, *MADE, AUDITS, APPEALS, RIGHTS, EXPORTS, "logs/", "store.json"),
    ),
    "bank": Role(
        "Whoever carries files to the bank and its answers back. What was approved is not theirs to rewrite.",
        reads=(BANK,),
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
        keys: of each role that is to have an identity, its access key and its secret key. `administrator` may do everything,
            and is for whoever makes the bucket.

    Raises:
        SettingsError: a role is unknown, or a key is empty or another role's.
    """
    known = [*ROLES, ADMINISTRATOR]
    seen: set[str] = set()
    for name, (access, secret) in keys.items():
        where = f"S3 identity {name!r}"
        if name not in known:
            raise SettingsError(where, expected=f"one of {', '.join(known)}", found=repr(name), hint=did_you_mean(name, known))
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
    # Without the slash it would hold for the bucket's own settings, too.
    return [
        f"{action}:{bucket}" if not prefix and action in {"Read", "List"} else f"{action}:{bucket}/{prefix}*"
        for action, prefixes in wanted.items()
        for prefix in prefixes
    ]


def policy(name: str, bucket: str = PLACE) -> dict[str, Any]:
    """AWS's policy of a role, to be attached to the IAM role that takes it."""
    role = ROLES[name]
    arn = f"arn:aws:s3:::{bucket}"
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
    """AWS's policies by file name, as they stand in `infra/s3/policies`."""
    return {f"{name}.json": json.dumps(policy(name), indent=2) + "\n" for name in ROLES}


def keys_of(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The keys that an environment has, by role; a role with neither key has no identity."""
    names = {name: [f"S3_{name.upper()}_{part}_KEY" for part in ("ACCESS", "SECRET")] for name in (*ROLES, ADMINISTRATOR)}
    found = {name: tuple(environment.get(variable, "") for variable in both) for name, both in names.items()}
    return {name: (access, secret) for name, (access, secret) in found.items() if access or secret}


def main() -> None:
    """Write SeaweedFS's file for the bucket in S3_BUCKET, or AWS's; exit code 2 for bad input."""
    if sys.argv[1:] == ["--policies"]:
        POLICIES.mkdir(exist_ok=True)
        for name, text in policies().items():
            (POLICIES / name).write_text(text)
        return
    try:
        if len(sys.argv) != 2 or not os.environ.get("S3_BUCKET"):
            raise SettingsError("S3_BUCKET", expected="the bucket's name, and a file to write to", found=repr(sys.argv[1:]))
        made = identities(os.environ["S3_BUCKET"], keys_of(os.environ))
    except InputError as error:
        sys.stderr.write(f"Bad input: {error}\n")
        raise SystemExit(2) from error
    target = Path(sys.argv[1])
    target.touch(mode=0o600)
    target.write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
