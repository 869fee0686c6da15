"""What people tell Airflow: in the form of a run by hand, and as the answer to an approval task."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from provenance.core.errors import InputError, did_you_mean
from provenance.settlement.months.settling import Approval


def asked(params: Mapping[str, str | None], name: str) -> str | None:
    """What a DAG's only parameter was set to.

    Airflow takes other names, too, and says nothing: a run for "Day" would pay the day that it pays by itself.

    Raises:
        InputError: something else was set.
    """
    for other in params:
        if other != name:
            hint = did_you_mean(other, [name])
            raise InputError("form of the run", expected=f"{name!r}, or nothing", found=repr(other), hint=hint)
    return params[name]


def approval(answer: Mapping[str, Any]) -> Approval:
    """Who answered an approval task, and when; by Airflow's own record of it."""
    user = answer.get("responded_by_user") or {}
    name, identity = str(user.get("name") or ""), str(user.get("id") or "")
    by = name if name == identity or not identity else f"{name} ({identity})"
    at = answer.get("responded_at")
    return Approval(by, at if isinstance(at, datetime) else datetime.fromisoformat(str(at)))
